//! Roles and bindings: validation.
//!
//! Port of `pkg/apis/rbac/validation/validation.go`.

use crate::doc::{Doc, Value};
use crate::selector::LabelSelector;
use crate::validate::meta::{Selectors, immutable_with, label_selector};
use crate::validate::names::{dns_subdomain, path_segment};
use crate::validate::path::{Errors, Path};

const GROUP: &str = "rbac.authorization.k8s.io";

/// A Role or ClusterRole.
pub(crate) fn role(doc: &Doc<'_>, namespaced: bool, errors: &mut Errors) {
    let path = Path::new("rules");
    for (i, rule) in doc.list_at(&["rules"]).iter().enumerate() {
        let at = path.index(i);
        if rule.list_of("verbs").is_empty() {
            errors.required(&at.child("verbs"), "");
        }
        let has = |field| !rule.list_of(field).is_empty();
        let urls = at.child("nonResourceURLs");
        if has("nonResourceURLs") {
            let value = rule.get("nonResourceURLs");
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid_value(&urls, value, detail);
            }
            if has("apiGroups") || has("resources") || has("resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid_value(&urls, value, detail);
            }
            continue;
        }
        if !has("apiGroups") {
            let detail = "resource rules must supply at least one api group";
            errors.required(&at.child("apiGroups"), detail);
        }
        if !has("resources") {
            let detail = "resource rules must supply at least one resource";
            errors.required(&at.child("resources"), detail);
        }
    }
    let Some(aggregation) = doc.get(&["aggregationRule"]) else {
        return;
    };
    let path = Path::new("aggregationRule");
    let at = path.child("clusterRoleSelectors");
    let selectors = aggregation.list_of("clusterRoleSelectors");
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.required(&at, detail);
    }
    for (i, selector) in selectors.iter().enumerate() {
        label_selector(Some(selector), Selectors::Strict, &at.index(i), errors);
        if LabelSelector::from_value(Some(selector)).is_err() {
            errors.invalid_value(&at.index(i), None, "invalid label selector.");
        }
    }
}

/// A RoleBinding or ClusterRoleBinding.
pub(crate) fn binding(doc: &Doc<'_>, namespaced: bool, errors: &mut Errors) {
    let path = Path::new("roleRef");
    let text = |field| doc.str_at(&["roleRef", field]).unwrap_or_default();
    if text("apiGroup") != GROUP {
        errors.not_supported(&path.child("apiGroup"), text("apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    if !kinds.contains(&text("kind")) {
        errors.not_supported(&path.child("kind"), text("kind"), kinds);
    }
    errors.named(&path.child("name"), Some(text("name")), path_segment);
    let subjects = Path::new("subjects");
    for (i, item) in doc.list_at(&["subjects"]).iter().enumerate() {
        subject(item, namespaced, &subjects.index(i), errors);
    }
}

fn subject(subject: &Value<'_>, namespaced: bool, at: &Path<'_>, errors: &mut Errors) {
    let text = |field| subject.str_of(field).unwrap_or_default();
    if text("name").is_empty() {
        errors.required(&at.child("name"), "");
    }
    match text("kind") {
        "ServiceAccount" => {
            if !text("name").is_empty() {
                errors.each(&at.child("name"), text("name"), dns_subdomain(text("name")));
            }
            if !text("apiGroup").is_empty() {
                errors.not_supported(&at.child("apiGroup"), text("apiGroup"), &[""]);
            }
            if !namespaced && text("namespace").is_empty() {
                errors.required(&at.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if text("apiGroup") != GROUP {
                errors.not_supported(&at.child("apiGroup"), text("apiGroup"), &[GROUP]);
            }
        }
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.not_supported(&at.child("kind"), other, &kinds);
        }
    }
}

/// A binding's role is fixed.
pub(crate) fn fixed_role(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    immutable_with(new, old, &["roleRef"], "field is immutable", errors);
}
