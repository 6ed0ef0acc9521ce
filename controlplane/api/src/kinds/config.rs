//! ConfigMaps, Secrets, Leases and Events: validation; ServiceAccounts: strategy.
//!
//! Port of their part of `pkg/apis/core/validation` and of `pkg/apis/coordination/validation`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::doc::{Doc, Object, Value};
use crate::strategy::same;
use crate::validate::meta::immutable;
use crate::validate::names::{config_key, label_key};
use crate::validate::path::{Errors, Path};

/// How large the data of a ConfigMap or Secret may be.
pub const MAX_DATA_BYTES: usize = 1024 * 1024;
/// The longest reason and action of an event.
const MAX_WORD: usize = 128;
/// The longest note of an event.
const MAX_NOTE: usize = 1024;
const FIXED: &str = "field is immutable when `immutable` is set";
const REDACTED: &str = "<secret contents redacted>";

fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn map<'d, 'a>(doc: &'d Doc<'a>, field: &str) -> Option<&'d Object<'a>> {
    doc.get(&[field])?.as_object()
}

/// A ConfigMap.
pub(crate) fn config_map(doc: &Doc<'_>, errors: &mut Errors) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        let path = Path::new(field);
        for (key, value) in map(doc, field).into_iter().flat_map(Object::iter) {
            errors.each(&path.key(key), key, config_key(key));
            if field == "data" && map(doc, "binaryData").is_some_and(|b| b.contains(key)) {
                errors.invalid(
                    &path.key(key),
                    key,
                    "duplicate of key present in binaryData",
                );
            }
            let text = value.as_str().unwrap_or_default();
            size += if field == "data" {
                text.len()
            } else {
                decoded_len(text)
            };
        }
    }
    if size > MAX_DATA_BYTES {
        errors.too_long(&Path::new(""), MAX_DATA_BYTES);
    }
}

/// A ServiceAccount refers to its secrets by name alone.
pub(crate) fn clean_secret_references(doc: &mut Doc<'_>) {
    let secrets = doc.get_mut(&["secrets"]).and_then(Value::as_list_mut);
    for secret in secrets
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        secret.retain(|key, _| key == "name");
    }
}

/// A Secret.
pub(crate) fn secret(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("data");
    let mut size = 0;
    for (key, value) in map(doc, "data").into_iter().flat_map(Object::iter) {
        errors.each(&path.key(key), key, config_key(key));
        size += decoded_len(value.as_str().unwrap_or_default());
    }
    if size > MAX_DATA_BYTES {
        errors.too_long(&path, MAX_DATA_BYTES);
    }
    let has = |key: &str| map(doc, "data").is_some_and(|d| d.contains(key));
    let need = |key: &str, errors: &mut Errors| {
        if !has(key) {
            errors.required(&path.key(key), "");
        }
    };
    match doc.str_at(&["type"]).unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            if doc
                .map_value(&["metadata", "annotations"], NAME)
                .unwrap_or_default()
                .is_empty()
            {
                let at = Path::new("metadata");
                errors.required(&at.child("annotations").key(NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => json_object(doc, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => json_object(doc, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            need("username", errors);
            need("password", errors);
        }
        "kubernetes.io/ssh-auth" => {
            let key = doc
                .map_value(&["data"], "ssh-privatekey")
                .unwrap_or_default();
            if key.is_empty() {
                errors.required(&path.key("ssh-privatekey"), "");
            }
        }
        "kubernetes.io/tls" => {
            need("tls.crt", errors);
            need("tls.key", errors);
        }
        _ => {}
    }
}

fn json_object(doc: &Doc<'_>, key: &str, errors: &mut Errors) {
    let path = Path::new("data");
    let Some(text) = doc.map_value(&["data"], key) else {
        return errors.required(&path.key(key), "");
    };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    let arena = bumpalo::Bump::new();
    let bytes = arena.alloc_slice_copy(&bytes);
    match crate::codec::parse(crate::codec::Format::Json, bytes, &arena) {
        Err(error) => errors.invalid(&path.key(key), REDACTED, error.to_string()),
        Ok(Value::Object(_) | Value::Null) => {}
        Ok(other) => {
            let detail = format!(
                "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                crate::codec::json_kind(&other)
            );
            errors.invalid(&path.key(key), REDACTED, detail);
        }
    }
}

/// An immutable ConfigMap or Secret stays as it is.
pub(crate) fn keep_immutable(new: &Doc<'_>, old: &Doc<'_>, fields: &[&str], errors: &mut Errors) {
    if old.bool_at(&["immutable"]) != Some(true) {
        return;
    }
    if new.bool_at(&["immutable"]) != Some(true) {
        errors.forbidden(&Path::new("immutable"), FIXED);
    }
    for field in fields {
        if !same(new, old, &[field]) {
            errors.forbidden(&Path::new(field), FIXED);
        }
    }
}

/// The type of a Secret is fixed.
pub(crate) fn fixed_type(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    immutable(new, old, &["type"], errors);
}

/// Fields of coordinated leader election, which is off at the default gates
/// (`pkg/registry/coordination/lease/strategy.go`).
pub(crate) fn drop_gated_lease(new: &mut Doc<'_>, old: Option<&Doc<'_>>) {
    for field in ["strategy", "preferredHolder"] {
        if old.is_none_or(|old| old.get(&["spec", field]).is_none()) {
            new.remove(&["spec", field]);
        }
    }
}

/// A Lease.
pub(crate) fn lease(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let seconds = doc.int_at(&["spec", "leaseDurationSeconds"]);
    if let Some(seconds) = seconds.filter(|s| *s <= 0) {
        let at = path.child("leaseDurationSeconds");
        errors.invalid_number(&at, seconds, "must be greater than 0");
    }
    let transitions = doc.int_at(&["spec", "leaseTransitions"]);
    errors.non_negative(&path.child("leaseTransitions"), transitions);
}

/// A core Event; one of events.k8s.io has other names for the same fields.
pub(crate) fn event(doc: &Doc<'_>, errors: &mut Errors) {
    let core = doc.api_version() == "v1";
    let object = if core { "involvedObject" } else { "regarding" };
    let controller = if core {
        "reportingComponent"
    } else {
        "reportingController"
    };
    let text = |field: &str| doc.str_at(&[field]).unwrap_or_default();
    let about = doc.str_at(&[object, "namespace"]).unwrap_or_default();
    let namespace = doc.namespace();
    let path = Path::new("involvedObject");
    let mut mismatch = |is: bool| {
        if is {
            errors.invalid(
                &path.child("namespace"),
                about,
                "does not match event.namespace",
            );
        }
    };
    if doc.get(&["eventTime"]).is_none() {
        let cluster = about.is_empty() && matches!(namespace, "" | "default");
        mismatch(!cluster && about != namespace);
        if !core {
            errors.required(&Path::new("eventTime"), "");
            event_type(text("type"), errors);
        }
        return;
    }
    mismatch(about.is_empty() && !matches!(namespace, "default" | "kube-system"));
    let at = Path::new(controller);
    if text(controller).is_empty() {
        errors.required(&at, "");
    }
    errors.each(&at, text(controller), label_key(text(controller)));
    for (field, max) in [
        ("reportingInstance", MAX_WORD),
        ("action", MAX_WORD),
        ("reason", MAX_WORD),
    ] {
        let at = Path::new(field);
        match text(field).len() {
            0 => errors.required(&at, ""),
            n if n > max => errors.invalid(&at, "", format!("can have at most {max} characters")),
            _ => {}
        }
    }
    let note = if core { "message" } else { "note" };
    if text(note).len() > MAX_NOTE {
        let detail = format!("can have at most {MAX_NOTE} characters");
        errors.invalid(&Path::new("message"), "", detail);
    }
    if !core {
        event_type(text("type"), errors);
    }
}

fn event_type(ty: &str, errors: &mut Errors) {
    if !matches!(ty, "Normal" | "Warning") {
        errors.invalid(&Path::new("type"), "", format!("has invalid value: {ty}"));
    }
}
