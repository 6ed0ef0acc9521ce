//! Bytes to documents and back: JSON, YAML and protobuf in, canonical JSON (and protobuf) out.
//!
//! Decoding has two steps: the text becomes an untyped tree (or, for protobuf, a typed one), then
//! [`coerce()`] fits the tree to the shape: wrong types are errors in upstream's words, unknown and
//! duplicate fields are reported as [`FieldValidation`] says and dropped, quantities, times and bytes
//! take their canonical form.

use bumpalo::Bump;
use thiserror::Error;

use crate::doc::{Doc, Value};
use crate::schema::Type;
use crate::status::Status;

pub(crate) mod canonical;
mod coerce;
mod json;
mod protobuf;
mod yaml;

pub use canonical::{canonical, canonical_stored, write_value};
pub use coerce::coerce;
pub use protobuf::{Envelope, envelope, to_protobuf};

/// How deep objects and lists may nest in a body.
pub const MAX_DEPTH: usize = 1000;

/// The encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`: the `k8s\0` envelope.
    Protobuf,
}

impl Format {
    /// The format of a media type (parameters are ignored), if it is one of ours.
    pub fn of_media_type(media_type: &str) -> Option<Format> {
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        match essence {
            "" | "application/json" => Some(Format::Json),
            "application/yaml" => Some(Format::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Format::Protobuf),
            _ => None,
        }
    }
}

/// What happens to unknown and duplicate fields: the `fieldValidation` query parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped silently.
    Ignore,
    /// They are dropped with a warning each. The server's default.
    #[default]
    Warn,
    /// They are an error.
    Strict,
}

impl FieldValidation {
    /// Parses the query parameter; an empty one is the default.
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Ignore" => Some(FieldValidation::Ignore),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }
}

/// Why bytes are not a document.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The text is not well-formed.
    #[error("{0}")]
    Syntax(String),
    /// A value has the wrong type, or a quantity or time is malformed.
    #[error("{0}")]
    Value(String),
    /// Unknown or duplicate fields under strict validation.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    /// `kind` or `apiVersion` are missing in the body.
    #[error("{0}")]
    Kind(String),
}

impl DecodeError {
    /// The 400 the server answers with to this body; `version` and `kind` are what the endpoint
    /// expected. Port of `transformDecodeError`
    /// (`k8s.io/apiserver/pkg/endpoints/handlers/rest.go`).
    pub fn to_status(&self, version: &str, kind: &str, body: &[u8]) -> Status {
        if let DecodeError::Kind(text) = self {
            return Status::bad_request(text.clone());
        }
        Status::bad_request(match self.unrecognized() {
            Some(text) => format!(
                "the object provided is unrecognized (must be of type {kind}): {text} ({})",
                summary(body)
            ),
            None => format!(
                "{kind} in version {} cannot be handled as a {kind}: {self}",
                crate::status::quote(version),
            ),
        })
    }

    /// What the decoder says of a text that does not even tell what it is; none for one that does.
    pub fn unrecognized(&self) -> Option<String> {
        let parse_error = |text: &str| {
            Some(format!(
                "couldn't get version/kind; json parse error: {text}"
            ))
        };
        match self {
            DecodeError::Syntax(text)
                if text.starts_with("yaml: ") || text.starts_with(protobuf::NO_ENVELOPE) =>
            {
                Some(text.clone())
            }
            DecodeError::Syntax(text) => parse_error(text),
            // Something else than an object: kind and apiVersion are looked for first.
            DecodeError::Value(text) => {
                let (found, _) = text.split_once(" into Go value of type ")?;
                parse_error(&format!("{found} into Go value of type {TYPE_META}"))
            }
            DecodeError::Strict(_) | DecodeError::Kind(_) => None,
        }
    }
}

/// What upstream reads kind and apiVersion into, as Go prints the type.
const TYPE_META: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// The beginning of a body as upstream's errors show it: as it is when it looks like JSON, else in
/// hexadecimal digits.
pub fn summary(body: &[u8]) -> String {
    const MAX_BYTES: usize = 30;
    if body.is_empty() {
        return "<empty>".to_owned();
    }
    let shown = &body[..body.len().min(MAX_BYTES)];
    let mut text = if body[0] == b'{' {
        String::from_utf8_lossy(shown).into_owned()
    } else {
        shown.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    if shown.len() < body.len() {
        text.push_str(" ...");
    }
    text
}

/// As [`parse`], with what is wrong without being an error: duplicate keys.
pub(crate) fn parse_with_problems<'a>(
    format: Format,
    bytes: &'a [u8],
    arena: &'a Bump,
) -> Result<(Value<'a>, Vec<String>), DecodeError> {
    let mut problems = Vec::new();
    let value = read(format, bytes, arena, &mut problems)?;
    Ok((value, Problem::in_order(problems)))
}

/// Parses bytes without a shape: JSON or YAML as a plain tree. Duplicate keys keep the last value.
pub fn parse<'a>(
    format: Format,
    bytes: &'a [u8],
    arena: &'a Bump,
) -> Result<Value<'a>, DecodeError> {
    let mut duplicates = Vec::new();
    read(format, bytes, arena, &mut duplicates)
}

fn read<'a>(
    format: Format,
    bytes: &'a [u8],
    arena: &'a Bump,
    duplicates: &mut Vec<Problem>,
) -> Result<Value<'a>, DecodeError> {
    match format {
        Format::Json => json::parse(bytes, arena, duplicates),
        Format::Yaml => yaml::parse(bytes, arena, duplicates),
        Format::Protobuf => Err(DecodeError::Syntax(
            "protobuf cannot be read without a schema".to_owned(),
        )),
    }
}

/// What only strict reading refuses, and where.
#[derive(Debug)]
struct Problem {
    /// Address of the key's bytes, by which what the parser and what the schema found come into the
    /// order of the text; 0 for what comes first.
    place: usize,
    text: String,
}

impl Problem {
    fn in_order(mut problems: Vec<Self>) -> Vec<String> {
        problems.sort_by_key(|problem| problem.place);
        problems.into_iter().map(|problem| problem.text).collect()
    }
}

/// Decodes a body into a document of that shape; the strings are warnings for the client.
pub fn decode<'a>(
    format: Format,
    bytes: &'a [u8],
    schema: &'a Type,
    validation: FieldValidation,
    arena: &'a Bump,
) -> Result<(Doc<'a>, Vec<String>), DecodeError> {
    if format == Format::Protobuf {
        return protobuf::decode(bytes, schema, arena).map(|doc| (doc, Vec::new()));
    }
    let mut problems = Vec::new();
    let value = read(format, bytes, arena, &mut problems)?;
    let text = match format {
        Format::Json => bytes,
        Format::Yaml | Format::Protobuf => &[],
    };
    coerce::fit(
        value,
        schema,
        validation,
        coerce::Noted { problems, text },
        arena,
    )
}

/// Reads stored canonical bytes back. They were checked when they were written.
pub fn decode_stored<'a>(
    bytes: &'a [u8],
    schema: &'a Type,
    arena: &'a Bump,
) -> Result<Doc<'a>, DecodeError> {
    decode(Format::Json, bytes, schema, FieldValidation::Ignore, arena).map(|(doc, _)| doc)
}

/// What Go's decoder calls a JSON value in its errors.
pub(crate) fn json_kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Float(_) => "number",
        Value::String(_) => "string",
        Value::List(_) => "array",
        Value::Object(_) => "object",
    }
}
