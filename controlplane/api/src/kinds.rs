//! What is particular to single kinds: defaults that depend on other fields, strategy and validation.

use crate::doc::Doc;
use crate::facts::Resource;
use crate::strategy::Part;
use crate::validate::path::Errors;

pub(crate) mod admission_policy;
pub(crate) mod batch;
pub(crate) mod certificate;
pub(crate) mod class;
pub(crate) mod config;
pub(crate) mod defaults;
pub(crate) mod endpoints;
pub(crate) mod namespace;
pub(crate) mod network_policy;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod policy;
pub(crate) mod quota;
pub(crate) mod rbac;
pub(crate) mod service;
pub(crate) mod webhook;
pub(crate) mod workload;

pub use certificate::of_pod::end as pod_certificate_end;
pub use webhook::CONDITIONS as WEBHOOK_CONDITIONS;

/// The rules of the kind for a new object.
pub(crate) fn validate_create(resource: &Resource, doc: &Doc<'_>, errors: &mut Errors) {
    match (resource.group, resource.kind) {
        ("", "Pod") => pod::validate::create(doc, errors),
        ("", "Node") => node::create(doc, errors),
        ("", "Namespace") => namespace::finalizers(doc, false, errors),
        ("apps", "ControllerRevision") => workload::validate::revision(doc, true, errors),
        ("batch", "Job") => batch::job::create(doc, errors),
        ("batch", "CronJob") => batch::cron::create(doc, errors),
        ("certificates.k8s.io", "CertificateSigningRequest") => certificate::create(doc, errors),
        ("certificates.k8s.io", "PodCertificateRequest") => {
            certificate::of_pod::create(doc, errors);
        }
        ("", "Endpoints") => endpoints::endpoints(doc, None, errors),
        ("discovery.k8s.io", "EndpointSlice") => endpoints::slice(doc, None, errors),
        ("networking.k8s.io", "NetworkPolicy") => network_policy::create(doc, errors),
        ("", "Service") => service::validate::validate(doc, None, errors),
        ("apps", "Deployment") => workload::validate::deployment(doc, None, errors),
        ("apps", "ReplicaSet") => workload::validate::replica_set(doc, None, errors),
        ("apps", "DaemonSet") => workload::validate::daemon_set(doc, None, errors),
        ("apps", "StatefulSet") => workload::stateful::stateful_set(doc, None, errors),
        ("", "PodTemplate") => workload::validate::pod_template(doc, None, errors),
        ("", "ReplicationController") => {
            workload::validate::replication_controller(doc, None, errors);
        }
        (webhook::GROUP, kind) if webhook::KINDS.contains(&kind) => {
            webhook::configuration(doc, None, errors);
        }
        (webhook::GROUP, kind) if admission_policy::POLICIES.contains(&kind) => {
            admission_policy::policy(doc, None, errors);
        }
        _ => validate_always(resource, doc, errors),
    }
}

/// Rules that are the same for new and updated objects.
fn validate_always(resource: &Resource, doc: &Doc<'_>, errors: &mut Errors) {
    match (resource.group, resource.kind) {
        ("", "ConfigMap") => config::config_map(doc, errors),
        ("", "Secret") => config::secret(doc, errors),
        ("" | "events.k8s.io", "Event") => config::event(doc, errors),
        ("", "LimitRange") => quota::limit_range(doc, errors),
        ("", "ResourceQuota") => quota::resource_quota(doc, errors),
        ("coordination.k8s.io", "Lease") => config::lease(doc, errors),
        ("node.k8s.io", "RuntimeClass") => class::runtime(doc, errors),
        ("policy", "PodDisruptionBudget") => policy::budget(doc, errors),
        ("scheduling.k8s.io", "PriorityClass") => class::priority(doc, errors),
        (webhook::GROUP, kind) if admission_policy::BINDINGS.contains(&kind) => {
            admission_policy::binding(doc, errors);
        }
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
        ("", "ResourceQuota", "status") => quota::resource_quota_status(new, errors),
        ("", "Service", "") => service::validate::update(new, old, errors),
        ("", "Service", "status") => service::validate::status(new, old, errors),
        ("networking.k8s.io", "NetworkPolicy", "") => network_policy::update(new, old, errors),
        ("", "Endpoints", _) => endpoints::endpoints(new, Some(old), errors),
        ("discovery.k8s.io", "EndpointSlice", _) => endpoints::slice(new, Some(old), errors),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet", "")
        | ("", "PodTemplate" | "ReplicationController", "") => {
            update_workload(resource, new, old, errors);
        }
        ("policy", "PodDisruptionBudget", "status") => policy::budget_status(new, errors),
        ("apps", "Deployment" | "ReplicaSet", "status")
        | ("", "ReplicationController", "status") => {
            workload::status::replicas(new, old, errors);
        }
        ("apps", "StatefulSet", "status") => workload::status::stateful_set(new, old, errors),
        ("batch", "Job", "") => batch::job::update(new, old, errors),
        ("batch", "Job", "status") => batch::status::update(new, old, errors),
        ("batch", "CronJob", "") => batch::cron::update(new, old, errors),
        ("apps", "DaemonSet", "status") => workload::status::daemon_set(new, old, errors),
        ("apps", "ControllerRevision", _) => {
            workload::validate::revision(new, false, errors);
            crate::validate::meta::immutable(new, old, &["data"], errors);
        }
        ("certificates.k8s.io", "CertificateSigningRequest", part) => {
            certificate::update(new, old, part, errors);
        }
        ("certificates.k8s.io", "PodCertificateRequest", "") => {
            crate::validate::meta::immutable(new, old, &["spec"], errors);
        }
        ("certificates.k8s.io", "PodCertificateRequest", "status") => {
            certificate::of_pod::update_status(new, old, errors);
        }
        ("scheduling.k8s.io", "PriorityClass", _) => class::update_priority(new, old, errors),
        (webhook::GROUP, kind, _) if webhook::KINDS.contains(&kind) => {
            webhook::configuration(new, Some(old), errors);
        }
        (webhook::GROUP, kind, "") if admission_policy::POLICIES.contains(&kind) => {
            admission_policy::policy(new, Some(old), errors);
        }
        (_, _, "") => {
            validate_always(resource, new, errors);
            validate_changes(resource, new, old, errors);
        }
        _ => {}
    }
}

/// The rules of kinds with a pod template; the stored one's oddities are kept.
fn update_workload(resource: &Resource, new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    match resource.kind {
        "Deployment" => workload::validate::deployment(new, Some(old), errors),
        "ReplicaSet" => workload::validate::replica_set(new, Some(old), errors),
        "DaemonSet" => workload::validate::daemon_set(new, Some(old), errors),
        "StatefulSet" => {
            workload::stateful::stateful_set(new, Some(old), errors);
            return workload::stateful::fixed(new, old, errors);
        }
        "PodTemplate" => return workload::validate::pod_template(new, Some(old), errors),
        _ => return workload::validate::replication_controller(new, Some(old), errors),
    }
    workload::validate::fixed_selector(new, old, errors);
}

/// What may not change.
fn validate_changes(resource: &Resource, new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    match (resource.group, resource.kind) {
        ("", "ConfigMap") => config::keep_immutable(new, old, &["data", "binaryData"], errors),
        ("", "ResourceQuota") => quota::update_resource_quota(new, old, errors),
        ("node.k8s.io", "RuntimeClass") => class::update_runtime(new, old, errors),
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
