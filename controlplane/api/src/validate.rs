//! Validation: metadata rules for every kind, then rules by kind, in upstream's words.
//!
//! Runs on prepared, defaulted documents. Output: errors with paths; an empty list means valid. What
//! each kind demands is in `kinds`; [`COVERED`] lists the kinds that have rules of their own.

use crate::doc::Doc;
use crate::facts::Resource;
use crate::kinds;
use crate::status::FieldError;
use crate::strategy::Part;

pub mod names;

pub(crate) mod ip;
pub(crate) mod meta;
pub(crate) mod path;
pub(crate) mod resource_name;

use path::Errors;

/// Kinds with validation of their own, as (group, kind). Others have the metadata rules only.
pub const COVERED: [(&str, &str); 33] = [
    ("", "ConfigMap"),
    ("", "Endpoints"),
    ("", "Event"),
    ("", "LimitRange"),
    ("", "Namespace"),
    ("", "Node"),
    ("", "Pod"),
    ("", "PodTemplate"),
    ("", "ReplicationController"),
    ("", "ResourceQuota"),
    ("", "Secret"),
    ("", "Service"),
    ("", "ServiceAccount"),
    ("apps", "ControllerRevision"),
    ("apps", "DaemonSet"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("batch", "CronJob"),
    ("batch", "Job"),
    ("certificates.k8s.io", "CertificateSigningRequest"),
    ("certificates.k8s.io", "PodCertificateRequest"),
    ("coordination.k8s.io", "Lease"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("events.k8s.io", "Event"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("node.k8s.io", "RuntimeClass"),
    ("policy", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io", "Role"),
    ("rbac.authorization.k8s.io", "RoleBinding"),
    ("scheduling.k8s.io", "PriorityClass"),
];

/// Validates a new object.
pub fn validate_create(resource: &Resource, doc: &Doc<'_>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if is_core_event(resource) {
        // Upstream looks at the metadata of core events only when all else is well.
        kinds::validate_create(resource, doc, &mut errors);
        if errors.0.is_empty() {
            meta::create(resource, doc, &mut errors);
        }
        return once(errors.0);
    }
    meta::create(resource, doc, &mut errors);
    kinds::validate_create(resource, doc, &mut errors);
    once(errors.0)
}

/// Validates an update of an object or of one of its subresources.
pub fn validate_update(
    resource: &Resource,
    new: &Doc<'_>,
    old: &Doc<'_>,
    part: Part<'_>,
) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::update(resource, new, old, &mut errors);
    kinds::validate_update(resource, new, old, part, &mut errors);
    once(errors.0)
}

/// Rules overlap; no error is told twice (`FilterCoveredHandwrittenErrors`).
fn once(errors: Vec<FieldError>) -> Vec<FieldError> {
    let mut told: Vec<FieldError> = Vec::with_capacity(errors.len());
    for error in errors {
        if !told.contains(&error) {
            told.push(error);
        }
    }
    told
}

fn is_core_event(resource: &Resource) -> bool {
    (resource.group, resource.kind) == ("", "Event")
}
