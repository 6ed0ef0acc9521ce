//! Projections of the policy group.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};

use super::projection;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodDisruptionBudget {
    pub metadata: ObjectMeta,
    pub spec: PodDisruptionBudgetSpec,
    pub status: PodDisruptionBudgetStatus,
}
projection!(
    PodDisruptionBudget,
    NamespaceResourceScope,
    true,
    "policy",
    "v1",
    "poddisruptionbudgets"
);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodDisruptionBudgetSpec {
    pub min_available: Option<IntOrString>,
    pub max_unavailable: Option<IntOrString>,
    pub selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodDisruptionBudgetStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub disrupted_pods: BTreeMap<String, Time>,
    pub disruptions_allowed: i32,
    pub current_healthy: i32,
    pub desired_healthy: i32,
    pub expected_pods: i32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ObservedCondition>,
}

/// A condition of `meta/v1`, with the generation it is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObservedCondition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    pub last_transition_time: Option<Time>,
    pub reason: String,
    pub message: String,
}

impl ObservedCondition {
    /// Replaces the condition of the same type; the time changes only with the status
    /// (k8s.io/apimachinery/pkg/api/meta/conditions.go, `SetStatusCondition`).
    pub fn set(mut self, conditions: &mut Vec<Self>) {
        let Some(old) = conditions.iter_mut().find(|c| c.type_ == self.type_) else {
            return conditions.push(self);
        };
        if old.status == self.status {
            self.last_transition_time = old.last_transition_time.clone();
        }
        *old = self;
    }
}
