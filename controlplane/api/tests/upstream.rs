//! Our decoding, defaults, strategies and validation against upstream's own answers.
//!
//! `upstream/questions.jsonl` is written by hand (or taken from what `cargo xtask oracle in-process` found),
//! `upstream/answers.jsonl` by upstream's code: `cargo xtask oracle answers`.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "upstream/judge.rs"]
mod judge;

use judge::{Answer, Question, Verdict, comparable, ours, upstreams};

#[test]
fn every_answer_is_upstreams() {
    let questions = include_str!("upstream/questions.jsonl");
    let answers = include_str!("upstream/answers.jsonl");
    assert_eq!(questions.lines().count(), answers.lines().count());
    let mut wrong = 0;
    for (number, (q, a)) in questions.lines().zip(answers.lines()).enumerate() {
        let question: Question<'_> = serde_json::from_str(q).unwrap();
        // The texts of patch errors are those of three libraries; that it fails must be the same.
        let failed = |verdict: &Verdict| matches!(verdict.answer, Answer::Error(_));
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
