//! From one status to the next as a strategic merge patch of `pods/status`, with the pod's uid as
//! precondition so that a namesake is never written to.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

use super::conditions;

/// Fields of the status that this node writes; everything else belongs to others.
const OWNED: [&str; 13] = [
    "phase",
    "reason",
    "message",
    "hostIP",
    "podIP",
    "startTime",
    "observedGeneration",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
    "hostIPs",
    "podIPs",
    "conditions",
];

/// The patch that leads from `old` to `new`, or `None` when nothing differs.
pub fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let old = serde_json::to_value(old).ok()?;
    let new = serde_json::to_value(new).ok()?;
    let mut status = Map::new();
    for field in OWNED {
        let (before, after) = (old.get(field), new.get(field));
        if before == after {
            continue;
        }
        let value = match field {
            "podIPs" | "hostIPs" => merged_list("ip", before, after),
            "conditions" => match own_conditions(before, after) {
                Some(list) => list,
                None => continue,
            },
            _ => after.cloned().unwrap_or(Value::Null),
        };
        status.insert(field.to_owned(), value);
    }
    if status.is_empty() {
        return None;
    }
    Some(json!({ "metadata": { "uid": uid }, "status": status }))
}

/// The node's own conditions that changed; those of others may be newer in the API than here.
fn own_conditions(before: Option<&Value>, after: Option<&Value>) -> Option<Value> {
    let own: Vec<Value> = after
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|c| c["type"].as_str().is_some_and(conditions::is_own))
        .cloned()
        .collect();
    let passed = before.and_then(Value::as_array).into_iter().flatten();
    let passed = passed.filter_map(|c| c["type"].as_str()).filter(|kind| {
        conditions::PASSING.contains(kind) && !own.iter().any(|c| c["type"] == **kind)
    });
    let deleted: Vec<Value> = passed
        .map(|kind| json!({ "$patch": "delete", "type": kind }))
        .collect();
    let Value::Array(mut list) = merged_list("type", before, Some(&Value::Array(own))) else {
        return None;
    };
    list.extend(deleted);
    (!list.is_empty()).then_some(Value::Array(list))
}

/// Lists with a merge key: changed elements are sent, vanished addresses are deleted by their key.
/// Conditions never vanish, they belong to whoever set them.
fn merged_list(key: &str, before: Option<&Value>, after: Option<&Value>) -> Value {
    let empty = Vec::new();
    let before = before.and_then(Value::as_array).unwrap_or(&empty);
    let after = after.and_then(Value::as_array).unwrap_or(&empty);
    let mut list: Vec<Value> = after
        .iter()
        .filter(|element| !before.contains(element))
        .map(|element| with_nulls(key, element, before))
        .collect();
    let gone = before
        .iter()
        .filter(|element| !after.iter().any(|a| a.get(key) == element.get(key)));
    if key != "type" {
        list.extend(gone.map(|element| json!({ "$patch": "delete", key: element.get(key) })));
    }
    Value::Array(list)
}

/// An element is merged field by field: what it lost has to be said.
fn with_nulls(key: &str, element: &Value, before: &[Value]) -> Value {
    let mut element = element.clone();
    let old = before
        .iter()
        .find(|old| old.get(key) == element.get(key))
        .and_then(Value::as_object);
    if let (Some(fields), Some(old)) = (element.as_object_mut(), old) {
        for name in old.keys() {
            fields.entry(name.clone()).or_insert(Value::Null);
        }
    }
    element
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodIP};

    fn with_ips(ips: &[&str]) -> PodStatus {
        let ips: Vec<PodIP> = ips
            .iter()
            .map(|ip| PodIP {
                ip: (*ip).to_owned(),
            })
            .collect();
        PodStatus {
            pod_ips: Some(ips),
            ..PodStatus::default()
        }
    }

    #[test]
    fn equal_statuses_need_no_patch() {
        assert_eq!(
            patch("u", &with_ips(&["10.0.0.1"]), &with_ips(&["10.0.0.1"])),
            None
        );
    }

    #[test]
    fn a_changed_address_deletes_the_old_one_by_its_key() {
        let patch = patch("u", &with_ips(&["10.0.0.1"]), &with_ips(&["10.0.0.2"])).unwrap();
        let expected = json!([{ "ip": "10.0.0.2" }, { "$patch": "delete", "ip": "10.0.0.1" }]);
        assert_eq!(patch["status"]["podIPs"], expected);
        assert_eq!(patch["metadata"]["uid"], "u");
    }

    #[test]
    fn only_changed_conditions_are_sent_and_none_is_deleted() {
        let condition = |kind: &str, status: &str| PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            ..PodCondition::default()
        };
        let status = |list: Vec<PodCondition>| PodStatus {
            conditions: Some(list),
            ..PodStatus::default()
        };
        let old = status(vec![condition("Gate", "True"), condition("Ready", "False")]);
        let new = status(vec![condition("Ready", "True")]);
        let patch = patch("u", &old, &new).unwrap();
        assert_eq!(
            patch["status"]["conditions"],
            json!([{ "status": "True", "type": "Ready" }])
        );
    }

    #[test]
    fn a_resize_that_is_over_takes_its_condition_along() {
        let condition = |kind: &str| PodCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            ..PodCondition::default()
        };
        let status = |kinds: &[&str]| PodStatus {
            conditions: Some(kinds.iter().map(|kind| condition(kind)).collect()),
            ..PodStatus::default()
        };
        let (old, new) = (
            status(&["Ready", "PodResizeInProgress"]),
            status(&["Ready"]),
        );
        let patch = patch("u", &old, &new).unwrap();
        let expected = json!([{ "$patch": "delete", "type": "PodResizeInProgress" }]);
        assert_eq!(patch["status"]["conditions"], expected);
    }

    #[test]
    fn a_condition_that_lost_its_reason_says_so() {
        let condition = |status: &str, reason: Option<&str>| PodCondition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            reason: reason.map(ToOwned::to_owned),
            ..PodCondition::default()
        };
        let status = |c| PodStatus {
            conditions: Some(vec![c]),
            ..PodStatus::default()
        };
        let old = status(condition("False", Some("ContainersNotReady")));
        let patch = patch("u", &old, &status(condition("True", None))).unwrap();
        let expected = json!([{ "type": "Ready", "status": "True", "reason": null }]);
        assert_eq!(patch["status"]["conditions"], expected);
    }

    #[test]
    fn a_field_that_vanished_becomes_null() {
        let old = PodStatus {
            reason: Some("Evicted".to_owned()),
            ..PodStatus::default()
        };
        let patch = patch("u", &old, &PodStatus::default()).unwrap();
        assert_eq!(patch["status"]["reason"], Value::Null);
    }
}
