//! Deployments, ReplicaSets, DaemonSets, StatefulSets and ReplicationControllers: strategy.
//!
//! Ported from `pkg/registry/apps/*/strategy.go` and `pkg/apis/apps/v1/conversion.go`.

use bumpalo::Bump;

use crate::doc::{Doc, Object, Value};
use crate::strategy::same;

pub(crate) mod stateful;
pub(crate) mod status;
pub(crate) mod validate;

/// The annotation that stands for the internal field `spec.templateGeneration`.
const TEMPLATE_GENERATION: [&str; 3] = [
    "metadata",
    "annotations",
    "deprecated.daemonset.template.generation",
];

fn template_generation(doc: &Doc<'_>) -> i64 {
    doc.str_at(&TEMPLATE_GENERATION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// A new daemon set has template generation 1 unless it brings a later one.
pub(crate) fn prepare_daemon_set_create(doc: &mut Doc<'_>) {
    let generation = template_generation(doc).max(1);
    doc.set_str(&TEMPLATE_GENERATION, &generation.to_string());
}

/// The template generation counts changes of the template.
pub(crate) fn prepare_daemon_set_update<'a>(new: &mut Doc<'a>, old: &Doc<'a>) {
    let changed = !same(new, old, &["spec", "template"]);
    let generation = template_generation(old) + i64::from(changed);
    if generation > 0 {
        new.set_str(&TEMPLATE_GENERATION, &generation.to_string());
    }
}

/// The annotation is always there, since the internal field is a number.
pub(crate) fn default_daemon_set<'a>(set: &mut Object<'a>, arena: &'a Bump) {
    let metadata = set.entry_or_object("metadata").make_object(arena);
    let annotations = metadata.entry_or_object("annotations").make_object(arena);
    if !annotations.contains(TEMPLATE_GENERATION[2]) {
        annotations.push(TEMPLATE_GENERATION[2], Value::String("0"));
    }
}
