//! Namespaces: strategy.
//!
//! Ported from `pkg/registry/core/namespace/strategy.go`.

use crate::doc::{Doc, List, Value};

/// The finalizer that the namespace controller removes when everything in a namespace is gone.
pub const FINALIZER: &str = "kubernetes";

/// A new namespace is active and has the finalizer; its label repeats its (maybe generated) name.
pub(crate) fn prepare_create(doc: &mut Doc<'_>) {
    let name = doc.name();
    doc.set_str(&["status", "phase"], "Active");
    doc.set(
        &["metadata", "labels", "kubernetes.io/metadata.name"],
        Value::String(name),
    );
    let has = doc
        .list_at(&["spec", "finalizers"])
        .iter()
        .any(|f| f.as_str() == Some(FINALIZER));
    if has {
        return;
    }
    match doc.get_mut(&["spec", "finalizers"]) {
        Some(Value::List(list)) => list.push(Value::String(FINALIZER)),
        Some(_) | None => {
            let list = List::from_iter_in([Value::String(FINALIZER)], doc.arena());
            doc.set(&["spec", "finalizers"], Value::List(list));
        }
    }
}
