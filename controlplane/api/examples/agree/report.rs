//! The tally of a run: agreement by kind, differences by signature with an example each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::judge::{Answer, Verdict};

/// Longest example in a report, in bytes.
const MAX_EXAMPLE: usize = 600;

/// What came of the questions about one kind.
#[derive(Default)]
pub struct Tally {
    pub asked: usize,
    pub agreed: usize,
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

impl Tally {
    pub fn add(&mut self, question: &str, theirs: &Verdict, found: &BTreeSet<String>) {
        self.asked += 1;
        self.agreed += usize::from(found.is_empty());
        self.warned += usize::from(!theirs.warnings.is_empty());
        match theirs.answer {
            Answer::Object(_) => self.accepted += 1,
            Answer::Status(_) => self.invalid += 1,
            Answer::Error(_) => self.refused += 1,
        }
        for signature in found {
            let group = self.groups.entry(signature.clone()).or_insert_with(|| Group {
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
        100.0 * self.agreed as f64 / self.asked.max(1) as f64
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
            self.agreed, self.asked, self.percent(), self.accepted, self.invalid, self.refused, self.warned
        );
        for (signature, group) in self.groups().into_iter().take(most) {
            println!("  {:5}  {signature}\n         {}", group.count, cut(&group.example));
        }
    }
}

/// The whole run as Markdown, between the document's marks.
pub fn markdown(tallies: &[(String, Tally)], seed: u64, command: &str) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "Recorded with `{command}` (seed {seed}).\n");
    out.push_str("| kind | mutations | agree | % | upstream accepts | finds invalid | cannot decode | warns |\n");
    out.push_str("|---|---:|---:|---:|---:|---:|---:|---:|\n");
    for (kind, t) in tallies {
        let _ = writeln!(
            out,
            "| {kind} | {} | {} | {:.2} | {} | {} | {} | {} |",
            t.asked, t.agreed, t.percent(), t.accepted, t.invalid, t.refused, t.warned
        );
    }
    let differing: Vec<_> = tallies.iter().filter(|(_, t)| !t.groups.is_empty()).collect();
    if differing.is_empty() {
        out.push_str("\nNo differences are left in this run.\n");
    }
    for (kind, tally) in differing {
        let _ = writeln!(out, "\n### {kind}\n");
        out.push_str("| cases | difference |\n|---:|---|\n");
        for (signature, group) in tally.groups() {
            let _ = writeln!(out, "| {} | {} |", group.count, signature.replace('|', "\\|"));
        }
        out.push_str("\nOne case of each:\n\n```json\n");
        for (_, group) in tally.groups() {
            let _ = writeln!(out, "{}", cut(&group.example));
        }
        out.push_str("```\n");
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
