//! Namespaces: strategy and validation.
//!
//! Ported from `pkg/registry/core/namespace/strategy.go` and `pkg/apis/core/validation/validation.go`.

use crate::doc::{Doc, List, Value};
use crate::validate::names::label_key;
use crate::validate::path::{Errors, Path};

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

/// Finalizers of the spec; only the finalize endpoint says which one is wrong.
pub(crate) fn finalizers(doc: &Doc<'_>, indexed: bool, errors: &mut Errors) {
    let path = Path::new("spec");
    let list = path.child("finalizers");
    let finalizers = doc.list_at(&["spec", "finalizers"]);
    for (i, finalizer) in finalizers.iter().filter_map(Value::as_str).enumerate() {
        let item = list.index(i);
        let at = if indexed { &item } else { &list };
        errors.each(at, finalizer, label_key(finalizer));
        if !finalizer.contains('/') && finalizer != FINALIZER {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(at, finalizer, detail);
        }
    }
}

/// The phase follows the deletion timestamp.
pub(crate) fn status(doc: &Doc<'_>, errors: &mut Errors) {
    let phase = doc.str_at(&["status", "phase"]).unwrap_or_default();
    let deleting = doc.get(&["metadata", "deletionTimestamp"]).is_some();
    let (expected, state) = if deleting {
        ("Terminating", "not empty")
    } else {
        ("Active", "empty")
    };
    if phase != expected {
        let path = Path::new("status");
        let detail = format!("may only be '{expected}' if `deletionTimestamp` is {state}");
        errors.invalid(&path.child("Phase"), phase, detail);
    }
}
