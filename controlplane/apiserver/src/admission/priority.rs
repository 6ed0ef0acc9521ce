//! Priority: a pod's class becomes its priority; at most one class is the default.
//!
//! Port of `plugin/pkg/admission/priority/admission.go`.

use std::sync::Arc;

use api::{Doc, Status, Value};

use super::Admission;
use crate::{cache::Object, catalog::ResourceId};

const SYSTEM_PRIORITIES: [(&str, i64); 2] = [
    ("system-cluster-critical", 2_000_000_000),
    ("system-node-critical", 2_000_001_000),
];

/// Resolves the class of a new pod.
pub fn resolve(admission: &Admission<'_>, doc: &mut Doc<'_>) -> Result<(), Status> {
    let classes = ResourceId::named("scheduling.k8s.io", "priorityclasses");
    let cache = admission.call.server.cache();
    let name = doc
        .str_at(&["spec", "priorityClassName"])
        .unwrap_or_default();
    let (number, policy) = if name.is_empty() {
        match default_class(admission) {
            Some(class) => {
                doc.set_str(&["spec", "priorityClassName"], class.name());
                (value(&class), preemption(&class))
            }
            None => (0, None),
        }
    } else if let Some(class) = cache.get(classes, "", name) {
        (value(&class), preemption(&class))
    } else if let Some((_, number)) = SYSTEM_PRIORITIES.iter().find(|(n, _)| *n == name) {
        (*number, None)
    } else {
        let text = format!("no PriorityClass with name {name} was found");
        return Err(Status::forbidden("", "pods", doc.name(), &text));
    };
    if doc
        .int_at(&["spec", "priority"])
        .is_some_and(|given| given != number)
    {
        let text = format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority \
             admission controller computed {number} from the given PriorityClass name",
            doc.int_at(&["spec", "priority"]).unwrap_or_default()
        );
        return Err(Status::forbidden("", "pods", doc.name(), &text));
    }
    doc.set_int(&["spec", "priority"], number);
    if doc
        .get(&["spec", "preemptionPolicy"])
        .is_none_or(Value::is_null)
    {
        doc.set_str(
            &["spec", "preemptionPolicy"],
            policy.as_deref().unwrap_or("PreemptLowerPriority"),
        );
    }
    Ok(())
}

fn preemption(class: &Object) -> Option<String> {
    class
        .field("preemptionPolicy")
        .map(|raw| raw.trim_matches('"').to_owned())
}

fn value(class: &Object) -> i64 {
    let raw = class.field("value");
    raw.and_then(|raw| raw.parse().ok()).unwrap_or(0)
}

/// Of several (written at the same time) the one with the lowest value.
fn default_class(admission: &Admission<'_>) -> Option<Arc<Object>> {
    let classes = ResourceId::named("scheduling.k8s.io", "priorityclasses");
    let snapshot = admission.call.server.cache().snapshot(classes);
    let defaults = snapshot
        .iter("")
        .filter(|class| class.field("globalDefault") == Some("true"));
    defaults.min_by_key(|class| value(class)).cloned()
}

/// A class that wants to be the default must be the only one.
pub fn check_class(admission: &Admission<'_>, doc: &Doc<'_>) -> Result<(), Status> {
    if doc.bool_at(&["globalDefault"]) != Some(true) {
        return Ok(());
    }
    let Some(default) = default_class(admission) else {
        return Ok(());
    };
    if !admission.is_create() && default.name() == doc.name() {
        return Ok(());
    }
    let why = format!(
        "PriorityClass {} is already marked as default. Only one default can exist",
        default.name()
    );
    let row = admission.row;
    Err(Status::forbidden(row.group, row.plural, doc.name(), &why))
}
