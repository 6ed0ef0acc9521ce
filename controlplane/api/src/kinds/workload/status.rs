//! Counts in the status of the workload kinds.
//!
//! Ports of the status functions of `pkg/apis/apps/validation/validation.go` and, for
//! ReplicationControllers, of `pkg/apis/core/validation/validation.go`.

use crate::doc::Doc;
use crate::schema::Struct;
use crate::validate::path::{Errors, Path};

/// The status of a Deployment, ReplicaSet or ReplicationController: they differ in the fields they have.
pub(crate) fn replicas(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let fields = [
        "observedGeneration",
        "replicas",
        "fullyLabeledReplicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    let parts = [
        "fullyLabeledReplicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
    ];
    non_negative(new, &fields, errors);
    at_most_all(new, &parts, "cannot be greater than readyReplicas", errors);
    not_decremented(new, old, errors);
}

/// The status of a StatefulSet.
pub(crate) fn stateful_set(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let fields = [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    let detail = "cannot be greater than status.readyReplicas";
    non_negative(new, &fields, errors);
    at_most_all(new, &fields[1..5], detail, errors);
    not_decremented(new, old, errors);
}

/// The status of a DaemonSet.
pub(crate) fn daemon_set(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let fields = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    non_negative(new, &fields, errors);
    not_decremented(new, old, errors);
}

fn count(doc: &Doc<'_>, field: &str) -> Option<i64> {
    doc.int_at(&["status", field])
}

fn non_negative(new: &Doc<'_>, fields: &[&str], errors: &mut Errors) {
    let path = Path::new("status");
    for field in fields {
        errors.non_negative(&path.child(field), count(new, field));
    }
}

/// None of `parts` exceeds the replicas, and what is available is ready (else `detail`).
fn at_most_all(new: &Doc<'_>, parts: &[&str], detail: &str, errors: &mut Errors) {
    let path = Path::new("status");
    let number = |field: &str| count(new, field).unwrap_or(0);
    let shape = new.schema().as_struct();
    for part in parts {
        let (n, has) = (number(part), shape.is_some_and(|s| has_status(s, part)));
        if has && n > number("replicas") {
            let detail = "cannot be greater than status.replicas";
            errors.invalid_number(&path.child(part), n, detail);
        }
    }
    let available = number("availableReplicas");
    if available > number("readyReplicas") {
        errors.invalid_number(&path.child("availableReplicas"), available, detail);
    }
}

fn has_status(shape: &Struct, field: &str) -> bool {
    let status = shape.field("status").and_then(|f| f.ty.as_struct());
    status.is_some_and(|s| s.field(field).is_some())
}

/// Once counted, collisions are never fewer, nor forgotten (`IsDecremented`).
fn not_decremented(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let Some(before) = count(old, "collisionCount") else {
        return;
    };
    let now = count(new, "collisionCount");
    if now.is_none_or(|now| now < before) {
        let at = Path::new("status");
        let detail = "cannot be decremented";
        errors.invalid_number(&at.child("collisionCount"), now.unwrap_or(0), detail);
    }
}
