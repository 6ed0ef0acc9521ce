//! Managers of fields against upstream's own field manager: chains of writes on one object.
//!
//! `upstream/managed-questions.jsonl` is written by hand, its answers by upstream's code:
//!
//! ```text
//! cd tests/oracle && go run . serve < ../../controlplane/api/tests/upstream/managed-questions.jsonl \
//!     > ../../controlplane/api/tests/upstream/managed-answers.jsonl
//! ```
//!
//! `upstream/managed-random.jsonl` has both, made by `go run . random SEED COUNT`. More of them are
//! compared with `MANAGED_CASES=FILE cargo test -p api --test managed`.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use api::apply::{self, Endpoint, Write};
use api::{Doc, Facts, FieldValidation, Format, Resource, canonical, decode};
use bumpalo::Bump;
use serde_json::Value;
use serde_json::value::RawValue;

const UID: &str = "11111111-2222-3333-4444-555555555555";

#[derive(serde::Deserialize)]
struct Chain<'a> {
    #[serde(borrow)]
    steps: Vec<Step<'a>>,
    #[serde(borrow, default)]
    answers: Vec<Answer<'a>>,
}

#[derive(serde::Deserialize)]
struct Step<'a> {
    verb: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
    #[serde(default)]
    manager: &'a str,
    #[serde(default)]
    subresource: &'a str,
    #[serde(default)]
    force: bool,
}

#[derive(serde::Deserialize)]
struct Answers<'a> {
    #[serde(borrow, default)]
    steps: Vec<Answer<'a>>,
}

#[derive(serde::Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    status: Option<Value>,
    error: Option<String>,
}

/// An object as text, or what the Status says.
#[derive(Debug, PartialEq)]
enum Outcome {
    Object(String),
    Failure {
        code: u64,
        message: String,
        causes: Vec<String>,
    },
}

fn upstreams(answer: &Answer<'_>) -> Outcome {
    match answer {
        Answer {
            object: Some(object),
            ..
        } => Outcome::Object(object.get().to_owned()),
        Answer {
            status: Some(status),
            ..
        } => failure(status),
        Answer { error, .. } => Outcome::Failure {
            code: 500,
            message: error.clone().unwrap_or_default(),
            causes: Vec::new(),
        },
    }
}

fn failure(status: &Value) -> Outcome {
    let mut causes: Vec<String> = status["details"]["causes"]
        .as_array()
        .map(|list| list.iter().map(ToString::to_string).collect())
        .unwrap_or_default();
    // Upstream's managers come in no order.
    causes.sort();
    Outcome::Failure {
        code: status["code"].as_u64().unwrap_or_default(),
        message: status["message"].as_str().unwrap_or_default().to_owned(),
        causes,
    }
}

fn resource_of(text: &str) -> Option<&'static Resource> {
    let meta: Value = serde_json::from_str(text).unwrap();
    let api_version = meta["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    Facts::get().resource_of_kind(group, version, meta["kind"].as_str().unwrap_or_default())
}

fn document<'a>(resource: &'static Resource, text: &str, arena: &'a Bump) -> Doc<'a> {
    let bytes = arena.alloc_str(text).as_bytes();
    let decoded = decode(
        Format::Json,
        bytes,
        &resource.schema,
        FieldValidation::Warn,
        arena,
    );
    let (mut doc, _) = decoded.unwrap();
    api::default::default(resource, &mut doc);
    doc
}

/// One write on what is stored.
fn write(resource: &'static Resource, live: &str, step: &Step<'_>, now: &str) -> Outcome {
    let arena = Bump::new();
    let subresource = resource.subresource(step.subresource);
    let endpoint = Endpoint::of(resource, subresource);
    let write = Write {
        endpoint: &endpoint,
        manager: step.manager,
        now,
    };
    let live = match live {
        "" => Doc::new(&resource.schema, &arena),
        text => document(resource, text, &arena),
    };
    let mut doc = if step.verb == "apply" {
        let text = arena.alloc_str(step.object.get()).as_bytes();
        let (applied, _) = apply::read(text, &arena).unwrap();
        match apply::apply(&write, &live, &applied, step.force) {
            Ok(doc) => doc,
            Err(error) => {
                return failure(&serde_json::from_slice(&error.to_status().to_json()).unwrap());
            }
        }
    } else {
        let mut doc = document(resource, step.object.get(), &arena);
        apply::update(&write, &live, &mut doc);
        doc
    };
    api::default::default(resource, &mut doc);
    doc.set_str(&["metadata", "uid"], UID);
    Outcome::Object(String::from_utf8(canonical(&doc)).unwrap())
}

/// Texts that differ without meaning anything else.
fn comparable(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Object(text) => Outcome::Object(text),
        Outcome::Failure {
            code,
            message,
            causes,
        } => {
            let mut lines: Vec<&str> = message.lines().collect();
            lines.sort_unstable();
            // Go's conversion says the same with the names of its functions around it.
            let converts = message.contains("to proper version");
            let message = if converts {
                message[..30].to_owned()
            } else {
                lines.join("\n")
            };
            Outcome::Failure {
                code,
                message,
                causes,
            }
        }
    }
}

/// Compares a chain; the answer is what differs.
fn differences(chain: &Chain<'_>, answers: &[Answer<'_>]) -> Vec<String> {
    let resource = resource_of(chain.steps[0].object.get()).unwrap();
    let mut live = String::new();
    let mut wrong = Vec::new();
    for (i, (step, answer)) in chain.steps.iter().zip(answers).enumerate() {
        let now = format!("2020-01-01T00:00:{i:02}Z");
        let ours = comparable(write(resource, &live, step, &now));
        let theirs = comparable(upstreams(answer));
        if ours != theirs {
            wrong.push(format!(
                "step {i}: {} by {:?} {}\n  live:     {live}\n  ours:     {ours:?}\n  upstream: {theirs:?}",
                step.verb, step.manager, step.object
            ));
        }
        if let Outcome::Object(text) = theirs {
            live = text;
        }
    }
    wrong
}

fn check<'a>(cases: impl Iterator<Item = (Chain<'a>, Vec<Answer<'a>>)>) {
    let (mut steps, mut wrong) = (0, Vec::new());
    for (number, (chain, answers)) in cases.enumerate() {
        assert_eq!(chain.steps.len(), answers.len(), "line {}", number + 1);
        steps += chain.steps.len();
        for difference in differences(&chain, &answers) {
            wrong.push(format!("line {}: {difference}", number + 1));
        }
    }
    wrong.iter().for_each(|text| println!("{text}"));
    assert!(
        wrong.is_empty(),
        "{} of {steps} steps differ from upstream's",
        wrong.len()
    );
}

#[test]
fn every_answer_is_upstreams() {
    let questions = include_str!("upstream/managed-questions.jsonl").lines();
    let answers = include_str!("upstream/managed-answers.jsonl").lines();
    check(questions.zip(answers).map(|(q, a)| {
        let answers: Answers<'_> = serde_json::from_str(a).unwrap();
        (serde_json::from_str(q).unwrap(), answers.steps)
    }));
}

#[test]
fn random_chains_end_as_upstreams_do() {
    let more = std::env::var("MANAGED_CASES").map(|path| std::fs::read_to_string(path).unwrap());
    let text = more
        .as_deref()
        .unwrap_or(include_str!("upstream/managed-random.jsonl"));
    check(text.lines().map(|line| {
        let mut chain: Chain<'_> = serde_json::from_str(line).unwrap();
        let answers = std::mem::take(&mut chain.answers);
        (chain, answers)
    }));
}
