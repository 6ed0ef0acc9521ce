//! PodDisruptionBudgets and PriorityClasses.
//!
//! Port of `pkg/apis/policy/validation/validation.go` and `pkg/apis/scheduling/validation`.

use super::workload::validate::{at_most_all, int_or_percent};
use crate::doc::{Doc, Value};
use crate::validate::meta::{immutable, label_selector};
use crate::validate::path::{Errors, Path};

const EVICTION_POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];
const PREEMPTION_POLICIES: [&str; 2] = ["PreemptLowerPriority", "Never"];
/// Highest priority of a class that is not the system's.
const MAX_USER_PRIORITY: i64 = 1_000_000_000;
/// Names and values of the system's own classes.
pub const SYSTEM_CLASSES: [(&str, i64); 2] = [
    ("system-node-critical", 2_000_001_000),
    ("system-cluster-critical", 2_000_000_000),
];

/// A PodDisruptionBudget.
pub(crate) fn budget(doc: &Doc<'_>, errors: &mut Errors) {
    let empty = Value::Null;
    let spec = doc.get(&["spec"]).unwrap_or(&empty);
    let path = Path::new("spec");
    let limits = ["minAvailable", "maxUnavailable"].map(|field| (field, spec.get(field)));
    if limits.iter().all(|(_, limit)| limit.is_some()) {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.invalid_value(&path, Some(spec), detail);
    }
    for (field, limit) in limits {
        let at = path.child(field);
        if limit.is_some() {
            int_or_percent(limit, &at, errors);
            at_most_all(limit, &at, errors);
        }
    }
    label_selector(spec.get("selector"), &path.child("selector"), errors);
    let policy = spec.str_of("unhealthyPodEvictionPolicy");
    let at = path.child("unhealthyPodEvictionPolicy");
    errors.one_of(&at, policy, &EVICTION_POLICIES, false);
}

/// The status of a PodDisruptionBudget.
pub(crate) fn budget_status(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("status");
    for field in [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ] {
        errors.non_negative(&path.child(field), doc.int_at(&["status", field]));
    }
}

/// A PriorityClass.
pub(crate) fn priority_class(doc: &Doc<'_>, errors: &mut Errors) {
    let value = doc.int_at(&["value"]).unwrap_or(0);
    let name = doc.name();
    if name.starts_with("system-") {
        if let Some(why) = not_the_systems(doc, value) {
            let metadata = Path::new("metadata");
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. \
                 error: {why}"
            );
            errors.forbidden(&metadata.child("name"), detail);
        }
    } else if value > MAX_USER_PRIORITY {
        let detail =
            format!("maximum allowed value of a user defined priority is {MAX_USER_PRIORITY}");
        errors.forbidden(&Path::new("value"), detail);
    }
    let policy = doc.str_at(&["preemptionPolicy"]);
    let at = Path::new("preemptionPolicy");
    errors.one_of(&at, policy, &PREEMPTION_POLICIES, false);
}

/// Why a class with a system's name is none of the system's.
fn not_the_systems(doc: &Doc<'_>, value: i64) -> Option<String> {
    let name = doc.name();
    let Some((_, wanted)) = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if value != *wanted {
        return Some(format!("value of {name} PriorityClass must be {wanted}"));
    }
    let is_default = doc.bool_at(&["globalDefault"]) == Some(true);
    is_default.then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

/// What of a PriorityClass is fixed.
pub(crate) fn fixed_priority(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    if new.int_at(&["value"]) != old.int_at(&["value"]) {
        errors.forbidden(&Path::new("value"), "may not be changed in an update.");
    }
    immutable(new, old, &["preemptionPolicy"], errors);
}
