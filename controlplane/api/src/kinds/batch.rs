//! Jobs and CronJobs: strategy.
//!
//! Ported from `pkg/registry/batch/job/strategy.go`.

use crate::doc::Doc;
use crate::strategy::SystemFields;

pub(crate) mod cron;
pub(crate) mod job;
pub(crate) mod status;

/// Labels of a Job's pods with its uid, the old one and the prefixed one.
pub(crate) const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
/// The same with its name.
pub(crate) const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// Unless the selector is the client's, a new Job selects pods by its own uid and labels its template
/// for that (`generateSelector`).
pub(crate) fn prepare_create(doc: &mut Doc<'_>, system: SystemFields<'_>) {
    if doc.bool_at(&["spec", "manualSelector"]) == Some(true) {
        return;
    }
    let name = doc.name();
    let labels = [(NAME_LABELS, name), (UID_LABELS, system.uid)];
    for (keys, value) in labels {
        for key in keys {
            set_absent(doc, &["spec", "template", "metadata", "labels", key], value);
        }
    }
    let selector = ["spec", "selector", "matchLabels", UID_LABELS[1]];
    set_absent(doc, &selector, system.uid);
}

fn set_absent(doc: &mut Doc<'_>, path: &[&str], value: &str) {
    if doc.get(path).is_none() {
        doc.set_str(path, value);
    }
}
