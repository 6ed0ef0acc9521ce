//! Deployments, ReplicaSets and DaemonSets: strategy.
//!
//! Ported from `pkg/registry/apps/*/strategy.go`.

use crate::doc::Doc;
use crate::strategy::same;

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
