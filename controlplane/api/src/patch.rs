//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386) and strategic merge patch; apply has its
//! place here too.
//!
//! Input: the current object as a document in the version of the request, and the patch bytes. Output:
//! the patched document, fitted to the shape again (unknown fields, types), ready for defaulting.

use bumpalo::Bump;
use thiserror::Error;

use crate::codec::{self, DecodeError, FieldValidation, Format};
use crate::doc::{Doc, Value};
use crate::status::{FieldError, Status};

pub mod json;
pub mod merge;
pub mod strategic;
pub mod typed;

/// How many operations a JSON patch may have, as upstream.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// The kind of patch, by media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/apply-patch+yaml`: server-side apply; not served yet.
    Apply,
}

impl PatchKind {
    /// The media types in the order upstream lists them.
    pub const MEDIA_TYPES: [&'static str; 4] = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ];

    /// The kind of a Content-Type (parameters are ignored).
    pub fn of_media_type(media_type: &str) -> Option<PatchKind> {
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        match essence {
            "application/json-patch+json" => Some(PatchKind::Json),
            "application/merge-patch+json" => Some(PatchKind::Merge),
            "application/strategic-merge-patch+json" => Some(PatchKind::Strategic),
            "application/apply-patch+yaml" => Some(PatchKind::Apply),
            _ => None,
        }
    }
}

/// Why a patch cannot be applied.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well-formed but does not fit the object: 422.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch cannot be applied, and upstream does not take that for the client's fault: 500.
    #[error("{0}")]
    Failed(String),
    /// The result does not fit the shape of the kind: 422.
    #[error("{error}")]
    Decode {
        /// What is wrong.
        #[source]
        error: DecodeError,
        /// The patched object, or the patch, as upstream shows it.
        shown: String,
    },
    /// The patch has too many operations: 413.
    #[error("{0}")]
    TooLarge(String),
    /// This kind of patch is not served: 415.
    #[error("apply patches are not served")]
    Unsupported,
}

impl PatchError {
    /// The Status the server answers with.
    pub fn to_status(&self) -> Status {
        match self {
            PatchError::Malformed(text) => Status::bad_request(text.clone()),
            // What is wrong is not told: upstream's answer has no causes.
            PatchError::Unprocessable(_) => Status::rejected(),
            PatchError::Failed(text) => Status::new(500, "", text.clone()),
            PatchError::Decode { error, shown } => {
                let error = FieldError::invalid("patch", shown, error.to_string());
                Status::invalid("", "", "", &[error])
            }
            PatchError::TooLarge(text) => Status::too_large(text),
            PatchError::Unsupported => Status::unsupported_patch(),
        }
    }
}

/// What is said of a patch that is not JSON, before anything else is looked at.
const NO_JSON: &str = "invalid JSON patch";

/// Whether a patch is one at all; for those that there is nothing to apply to.
pub fn check_json(patch: &[u8]) -> Result<(), PatchError> {
    let arena = Bump::new();
    match codec::parse(Format::Json, patch, &arena) {
        Ok(_) => Ok(()),
        Err(_) => Err(PatchError::Malformed(NO_JSON.to_owned())),
    }
}

/// Applies a patch to a document. The document is not changed when it fails.
/// The strings are warnings for the client.
pub fn apply_patch<'a>(
    kind: PatchKind,
    current: &Doc<'a>,
    patch: &'a [u8],
    validation: FieldValidation,
    arena: &'a Bump,
) -> Result<(Doc<'a>, Vec<String>), PatchError> {
    let (root, mut problems) = patched(kind, current, patch, arena)?;
    let strict = validation == FieldValidation::Strict;
    let lenient = if strict {
        FieldValidation::Warn
    } else {
        validation
    };
    let failed = |error| PatchError::Decode {
        error,
        shown: shown(kind, current, patch, arena),
    };
    let (doc, warnings) = codec::coerce(root, current.schema(), lenient, arena).map_err(failed)?;
    if validation == FieldValidation::Ignore {
        return Ok((doc, Vec::new()));
    }
    problems.extend(warnings);
    if strict && !problems.is_empty() {
        return Err(failed(DecodeError::Strict(problems)));
    }
    Ok((doc, problems))
}

/// The patched tree before it is fitted to the shape, and what is wrong with the patch.
fn patched<'a>(
    kind: PatchKind,
    current: &Doc<'a>,
    patch: &'a [u8],
    arena: &'a Bump,
) -> Result<(Value<'a>, Vec<String>), PatchError> {
    let (patch, problems) = parse_patch(kind, patch, arena)?;
    let mut root = current.root().clone();
    match kind {
        PatchKind::Json => json::apply(&mut root, &patch, arena)?,
        PatchKind::Merge => merge::apply(&mut root, patch, arena),
        PatchKind::Strategic => strategic::apply(&mut root, patch, current.schema(), arena)?,
        PatchKind::Apply => return Err(PatchError::Unsupported),
    }
    Ok((root, problems))
}

/// What upstream shows of a patch that does not fit: a strategic patch itself, else the patched object.
/// Computed again, since almost every patch fits.
fn shown<'a>(kind: PatchKind, current: &Doc<'a>, patch: &'a [u8], arena: &'a Bump) -> String {
    if kind == PatchKind::Strategic {
        return parse_patch(kind, patch, arena)
            .map(|(v, _)| go_text(&v))
            .unwrap_or_default();
    }
    let mut text = Vec::new();
    if let Ok((root, _)) = patched(kind, current, patch, arena) {
        codec::write_value(&root, &mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A value as Go prints it with `%+v`: maps sorted by key, no quotes.
fn go_text(value: &Value<'_>) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => (*text).to_owned(),
        Value::List(list) => {
            let items: Vec<String> = list.iter().map(go_text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(object) => {
            let mut items: Vec<String> = object
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_text(value)))
                .collect();
            items.sort();
            format!("map[{}]", items.join(" "))
        }
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            let mut text = Vec::new();
            codec::write_value(value, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
    }
}

fn parse_patch<'a>(
    kind: PatchKind,
    bytes: &'a [u8],
    arena: &'a Bump,
) -> Result<(Value<'a>, Vec<String>), PatchError> {
    let prefix = if kind == PatchKind::Strategic {
        ""
    } else {
        "error decoding patch: "
    };
    let (value, mut problems) = codec::parse_with_problems(Format::Json, bytes, arena)
        .map_err(|_| PatchError::Malformed(NO_JSON.to_owned()))?;
    let fits = match kind {
        PatchKind::Json => matches!(value, Value::List(_)),
        PatchKind::Merge | PatchKind::Strategic | PatchKind::Apply => {
            matches!(value, Value::Object(_))
        }
    };
    if !fits {
        let wanted = if kind == PatchKind::Json {
            "[]handlers.jsonPatchOp"
        } else {
            "map[string]interface {}"
        };
        return Err(PatchError::Malformed(format!(
            "{prefix}json: cannot unmarshal {} into Go value of type {wanted}",
            codec::json_kind(&value)
        )));
    }
    if kind == PatchKind::Json {
        problems
            .iter_mut()
            .for_each(|problem| problem.insert_str(0, "json patch "));
    }
    Ok((value, problems))
}
