//! Projections of the RBAC group.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

use super::projection;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterRole {
    pub metadata: ObjectMeta,
    /// As stored; absent and null are the same.
    pub rules: Option<Vec<Value>>,
    pub aggregation_rule: Option<AggregationRule>,
}
projection!(
    ClusterRole,
    ClusterResourceScope,
    false,
    "rbac.authorization.k8s.io",
    "v1",
    "clusterroles"
);

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AggregationRule {
    pub cluster_role_selectors: Vec<LabelSelector>,
}
