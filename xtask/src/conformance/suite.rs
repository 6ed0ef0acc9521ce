//! Which tests there are and which of them a run takes: pure. The lists are data files below
//! `tests/conformance`, facts of upstream's suite: SIG, whether a test must run alone, whether it
//! needs no node, the seconds it took on upstream's own cluster, the name as e2e.test prints it.
//! Knows nothing of how tests run.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use regex_lite::Regex;

/// First line of a list.
const HEADER: &str = "sig\tserial\tapi_only\tupstream_seconds\tname";

/// One test of upstream's suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// Without the leading `sig-`.
    pub sig: String,
    /// Must not share the cluster with another test.
    pub serial: bool,
    /// Needs neither kubelet nor containers.
    pub api_only: bool,
    /// Time on upstream's own cluster; unknown where that cluster cannot run the test.
    pub upstream: Option<Duration>,
    /// As e2e.test prints it, tags included.
    pub name: String,
}

/// Reads a list.
pub fn parse(text: &str) -> Result<Vec<Test>> {
    let mut lines = text.lines();
    ensure!(
        lines.next() == Some(HEADER),
        "the first line is not {HEADER:?}"
    );
    lines
        .enumerate()
        .map(|(n, line)| test(line).with_context(|| format!("line {}: {line:?}", n + 2)))
        .collect()
}

fn test(line: &str) -> Result<Test> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [sig, serial, api_only, seconds, name] = fields[..] else {
        bail!("{} fields", fields.len());
    };
    Ok(Test {
        sig: sig.to_owned(),
        serial: yes(serial)?,
        api_only: yes(api_only)?,
        upstream: match seconds {
            "-" => None,
            seconds => Some(Duration::from_secs(seconds.parse()?)),
        },
        name: name.to_owned(),
    })
}

fn yes(word: &str) -> Result<bool> {
    match word {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => bail!("{word:?} is neither yes nor no"),
    }
}

/// Every test of the suite, from what `e2e.test --list-tests` prints: `FILE:LINE: NAME` a test. Those of
/// features that a cluster need not have are left out. Nothing is known of what they need.
pub fn listed(text: &str) -> Vec<Test> {
    const OPTIONAL: &str = "[Feature:";
    text.lines()
        .filter_map(|line| line.split_once(": [sig-"))
        .filter(|(_, rest)| !rest.contains(OPTIONAL))
        .map(|(_, rest)| Test {
            sig: rest.split(']').next().unwrap_or(rest).to_owned(),
            serial: rest.contains("[Serial]"),
            api_only: false,
            upstream: None,
            name: format!("[sig-{rest}"),
        })
        .collect()
}

/// What a run takes of a list; everything must hold.
#[derive(Debug, Default)]
pub struct Selection {
    /// SIGs, with or without `sig-`; none means all.
    pub sigs: Vec<String>,
    pub focus: Option<Regex>,
    pub skip: Option<Regex>,
    /// Only tests that need no node.
    pub api_only: bool,
    /// Exact names; an unknown one is an error.
    pub names: Option<Vec<String>>,
}

impl Selection {
    /// Whether it is the whole list: only then a result can stand for the suite.
    pub fn whole(&self) -> bool {
        let Selection {
            sigs,
            focus,
            skip,
            api_only: _,
            names,
        } = self;
        sigs.is_empty() && focus.is_none() && skip.is_none() && names.is_none()
    }

    /// The chosen tests, in the list's order; there may be none.
    pub fn of(&self, tests: &[Test]) -> Result<Vec<Test>> {
        for wanted in &self.sigs {
            if !tests.iter().any(|test| test.sig == sig(wanted)) {
                bail!("no SIG {wanted:?}; there are: {}", sigs(tests).join(", "));
            }
        }
        for name in self.names.iter().flatten() {
            ensure!(
                tests.iter().any(|test| test.name == *name),
                "no test {name:?}"
            );
        }
        let chosen = tests.iter().filter(|test| self.takes(test));
        Ok(chosen.cloned().collect())
    }

    fn takes(&self, test: &Test) -> bool {
        let Selection {
            sigs,
            focus,
            skip,
            api_only,
            names,
        } = self;
        (sigs.is_empty() || sigs.iter().any(|wanted| sig(wanted) == test.sig))
            && focus.as_ref().is_none_or(|re| re.is_match(&test.name))
            && !skip.as_ref().is_some_and(|re| re.is_match(&test.name))
            && (!api_only || test.api_only)
            && names
                .as_ref()
                .is_none_or(|names| names.contains(&test.name))
    }
}

/// Parts the tests into those that can run and those that cannot, with the reason. `protocols` is
/// /proc/net/protocols: what the kernel speaks.
pub fn able(tests: Vec<Test>, protocols: &str) -> (Vec<Test>, Vec<(String, String)>) {
    const SCTP: &str = "[Feature:SCTPConnectivity]";
    let sctp = protocols.lines().any(|line| line.starts_with("SCTP"));
    let (able, cannot): (Vec<Test>, Vec<Test>) = tests
        .into_iter()
        .partition(|test| sctp || !test.name.contains(SCTP));
    let reason = || "the kernel has no SCTP".to_owned();
    (
        able,
        cannot
            .into_iter()
            .map(|test| (test.name, reason()))
            .collect(),
    )
}

/// Names of a plain list, one a line; `#` begins a comment line.
pub fn names(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// A plain list with more names: sorted, its opening comment kept, nothing removed.
pub fn grown(text: &str, more: &[&str]) -> String {
    let comment: String = text
        .lines()
        .take_while(|line| line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut all = names(text);
    all.extend(more.iter().map(|&name| name.to_owned()));
    all.sort();
    all.dedup();
    all.into_iter()
        .fold(comment, |text, name| text + &name + "\n")
}

/// Every SIG of a list, sorted.
pub fn sigs(tests: &[Test]) -> Vec<String> {
    let mut sigs: Vec<String> = tests.iter().map(|test| test.sig.clone()).collect();
    sigs.sort();
    sigs.dedup();
    sigs
}

fn sig(word: &str) -> &str {
    word.strip_prefix("sig-").unwrap_or(word)
}

/// The regular expression that makes ginkgo take exactly these tests. It looks at "SUITE NAME", so
/// only the end can be anchored; the tags at the beginning of every name keep it from matching
/// within another one.
pub fn focus(tests: &[Test]) -> String {
    let names: Vec<String> = tests
        .iter()
        .map(|test| regex_lite::escape(&test.name))
        .collect();
    format!("({})$", names.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Vec<Test> {
        let text = format!(
            "{HEADER}\n\
             apps\tno\tno\t9\t[sig-apps] Job should run [Conformance]\n\
             apps\tyes\tno\t60\t[sig-apps] Daemon set should roll back [Conformance] [Serial]\n\
             auth\tno\tyes\t0\t[sig-auth] Certificates API should support CSR [Conformance]\n\
             network\tno\tno\t-\t[sig-network] Netpol should deny\n"
        );
        parse(&text).unwrap()
    }

    fn chosen(selection: &Selection) -> Vec<String> {
        let tests = selection.of(&list()).unwrap();
        tests.iter().map(|t| t.name[1..8].to_owned()).collect()
    }

    #[test]
    fn a_list_says_what_a_test_is() {
        let tests = list();
        assert_eq!(tests[0].upstream, Some(Duration::from_secs(9)));
        assert_eq!(tests[3].upstream, None);
        assert!(tests[1].serial && tests[2].api_only);
        assert!(parse(&format!("{HEADER}\napps\tmaybe\tno\t1\tx")).is_err());
        assert!(parse("name\n").is_err());
    }

    #[test]
    fn the_suite_lists_more_tests_than_conformance_has() {
        let text = "The following spec names can be used:\n\
             \u{20}   k8s.io/x/networking.go:147: [sig-network] Networking should route: http\n\
             \u{20}   k8s.io/x/networking.go:177: [sig-network] Networking: sctp [Feature:SCTPConnectivity]\n\
             \u{20}   k8s.io/x/daemon.go:1: [sig-apps] Daemon set [Serial] should roll back\n";
        let tests = listed(text);
        let facts: Vec<_> = tests
            .iter()
            .map(|test| (test.sig.as_str(), test.serial, test.name.as_str()))
            .collect();
        let http = "[sig-network] Networking should route: http";
        let daemon = "[sig-apps] Daemon set [Serial] should roll back";
        assert_eq!(facts, [("network", false, http), ("apps", true, daemon)]);
    }

    #[test]
    fn every_condition_narrows_the_selection() {
        let re = |text| Some(Regex::new(text).unwrap());
        let all = Selection::default();
        assert!(all.whole() && chosen(&all).len() == 4);
        let sigs = Selection {
            sigs: vec!["sig-apps".into(), "auth".into()],
            skip: re("Daemon"),
            ..Selection::default()
        };
        assert_eq!(chosen(&sigs), ["sig-app", "sig-aut"]);
        let focus = Selection {
            focus: re("should (run|roll)"),
            ..Selection::default()
        };
        assert!(!focus.whole() && chosen(&focus).len() == 2);
        let api_only = Selection {
            api_only: true,
            ..Selection::default()
        };
        assert!(api_only.whole());
        assert_eq!(chosen(&api_only), ["sig-aut"]);
    }

    #[test]
    fn what_does_not_exist_is_an_error_and_not_an_empty_run() {
        let sig = Selection {
            sigs: vec!["windows".into()],
            ..Selection::default()
        };
        assert!(format!("{}", sig.of(&list()).unwrap_err()).contains("apps, auth, network"));
        let name = Selection {
            names: Some(names(
                "# comment\n\n[sig-apps] Job should run [Conformance]\ngone\n",
            )),
            ..Selection::default()
        };
        assert!(format!("{}", name.of(&list()).unwrap_err()).contains("gone"));
    }

    #[test]
    fn a_test_of_what_the_kernel_lacks_is_set_aside() {
        let line = "network\tno\tno\t-\t[sig-network] Netpol [Feature:SCTPConnectivity] x";
        let tests = parse(&format!("{HEADER}\n{line}")).unwrap();
        let (able, cannot) = super::able(tests.clone(), "protocol size\nTCP 2\n");
        assert!(able.is_empty() && cannot[0].1.contains("SCTP"));
        assert_eq!(super::able(tests, "SCTP 1\n").0.len(), 1);
    }

    #[test]
    fn the_lists_of_this_repository_are_readable() {
        let netpol = parse(include_str!("../../../tests/conformance/netpol-v1.37.tsv")).unwrap();
        assert_eq!(netpol.len(), 51);
        let all = parse(include_str!("../../../tests/conformance/v1.37.tsv")).unwrap();
        let guarded = names(include_str!("../../../tests/conformance/api-only.txt"));
        let known = |name: &String| all.iter().any(|test| test.api_only && test.name == *name);
        assert!(guarded.iter().all(known));
        let guarded = names(include_str!("../../../tests/conformance/lab.txt"));
        let known = |name: &String| {
            let test = all.iter().find(|test| test.name == *name);
            test.is_some_and(|test| {
                !test.api_only && !test.serial && !super::super::lacks_light(test)
            })
        };
        assert!(guarded.iter().all(known));
    }

    #[test]
    fn a_list_grows_and_keeps_what_it_has() {
        let text = "# why\n# how\nb\nd\n";
        assert_eq!(grown(text, &["c", "b", "a"]), "# why\n# how\na\nb\nc\nd\n");
        assert_eq!(grown(text, &[]), text);
    }

    #[test]
    fn the_focus_matches_its_tests_and_no_other() {
        let tests = list();
        let focus = Regex::new(&focus(&tests[..1])).unwrap();
        assert!(focus.is_match(&format!("Kubernetes e2e suite {}", tests[0].name)));
        assert!(!focus.is_match(&format!("Kubernetes e2e suite {} [Slow]", tests[0].name)));
        assert!(!focus.is_match(&format!("Kubernetes e2e suite {}", tests[1].name)));
    }

    #[test]
    fn the_checked_in_list_has_the_462_conformance_tests() {
        let tests = parse(include_str!("../../../tests/conformance/v1.37.tsv")).unwrap();
        assert_eq!(tests.len(), 462);
        assert_eq!(tests.iter().filter(|t| t.serial).count(), 29);
        assert_eq!(tests.iter().filter(|t| t.api_only).count(), 133);
    }
}
