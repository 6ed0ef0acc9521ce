//! One question answered twice: by this crate and, in a line of its answer, by upstream's code.
//!
//! The order of steps is the API server's (`apiserver::attempt`): decode, default, prepare, validate,
//! warn. What cannot be equal (ids of Go types in texts) is taken out before two verdicts are compared.

use api::patch::{PatchKind, apply_patch};
use api::strategy::{Part, SystemFields, prepare_create, prepare_update};
use api::validate::{validate_create, validate_update};
use api::{Doc, Facts, FieldValidation, Format, Resource, Status, canonical, decode, warn};
use bumpalo::Bump;
use serde_json::Value;
use serde_json::value::RawValue;

/// What `oracle serve` gives a new object.
const UID: &str = "11111111-2222-3333-4444-555555555555";
const NOW: &str = "2024-01-01T00:00:00Z";

/// A line for `oracle serve`.
#[derive(serde::Deserialize)]
pub struct Question<'a> {
    pub op: &'a str,
    #[serde(borrow)]
    pub object: &'a RawValue,
    #[serde(borrow)]
    pub old: Option<&'a RawValue>,
    #[serde(default)]
    pub subresource: &'a str,
    #[serde(borrow)]
    pub patch: Option<&'a RawValue>,
    #[serde(default)]
    pub kind: &'a str,
}

/// An object as text, or an error.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Object(String),
    Status(Value),
    Error(String),
}

/// An answer and what the client is told besides.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub answer: Answer,
    pub warnings: Vec<String>,
}

impl From<Answer> for Verdict {
    fn from(answer: Answer) -> Verdict {
        Verdict {
            answer,
            warnings: Vec::new(),
        }
    }
}

/// The resource an object's text names.
pub fn resource_of(text: &str) -> Option<&'static Resource> {
    let meta: Value = serde_json::from_str(text).ok()?;
    let api_version = meta["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let kind = meta["kind"].as_str().unwrap_or_default();
    Facts::get().resource_of_kind(group, version, kind)
}

fn read<'a>(text: &'a str, arena: &'a Bump) -> Result<(&'static Resource, Doc<'a>), Answer> {
    let resource = resource_of(text).expect("questions are about served kinds");
    let (mut doc, _) = decode(
        Format::Json,
        text.as_bytes(),
        &resource.schema,
        FieldValidation::Strict,
        arena,
    )
    .map_err(|e| Answer::Error(e.to_string()))?;
    api::default::default(resource, &mut doc);
    Ok((resource, doc))
}

/// What this crate says.
pub fn ours(question: &Question<'_>) -> Verdict {
    let arena = Bump::new();
    let (resource, mut doc) = match read(question.object.get(), &arena) {
        Ok(read) => read,
        Err(answer) => return answer.into(),
    };
    if question.op == "patch" {
        return patched(question, &doc, resource).into();
    }
    let part = match question.subresource {
        "" => Part::Main,
        name => Part::Subresource(name),
    };
    let mut warnings = Vec::new();
    let errors = match question.op {
        "decode" => Vec::new(),
        "create" => {
            warnings = prepare_create(resource, &mut doc, SystemFields { uid: UID, now: NOW });
            let errors = validate_create(resource, &doc);
            if errors.is_empty() {
                warnings.append(&mut warn::on_create(resource, &doc));
            }
            errors
        }
        "update" => {
            let old = question.old.expect("an update has an old object");
            let (_, old) = match read(old.get(), &arena) {
                Ok(read) => read,
                Err(answer) => return answer.into(),
            };
            prepare_update(resource, &mut doc, &old, part);
            let errors = validate_update(resource, &doc, &old, part);
            if errors.is_empty() {
                warnings = warn::on_update(resource, &doc, &old, part);
            }
            errors
        }
        other => panic!("unknown op {other}"),
    };
    let answer = if errors.is_empty() {
        Answer::Object(String::from_utf8(canonical(&doc)).expect("canonical bytes are text"))
    } else {
        let status = Status::invalid(resource.group, resource.kind, doc.name(), &errors);
        Answer::Status(serde_json::from_slice(&status.to_json()).expect("a Status is JSON"))
    };
    Verdict { answer, warnings }
}

fn patched(question: &Question<'_>, doc: &Doc<'_>, resource: &Resource) -> Answer {
    let kind = match question.kind {
        "json" => PatchKind::Json,
        "merge" => PatchKind::Merge,
        _ => PatchKind::Strategic,
    };
    let patch = doc
        .arena()
        .alloc_str(question.patch.expect("a patch has a patch").get())
        .as_bytes();
    match apply_patch(kind, doc, patch, FieldValidation::Strict, doc.arena()) {
        Ok((mut doc, _)) => {
            api::default::default(resource, &mut doc);
            Answer::Object(String::from_utf8(canonical(&doc)).expect("canonical bytes are text"))
        }
        Err(error) => Answer::Error(error.to_string()),
    }
}

/// What upstream's code says, from a line of `oracle serve`.
pub fn upstreams(line: &str) -> Verdict {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        object: Option<&'a RawValue>,
        status: Option<Value>,
        error: Option<String>,
        #[serde(default)]
        warnings: Vec<String>,
    }
    let line: Line<'_> = serde_json::from_str(line).expect("an answer is JSON");
    let answer = match (line.object, line.status) {
        (Some(object), _) => Answer::Object(object.get().to_owned()),
        (None, Some(status)) => Answer::Status(status),
        (None, None) => Answer::Error(line.error.unwrap_or_default()),
    };
    Verdict {
        answer,
        warnings: line.warnings,
    }
}

/// A verdict without what differs from run to run (times of conditions, the order of errors over maps)
/// or cannot be the same (objects printed with the names of Go's internal types).
pub fn comparable(verdict: Verdict) -> Verdict {
    let answer = match verdict.answer {
        Answer::Object(text) => Answer::Object(hide_times(&text)),
        Answer::Status(status) => {
            let mut causes: Vec<[String; 2]> = status["details"]["causes"]
                .as_array()
                .map(|list| list.iter().map(cause).collect())
                .unwrap_or_default();
            causes.sort();
            Answer::Status(serde_json::json!({ "code": status["code"], "causes": causes }))
        }
        Answer::Error(text) => Answer::Error(text),
    };
    let mut warnings = verdict.warnings;
    warnings.sort();
    Verdict { answer, warnings }
}

/// Reason with field, and message.
fn cause(cause: &Value) -> [String; 2] {
    let message = cause["message"].as_str().unwrap_or_default();
    // What comes after a line break is a diff of Go structs.
    let message = message.split('\n').next().unwrap_or_default();
    let message = match (
        message.find(": {").or(message.find(": [")),
        message.rfind(": "),
    ) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &message[..from], &message[to..]),
        _ => message.to_owned(),
    };
    let text = |name: &str| cause[name].as_str().unwrap_or_default().to_owned();
    [format!("{} {}", text("reason"), text("field")), message]
}

fn hide_times(text: &str) -> String {
    const KEY: &str = "\"lastTransitionTime\":\"";
    let mut rest = text;
    let mut clean = String::with_capacity(text.len());
    while let Some(at) = rest.find(KEY) {
        clean.push_str(&rest[..at + KEY.len()]);
        rest = rest[at + KEY.len()..]
            .split_once('"')
            .map_or("", |(_, tail)| tail);
        clean.push_str("-\"");
    }
    clean.push_str(rest);
    clean
}
