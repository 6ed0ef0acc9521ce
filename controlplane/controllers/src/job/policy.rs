//! What a Job's policies say about failed pods and succeeded indexes.
//!
//! Rules of pkg/controller/job/pod_failure_policy.go and success_policy.go.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy,
};

use super::indexes::Indexes;
use crate::kinds::{Condition, ContainerStatus, Job, Pod};
use crate::object::Key;

/// What becomes of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the limits.
    Count,
    /// It counts for nothing.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The whole Job has failed, for this reason.
    FailJob(String),
}

/// The verdict of the first rule that matches; a failure counts unless a rule says otherwise.
pub fn judge(job: &Job, pod: &Pod) -> Verdict {
    let rules = job.spec.pod_failure_policy.as_ref().map(|p| &p.rules);
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        let Some(why) = matches(rule, pod) else {
            continue;
        };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" => return Verdict::FailIndex,
            "Count" => return Verdict::Count,
            "FailJob" => {
                let message = format!("{why} matching FailJob rule at index {index}");
                return Verdict::FailJob(message);
            }
            _ => {}
        }
    }
    Verdict::Count
}

/// How the rule matches, in upstream's words.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let name = Key::of(&pod.metadata);
    if let Some(codes) = &rule.on_exit_codes {
        let status = &pod.status;
        let lists = [&status.container_statuses, &status.init_container_statuses];
        let (container, code) = lists
            .into_iter()
            .flatten()
            .find_map(|container| Some((container, exit_code(container, codes)?)))?;
        let container = &container.name;
        return Some(format!(
            "Container {container} for pod {name} failed with exit code {code}"
        ));
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or(&[]);
    let is_meant = |condition: &&Condition| {
        patterns.iter().any(|pattern| {
            let status = pattern.status.as_deref().unwrap_or("True");
            pattern.type_ == condition.type_ && status == condition.status
        })
    };
    let condition = pod.status.conditions.iter().find(is_meant)?;
    Some(format!("Pod {name} has condition {}", condition.type_))
}

/// The exit code with which the container failed, if the requirement means it.
fn exit_code(
    container: &ContainerStatus,
    codes: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<i32> {
    let code = container.state.terminated.as_ref()?.exit_code;
    let named = codes.container_name.as_ref();
    if code == 0 || named.is_some_and(|name| *name != container.name) {
        return None;
    }
    let is_listed = codes.values.contains(&code);
    let is_meant = match codes.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        _ => false,
    };
    is_meant.then_some(code)
}

/// Why the succeeded indexes are enough, if they are.
pub fn success(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &Indexes,
) -> Option<String> {
    let rules = policy?.rules.iter().enumerate();
    let mut met = rules.filter(|(_, rule)| {
        let count = rule.succeeded_count;
        match &rule.succeeded_indexes {
            Some(text) => {
                let required = Indexes::parse(text, completions);
                let common = required.common(succeeded);
                let enough = common == required.len() || count.is_some_and(|n| common >= n);
                !required.is_empty() && enough
            }
            None => count.is_some_and(|n| succeeded.len() >= n),
        }
    });
    if succeeded.is_empty() {
        return None;
    }
    met.next()
        .map(|(index, _)| format!("Matched rules at index {index}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn verdict(rules: Value, status: Value) -> Verdict {
        let job = json!({"spec": {"podFailurePolicy": {"rules": rules}}});
        let pod = json!({"metadata": {"namespace": "ns", "name": "p"}, "status": status});
        let job = serde_json::from_value(job).unwrap();
        judge(&job, &serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let codes = |action: &str, operator: &str, values: Value| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
        let exited = |code: i32| {
            json!({"containerStatuses": [
            {"name": "c", "state": {"terminated": {"exitCode": code}}}]})
        };
        let rules = json!([
            codes("FailJob", "In", json!([3])),
            codes("Ignore", "NotIn", json!([4])),
            codes("FailIndex", "In", json!([4])),
        ]);
        let message = "Container c for pod ns/p failed with exit code 3 matching FailJob rule at \
                       index 0";
        assert_eq!(
            verdict(rules.clone(), exited(3)),
            Verdict::FailJob(message.into())
        );
        assert_eq!(verdict(rules.clone(), exited(5)), Verdict::Ignore);
        assert_eq!(verdict(rules.clone(), exited(4)), Verdict::FailIndex);
        assert_eq!(verdict(rules, exited(0)), Verdict::Count);
    }

    #[test]
    fn a_condition_of_the_pod_can_make_its_failure_not_count() {
        let rules = json!([{"action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
        let disrupted = |status: &str| {
            json!({"conditions": [
            {"type": "DisruptionTarget", "status": status}]})
        };
        assert_eq!(verdict(rules.clone(), disrupted("True")), Verdict::Ignore);
        assert_eq!(verdict(rules, disrupted("False")), Verdict::Count);
    }

    #[test]
    fn a_success_policy_asks_for_indexes_a_count_or_a_count_of_those_indexes() {
        let met = |rules: Value, succeeded: &[i32]| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            success(Some(&policy), 5, &succeeded.iter().copied().collect())
        };
        let indexes = json!([{"succeededIndexes": "0,2"}]);
        assert_eq!(met(indexes.clone(), &[0, 1]), None);
        let text = "Matched rules at index 0".to_owned();
        assert_eq!(met(indexes, &[0, 2]), Some(text.clone()));
        assert_eq!(met(json!([{"succeededCount": 2}]), &[1]), None);
        let both = json!([{"succeededIndexes": "0-3", "succeededCount": 2}]);
        assert_eq!(met(both.clone(), &[0, 4]), None);
        assert_eq!(met(both, &[0, 3]), Some(text));
    }
}
