//! AdmissionReview: the question as JSON, and what an answer says.
//!
//! Pure. Port of `k8s.io/apiserver/pkg/admission/plugin/webhook/request/admissionreview.go` and
//! `errors/statuserror.go`.

use api::{Resource, Status, status::quote};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::Told;
use crate::{admission::matching::Operation, identity::UserInfo};

/// Smallest code of a rejection.
const MIN_REJECTION: u16 = 400;

/// A version of AdmissionReview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewVersion {
    V1,
    V1Beta1,
}

/// Group, version and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kind<'k> {
    pub group: &'k str,
    pub version: &'k str,
    pub kind: &'k str,
}

/// Group, version and plural name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Named<'k> {
    pub group: &'k str,
    pub version: &'k str,
    pub resource: &'k str,
}

/// The question to one webhook.
pub struct Question<'q> {
    pub version: ReviewVersion,
    pub uid: &'q str,
    /// In the version the webhook's rule names.
    pub resource: &'q Resource,
    /// In that version too.
    pub object: Option<&'q [u8]>,
    pub old: Option<&'q [u8]>,
}

/// What a webhook answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    pub warnings: Vec<String>,
    /// A JSON patch.
    pub patch: Option<Vec<u8>>,
    /// Its refusal.
    pub denied: Option<Status>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'r> {
    uid: &'r str,
    kind: Kind<'r>,
    resource: Named<'r>,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub_resource: &'r str,
    request_kind: Kind<'r>,
    request_resource: Named<'r>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_sub_resource: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'r str,
    operation: &'static str,
    user_info: Value,
    object: Option<&'r RawValue>,
    old_object: Option<&'r RawValue>,
    dry_run: bool,
    options: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    response: Option<Response>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    status: Option<Value>,
    patch: Option<String>,
    patch_type: Option<String>,
    warnings: Option<Vec<String>>,
}

// === impl ReviewVersion ===

impl ReviewVersion {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "admission.k8s.io/v1",
            Self::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

// === impl Question ===

impl Question<'_> {
    /// The review as it is sent.
    pub fn json(&self, told: &Told<'_>) -> Result<Vec<u8>, Status> {
        let request = Request {
            uid: self.uid,
            object: raw(self.object)?,
            old_object: raw(self.old)?,
            ..Request::new(told, self.resource)
        };
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Sent<'s> {
            kind: &'static str,
            api_version: &'static str,
            request: Request<'s>,
        }
        let sent = Sent {
            kind: "AdmissionReview",
            api_version: self.version.api_version(),
            request,
        };
        serde_json::to_vec(&sent).map_err(Status::internal)
    }
}

// === impl Request ===

impl<'r> Request<'r> {
    /// Without a uid and without objects.
    fn new(told: &Told<'r>, resource: &'r Resource) -> Self {
        Self {
            uid: "",
            kind: told.kind(resource),
            resource: told.named(resource),
            sub_resource: told.subresource,
            request_kind: told.kind(told.resource),
            request_resource: told.named(told.resource),
            request_sub_resource: told.subresource,
            name: told.name,
            namespace: told.namespace,
            operation: told.operation.as_str(),
            user_info: user(&told.call.user),
            object: None,
            old_object: None,
            dry_run: told.dry_run,
            options: options(told),
        }
    }
}

/// The request without its objects, as conditions see it.
pub fn request(told: &Told<'_>, resource: &Resource) -> Result<Value, Status> {
    let request = Request::new(told, resource);
    let mut json = serde_json::to_value(request).map_err(Status::internal)?;
    if let Some(fields) = json.as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "uid" | "object" | "oldObject"));
    }
    Ok(json)
}

fn raw(json: Option<&[u8]>) -> Result<Option<&RawValue>, Status> {
    let json = json.map(serde_json::from_slice::<&RawValue>);
    json.transpose().map_err(Status::internal)
}

fn user(user: &UserInfo) -> Value {
    let mut json = json!({ "username": user.username, "groups": user.groups });
    if !user.uid.is_empty() {
        json["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        json["extra"] = json!(user.extra);
    }
    json
}

/// The options of the operation with their kind.
fn options(told: &Told<'_>) -> Value {
    let kind = match told.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let attributes = &told.call.attributes;
    let mut json = match told.deletion {
        Some(options) => json!(options),
        None => {
            let mut json = json!({});
            for name in ["fieldManager", "fieldValidation"] {
                if let Some(value) = attributes.param(name).filter(|value| !value.is_empty()) {
                    json[name] = value.into();
                }
            }
            json
        }
    };
    let dry_run = attributes.params("dryRun");
    if !dry_run.is_empty() {
        json["dryRun"] = json!(dry_run);
    }
    json["kind"] = kind.into();
    json["apiVersion"] = "meta.k8s.io/v1".into();
    json
}

/// Reads an answer to a question of that version and uid; the error is why it is none.
pub fn read(
    answer: &[u8],
    version: ReviewVersion,
    uid: &str,
    hook: Hook<'_>,
) -> Result<Verdict, Unread> {
    let review: Review =
        serde_json::from_slice(answer).map_err(|error| Unread::Undecoded(error.to_string()))?;
    let Some(response) = review.response else {
        return Err(Unread::Invalid("webhook response was absent".to_owned()));
    };
    if version == ReviewVersion::V1 {
        check(
            &response,
            uid,
            (&review.api_version, &review.kind),
            hook.mutates,
        )
        .map_err(Unread::Invalid)?;
    }
    let patch = response
        .patch
        .filter(|patch| hook.mutates && !patch.is_empty());
    let patch = patch.map(|patch| STANDARD.decode(patch)).transpose();
    let patch = patch.map_err(|error| Unread::Undecoded(error.to_string()))?;
    if patch.is_some()
        && let Some(other) = response.patch_type.filter(|kind| kind != "JSONPatch")
    {
        let text = format!("unsupported patch type {}", quote(&other));
        return Err(Unread::Unsupported(text));
    }
    let denied = (!response.allowed).then(|| denial(hook.name, response.status.as_ref()));
    Ok(Verdict {
        warnings: response.warnings.unwrap_or_default(),
        patch,
        denied,
    })
}

/// Of whom an answer is.
#[derive(Clone, Copy)]
pub struct Hook<'h> {
    pub name: &'h str,
    pub mutates: bool,
}

/// Why an answer is none.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    Undecoded(String),
    Invalid(String),
    Unsupported(String),
}

/// What version 1 asks of an answer.
fn check(
    response: &Response,
    uid: &str,
    (api_version, kind): (&str, &str),
    mutates: bool,
) -> Result<(), String> {
    if response.uid != uid {
        return Err(format!(
            "expected response.uid={}, got {}",
            quote(uid),
            quote(&response.uid)
        ));
    }
    if (api_version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got \
             {api_version}, Kind={kind}"
        ));
    }
    let has_patch = response
        .patch
        .as_ref()
        .is_some_and(|patch| !patch.is_empty());
    let text = match (mutates, has_patch, response.patch_type.as_deref()) {
        (false, true, _) => "validating webhook may not return response.patch",
        (false, _, Some(_)) => "validating webhook may not return response.patchType",
        (true, true, None) => "webhook returned response.patch but not response.patchType",
        (true, false, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, _, Some("")) => "webhook returned invalid response.patchType of \"\"",
        _ => return Ok(()),
    };
    Err(text.to_owned())
}

/// A webhook's refusal with its name in front.
fn denial(hook: &str, status: Option<&Value>) -> Status {
    let text = |field: &str| {
        let value = status.and_then(|status| status[field].as_str());
        value.unwrap_or_default().to_owned()
    };
    let denied = format!("admission webhook {} denied the request", quote(hook));
    let (message, reason) = (text("message"), text("reason"));
    let message = match (message.as_str(), reason.as_str()) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = status.and_then(|status| status["code"].as_u64());
    let code = code.and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
    let mut denial = Status::new(code.max(MIN_REJECTION), reason, message);
    denial.details = status
        .and_then(|status| serde_json::from_value(status["details"].clone()).ok())
        .map(Box::new);
    denial
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOOK: Hook<'static> = Hook {
        name: "h.example.com",
        mutates: true,
    };

    fn answer(response: Value) -> Vec<u8> {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                            "response": response});
        review.to_string().into_bytes()
    }

    fn verdict(response: Value, mutates: bool) -> Result<Verdict, Unread> {
        let hook = Hook { mutates, ..HOOK };
        read(&answer(response), ReviewVersion::V1, "u", hook)
    }

    #[test]
    fn a_refusal_says_whose_it_is() {
        let table = [
            (json!({}), 400, "", "denied the request without explanation"),
            (
                json!({"reason": "because"}),
                400,
                "because",
                "denied the request: because",
            ),
            (
                json!({"code": 403, "message": "no", "reason": "Forbidden"}),
                403,
                "Forbidden",
                "denied the request: no",
            ),
            (
                json!({"code": 200, "status": "Success", "message": "no"}),
                400,
                "",
                "denied the request: no",
            ),
        ];
        for (status, code, reason, text) in table {
            let response = json!({"uid": "u", "allowed": false, "status": status});
            let denied = verdict(response, true).unwrap().denied.unwrap();
            assert_eq!((denied.code, &*denied.reason), (code, reason));
            let want = format!("admission webhook \"h.example.com\" {text}");
            assert_eq!(denied.message, want);
        }
    }

    #[test]
    fn an_answer_is_to_the_question_and_of_its_kind() {
        let patch = STANDARD.encode("[]");
        let allowed = json!({"uid": "u", "allowed": true});
        let with = |patch: Value, kind: Value| json!({"uid": "u", "allowed": true, "patch": patch, "patchType": kind});
        let table = [
            (allowed.clone(), true, None),
            (allowed, false, None),
            (
                json!({"uid": "v", "allowed": true}),
                true,
                Some("expected response.uid=\"u\", got \"v\""),
            ),
            (
                with(json!(patch), Value::Null),
                true,
                Some("webhook returned response.patch but not response.patchType"),
            ),
            (
                with(Value::Null, json!("JSONPatch")),
                true,
                Some("webhook returned response.patchType but not response.patch"),
            ),
            (with(json!(patch), json!("JSONPatch")), true, None),
            (
                with(json!(patch), json!("JSONPatch")),
                false,
                Some("validating webhook may not return response.patch"),
            ),
        ];
        for (response, mutates, want) in table {
            let text = match verdict(response, mutates) {
                Ok(_) => None,
                Err(Unread::Invalid(text)) => Some(text),
                Err(other) => panic!("{other:?}"),
            };
            assert_eq!(text.as_deref(), want);
        }
    }

    #[test]
    fn an_answer_without_a_response_is_none() {
        let absent = read(b"{}", ReviewVersion::V1Beta1, "u", HOOK);
        let text = "webhook response was absent".to_owned();
        assert_eq!(absent.unwrap_err(), Unread::Invalid(text));
        let undecoded = read(b"no", ReviewVersion::V1, "u", HOOK);
        assert!(matches!(undecoded, Err(Unread::Undecoded(_))));
    }

    #[test]
    fn the_first_version_is_not_checked() {
        let response = json!({"allowed": true, "patch": STANDARD.encode("[]")});
        let read = read(&answer(response), ReviewVersion::V1Beta1, "u", HOOK);
        assert_eq!(read.unwrap().patch.as_deref(), Some(&b"[]"[..]));
    }
}
