//! The tally of a run: agreement by kind, differences by signature with an example each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::mem;

use serde_json::Value;

use crate::judge::{Answer, Verdict};

const HEAD: &str = "\
| kind | mutations | all the same, % | verdict | bytes | error fields | error texts | warnings | \
upstream accepts / finds invalid / cannot decode / warns |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
";
/// Differences of a kind that a document lists.
const MAX_RECORDED: usize = 25;
/// Longest example in a report, in bytes.
const MAX_EXAMPLE: usize = 600;

/// Of how many cases something could be compared, and in how many it was the same.
#[derive(Clone, Copy, Default)]
struct Share {
    same: usize,
    of: usize,
}

/// What came of the questions about one kind.
#[derive(Default)]
pub struct Tally {
    all: Share,
    /// Accepted, invalid or not to be decoded.
    verdict: Share,
    /// The stored bytes, where both accept.
    bytes: Share,
    /// Reasons and fields of the errors, where both find the object invalid.
    fields: Share,
    /// These with their texts.
    texts: Share,
    warnings: Share,
    /// How upstream answered.
    accepted: usize,
    invalid: usize,
    refused: usize,
    warned: usize,
    groups: BTreeMap<String, Group>,
}

struct Group {
    count: usize,
    example: String,
}

impl Share {
    fn add(&mut self, same: bool) {
        self.of += 1;
        self.same += usize::from(same);
    }

    fn percent(self) -> f64 {
        100.0 * self.same as f64 / self.of.max(1) as f64
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            0 => f.write_str("–"),
            // 99.996 is not 100
            _ => write!(f, "{:.2}", (self.percent() * 100.0).floor() / 100.0),
        }
    }
}

/// Reason and field of every error.
fn fields(status: &Value) -> BTreeSet<&str> {
    let causes = status["causes"].as_array();
    let fields = causes.into_iter().flatten();
    fields.filter_map(|cause| cause[0].as_str()).collect()
}

impl Tally {
    pub fn add(
        &mut self,
        question: &str,
        ours: &Verdict,
        theirs: &Verdict,
        found: &BTreeSet<String>,
    ) {
        self.all.add(found.is_empty());
        self.warnings.add(ours.warnings == theirs.warnings);
        self.verdict
            .add(mem::discriminant(&ours.answer) == mem::discriminant(&theirs.answer));
        match (&ours.answer, &theirs.answer) {
            (Answer::Object(a), Answer::Object(b)) => self.bytes.add(a == b),
            (Answer::Status(a), Answer::Status(b)) => {
                self.fields.add(fields(a) == fields(b));
                self.texts.add(a == b);
            }
            _ => {}
        }
        self.warned += usize::from(!theirs.warnings.is_empty());
        match theirs.answer {
            Answer::Object(_) => self.accepted += 1,
            Answer::Status(_) => self.invalid += 1,
            Answer::Error(_) => self.refused += 1,
        }
        for signature in found {
            let group = self
                .groups
                .entry(signature.clone())
                .or_insert_with(|| Group {
                    count: 0,
                    example: question.to_owned(),
                });
            group.count += 1;
            if question.len() < group.example.len() {
                question.clone_into(&mut group.example);
            }
        }
    }

    pub fn percent(&self) -> f64 {
        self.all.percent()
    }

    /// The groups, largest first.
    fn groups(&self) -> Vec<(&String, &Group)> {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(signature, group)| (std::cmp::Reverse(group.count), *signature));
        groups
    }

    /// Everything, for the terminal.
    pub fn print(&self, kind: &str, most: usize) {
        println!(
            "{kind}: {} of {} agree ({:.2} %); upstream accepted {}, found {} invalid, did not decode {}, \
             warned {}",
            self.all.same,
            self.all.of,
            self.percent(),
            self.accepted,
            self.invalid,
            self.refused,
            self.warned
        );
        for (signature, group) in self.groups().into_iter().take(most) {
            println!(
                "  {:5}  {signature}\n         {}",
                group.count,
                cut(&group.example)
            );
        }
    }
}

/// The whole run as Markdown, between the document's marks.
pub fn markdown(tallies: &[(String, Tally)], seed: u64, command: &str) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "Recorded with `{command}` (seed {seed}).\n");
    out.push_str(HEAD);
    for (kind, t) in tallies {
        let _ = writeln!(
            out,
            "| {kind} | {} | {} | {} | {} | {} | {} | {} | {} / {} / {} / {} |",
            t.all.of,
            t.all,
            t.verdict,
            t.bytes,
            t.fields,
            t.texts,
            t.warnings,
            t.accepted,
            t.invalid,
            t.refused,
            t.warned
        );
    }
    let differing: Vec<_> = tallies
        .iter()
        .filter(|(_, t)| !t.groups.is_empty())
        .collect();
    if differing.is_empty() {
        out.push_str("\nNo differences are left in this run.\n");
    }
    for (kind, tally) in differing {
        let _ = writeln!(out, "\n### {kind}\n");
        out.push_str("| cases | difference |\n|---:|---|\n");
        let groups = tally.groups();
        for (signature, group) in groups.iter().take(MAX_RECORDED) {
            let text = signature.split(" (e.g. ").next().unwrap_or_default();
            let closing = if text == *signature { "" } else { "…`" };
            let text = text.replace('|', "\\|");
            let _ = writeln!(out, "| {} | {text}{closing} |", group.count);
        }
        if let Some(more) = groups.get(MAX_RECORDED..).filter(|more| !more.is_empty()) {
            let cases: usize = more.iter().map(|(_, group)| group.count).sum();
            let _ = writeln!(out, "| {cases} | {} more, rarer ones |", more.len());
        }
    }
    out
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_EXAMPLE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
