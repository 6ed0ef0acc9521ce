//! The error of the API: a `Status` object with code, reason, details and causes, in upstream's words.
//!
//! Port of the constructors in `k8s.io/apimachinery/pkg/api/errors` and the error list of
//! `pkg/util/validation/field`. kubectl prints these messages as they are and clients branch on the
//! reasons, so both are part of the contract.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

use crate::codec::write_value;
use crate::doc::Value;

mod quote;
mod wire;

pub use quote::{is_printable, not_a_number, quote};

/// How many seconds clients are asked to wait after an error that may pass by itself.
pub const RETRY_AFTER_SECONDS: u32 = 1;

/// A failure as a Kubernetes `Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, for example `NotFound`; may be "".
    pub reason: Cow<'static, str>,
    /// The text for people.
    pub message: String,
    /// What it is about, and why.
    pub details: Option<Box<Details>>,
    /// Warnings that go with it. They are no part of the object: headers of the answer.
    pub warnings: Vec<String>,
}

/// The details of a [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The resource's group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource (or kind, for an invalid object).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The single causes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to try again; 0 means no advice.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

/// One cause of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// The kind of cause, for example `FieldValueInvalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The text for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The path of the field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// Something referred to does not exist.
    NotFound,
    /// A value is missing.
    Required,
    /// A value that must be unique is there twice.
    Duplicate,
    /// A malformed value.
    Invalid,
    /// A value that is not one of an enumeration.
    NotSupported,
    /// A valid value that is not allowed here.
    Forbidden,
    /// A text longer than allowed.
    TooLong,
    /// More items than allowed.
    TooMany,
    /// A failure of the server.
    InternalError,
    /// A value of the wrong type.
    TypeInvalid,
}

/// One error of validation: a path, what is wrong with it, the value and an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What is wrong.
    pub ty: ErrorType,
    /// The path, for example `spec.containers[0].image`.
    pub field: String,
    /// The offending value as upstream prints it; "" where it prints none.
    pub value: String,
    /// The explanation.
    pub detail: String,
}

impl ErrorType {
    /// The reason in a Status cause.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::InternalError => "InternalError",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::InternalError => "Internal error",
            ErrorType::TypeInvalid => "Invalid value",
        }
    }
}

impl FieldError {
    fn new(
        ty: ErrorType,
        field: impl Into<String>,
        value: String,
        detail: impl Into<String>,
    ) -> FieldError {
        FieldError {
            ty,
            field: field.into(),
            value,
            detail: detail.into(),
        }
    }

    /// A value is missing.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorType::Required, field, String::new(), detail)
    }

    /// A malformed string.
    pub fn invalid(field: impl Into<String>, value: &str, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorType::Invalid, field, quote(value), detail)
    }

    /// A malformed value that is not a string, already printed (a number, `true`, `{…}`).
    pub fn invalid_raw(
        field: impl Into<String>,
        value: impl fmt::Display,
        detail: impl Into<String>,
    ) -> FieldError {
        FieldError::new(ErrorType::Invalid, field, value.to_string(), detail)
    }

    /// A value that is not one of `valid`.
    pub fn not_supported(field: impl Into<String>, value: &str, valid: &[&str]) -> FieldError {
        let quoted: Vec<String> = valid.iter().map(|v| quote(v)).collect();
        let detail = if valid.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        // Words of an enum are printed as JSON, other strings with Go's quotes.
        let mut json = Vec::new();
        write_value(&Value::String(value), &mut json);
        let value = String::from_utf8_lossy(&json).into_owned();
        FieldError::new(ErrorType::NotSupported, field, value, detail)
    }

    /// A valid value that is not allowed here.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorType::Forbidden, field, String::new(), detail)
    }

    /// A string that is there twice.
    pub fn duplicate(field: impl Into<String>, value: &str) -> FieldError {
        FieldError::new(ErrorType::Duplicate, field, quote(value), "")
    }

    /// A value that is there twice and is not a string.
    pub fn duplicate_raw(field: impl Into<String>, value: impl fmt::Display) -> FieldError {
        FieldError::new(ErrorType::Duplicate, field, value.to_string(), "")
    }

    /// Something referred to that does not exist.
    pub fn not_found(field: impl Into<String>, value: &str) -> FieldError {
        FieldError::new(ErrorType::NotFound, field, quote(value), "")
    }

    /// A text longer than `max` bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> FieldError {
        let detail = format!("may not be more than {max} bytes");
        FieldError::new(ErrorType::TooLong, field, String::new(), detail)
    }

    /// More items than `max`.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> FieldError {
        let detail = format!(
            "must have at most {max} item{}",
            if max == 1 { "" } else { "s" }
        );
        FieldError::new(ErrorType::TooMany, field, actual.to_string(), detail)
    }

    /// A failure of the server.
    pub fn internal(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorType::InternalError, field, String::new(), detail)
    }

    /// The text without the path.
    pub fn body(&self) -> String {
        let what = self.ty.text();
        let mut text = match self.ty {
            ErrorType::Required
            | ErrorType::Forbidden
            | ErrorType::TooLong
            | ErrorType::InternalError => what.to_owned(),
            // A value that is not shown; texts have quotes at least.
            _ if self.value.is_empty() => what.to_owned(),
            ErrorType::NotFound
            | ErrorType::Duplicate
            | ErrorType::Invalid
            | ErrorType::NotSupported
            | ErrorType::TooMany
            | ErrorType::TypeInvalid => format!("{what}: {}", self.value),
        };
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// As a cause of a Status.
    pub fn cause(&self) -> Cause {
        Cause {
            reason: self.ty.reason().to_owned(),
            message: self.body(),
            field: self.field.clone(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// `resource.group`, or the resource alone for the core group.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

impl Status {
    /// A Status without details.
    pub fn new(
        code: u16,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Status {
        Status {
            code,
            reason: reason.into(),
            message: message.into(),
            details: None,
            warnings: Vec::new(),
        }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Status {
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            ..Details::default()
        }));
        self
    }

    fn retry(mut self, seconds: u32) -> Status {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Adds warnings.
    pub fn with_warnings(mut self, warnings: Vec<String>) -> Status {
        self.warnings.extend(warnings);
        self
    }

    /// Adds a cause.
    pub fn with_cause(mut self, cause: Cause) -> Status {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// 404: the object does not exist.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} {} not found", qualified(group, resource), quote(name));
        Status::new(404, "NotFound", message).about(group, resource, name)
    }

    /// 404 of a path that is served by nothing.
    pub fn page_not_found() -> Status {
        Status::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        .about("", "", "")
    }

    /// 409: the object exists.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Status {
        let message = format!(
            "{} {} already exists",
            qualified(group, resource),
            quote(name)
        );
        Status::new(409, "AlreadyExists", message).about(group, resource, name)
    }

    /// 409 of a generated name that was taken every time.
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str) -> Status {
        let message = format!(
            "{} {} already exists, the server was not able to generate a unique name for the object",
            qualified(group, resource),
            quote(name)
        );
        Status::new(409, "AlreadyExists", message)
            .about(group, resource, name)
            .retry(RETRY_AFTER_SECONDS)
    }

    /// 409: the operation cannot be fulfilled; `why` is the explanation.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let message = format!(
            "Operation cannot be fulfilled on {} {}: {why}",
            qualified(group, resource),
            quote(name)
        );
        Status::new(409, "Conflict", message).about(group, resource, name)
    }

    /// 409: the resourceVersion in the request is not the current one.
    pub fn stale(group: &str, resource: &str, name: &str) -> Status {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        Status::conflict(group, resource, name, why)
    }

    /// 422: the object does not pass validation.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Status {
        let text = aggregate(errors);
        let mut message = format!("{} {} is invalid", qualified(group, kind), quote(name));
        if !text.is_empty() {
            message.push_str(": ");
            message.push_str(&text);
        }
        let mut status = Status::new(422, "Invalid", message).about(group, kind, name);
        status.details.get_or_insert_default().causes =
            errors.iter().map(FieldError::cause).collect();
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized(message: impl Into<String>) -> Status {
        let message = message.into();
        let message = if message.is_empty() {
            "not authorized".to_owned()
        } else {
            message
        };
        Status::new(401, "Unauthorized", message)
    }

    /// 403 of admission or of a rule about the object; `why` is the explanation.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (r, "") => format!("{} is forbidden: {why}", qualified(group, r)),
            (r, n) => format!("{} {} is forbidden: {why}", qualified(group, r), quote(n)),
        };
        Status::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// 405 of a verb on a path that does not have it.
    pub fn method_not_allowed() -> Status {
        let text = "the server does not allow this method on the requested resource";
        Status::new(405, "MethodNotAllowed", text).about("", "", "")
    }

    /// 406: none of the representations in the Accept header is served.
    pub fn not_acceptable(supported: &[&str]) -> Status {
        let list = supported.join(", ");
        let text = format!("only the following media types are accepted: {list}");
        Status::new(406, "NotAcceptable", text)
    }

    /// 406: nothing in the Accept header is a media type of the server.
    pub fn no_representation(available: &[&str]) -> Status {
        let list = available.join(", ");
        let text = format!("406: Not Acceptable\n\nAvailable representations: {list}");
        Status::new(406, "NotAcceptable", text).about("", "", "")
    }

    /// 422 without an explanation.
    pub fn rejected() -> Status {
        let text = "the server rejected our request due to an error in our request";
        Status::new(422, "Invalid", text).about("", "", "")
    }

    /// 415: the body's media type is none of those of the path.
    pub fn unsupported_patch() -> Status {
        let text = "415: Unsupported Media Type";
        Status::new(415, "UnsupportedMediaType", text).about("", "", "")
    }

    /// 415: the body's media type is not understood.
    pub fn unsupported_media_type(supported: &[&str]) -> Status {
        let text = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            supported.join(", ")
        );
        Status::new(415, "UnsupportedMediaType", text)
    }

    /// 410: the resourceVersion is older than the history.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message)
    }

    /// 410 of a watch that starts before the history.
    pub fn too_old(requested: u64, oldest: u64) -> Status {
        Status::expired(format!("too old resource version: {requested} ({oldest})"))
    }

    /// 410: gone.
    pub fn gone(message: impl Into<String>) -> Status {
        Status::new(410, "Gone", message)
    }

    /// 504: the resourceVersion asked for is not there yet.
    pub fn too_large_resource_version(requested: u64, current: u64) -> Status {
        let message =
            format!("Timeout: Too large resource version: {requested}, current: {current}");
        let cause = Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        };
        Status::new(504, "Timeout", message)
            .about("", "", "")
            .retry(1)
            .with_cause(cause)
    }

    /// 504: the request did not finish in its time.
    pub fn timeout(message: impl fmt::Display, retry_after: u32) -> Status {
        Status::new(504, "Timeout", format!("Timeout: {message}"))
            .about("", "", "")
            .retry(retry_after)
    }

    /// 500 that a client should try again.
    pub fn server_timeout(group: &str, resource: &str, operation: &str, after: u32) -> Status {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try \
             again.",
            qualified(group, resource)
        );
        Status::new(500, "ServerTimeout", message)
            .about(group, resource, "")
            .retry(after)
    }

    /// 413: the body is larger than allowed.
    pub fn too_large(message: impl fmt::Display) -> Status {
        let message = format!("Request entity too large: {message}");
        Status::new(413, "RequestEntityTooLarge", message)
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Status {
        Status::new(429, "TooManyRequests", message)
            .about("", "", "")
            .retry(retry_after)
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::new(503, "ServiceUnavailable", message)
    }

    /// 500.
    pub fn internal(message: impl fmt::Display) -> Status {
        let text = message.to_string();
        let cause = Cause {
            message: text.clone(),
            ..Cause::default()
        };
        Status::new(
            500,
            "InternalError",
            format!("Internal error occurred: {text}"),
        )
        .with_cause(cause)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// The text of several errors: one as it is, more in brackets, the same text only once.
fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.len() {
        0 => String::new(),
        1 => texts.remove(0),
        _ => format!("[{}]", texts.join(", ")),
    }
}
