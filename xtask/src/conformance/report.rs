//! What a run came to: ginkgo's JSON reports in, one outcome per chosen test out, and the words at
//! the end of a run. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::suite::Test;

/// Longest reason of a failure, characters.
const REASON: usize = 240;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed(String),
    /// The test itself said that it cannot run here.
    Skipped(String),
    /// Chosen, but the run ended before its turn.
    NotRun,
}

/// A test and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub test: Test,
    pub outcome: Outcome,
    pub took: Duration,
}

/// Everything a run came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Results {
    /// In the order of the list.
    pub tests: Vec<Ended>,
    /// Failures outside of tests: the suite's preparation.
    pub suite: Vec<String>,
}

/// One spec of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spec {
    outcome: Outcome,
    took: Duration,
}

impl Results {
    /// Outcomes of the chosen tests from the reports of all phases.
    pub fn new(tests: &[Test], reports: &[String]) -> Result<Results> {
        let mut specs = BTreeMap::new();
        let mut suite = Vec::new();
        for report in reports {
            read(report, &mut specs, &mut suite)?;
        }
        let tests = tests.iter().map(|test| {
            let spec = specs.remove(&test.name).unwrap_or(Spec {
                outcome: Outcome::NotRun,
                took: Duration::ZERO,
            });
            Ended {
                test: test.clone(),
                outcome: spec.outcome,
                took: spec.took,
            }
        });
        Ok(Results {
            tests: tests.collect(),
            suite,
        })
    }

    /// Tests that passed, failed (those that did not run among them) and were skipped.
    pub fn counts(&self) -> (usize, usize, usize) {
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for ended in &self.tests {
            match ended.outcome {
                Outcome::Passed => passed += 1,
                Outcome::Failed(_) | Outcome::NotRun => failed += 1,
                Outcome::Skipped(_) => skipped += 1,
            }
        }
        (passed, failed, skipped)
    }

    /// Names of those tests that passed and took no longer than `limit`.
    pub fn passed_within(&self, limit: Duration, those: fn(&Test) -> bool) -> Vec<&str> {
        let tests = self.tests.iter();
        tests
            .filter(|ended| ended.outcome == Outcome::Passed && ended.took <= limit)
            .filter(|ended| those(&ended.test))
            .map(|ended| ended.test.name.as_str())
            .collect()
    }

    /// Whether every chosen test ran and none failed.
    pub fn good(&self) -> bool {
        self.counts().1 == 0 && self.suite.is_empty()
    }

    /// What stands at the end of a run; `cannot`: tests that were set aside, with the reason.
    pub fn summary(&self, cannot: &[(String, String)]) -> String {
        let mut text = String::new();
        for (name, reason) in cannot {
            text.push_str(&format!("CANNOT RUN {name}\n    {reason}\n"));
        }
        for reason in &self.suite {
            text.push_str(&format!("SUITE {reason}\n"));
        }
        for Ended { test, outcome, .. } in &self.tests {
            let (word, reason) = match outcome {
                Outcome::Passed => continue,
                Outcome::Failed(reason) => ("FAILED", reason.as_str()),
                Outcome::Skipped(reason) => ("SKIPPED", reason.as_str()),
                Outcome::NotRun => ("FAILED", "did not run"),
            };
            text.push_str(&format!("{word} {}\n    {reason}\n", test.name));
        }
        let (passed, failed, skipped) = self.counts();
        text.push_str(&format!(
            "{passed} passed, {failed} failed, {skipped} skipped\n"
        ));
        text
    }
}

fn read(report: &str, specs: &mut BTreeMap<String, Spec>, suite: &mut Vec<String>) -> Result<()> {
    let suites: Value = serde_json::from_str(report).context("ginkgo's report")?;
    let reports = suites
        .as_array()
        .context("ginkgo's report is no list")?
        .iter()
        .flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
    for spec in reports {
        let state = spec["State"].as_str().unwrap_or_default();
        let reason = reason(spec["Failure"]["Message"].as_str().unwrap_or_default());
        let leaf = spec["LeafNodeType"].as_str().unwrap_or_default();
        if leaf != "It" {
            if !matches!(state, "passed" | "skipped") {
                suite.push(format!("{leaf} {state}: {reason}"));
            }
            continue;
        }
        let outcome = match state {
            "passed" => Outcome::Passed,
            "pending" => continue,
            // without a reason it is one of the many that the focus left out
            "skipped" if reason.is_empty() => continue,
            "skipped" => Outcome::Skipped(reason),
            "failed" => Outcome::Failed(reason),
            // timedout, panicked, interrupted, aborted
            other => Outcome::Failed(format!("{other}: {reason}")),
        };
        let took = Duration::from_nanos(spec["RunTime"].as_u64().unwrap_or(0));
        specs.insert(name(spec), Spec { outcome, took });
    }
    Ok(())
}

/// Texts of the containers and of the test itself, as e2e.test prints them.
fn name(spec: &Value) -> String {
    let containers = spec["ContainerHierarchyTexts"].as_array();
    containers
        .into_iter()
        .flatten()
        .chain([&spec["LeafNodeText"]])
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A failure's message on one line: matchers spread one sentence over several.
fn reason(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(REASON) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::suite;

    const REPORT: &str = include_str!("testdata/report.json");

    fn tests() -> Vec<Test> {
        let list = include_str!("testdata/list.tsv");
        suite::parse(list).unwrap()
    }

    #[test]
    fn every_chosen_test_has_an_outcome() {
        let results = Results::new(&tests(), &[REPORT.to_owned()]).unwrap();
        let outcomes: Vec<&Outcome> = results.tests.iter().map(|ended| &ended.outcome).collect();
        assert_eq!(outcomes[0], &Outcome::Passed);
        assert!(matches!(outcomes[1], Outcome::Failed(reason) if reason.starts_with("expected")));
        assert!(matches!(outcomes[2], Outcome::Skipped(reason) if reason.contains("SSH")));
        assert!(matches!(outcomes[3], Outcome::Failed(reason) if reason.starts_with("timedout: ")));
        assert_eq!(outcomes[4], &Outcome::NotRun);
        assert_eq!(results.counts(), (1, 3, 1));
        assert_eq!(results.tests[0].took, Duration::from_millis(1500));
        assert!(!results.good());
        let quick = results.passed_within(Duration::from_secs(2), |test| !test.serial);
        assert_eq!(quick, ["[sig-apps] Job should pass [Conformance]"]);
        let none = |limit, those: fn(&Test) -> bool| results.passed_within(limit, those).is_empty();
        assert!(none(Duration::from_secs(1), |_| true));
        assert!(none(Duration::from_secs(2), |test| test.serial));
    }

    #[test]
    fn the_summary_names_failures_and_ends_with_the_counts() {
        let results = Results::new(&tests(), &[REPORT.to_owned()]).unwrap();
        let summary = results.summary(&[("SCTP".into(), "no such kernel".into())]);
        let mut lines: Vec<&str> = summary.lines().collect();
        assert_eq!(
            lines.drain(..2).collect::<Vec<_>>(),
            ["CANNOT RUN SCTP", "    no such kernel"]
        );
        assert_eq!(lines[0], "SUITE SynchronizedBeforeSuite failed: no nodes");
        assert_eq!(lines[1], "FAILED [sig-apps] Job should fail [Conformance]");
        assert_eq!(lines[2], "    expected pod to be running, it was: Pending");
        assert_eq!(lines.last(), Some(&"1 passed, 3 failed, 1 skipped"));
    }

    #[test]
    fn a_later_report_adds_to_an_earlier_one() {
        let rest = r#"[{"SpecReports":[{"LeafNodeType":"It","State":"passed",
            "ContainerHierarchyTexts":["[sig-node] Pods"],"LeafNodeText":"should wait","RunTime":1}]}]"#;
        let reports = [REPORT.to_owned(), rest.to_owned()];
        assert_eq!(
            Results::new(&tests(), &reports).unwrap().counts(),
            (2, 2, 1)
        );
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let cut = reason(&"ä ".repeat(500));
        assert_eq!(cut.chars().count(), REASON + 1);
        assert!(cut.ends_with('…'));
    }
}
