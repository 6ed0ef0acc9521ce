//! Rules of metadata: they hold for every kind.
//!
//! Port of `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`. That an update names a
//! resourceVersion is checked where the stored one is known.

use super::names::{self, Problems, dns_label, label_key, label_value, masked_prefix};
use super::path::{Errors, Path};
use crate::doc::{Doc, Value};
use crate::facts::Resource;
use crate::status::is_printable;
use crate::strategy::same;

/// How large all annotations of an object may be together.
pub const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;
/// How long the name of a field manager may be.
pub const MAX_MANAGER_BYTES: usize = 128;
/// How long the name of a subresource in a managed field may be.
const MAX_SUBRESOURCE_BYTES: usize = 256;
/// Finalizers without a domain.
const STANDARD_FINALIZERS: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];
/// What updates of fixed fields are answered with.
pub(crate) const IMMUTABLE: &str = "field is immutable";

/// Kinds whose updates are validated as new objects are, besides.
const LOOKED_AT_AGAIN: [(&str, &str); 13] = [
    ("", "ConfigMap"),
    ("", "Endpoints"),
    ("", "Node"),
    ("", "Pod"),
    ("", "Secret"),
    ("", "ServiceAccount"),
    ("apps", "ControllerRevision"),
    ("apps", "StatefulSet"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io", "Role"),
    ("rbac.authorization.k8s.io", "RoleBinding"),
];

/// The rule for names of a kind.
fn name_rule(resource: &Resource) -> fn(&str) -> Problems {
    match (resource.group, resource.kind) {
        ("", "Namespace") => names::dns_label,
        ("", "Service") => names::dns_label,
        ("apps", "StatefulSet") => names::dns_label,
        ("", "Event") => names::path_segment,
        ("rbac.authorization.k8s.io" | "certificates.k8s.io", _) => names::path_segment,
        ("apiregistration.k8s.io", _) => names::path_segment,
        ("networking.k8s.io", "IPAddress") => super::ip::canonical,
        _ => names::dns_subdomain,
    }
}

/// Metadata of a new object.
pub(super) fn create(resource: &Resource, doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("metadata");
    let rule = name_rule(resource);
    let generate = doc.meta("generateName");
    if !generate.is_empty() {
        let problems = rule(&masked_prefix(generate));
        errors.each(&path.child("generateName"), generate, problems);
    }
    let name = doc.name();
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        errors.each(&path.child("name"), name, rule(name));
    }
    let namespace = doc.namespace();
    if resource.namespaced {
        errors.named(&path.child("namespace"), Some(namespace), dns_label);
    } else if !namespace.is_empty() {
        errors.forbidden(&path.child("namespace"), "not allowed on this type");
    }
    common(doc, &path, errors);
    finalizers(doc, &path, errors);
}

/// Metadata of an update: what holds for every kind, then what may not change. Names and prefixes of
/// names are those of new objects only where the kind looks at everything again.
pub(super) fn update(resource: &Resource, new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("metadata");
    let generate = new.meta("generateName");
    if !generate.is_empty() {
        let mut problems = names::path_segment_prefix(generate);
        if LOOKED_AT_AGAIN.contains(&(resource.group, resource.kind)) {
            problems.append(&mut name_rule(resource)(&masked_prefix(generate)));
        }
        errors.each(&path.child("generateName"), generate, problems);
    }
    finalizers(new, &path, errors);
    if old.get(&["metadata", "deletionTimestamp"]).is_some() {
        no_new_finalizers(new, old, &path, errors);
    }
    if new.generation() < old.generation() {
        errors.invalid_number(
            &path.child("generation"),
            new.generation(),
            "must not be decremented",
        );
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
    ] {
        if new.meta(field) != old.meta(field) {
            errors.invalid(&path.child(field), new.meta(field), IMMUTABLE);
        }
    }
    // None and 0 differ here.
    let grace = |doc: &Doc<'_>| doc.int_at(&["metadata", "deletionGracePeriodSeconds"]);
    if grace(new) != grace(old) {
        let value = new.get(&["metadata", "deletionGracePeriodSeconds"]);
        errors.invalid_value(&path.child("deletionGracePeriodSeconds"), value, IMMUTABLE);
    }
    common(new, &path, errors);
}

/// A field that updates may not change.
pub(crate) fn immutable(new: &Doc<'_>, old: &Doc<'_>, path: &[&str], errors: &mut Errors) {
    immutable_with(new, old, path, IMMUTABLE, errors);
}

/// As [`immutable`], with a text of its own.
pub(crate) fn immutable_with(
    new: &Doc<'_>,
    old: &Doc<'_>,
    path: &[&str],
    detail: &str,
    errors: &mut Errors,
) {
    if same(new, old, path) {
        return;
    }
    let text = path.join(".");
    match new.get(path) {
        Some(Value::String(s)) => errors.invalid(&Path::new(&text), s, detail),
        None if old.get(path).is_some_and(|v| v.as_str().is_some()) => {
            errors.invalid(&Path::new(&text), "", detail);
        }
        value => errors.invalid_value(&Path::new(&text), value, detail),
    }
}

fn common(doc: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    errors.non_negative(
        &path.child("generation"),
        doc.int_at(&["metadata", "generation"]),
    );
    labels(
        doc.get(&["metadata", "labels"]),
        &path.child("labels"),
        errors,
    );
    annotations(
        doc.get(&["metadata", "annotations"]),
        &path.child("annotations"),
        errors,
    );
    owner_references(doc, &path.child("ownerReferences"), errors);
    managed_fields(doc, &path.child("managedFields"), errors);
}

/// A map of labels.
pub(crate) fn labels(value: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    let Some(labels) = value.and_then(Value::as_object) else {
        return;
    };
    for (key, value) in labels.iter() {
        errors.each(path, key, label_key(key));
        let value = value.as_str().unwrap_or_default();
        errors.each(path, value, label_value(value));
    }
}

/// A map of annotations.
pub(crate) fn annotations(value: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    let Some(annotations) = value.and_then(Value::as_object) else {
        return;
    };
    let mut size = 0;
    for (key, value) in annotations.iter() {
        errors.each(path, key, label_key(&key.to_ascii_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS_BYTES {
        errors.too_long(path, MAX_ANNOTATIONS_BYTES);
    }
}

fn owner_references(doc: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    let owners = doc.list_at(&["metadata", "ownerReferences"]);
    for (i, owner) in owners.iter().enumerate() {
        let at = path.index(i);
        let text = |field| owner.str_of(field).unwrap_or_default();
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            errors.required(&at.child("apiVersion"), "must not be empty");
        } else if api_version.matches('/').count() > 1 || api_version.ends_with('/') {
            let detail = "must be <group>/<version> or <version>";
            errors.invalid(&at.child("apiVersion"), api_version, detail);
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.required(&at.child(field), "must not be empty");
            }
        }
        if (api_version, text("kind")) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.invalid_value(&at, Some(owner), detail);
        }
        if owner.bool_of("controller") != Some(true) {
            continue;
        }
        let this = format!("{}/{}", text("kind"), text("name"));
        match &controller {
            None => controller = Some(this),
            Some(first) => errors.invalid_value(
                path,
                doc.get(&["metadata", "ownerReferences"]),
                format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {this}"
                ),
            ),
        }
    }
}

fn finalizers(doc: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("finalizers");
    let list = doc.list_at(&["metadata", "finalizers"]);
    for (i, finalizer) in list.iter().filter_map(Value::as_str).enumerate() {
        errors.each(&at, finalizer, label_key(finalizer));
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&at.index(i), finalizer, detail);
        }
    }
    let has = |name| list.iter().any(|f| f.as_str() == Some(name));
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid_value(
            &at,
            doc.get(&["metadata", "finalizers"]),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

fn no_new_finalizers(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let before = old.list_at(&["metadata", "finalizers"]);
    let mut added: Vec<String> = new
        .list_at(&["metadata", "finalizers"])
        .iter()
        .filter(|f| !before.contains(f))
        .filter_map(|f| f.as_str().map(crate::status::quote))
        .collect();
    if added.is_empty() {
        return;
    }
    added.sort();
    added.dedup();
    errors.forbidden(
        &path.child("finalizers"),
        format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers \
             []string{{{}}}",
            added.join(", ")
        ),
    );
}

fn managed_fields(doc: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    for (i, entry) in doc
        .list_at(&["metadata", "managedFields"])
        .iter()
        .enumerate()
    {
        let at = path.index(i);
        let operation = entry.str_of("operation");
        match operation.filter(|o| !o.is_empty()) {
            Some(_) => {
                errors.one_of(
                    &at.child("operation"),
                    operation,
                    &["Apply", "Update"],
                    false,
                );
            }
            None => errors.required(&at.child("operation"), "must not be empty"),
        }
        if let Some(ty) = entry.str_of("fieldsType").filter(|t| *t != "FieldsV1") {
            errors.invalid(&at.child("fieldsType"), ty, "must be `FieldsV1`");
        }
        let manager = entry.str_of("manager").unwrap_or_default();
        if manager.len() > MAX_MANAGER_BYTES {
            errors.too_long(&at.child("manager"), MAX_MANAGER_BYTES);
        }
        for (place, c) in manager.char_indices().filter(|(_, c)| !is_printable(*c)) {
            let detail = format!("invalid character U+{:04X} (at position {place})", c as u32);
            errors.invalid(&at.child("manager"), manager, detail);
        }
        let subresource = entry.str_of("subresource").unwrap_or_default();
        if subresource.len() > MAX_SUBRESOURCE_BYTES {
            errors.too_long(&at.child("subresource"), MAX_SUBRESOURCE_BYTES);
        }
    }
}

/// How much of a selector is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Selectors {
    /// All of it.
    #[default]
    Strict,
    /// Values of expressions may be anything: the stored object has malformed ones already.
    AnyValue,
}

/// A LabelSelector object.
pub(crate) fn label_selector(
    value: Option<&Value<'_>>,
    rule: Selectors,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(selector) = value else { return };
    labels(
        selector.get("matchLabels"),
        &path.child("matchLabels"),
        errors,
    );
    let list = path.child("matchExpressions");
    for (i, expression) in selector.list_of("matchExpressions").iter().enumerate() {
        let at = list.index(i);
        let values = expression.list_of("values");
        let operator = expression.str_of("operator").unwrap_or_default();
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.required(
                &at.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
                &at.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(
                &at.child("operator"),
                other,
                "not a valid selector operator",
            ),
        }
        let key = expression.str_of("key").unwrap_or_default();
        errors.each(&at.child("key"), key, label_key(key));
        if rule == Selectors::AnyValue {
            continue;
        }
        let values_path = at.child("values");
        for (v, value) in values.iter().filter_map(Value::as_str).enumerate() {
            errors.each(&values_path.index(v), value, label_value(value));
        }
    }
}
