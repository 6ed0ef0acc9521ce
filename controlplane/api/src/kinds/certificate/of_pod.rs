//! PodCertificateRequests: what can be said about them without reading certificates. The API server reads
//! those (`apiserver/admission/pod_certificate.rs`).
//!
//! Port of `pkg/apis/certificates/validation` and of `metav1validation.ValidateConditions`.

use crate::doc::{Doc, Value};
use crate::strategy::same;
use crate::validate::names::{dns_subdomain, label_key};
use crate::validate::path::{Errors, Path};

use super::signer;

/// The longest uid, in bytes.
const MAX_UID: usize = 128;
/// The longest PKCS#10 request, in bytes.
const MAX_REQUEST: usize = 10 * 1024;
/// The longest reason and message of a condition, in bytes.
const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 * 1024;
/// Conditions that end a request; there is at most one.
const ENDS: [&str; 3] = ["Issued", "Denied", "Failed"];

/// A new request.
pub(crate) fn create(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let text = |field| doc.str_at(&["spec", field]).unwrap_or_default();
    signer::name(text("signerName"), &path.child("signerName"), errors);
    let annotations = doc.get(&["spec", "unverifiedUserAnnotations"]);
    let annotations = annotations.and_then(Value::as_object);
    let annotations_at = path.child("unverifiedUserAnnotations");
    signer::user_annotations(annotations, &annotations_at, errors);
    for (name, uid) in [
        ("podName", "podUID"),
        ("serviceAccountName", "serviceAccountUID"),
        ("nodeName", "nodeUID"),
    ] {
        errors.each(&path.child(name), text(name), dns_subdomain(text(name)));
        match text(uid).len() {
            0 => errors.invalid(&path.child(uid), "", "must not be empty"),
            length if length > MAX_UID => errors.too_long(&path.child(uid), MAX_UID),
            _ => {}
        }
    }
    let seconds_at = path.child("maxExpirationSeconds");
    let Some(seconds) = doc.int_at(&["spec", "maxExpirationSeconds"]) else {
        return errors.required(&seconds_at, "must be set");
    };
    let [min, max] = signer::life_of_pod_certificate(text("signerName"));
    if !(min..=max).contains(&seconds) {
        let detail = format!("must be in the range [{min}, {max}]");
        errors.invalid_number(&seconds_at, seconds, detail);
    }
    match text("stubPKCS10Request") {
        "" => errors.invalid_omitted(
            &path,
            "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set",
        ),
        request if request.trim_end_matches('=').len() * 3 / 4 > MAX_REQUEST => {
            errors.too_long(&path.child("stubPKCS10Request"), MAX_REQUEST);
        }
        _ => {}
    }
}

/// An update of the status. Its certificates are looked at by the API server when all else is well.
pub(crate) fn update_status(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    if !errors.0.is_empty() {
        return;
    }
    conditions(new.list_at(&["status", "conditions"]), errors);
    if !errors.0.is_empty() {
        return;
    }
    let path = Path::new("status");
    if end(old).is_some() {
        if !same(new, old, &["status"]) {
            let detail = "immutable after PodCertificateRequest is issued, denied, or failed";
            errors.invalid_omitted(&path, detail);
        }
        return;
    }
    let has_more = || {
        [
            "certificateChain",
            "notBefore",
            "beginRefreshAt",
            "notAfter",
        ]
        .iter()
        .any(|field| match new.get(&["status", field]) {
            None | Some(Value::Null) => false,
            Some(value) => value.as_str() != Some(""),
        })
    };
    match end(new) {
        Some("Denied" | "Failed") if has_more() => errors.invalid_omitted(
            &path,
            "non-condition status fields must be empty when denying or failing the \
             PodCertificateRequest",
        ),
        Some(_) => {}
        None if !same(new, old, &["status"]) => errors.invalid_omitted(
            &path,
            "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"",
        ),
        None => {}
    }
}

/// How a request has ended: `Issued`, `Denied` or `Failed`; none while it has not.
pub fn end<'d>(doc: &'d Doc<'_>) -> Option<&'d str> {
    let conditions = doc.list_at(&["status", "conditions"]).iter();
    conditions
        .filter(|condition| condition.str_of("status") == Some("True"))
        .filter_map(|condition| condition.str_of("type"))
        .find(|ty| ENDS.contains(ty))
}

fn conditions(conditions: &[Value<'_>], errors: &mut Errors) {
    let path = Path::new("status");
    let list = path.child("conditions");
    let mut known = 0;
    for (i, condition) in conditions.iter().enumerate() {
        let at = list.index(i);
        let ty = condition.str_of("type").unwrap_or_default();
        if !ENDS.contains(&ty) {
            errors.not_supported(&at.child("type"), ty, &ENDS);
            continue;
        }
        known += 1;
        if known > 1 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.invalid(&at.child("type"), ty, detail);
        }
        let status = condition.str_of("status").unwrap_or_default();
        if status != "True" {
            errors.not_supported(&at.child("status"), status, &["True"]);
        }
    }
    for (i, each) in conditions.iter().enumerate() {
        let at = list.index(i);
        let ty = each.str_of("type");
        if conditions[..i].iter().any(|c| c.str_of("type") == ty) {
            errors.duplicate(&at.child("type"), ty.unwrap_or_default());
        }
        condition(each, &at, errors);
    }
}

/// `metav1validation.ValidateCondition`.
fn condition(condition: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let text = |field| condition.str_of(field).unwrap_or_default();
    match text("type") {
        "" => errors.required(&at.child("type"), "is required"),
        ty => errors.each(&at.child("type"), ty, label_key(ty)),
    }
    let valid = ["False", "True", "Unknown"];
    errors.one_of(&at.child("status"), Some(text("status")), &valid, true);
    if let Some(generation) = condition.int_of("observedGeneration").filter(|n| *n < 0) {
        let detail = "must be greater than or equal to zero";
        errors.invalid_number(&at.child("observedGeneration"), generation, detail);
    }
    if text("lastTransitionTime").is_empty() {
        errors.required(&at.child("lastTransitionTime"), "");
    }
    let reason = text("reason");
    if reason.is_empty() {
        errors.required(&at.child("reason"), "");
    } else if !is_reason(reason) {
        errors.invalid(&at.child("reason"), reason, REASON_FORM);
    }
    if reason.len() > MAX_REASON {
        errors.too_long(&at.child("reason"), MAX_REASON);
    }
    if text("message").len() > MAX_MESSAGE {
        errors.too_long(&at.child("message"), MAX_MESSAGE);
    }
}

const REASON_FORM: &str = "a condition reason must start with alphabetic character, optionally \
    followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric \
    character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or \
    'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

fn is_reason(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(word)
        && text.chars().all(|c| word(c) || matches!(c, ',' | ':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bumpalo::Bump;
    use serde_json::json;

    fn told(old: serde_json::Value, new: serde_json::Value) -> Vec<String> {
        let row = crate::Facts::get()
            .resource("certificates.k8s.io", "v1", "podcertificaterequests")
            .unwrap();
        let (old_arena, new_arena) = (Bump::new(), Bump::new());
        let read = |status: serde_json::Value, arena| {
            let object = json!({"apiVersion": "certificates.k8s.io/v1",
                "kind": "PodCertificateRequest", "metadata": {"name": "a", "namespace": "b"},
                "status": status});
            let bytes = object.to_string().into_bytes();
            let decoded = crate::decode(
                crate::Format::Json,
                Bump::alloc_slice_copy(arena, &bytes),
                &row.schema,
                crate::FieldValidation::Strict,
                arena,
            );
            decoded.unwrap().0
        };
        let (old, new) = (read(old, &old_arena), read(new, &new_arena));
        let mut errors = Errors::default();
        update_status(&new, &old, &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    fn ended(ty: &str) -> serde_json::Value {
        json!({"conditions": [{"type": ty, "status": "True", "reason": "R", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
    }

    #[test]
    fn a_request_ends_once() {
        assert_eq!(told(json!({}), ended("Denied")), Vec::<String>::new());
        assert_eq!(told(ended("Denied"), ended("Denied")), Vec::<String>::new());
        assert_eq!(
            told(ended("Denied"), ended("Issued")),
            [
                "status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"
            ]
        );
        let mut both = ended("Denied");
        let issued = ended("Issued")["conditions"][0].clone();
        both["conditions"].as_array_mut().unwrap().push(issued);
        let told = told(json!({}), both);
        assert!(
            told[0].contains("There may be at most one condition"),
            "{told:?}"
        );
    }

    #[test]
    fn a_refused_request_has_no_certificate_and_an_open_one_no_change() {
        let mut refused = ended("Failed");
        refused["certificateChain"] = json!("x");
        assert!(told(json!({}), refused)[0].contains("must be empty when denying or failing"));
        let open = told(json!({}), json!({"certificateChain": "x"}));
        assert!(
            open[0].contains("immutable unless transitioning"),
            "{open:?}"
        );
    }

    #[test]
    fn conditions_are_of_known_types_and_true() {
        let other = ended("Approved");
        let unknown = told(json!({}), other);
        assert!(
            unknown[0].starts_with("status.conditions[0].type: Unsupported value"),
            "{unknown:?}"
        );
        let mut no = ended("Issued");
        no["conditions"][0]["status"] = json!("False");
        assert!(told(json!({}), no)[0].contains("supported values: \"True\""));
        let mut reason = ended("Issued");
        reason["conditions"][0]["reason"] = json!("1:");
        assert!(told(json!({}), reason)[0].contains("a condition reason must start"));
    }
}
