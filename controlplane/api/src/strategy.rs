//! What a create or update does to an object before validation: resets, generation, system fields.
//!
//! Port of `rest.BeforeCreate`, `rest.BeforeUpdate` and the kinds' `PrepareForCreate`/`PrepareForUpdate`.
//! What holds for every kind comes from the facts (reset fields, generation); the rest is in `kinds`.
//! Ids and times are arguments. Documents are defaulted before they come here.

use crate::codec::canonical::write_typed;
use crate::doc::{Doc, Object, Value};
use crate::facts::Resource;
use crate::kinds;

pub use crate::kinds::certificate::populate_times as populate_certificate_times;

/// What the server adds to a new object.
#[derive(Clone, Copy, Debug)]
pub struct SystemFields<'s> {
    /// The new object's uid.
    pub uid: &'s str,
    /// Now, as RFC 3339 with seconds.
    pub now: &'s str,
}

/// Which part of an object an update is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'s> {
    /// The object's own endpoint.
    Main,
    /// The endpoint of a subresource, for example `status`.
    Subresource(&'s str),
}

/// Kinds whose new objects keep the status they come with: agents create their node with it.
const STATUS_KEPT_ON_CREATE: [&str; 1] = ["nodes"];

/// Kinds whose strategy fails on an empty object, so that the facts could not see their generation.
const GENERATION_UNSEEN: [&str; 1] = ["jobs"];

/// Where a kind has its pod template.
pub(crate) fn template_path(resource: &Resource) -> Option<&'static [&'static str]> {
    match (resource.group, resource.kind) {
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet")
        | ("batch", "Job") => Some(&["spec", "template"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template"]),
        ("", "PodTemplate") => Some(&["template"]),
        _ => None,
    }
}

/// Prepares a new object: system fields, status cleared, generation 1, what the kind resets.
/// `metadata.name` is already final (generateName is the caller's), as is `metadata.namespace`. What comes
/// back are warnings for the client.
pub fn prepare_create(
    resource: &Resource,
    doc: &mut Doc<'_>,
    system: SystemFields<'_>,
) -> Vec<String> {
    for field in [
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        doc.remove(&["metadata", field]);
    }
    if !resource.namespaced {
        doc.remove(&["metadata", "namespace"]);
    }
    doc.set_str(&["metadata", "uid"], system.uid);
    doc.set_str(&["metadata", "creationTimestamp"], system.now);
    let clears = resource.reset_fields.contains(&"status");
    if clears && !STATUS_KEPT_ON_CREATE.contains(&resource.plural) {
        doc.remove(&["status"]);
    }
    if has_generation(resource) {
        doc.set_int(&["metadata", "generation"], 1);
    }
    if let Some(template) = template_path(resource) {
        kinds::pod::gated::drop_disabled(doc, None, template);
    }
    match (resource.group, resource.kind) {
        ("", "Pod") => return kinds::pod::prepare_create(doc, system),
        ("", "Namespace") => kinds::namespace::prepare_create(doc),
        ("", "PersistentVolume" | "PersistentVolumeClaim") => {
            doc.set_str(&["status", "phase"], "Pending");
        }
        ("", "ServiceAccount") => kinds::config::clean_secret_references(doc),
        ("apps", "DaemonSet") => kinds::workload::prepare_daemon_set_create(doc),
        ("batch", "Job") => kinds::batch::prepare_create(doc, system),
        ("coordination.k8s.io", "Lease") => kinds::config::drop_gated_lease(doc, None),
        ("discovery.k8s.io", "EndpointSlice") => kinds::endpoints::drop_topology(doc, None),
        _ => {}
    }
    Vec::new()
}

/// Prepares an update: `new` is what the client wants, `old` what is stored. Keeps system fields, keeps
/// the status (or, for the status subresource, everything else), bumps the generation.
pub fn prepare_update<'a>(resource: &Resource, new: &mut Doc<'a>, old: &Doc<'a>, part: Part<'_>) {
    copy(new, old, &["metadata", "generation"]);
    let resets: &[&str] = match part {
        Part::Main => &resource.reset_fields,
        // Its strategy keeps single conditions, which a path cannot say.
        Part::Subresource("status") if resource.kind == "CertificateSigningRequest" => &["spec"],
        Part::Subresource(name) => resource
            .subresource(name)
            .map(|s| &s.reset_fields[..])
            .unwrap_or_default(),
    };
    for path in resets {
        let segments: Vec<&str> = path.split('.').collect();
        copy(new, old, &segments);
    }
    prepare_kind_update(resource, new, old, part);
    if has_generation(resource) && orders(resource, part) && generation_changes(resource, new, old)
    {
        new.set_int(&["metadata", "generation"], old.generation() + 1);
    }
    keep_system_fields(new, old);
}

fn prepare_kind_update<'a>(resource: &Resource, new: &mut Doc<'a>, old: &Doc<'a>, part: Part<'_>) {
    if let Some(template) = template_path(resource).filter(|_| part == Part::Main) {
        kinds::pod::gated::drop_disabled(new, Some(old), template);
    }
    match (resource.group, resource.kind, part) {
        ("", "Pod", Part::Main) => kinds::pod::prepare_update(new, old),
        ("", "Pod", Part::Subresource("status")) => kinds::pod::prepare_status_update(new, old),
        ("", "ServiceAccount", Part::Main) => kinds::config::clean_secret_references(new),
        ("", "Namespace", Part::Main) => copy(new, old, &["spec", "finalizers"]),
        ("", "Service", Part::Main) => kinds::service::prepare_update(new, old),
        ("", "Secret", Part::Main) if new.get(&["type"]).is_none() => copy(new, old, &["type"]),
        ("apps", "DaemonSet", Part::Main) => kinds::workload::prepare_daemon_set_update(new, old),
        ("coordination.k8s.io", "Lease", Part::Main) => {
            kinds::config::drop_gated_lease(new, Some(old));
        }
        ("discovery.k8s.io", "EndpointSlice", Part::Main) => {
            kinds::endpoints::drop_topology(new, Some(old));
        }
        ("certificates.k8s.io", "CertificateSigningRequest", Part::Subresource(name)) => {
            kinds::certificate::prepare_update(new, old, name);
        }
        _ => {}
    }
}

/// An update can neither change nor remove what only the server sets.
fn keep_system_fields<'a>(new: &mut Doc<'a>, old: &Doc<'a>) {
    if new.meta("uid").is_empty() {
        copy(new, old, &["metadata", "uid"]);
    }
    new.remove(&["metadata", "selfLink"]);
    for field in ["creationTimestamp", "deletionTimestamp"] {
        if old.get(&["metadata", field]).is_some() {
            copy(new, old, &["metadata", field]);
        }
    }
    if new
        .get(&["metadata", "deletionGracePeriodSeconds"])
        .is_none()
    {
        copy(new, old, &["metadata", "deletionGracePeriodSeconds"]);
    }
}

fn has_generation(resource: &Resource) -> bool {
    resource.strategy.generation || GENERATION_UNSEEN.contains(&resource.plural)
}

/// Whether the desired state is written there.
fn orders(resource: &Resource, part: Part<'_>) -> bool {
    let of_pods = ["ephemeralcontainers", "resize"].map(Part::Subresource);
    part == Part::Main || (resource.kind == "Pod" && of_pods.contains(&part))
}

/// Whether the desired state differs.
fn generation_changes(resource: &Resource, new: &Doc<'_>, old: &Doc<'_>) -> bool {
    let Some(shape) = new.shape() else {
        return false;
    };
    let differs = shape
        .fields
        .iter()
        .filter(|f| !matches!(f.name, "kind" | "apiVersion" | "metadata" | "status"))
        .any(|f| !same(new, old, &[f.name]));
    differs
        || match resource.kind {
            "Deployment" => !same(new, old, &["metadata", "annotations"]),
            "EndpointSlice" => !same(new, old, &["metadata", "labels"]),
            _ => false,
        }
}

/// Whether two documents of one shape have the same canonical value at a path.
pub fn same(a: &Doc<'_>, b: &Doc<'_>, path: &[&str]) -> bool {
    let (left, right) = (a.get(path), b.get(path));
    if left == right {
        return true;
    }
    let mut ty = a.schema();
    for segment in path {
        let field = ty.as_struct().and_then(|s| s.field(segment));
        match (field, ty.element()) {
            (Some(field), _) => ty = &field.ty,
            (None, Some(element)) => ty = element,
            (None, None) => return false,
        }
    }
    let bytes = |value: Option<&Value<'_>>| {
        let mut out = Vec::new();
        match value {
            Some(value) => write_typed(value, ty, &mut out),
            None if ty.as_struct().is_some() => {
                let arena = bumpalo::Bump::new();
                write_typed(&Value::Object(Object::new_in(&arena)), ty, &mut out);
            }
            None => {}
        }
        if matches!(
            &out[..],
            b"[]" | b"{}" | b"null" | b"\"\"" | b"0" | b"false"
        ) {
            out.clear();
        }
        out
    };
    bytes(left) == bytes(right)
}

/// Sets the old value (or absence) at a path.
pub(crate) fn copy<'a>(new: &mut Doc<'a>, old: &Doc<'a>, path: &[&str]) {
    match old.get(path) {
        Some(value) => new.set(path, value.clone()),
        None => {
            new.remove(path);
        }
    }
}
