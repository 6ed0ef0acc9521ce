//! What resource claims of pods and claim templates of volumes must hold.
//!
//! Port of `validatePodResourceClaims` and `ValidatePersistentVolumeClaimTemplate` in
//! `pkg/apis/core/validation/validation.go`.

use std::collections::{BTreeSet, HashSet};

use super::annotation::{MIRROR, of};
use super::resources::{amount, resource_amount};
use crate::doc::Value;
use crate::status::FieldError;
use crate::validate::meta::{Selectors, annotations, label_selector, labels};
use crate::validate::names::{dns_label, dns_subdomain};
use crate::validate::path::{Errors, Path};

const ACCESS_MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

/// The names of a pod's claims.
pub(super) fn names<'a>(spec: &Value<'a>) -> BTreeSet<&'a str> {
    let names = spec
        .list_of("resourceClaims")
        .iter()
        .filter_map(|c| c.str_of("name"));
    names.filter(|name| !name.is_empty()).collect()
}

/// A pod's claims; `pod` is null in templates.
pub(super) fn pod_claims(spec: &Value<'_>, pod: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, claim) in spec.list_of("resourceClaims").iter().enumerate() {
        if of(pod, MIRROR).is_some() {
            errors.forbidden(&Path::new(""), "static pods do not support resource claims");
            continue;
        }
        let at = path.index(i);
        let name = claim.str_of("name").unwrap_or_default();
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        } else {
            errors.each(&at.child("name"), name, dns_label(name));
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        let count = sources
            .iter()
            .filter(|field| claim.get(field).is_some())
            .count();
        if count == 2 {
            let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be \
                          specified";
            errors.invalid_value(&at, Some(claim), detail);
        } else if count == 0 {
            let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
            errors.invalid_value(&at, Some(claim), detail);
        }
        for field in sources {
            if let Some(name) = claim.str_of(field) {
                errors.each(&at.child(field), name, dns_subdomain(name));
            }
        }
    }
}

/// The template of an ephemeral volume's claim.
pub(super) fn template(template: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let meta = template.get("metadata");
    let at = path.child("metadata");
    annotations(
        meta.and_then(|m| m.get("annotations")),
        &at.child("annotations"),
        errors,
    );
    labels(
        meta.and_then(|m| m.get("labels")),
        &at.child("labels"),
        errors,
    );
    let fields = meta
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|o| o.iter());
    for (field, value) in fields.filter(|(field, _)| !matches!(*field, "annotations" | "labels")) {
        if !value.is_null() {
            // Go's names of two fields are not those of JSON.
            let shown = match field {
                "uid" => "uID",
                field => field,
            };
            errors.forbidden(&at.child(shown), "cannot be set");
        }
    }
    let spec = template.get("spec").unwrap_or(&Value::Null);
    claim_spec(spec, &path.child("spec"), errors);
}

fn claim_spec(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    access_modes(spec, &path.child("accessModes"), errors);
    label_selector(
        spec.get("selector"),
        Selectors::Strict,
        &path.child("selector"),
        errors,
    );
    let resources = path.child("resources");
    let at = resources.key("storage");
    let storage = spec
        .at(&["resources", "requests", "storage"])
        .and_then(Value::as_str);
    match (
        amount(spec.get("resources"), "requests", "storage"),
        storage,
    ) {
        (Some(quantity), Some(text)) if quantity.sign() <= 0 => {
            errors.invalid(&at, text, "must be greater than zero");
        }
        (Some(quantity), Some(text)) => resource_amount("storage", text, &quantity, &at, errors),
        _ => errors.required(&at, ""),
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        if let Some(class) = spec.str_of(field).filter(|c| !c.is_empty()) {
            errors.each(&path.child(field), class, dns_subdomain(class));
        }
    }
    errors.one_of(
        &path.child("volumeMode"),
        spec.str_of("volumeMode"),
        &VOLUME_MODES,
        false,
    );
    data_sources(spec, path, errors);
}

fn access_modes(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let modes = spec.list_of("accessModes");
    if modes.is_empty() {
        errors.required(path, "at least 1 access mode is required");
    }
    let (mut alone, mut shared) = (false, false);
    for mode in modes.iter().filter_map(Value::as_str) {
        errors.one_of(path, Some(mode), &ACCESS_MODES, false);
        alone |= mode == "ReadWriteOncePod";
        shared |= mode != "ReadWriteOncePod" && ACCESS_MODES.contains(&mode);
    }
    if alone && shared {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn data_sources(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    for field in ["dataSource", "dataSourceRef"] {
        if let Some(source) = spec.get(field) {
            data_source(source, &path.child(field), errors);
        }
    }
    let (Some(source), Some(reference)) = (spec.get("dataSource"), spec.get("dataSourceRef"))
    else {
        return;
    };
    // Upstream prints (as an empty object) the path it means, not the value.
    let mut differs = |detail: &str| {
        errors
            .0
            .push(FieldError::invalid_raw(path.to_string(), "{}", detail));
    };
    let same = ["apiGroup", "kind", "name"]
        .iter()
        .all(|f| source.get(f) == reference.get(f));
    if reference.str_of("namespace").is_some_and(|n| !n.is_empty()) {
        differs("may not be specified when dataSourceRef.namespace is specified");
    } else if !same {
        differs("must match dataSourceRef");
    }
}

fn data_source(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let text = |field| source.str_of(field).unwrap_or_default();
    for field in ["name", "kind"] {
        if text(field).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    let group = text("apiGroup");
    if group.is_empty() && text("kind") != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.invalid(path, text("kind"), detail);
    }
    if !group.is_empty() {
        errors.each(&path.child("apiGroup"), group, dns_subdomain(group));
    }
    if let Some(namespace) = source.str_of("namespace").filter(|n| !n.is_empty()) {
        errors.each(&path.child("namespace"), namespace, dns_label(namespace));
    }
}
