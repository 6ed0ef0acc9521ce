//! docs/conformance.md: one section for each kind of run, between markers, rendered from its
//! results; what stands outside of the markers is written by hand. Pure and deterministic: the
//! same results give the same text.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::report::{Ended, Outcome, Results};
use super::suite;

/// Longest reason in the table of failures, characters.
const REASON: usize = 140;

/// What a section says besides the outcomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Name of the section's markers.
    pub section: String,
    /// Whether every phase came to its end by itself.
    pub complete: bool,
    /// The source that ran.
    pub commit: String,
    /// Tests at the same time, where they may share the cluster.
    pub parallel: usize,
    /// Wall time of each phase.
    pub phases: Vec<(String, Duration)>,
    /// Tests that cannot run on the machine, with the reason; they are not in the results.
    pub cannot: Vec<(String, String)>,
}

/// The table of runs over the whole suite, side by side: a section made of other sections.
const TOGETHER: &str = "together";
/// Its columns, and the sections they are taken from.
const COLUMNS: [(&str, &str); 3] = [
    ("Windlass", "lab"),
    ("Windlass over upstream's nodes", "lab-upstream-node"),
    (
        "upstream's control plane over our nodes",
        "lab-upstream-control-plane",
    ),
];

/// The document with one section replaced.
pub fn replace(document: &str, section: &str, body: &str) -> Result<String> {
    let [before, _, after] = parts(document, section)?;
    Ok([before, body, after].concat())
}

/// What stands in a section.
pub fn body<'a>(document: &'a str, section: &str) -> Result<&'a str> {
    Ok(parts(document, section)?[1])
}

/// The document up to a section's body, the body, and the rest; the markers belong to the outer parts.
fn parts<'a>(document: &'a str, section: &str) -> Result<[&'a str; 3]> {
    let (begin, end) = (
        format!("<!-- begin {section} -->\n"),
        format!("<!-- end {section} -->"),
    );
    let from = document
        .find(&begin)
        .with_context(|| format!("no {:?} in the document", begin.trim_end()))?
        + begin.len();
    let to = document[from..]
        .find(&end)
        .with_context(|| format!("no {end:?} in the document"))?
        + from;
    ensure!(!document[to..].contains(&begin), "two sections {section:?}");
    Ok([&document[..from], &document[from..to], &document[to..]])
}

/// The document with its table of runs made anew from what their sections say; `list` has upstream's.
pub fn side_by_side(document: &str, list: &[suite::Test]) -> Result<String> {
    let runs: Vec<BTreeMap<&str, usize>> = COLUMNS
        .iter()
        .map(|(_, section)| body(document, section).map(passed))
        .collect::<Result<_>>()?;
    let heads: Vec<&str> = COLUMNS.iter().map(|(head, _)| *head).collect();
    let mut text = format!(
        "| SIG | tests | {} | upstream's cluster |\n|---|---|{}---|\n",
        heads.join(" | "),
        "---|".repeat(heads.len())
    );
    let sigs = suite::sigs(list);
    for name in sigs.iter().map(String::as_str).chain(["all"]) {
        let own = || list.iter().filter(|test| name == "all" || test.sig == name);
        let upstream = own().filter(|test| test.upstream.is_some()).count();
        text.push_str(&format!("| {name} | {} |", own().count()));
        for run in &runs {
            let passed = run.get(name).map(usize::to_string);
            text.push_str(&format!(" {} |", passed.as_deref().unwrap_or("–")));
        }
        text.push_str(&format!(" {upstream} |\n"));
    }
    replace(document, TOGETHER, &text)
}

/// Passed tests per SIG, from a section's table; nothing if no run is recorded there.
fn passed(body: &str) -> BTreeMap<&str, usize> {
    let row = |line| {
        let cells: Vec<&str> = str::split(line, '|').map(str::trim).collect();
        let ["", name, passed, of, ..] = cells[..] else {
            return None;
        };
        of.parse::<usize>().ok()?;
        Some((name, passed.parse().ok()?))
    };
    body.lines().filter_map(row).collect()
}

/// The body of a section.
pub fn section(results: &Results, facts: &Facts) -> String {
    let (passed, ..) = results.counts();
    let total = results.tests.len() + facts.cannot.len();
    let wall: Duration = facts.phases.iter().map(|(_, took)| *took).sum();
    let phases: Vec<String> = facts
        .phases
        .iter()
        .map(|(name, took)| format!("{name} {} s", took.as_secs()))
        .collect();
    let mut text = format!(
        "**{passed} of {total}** pass at commit `{}`; wall time {} s ({}), {} at the same time.\n\n",
        facts.commit,
        wall.as_secs(),
        phases.join(", "),
        facts.parallel,
    );
    text.push_str(&table(&results.tests));
    text.push_str(&list("Failed", results, |outcome| match outcome {
        Outcome::Failed(reason) => Some(reason),
        Outcome::NotRun => Some("did not run"),
        Outcome::Passed | Outcome::Skipped(_) => None,
    }));
    text.push_str(&list(
        "Skipped by the test itself",
        results,
        |outcome| match outcome {
            Outcome::Skipped(reason) => Some(reason),
            Outcome::Passed | Outcome::Failed(_) | Outcome::NotRun => None,
        },
    ));
    let cannot = facts.cannot.iter();
    let rows = cannot.map(|(name, reason)| (name.as_str(), reason.as_str()));
    text.push_str(&rows_of("Cannot run here", rows.collect()));
    text
}

/// A row for each SIG, and one for all.
fn table(tests: &[Ended]) -> String {
    let all: Vec<suite::Test> = tests.iter().map(|ended| ended.test.clone()).collect();
    let mut text = "| SIG | passed | of | upstream's cluster | test time | upstream's |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for sig in suite::sigs(&all) {
        let own: Vec<&Ended> = tests.iter().filter(|ended| ended.test.sig == sig).collect();
        text.push_str(&row(&sig, &own));
    }
    text.push_str(&row("all", &tests.iter().collect::<Vec<_>>()));
    text
}

fn row(name: &str, tests: &[&Ended]) -> String {
    let passed = tests
        .iter()
        .filter(|ended| ended.outcome == Outcome::Passed);
    let took: Duration = tests.iter().map(|ended| ended.took).sum();
    let known: Vec<Duration> = tests
        .iter()
        .filter_map(|ended| ended.test.upstream)
        .collect();
    // it passes every test that it can run
    let (upstream, time) = match known.len() {
        0 => ("–".to_owned(), "–".to_owned()),
        n => (
            n.to_string(),
            format!("{} s", known.iter().sum::<Duration>().as_secs()),
        ),
    };
    format!(
        "| {name} | {} | {} | {upstream} | {} s | {time} |\n",
        passed.count(),
        tests.len(),
        took.as_secs()
    )
}

fn list<'a>(
    title: &str,
    results: &'a Results,
    reason: impl Fn(&'a Outcome) -> Option<&'a str>,
) -> String {
    let rows = results
        .tests
        .iter()
        .filter_map(|ended| Some((ended.test.name.as_str(), reason(&ended.outcome)?)));
    rows_of(title, rows.collect())
}

fn rows_of(title: &str, rows: Vec<(&str, &str)>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\n{title} ({}):\n\n| test | reason |\n|---|---|\n",
        rows.len()
    );
    for (name, reason) in rows {
        let cut: String = reason.chars().take(REASON).collect();
        let more = if cut.len() < reason.len() { "…" } else { "" };
        text.push_str(&format!("| {} | {}{more} |\n", cell(name), cell(&cut)));
    }
    text
}

/// Text that Markdown leaves as it is, in a cell of a table.
fn cell(text: &str) -> String {
    let mut cell = String::new();
    for c in text.chars() {
        if matches!(c, '|' | '<' | '>' | '*' | '_' | '`' | '[' | ']') {
            cell.push('\\');
        }
        cell.push(c);
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let list = suite::parse(include_str!("testdata/list.tsv")).unwrap();
        let report = include_str!("testdata/report.json").to_owned();
        Results::new(&list, &[report]).unwrap()
    }

    fn facts() -> Facts {
        Facts {
            section: "lab".into(),
            complete: true,
            commit: "abc1234".into(),
            parallel: 12,
            phases: vec![
                ("parallel".into(), Duration::from_millis(61_900)),
                ("serial".into(), Duration::from_secs(60)),
            ],
            cannot: vec![(
                "[sig-network] Netpol SCTP".into(),
                "no SCTP in the kernel".into(),
            )],
        }
    }

    #[test]
    fn a_section_counts_per_sig_and_lists_what_fails_and_why() {
        let expected = "\
**1 of 6** pass at commit `abc1234`; wall time 121 s (parallel 61 s, serial 60 s), 12 at the same time.

| SIG | passed | of | upstream's cluster | test time | upstream's |
|---|---|---|---|---|---|
| apps | 1 | 2 | 2 | 61 s | 11 s |
| network | 0 | 2 | 2 | 60 s | 60 s |
| node | 0 | 1 | – | 0 s | – |
| all | 1 | 5 | 4 | 121 s | 71 s |

Failed (3):

| test | reason |
|---|---|
| \\[sig-apps\\] Job should fail \\[Conformance\\] | expected pod to be running, it was: Pending |
| \\[sig-network\\] Services should hang \\[Serial\\] | timedout: A suite timeout occurred |
| \\[sig-node\\] Pods should wait | did not run |

Skipped by the test itself (1):

| test | reason |
|---|---|
| \\[sig-network\\] Services should skip | No SSH key for provider skeleton |

Cannot run here (1):

| test | reason |
|---|---|
| \\[sig-network\\] Netpol SCTP | no SCTP in the kernel |
";
        assert_eq!(section(&results(), &facts()), expected);
    }

    #[test]
    fn runs_stand_side_by_side_and_a_missing_one_is_a_dash() {
        let sections = COLUMNS.map(|(_, name)| name);
        let document: String = sections
            .iter()
            .chain(&[TOGETHER])
            .map(|name| format!("<!-- begin {name} -->\nnothing\n<!-- end {name} -->\n"))
            .collect();
        let list = suite::parse(include_str!("testdata/list.tsv")).unwrap();
        let document = replace(&document, sections[1], &section(&results(), &facts())).unwrap();
        let document = side_by_side(&document, &list).unwrap();
        let expected = "\
| SIG | tests | Windlass | Windlass over upstream's nodes | upstream's control plane over our nodes | upstream's cluster |
|---|---|---|---|---|---|
| apps | 2 | – | 1 | – | 2 |
| network | 2 | – | 0 | – | 2 |
| node | 1 | – | 0 | – | 0 |
| all | 5 | – | 1 | – | 4 |
";
        assert_eq!(body(&document, TOGETHER).unwrap(), expected);
    }

    #[test]
    fn the_document_has_a_section_for_every_run_and_its_table_agrees_with_them() {
        let document = include_str!("../../../docs/conformance.md");
        let list = suite::parse(include_str!("../../../tests/conformance/v1.37.tsv")).unwrap();
        assert_eq!(side_by_side(document, &list).unwrap(), document);
        for name in ["api-only", "netpol", "netpol-upstream-control-plane"] {
            body(document, name).unwrap();
        }
    }

    #[test]
    fn only_the_named_section_is_replaced() {
        let document = "# Title\n<!-- begin a -->\nold\n<!-- end a -->\ntext\n\
                        <!-- begin b -->\nb\n<!-- end b -->\n";
        let new = replace(document, "a", "new\n").unwrap();
        assert_eq!(new, document.replace("old", "new"));
        assert_eq!(replace(&new, "a", "new\n").unwrap(), new);
        assert!(replace(document, "c", "").is_err());
    }
}
