//! What is particular to single kinds: defaults that depend on other fields, strategy and validation.

use crate::doc::Doc;
use crate::facts::Resource;
use crate::strategy::Part;
use crate::validate::path::Errors;

pub(crate) mod certificate;
pub(crate) mod config;
pub(crate) mod defaults;
pub(crate) mod endpoints;
pub(crate) mod namespace;
pub(crate) mod network_policy;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod rbac;
pub(crate) mod service;
pub(crate) mod workload;

/// The rules of the kind for a new object.
pub(crate) fn validate_create(resource: &Resource, doc: &Doc<'_>, errors: &mut Errors) {
    match (resource.group, resource.kind) {
        ("", "Pod") => pod::validate::create(doc, errors),
        ("", "Node") => node::create(doc, errors),
        ("", "Namespace") => namespace::finalizers(doc, false, errors),
        ("apps", "ControllerRevision") => workload::validate::revision(doc, true, errors),
        ("certificates.k8s.io", "CertificateSigningRequest") => certificate::create(doc, errors),
        ("", "Endpoints") => endpoints::endpoints(doc, None, errors),
        ("discovery.k8s.io", "EndpointSlice") => endpoints::slice(doc, None, errors),
        ("networking.k8s.io", "NetworkPolicy") => network_policy::create(doc, errors),
        ("", "Service") => service::validate::validate(doc, None, errors),
        ("apps", "Deployment") => workload::validate::deployment(doc, None, errors),
        ("apps", "ReplicaSet") => workload::validate::replica_set(doc, None, errors),
        ("apps", "DaemonSet") => workload::validate::daemon_set(doc, None, errors),
        _ => validate_always(resource, doc, errors),
    }
}

/// Rules that are the same for new and updated objects.
fn validate_always(resource: &Resource, doc: &Doc<'_>, errors: &mut Errors) {
    match (resource.group, resource.kind) {
        ("", "ConfigMap") => config::config_map(doc, errors),
        ("", "Secret") => config::secret(doc, errors),
        ("" | "events.k8s.io", "Event") => config::event(doc, errors),
        ("coordination.k8s.io", "Lease") => config::lease(doc, errors),
        ("rbac.authorization.k8s.io", "Role") => rbac::role(doc, true, errors),
        ("rbac.authorization.k8s.io", "ClusterRole") => rbac::role(doc, false, errors),
        ("rbac.authorization.k8s.io", "RoleBinding") => rbac::binding(doc, true, errors),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => rbac::binding(doc, false, errors),
        _ => {}
    }
}

/// The rules of the kind for an update.
pub(crate) fn validate_update(
    resource: &Resource,
    new: &Doc<'_>,
    old: &Doc<'_>,
    part: Part<'_>,
    errors: &mut Errors,
) {
    let part = match part {
        Part::Main => "",
        Part::Subresource(name) => name,
    };
    match (resource.group, resource.kind, part) {
        ("", "Pod", "") => pod::update::update(new, old, errors),
        ("", "Pod", "status") => pod::status::update(new, old, errors),
        ("", "Node", "") => {
            node::create(new, errors);
            node::update(new, old, errors);
        }
        ("", "Node", _) => node::update(new, old, errors),
        ("", "Namespace", "status") => namespace::status(new, errors),
        ("", "Namespace", "finalize") => namespace::finalizers(new, true, errors),
        ("", "Service", "") => service::validate::update(new, old, errors),
        ("", "Service", "status") => service::validate::status(new, old, errors),
        ("networking.k8s.io", "NetworkPolicy", "") => network_policy::update(new, old, errors),
        ("", "Endpoints", _) => endpoints::endpoints(new, Some(old), errors),
        ("discovery.k8s.io", "EndpointSlice", _) => endpoints::slice(new, Some(old), errors),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet", "") => {
            match resource.kind {
                "Deployment" => workload::validate::deployment(new, Some(old), errors),
                "ReplicaSet" => workload::validate::replica_set(new, Some(old), errors),
                _ => workload::validate::daemon_set(new, Some(old), errors),
            }
            workload::validate::fixed_selector(new, old, errors);
        }
        ("apps", "Deployment" | "ReplicaSet", "status") => {
            workload::validate::replica_status(new, old, errors);
        }
        ("apps", "DaemonSet", "status") => workload::validate::daemon_set_status(new, errors),
        ("apps", "ControllerRevision", _) => {
            workload::validate::revision(new, false, errors);
            crate::validate::meta::immutable(new, old, &["data"], errors);
        }
        ("certificates.k8s.io", "CertificateSigningRequest", part) => {
            certificate::update(new, old, part, errors);
        }
        (_, _, "") => {
            validate_always(resource, new, errors);
            validate_changes(resource, new, old, errors);
        }
        _ => {}
    }
}

/// What may not change.
fn validate_changes(resource: &Resource, new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    match (resource.group, resource.kind) {
        ("", "ConfigMap") => config::keep_immutable(new, old, &["data", "binaryData"], errors),
        ("", "Secret") => {
            config::fixed_type(new, old, errors);
            config::keep_immutable(new, old, &["data"], errors);
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            rbac::fixed_role(new, old, errors);
        }
        _ => {}
    }
}
