//! PriorityClasses and RuntimeClasses: validation.
//!
//! Ports of `pkg/apis/scheduling/validation/validation.go` and `pkg/apis/node/validation/validation.go`.

use crate::doc::{Doc, Object, Value};
use crate::kinds::pod;
use crate::kinds::pod::options::Options;
use crate::strategy::same;
use crate::validate::meta::immutable;
use crate::validate::names::{dns_label, label_key, label_value};
use crate::validate::path::{Errors, Path};

/// Names of the system's own classes, and their values (`SystemPriorityClasses`).
const SYSTEM_PREFIX: &str = "system-";
const SYSTEM: [(&str, i64); 2] = [
    ("system-node-critical", 2_000_001_000),
    ("system-cluster-critical", 2_000_000_000),
];
/// Largest priority of other classes (`HighestUserDefinablePriority`).
const MAX_PRIORITY: i64 = 1_000_000_000;

/// A PriorityClass.
pub(crate) fn priority(doc: &Doc<'_>, errors: &mut Errors) {
    let value = doc.int_at(&["value"]).unwrap_or(0);
    if doc.name().starts_with(SYSTEM_PREFIX) {
        if let Some(why) = not_the_systems(doc, value) {
            let path = Path::new("metadata");
            let detail = format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use \
                 only. error: {why}"
            );
            errors.forbidden(&path.child("name"), detail);
        }
    } else if value > MAX_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {MAX_PRIORITY}");
        errors.forbidden(&Path::new("value"), detail);
    }
    let policies = ["PreemptLowerPriority", "Never"];
    let policy = doc.str_at(&["preemptionPolicy"]);
    errors.one_of(&Path::new("preemptionPolicy"), policy, &policies, false);
}

fn not_the_systems(doc: &Doc<'_>, value: i64) -> Option<String> {
    let name = doc.name();
    let Some((_, wanted)) = SYSTEM.iter().find(|(known, _)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if value != *wanted {
        return Some(format!("value of {name} PriorityClass must be {wanted}"));
    }
    (doc.bool_at(&["globalDefault"]) == Some(true))
        .then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

/// What may not change of a PriorityClass; the rest is not looked at again.
pub(crate) fn update_priority(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    if !same(new, old, &["value"]) {
        errors.forbidden(&Path::new("value"), "may not be changed in an update.");
    }
    immutable(new, old, &["preemptionPolicy"], errors);
}

/// A RuntimeClass.
pub(crate) fn runtime(doc: &Doc<'_>, errors: &mut Errors) {
    errors.named(&Path::new("handler"), doc.str_at(&["handler"]), dns_label);
    let path = Path::new("scheduling");
    let selector = doc.get(&["scheduling", "nodeSelector"]);
    let at = path.child("nodeSelector");
    for (key, value) in selector
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Object::iter)
    {
        let value = value.as_str().unwrap_or_default();
        errors.each(&at, key, label_key(key));
        errors.each(&at, value, label_value(value));
    }
    let tolerations = doc.list_at(&["scheduling", "tolerations"]);
    let at = path.child("tolerations");
    pod::scheduling::tolerations(tolerations, &Options::default(), &at, errors);
    for (i, toleration) in tolerations.iter().enumerate() {
        if tolerations[..i].contains(toleration) {
            errors.duplicate_raw(&at.index(i), "toleration");
        }
    }
}

/// What may not change of a RuntimeClass.
pub(crate) fn update_runtime(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    immutable(new, old, &["handler"], errors);
}
