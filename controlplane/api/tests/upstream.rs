//! Our decoding, defaults, strategies and validation against upstream's own answers.
//!
//! `upstream/questions.jsonl` is written by hand, `upstream/answers.jsonl` by upstream's code:
//!
//! ```text
//! cd tests/oracle && go run . serve < ../../controlplane/api/tests/upstream/questions.jsonl \
//!     > ../../controlplane/api/tests/upstream/answers.jsonl
//! ```

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use api::patch::{PatchKind, apply_patch};
use api::strategy::{Part, SystemFields, prepare_create, prepare_update};
use api::validate::{validate_create, validate_update};
use api::{Doc, Facts, FieldValidation, Format, Resource, Status, canonical, decode};
use bumpalo::Bump;
use serde_json::Value;
use serde_json::value::RawValue;

const UID: &str = "11111111-2222-3333-4444-555555555555";
const NOW: &str = "2024-01-01T00:00:00Z";

#[derive(serde::Deserialize)]
struct Question<'a> {
    op: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
    #[serde(borrow)]
    old: Option<&'a RawValue>,
    #[serde(default)]
    subresource: &'a str,
    #[serde(borrow)]
    patch: Option<&'a RawValue>,
    #[serde(default)]
    kind: &'a str,
}

/// An object as text, or an error.
#[derive(Debug, PartialEq)]
enum Answer {
    Object(String),
    Status(Value),
    Error(String),
}

fn read<'a>(text: &'a str, arena: &'a Bump) -> Result<(&'static Resource, Doc<'a>), Answer> {
    let meta: Value = serde_json::from_str(text).unwrap();
    let api_version = meta["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let kind = meta["kind"].as_str().unwrap_or_default();
    let resource = Facts::get().resource_of_kind(group, version, kind).unwrap();
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

fn ours(question: &Question<'_>) -> Answer {
    let arena = Bump::new();
    let (resource, mut doc) = match read(question.object.get(), &arena) {
        Ok(read) => read,
        Err(answer) => return answer,
    };
    if question.op == "patch" {
        return patched(question, &doc, resource);
    }
    let part = match question.subresource {
        "" => Part::Main,
        name => Part::Subresource(name),
    };
    let errors = match question.op {
        "decode" => Vec::new(),
        "create" => {
            prepare_create(resource, &mut doc, SystemFields { uid: UID, now: NOW });
            validate_create(resource, &doc)
        }
        "update" => {
            let (_, old) = match read(question.old.unwrap().get(), &arena) {
                Ok(read) => read,
                Err(answer) => return answer,
            };
            prepare_update(resource, &mut doc, &old, part);
            validate_update(resource, &doc, &old, part)
        }
        other => panic!("unknown op {other}"),
    };
    if errors.is_empty() {
        return Answer::Object(String::from_utf8(canonical(&doc)).unwrap());
    }
    let status = Status::invalid(resource.group, resource.kind, doc.name(), &errors);
    Answer::Status(serde_json::from_slice(&status.to_json()).unwrap())
}

fn patched(question: &Question<'_>, doc: &Doc<'_>, resource: &Resource) -> Answer {
    let kind = match question.kind {
        "json" => PatchKind::Json,
        "merge" => PatchKind::Merge,
        _ => PatchKind::Strategic,
    };
    let patch = doc
        .arena()
        .alloc_str(question.patch.unwrap().get())
        .as_bytes();
    match apply_patch(kind, doc, patch, FieldValidation::Strict, doc.arena()) {
        Ok((mut doc, _)) => {
            api::default::default(resource, &mut doc);
            Answer::Object(String::from_utf8(canonical(&doc)).unwrap())
        }
        Err(error) => Answer::Error(error.to_string()),
    }
}

fn upstreams(line: &str) -> Answer {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        object: Option<&'a RawValue>,
        status: Option<Value>,
        error: Option<String>,
    }
    let line: Line<'_> = serde_json::from_str(line).unwrap();
    match line {
        Line {
            object: Some(object),
            ..
        } => Answer::Object(object.get().to_owned()),
        Line {
            status: Some(status),
            ..
        } => Answer::Status(status),
        Line { error, .. } => Answer::Error(error.unwrap_or_default()),
    }
}

/// Ids and times differ from run to run; the order of errors over maps does too.
fn comparable(answer: Answer) -> Answer {
    match answer {
        Answer::Object(text) => Answer::Object(hide_times(&text)),
        Answer::Status(status) => {
            let mut causes: Vec<String> = status["details"]["causes"]
                .as_array()
                // What comes after a line break is a diff of Go structs.
                .map(|list| list.iter().map(cause).collect())
                .unwrap_or_default();
            causes.sort();
            Answer::Status(serde_json::json!({ "code": status["code"], "causes": causes }))
        }
        Answer::Error(text) => Answer::Error(text),
    }
}

fn cause(cause: &Value) -> String {
    let message = cause["message"].as_str().unwrap_or_default();
    let message = message.split('\n').next().unwrap_or_default();
    // Objects are printed with the names of Go's internal types.
    let message = match (
        message.find(": {").or(message.find(": [")),
        message.rfind(": "),
    ) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &message[..from], &message[to..]),
        _ => message.to_owned(),
    };
    format!("{} {} {message}", cause["reason"], cause["field"])
}

fn hide_times(text: &str) -> String {
    let mut out = text.to_owned();
    for key in [
        "\"uid\":\"",
        "\"creationTimestamp\":\"",
        "\"lastTransitionTime\":\"",
    ] {
        let mut rest = out.as_str();
        let mut clean = String::new();
        while let Some(at) = rest.find(key) {
            clean.push_str(&rest[..at + key.len()]);
            rest = rest[at + key.len()..]
                .split_once('"')
                .map_or("", |(_, tail)| tail);
            clean.push_str("-\"");
        }
        clean.push_str(rest);
        out = clean;
    }
    out
}

#[test]
fn every_answer_is_upstreams() {
    let questions = include_str!("upstream/questions.jsonl");
    let answers = include_str!("upstream/answers.jsonl");
    assert_eq!(questions.lines().count(), answers.lines().count());
    let mut wrong = 0;
    for (number, (q, a)) in questions.lines().zip(answers.lines()).enumerate() {
        let question: Question<'_> = serde_json::from_str(q).unwrap();
        // The texts of patch errors are those of three libraries; that it fails must be the same.
        let failed = |answer: &Answer| matches!(answer, Answer::Error(_));
        if question.op == "patch" && failed(&ours(&question)) && failed(&upstreams(a)) {
            continue;
        }
        let (ours, theirs) = (comparable(ours(&question)), comparable(upstreams(a)));
        if ours != theirs {
            wrong += 1;
            println!(
                "line {}: {q}\n  ours:     {ours:?}\n  upstream: {theirs:?}",
                number + 1
            );
        }
    }
    assert_eq!(wrong, 0, "{wrong} answers differ from upstream's");
}
