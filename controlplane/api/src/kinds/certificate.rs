//! CertificateSigningRequests: strategy and validation.
//!
//! Ported from `pkg/registry/certificates/certificates/strategy.go` and
//! `pkg/apis/certificates/validation`. Who asks (username, groups) is set by the server, which knows it;
//! times of conditions are set by `populate_times`. The request is only checked to be a PEM block of the
//! right type: the signer parses it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::doc::{Doc, Value};
use crate::strategy::{copy, same};
use crate::validate::path::{Errors, Path};

pub(crate) mod of_pod;
pub(crate) mod signer;

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// The shortest life a requester may ask for.
const MIN_SECONDS: i64 = 600;

/// The status endpoint keeps approvals and denials, the approval endpoint everything but conditions.
pub(crate) fn prepare_update<'a>(new: &mut Doc<'a>, old: &Doc<'a>, subresource: &str) {
    match subresource {
        "status" => keep_decisions(new, old),
        "approval" => {
            let conditions = new.get(&["status", "conditions"]).cloned();
            copy(new, old, &["spec"]);
            copy(new, old, &["status"]);
            if let Some(conditions) = conditions {
                new.set(&["status", "conditions"], conditions);
            } else {
                new.remove(&["status", "conditions"]);
            }
        }
        _ => {}
    }
}

/// Sets the times of conditions that have none, and of those whose status changed.
pub fn populate_times(new: &mut Doc<'_>, old: &Doc<'_>, now: &str) {
    let now = new.text(now);
    let old_conditions = old.list_at(&["status", "conditions"]).to_vec();
    let Some(Value::List(list)) = new.get_mut(&["status", "conditions"]) else {
        return;
    };
    for condition in list.iter_mut().filter_map(Value::as_object_mut) {
        if !condition.contains("lastUpdateTime") {
            condition.set("lastUpdateTime", Value::String(now));
        }
        if condition.contains("lastTransitionTime") {
            continue;
        }
        let ty = condition.get("type").and_then(Value::as_str);
        let status = condition.get("status").and_then(Value::as_str);
        let before = old_conditions
            .iter()
            .find(|c| c.str_of("type") == ty && c.str_of("status") == status)
            .and_then(|c| c.str_of("lastTransitionTime"));
        let at = before.map_or(now, |text| condition.arena().alloc_str(text));
        condition.set("lastTransitionTime", Value::String(at));
    }
}

/// Only the approval endpoint decides: decisions that are still there keep their old values. Added and
/// removed ones are refused by validation.
fn keep_decisions<'a>(new: &mut Doc<'a>, old: &Doc<'a>) {
    for ty in ["Approved", "Denied"] {
        let is = |c: &&Value<'a>| c.str_of("type") == Some(ty);
        let before: Vec<Value<'a>> = old
            .list_at(&["status", "conditions"])
            .iter()
            .filter(is)
            .cloned()
            .collect();
        let Some(Value::List(list)) = new.get_mut(&["status", "conditions"]) else {
            return;
        };
        if list.iter().filter(is).count() != before.len() {
            continue;
        }
        let same_type = list.iter_mut().filter(|c| c.str_of("type") == Some(ty));
        for (condition, value) in same_type.zip(before) {
            *condition = value;
        }
    }
}

/// A new request.
pub(crate) fn create(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    request(doc, &path, errors);
    let usages = doc.list_at(&["spec", "usages"]);
    let at = path.child("usages");
    if usages.is_empty() {
        errors.required(&at, "");
    }
    for (i, usage) in usages.iter().enumerate() {
        let text = usage.as_str().unwrap_or_default();
        errors.one_of(&at.index(i), Some(text), &USAGES, false);
        if usages[..i].contains(usage) {
            errors.duplicate(&at.index(i), text);
        }
    }
    let signer = doc.str_at(&["spec", "signerName"]).unwrap_or_default();
    let signer_at = path.child("signerName");
    signer::name(signer, &signer_at, errors);
    if signer == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.invalid(&signer_at, signer, detail);
    }
    let seconds = doc.int_at(&["spec", "expirationSeconds"]);
    if let Some(seconds) = seconds.filter(|s| *s < MIN_SECONDS) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid_number(&path.child("expirationSeconds"), seconds, detail);
    }
    conditions(doc, errors);
}

fn request(doc: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let text = doc.str_at(&["spec", "request"]).unwrap_or_default();
    let pem = STANDARD.decode(text).unwrap_or_default();
    let pem = String::from_utf8_lossy(&pem);
    if !pem.contains("-----BEGIN CERTIFICATE REQUEST-----") {
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        errors.invalid(&path.child("request"), text, detail);
    }
}

fn conditions(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("status");
    let list = path.child("conditions");
    let conditions = doc.list_at(&["status", "conditions"]);
    for (i, condition) in conditions.iter().enumerate() {
        let at = list.index(i);
        let ty = condition.str_of("type").unwrap_or_default();
        if ty.is_empty() {
            errors.required(&at.child("type"), "");
        }
        let known = matches!(ty, "Approved" | "Denied" | "Failed");
        let valid: &[&str] = if known {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        errors.one_of(&at.child("status"), condition.str_of("status"), valid, true);
        if conditions[..i]
            .iter()
            .any(|c| c.str_of("type").unwrap_or_default() == ty)
        {
            errors.duplicate(&at.child("type"), ty);
        }
    }
    let has = |ty| conditions.iter().any(|c| c.str_of("type") == Some(ty));
    if has("Approved") && has("Denied") {
        let member = |ty| format!("conditions[{{\"type\": \"{ty}\"}}]");
        let (approved, denied) = (member("Approved"), member("Denied"));
        errors.invalid(
            &list,
            &format!("{{{approved}, {denied}}}"),
            format!("must specify at most one of: `{approved}`, `{denied}`"),
        );
    }
}

/// An update of the request (`part` is ""), its status or its approval.
pub(crate) fn update(new: &Doc<'_>, old: &Doc<'_>, part: &str, errors: &mut Errors) {
    conditions(new, errors);
    let path = Path::new("status");
    let at = path.child("conditions");
    let of = |doc: &Doc<'_>, ty: &str| {
        let list = doc.list_at(&["status", "conditions"]);
        list.iter().filter(|c| c.str_of("type") == Some(ty)).count()
    };
    for ty in ["Approved", "Denied", "Failed"] {
        let (now, before) = (of(new, ty), of(old, ty));
        if now < before {
            let detail = format!("updates may not remove a condition of type {ty:?}");
            errors.forbidden(&at, detail);
        } else if now > before && part != "approval" && ty != "Failed" {
            let detail = format!("updates may not add a condition of type {ty:?}");
            errors.forbidden(&at, detail);
        }
    }
    let certificate = ["status", "certificate"];
    if !same(new, old, &certificate) {
        let detail = match (part, old.get(&certificate)) {
            ("status", None) => return,
            ("status", Some(_)) => "updates may not modify existing certificate content",
            _ => "updates may not set certificate content",
        };
        errors.forbidden(&path.child("certificate"), detail);
    }
}
