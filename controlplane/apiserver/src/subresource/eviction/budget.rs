//! A PodDisruptionBudget as evictions see it: may one more pod go, and what is left then. Pure.
//!
//! Port of `checkAndDecrement` and of the rules for unhealthy pods in
//! pkg/registry/core/pod/storage/eviction.go.

use api::{Status, status::Cause};
use serde::Deserialize;

/// Evictions that no deletion has followed yet.
const MAX_DISRUPTED: usize = 2000;
/// Seconds after which a client may ask again.
const RETRY_SECONDS: u32 = 10;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Budget {
    metadata: Meta,
    spec: Spec,
    status: BudgetStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Meta {
    name: String,
    generation: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    unhealthy_pod_eviction_policy: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BudgetStatus {
    observed_generation: i64,
    disruptions_allowed: i64,
    current_healthy: i64,
    desired_healthy: i64,
    disrupted_pods: serde_json::Map<String, serde_json::Value>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    reason: String,
    message: String,
}

/// What an eviction takes from a budget it may have.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// The pod does not count as healthy, so nothing.
    Nothing,
    /// One disruption; so many are left.
    One { left: i64 },
}

impl Budget {
    /// Whether a pod may go.
    pub fn take(&self, pod_is_ready: bool) -> Result<Taken, Status> {
        let status = &self.status;
        if !pod_is_ready {
            let always = self.spec.unhealthy_pod_eviction_policy.as_deref() == Some("AlwaysAllow");
            let is_kept = status.current_healthy >= status.desired_healthy;
            if always || (is_kept && status.desired_healthy > 0) {
                return Ok(Taken::Nothing);
            }
        }
        let name = &self.metadata.name;
        if status.observed_generation < self.metadata.generation {
            let why =
                format!("The disruption budget {name} is still being processed by the server.");
            return Err(refused(RETRY_SECONDS, why));
        }
        if status.disruptions_allowed < 0 {
            return Err(self.forbidden(
                "pdb disruptions allowed is negative",
                "pdb disruptions allowed is negative",
            ));
        }
        if status.disrupted_pods.len() > MAX_DISRUPTED {
            return Err(self.forbidden(
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
                "too many pending evictions not confirmed by PDB controller",
            ));
        }
        if status.disruptions_allowed == 0 {
            return Err(refused(0, self.why_none()));
        }
        Ok(Taken::One {
            left: status.disruptions_allowed - 1,
        })
    }

    fn forbidden(&self, why: &str, cause: &str) -> Status {
        let name = &self.metadata.name;
        let message =
            format!("The disruption budget {name} does not allow evicting pods currently: {cause}");
        Status::forbidden("policy", "poddisruptionbudget", name, why).with_cause(cause_of(message))
    }

    fn why_none(&self) -> String {
        let (name, status) = (&self.metadata.name, &self.status);
        let is_explained = |c: &&Condition| {
            c.type_ == "DisruptionAllowed" && c.status == "False" && !c.message.is_empty()
        };
        let condition = status.conditions.iter().find(is_explained);
        let not_now =
            format!("The disruption budget {name} does not allow evicting pods currently");
        match condition {
            Some(condition) if condition.reason == "SyncFailed" => {
                format!("{not_now} because it failed sync: {}", condition.message)
            }
            _ if status.current_healthy <= status.desired_healthy => format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                status.desired_healthy, status.current_healthy
            ),
            Some(condition) => format!("{not_now} ({}): {}", condition.reason, condition.message),
            None => not_now,
        }
    }
}

fn refused(retry_seconds: u32, why: String) -> Status {
    Status::too_many_requests(REFUSED, retry_seconds).with_cause(cause_of(why))
}

fn cause_of(message: String) -> Cause {
    Cause {
        reason: "DisruptionBudget".into(),
        message,
        field: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn budget(spec: Value, status: Value) -> Budget {
        let mut status = status;
        status["observedGeneration"] = 1.into();
        let object = json!({
            "metadata": {"name": "b", "generation": 1}, "spec": spec, "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    fn cause(status: &Status) -> String {
        status.details.as_ref().unwrap().causes[0].message.clone()
    }

    #[test]
    fn each_eviction_takes_one_until_none_is_left() {
        let status = |allowed: i64| json!({"disruptionsAllowed": allowed, "currentHealthy": 3, "desiredHealthy": 3});
        let take = |allowed| budget(json!({}), status(allowed)).take(true);
        assert_eq!(take(2).unwrap(), Taken::One { left: 1 });
        let refused = take(0).unwrap_err();
        assert_eq!(refused.code, 429);
        let why = "The disruption budget b needs 3 healthy pods and has 3 currently";
        assert_eq!(cause(&refused), why);
        assert_eq!(take(-1).unwrap_err().code, 403);
    }

    #[test]
    fn unhealthy_pods_may_go_while_the_others_suffice_or_always() {
        let status = |healthy: i64| json!({"disruptionsAllowed": 0, "currentHealthy": healthy, "desiredHealthy": 2});
        assert_eq!(
            budget(json!({}), status(2)).take(false).unwrap(),
            Taken::Nothing
        );
        assert!(budget(json!({}), status(1)).take(false).is_err());
        let always = json!({"unhealthyPodEvictionPolicy": "AlwaysAllow"});
        assert_eq!(
            budget(always, status(1)).take(false).unwrap(),
            Taken::Nothing
        );
    }

    #[test]
    fn a_budget_that_changed_is_waited_for() {
        let mut budget = budget(json!({}), json!({"disruptionsAllowed": 5}));
        budget.metadata.generation = 2;
        let refused = budget.take(true).unwrap_err();
        assert_eq!(refused.details.as_ref().unwrap().retry_after_seconds, 10);
    }
}
