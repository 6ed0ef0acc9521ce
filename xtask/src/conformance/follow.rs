//! Reads ginkgo's output while it runs and says how far it is: pure, a line at a time. Ginkgo
//! (run with `--force-newlines --silence-skips` and without `-v`) prints `•` for a test that
//! passed and, for one that failed, `• [FAILED] [1.234 seconds]` with its name on the next line.
//! Only for people who watch; results are read from the report.

/// Printed before each finished test.
const DONE: char = '•';

/// How far a run is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Follow {
    pub passed: usize,
    pub failed: usize,
    /// The next line names a test that failed.
    name_follows: bool,
}

impl Follow {
    /// Takes the next line; returns the name of a test that failed.
    pub fn line(&mut self, line: &str) -> Option<String> {
        if std::mem::take(&mut self.name_follows) {
            return Some(name(line));
        }
        let rest = line.strip_prefix(DONE)?.trim();
        // "", or "[1.234 seconds]" when the test wrote something
        if rest.is_empty() || rest.starts_with(|c: char| c == '[' && !rest.contains("] [")) {
            self.passed += 1;
        } else if rest.starts_with('[') {
            self.failed += 1;
            self.name_follows = true;
        }
        None
    }

    /// Tests that have ended.
    pub fn done(&self) -> usize {
        self.passed + self.failed
    }

    /// For people who wait; `of` is the number of chosen tests.
    pub fn status(&self, of: usize) -> String {
        let Follow { passed, failed, .. } = self;
        format!(
            "{} of {of} done: {passed} passed, {failed} failed",
            self.done()
        )
    }
}

/// The test's name of a line `CONTAINERS [It] LEAF [label, label]`.
fn name(line: &str) -> String {
    let line = line.trim();
    let without_labels = match line.rfind(" [sig-") {
        Some(at) if at > 0 => &line[..at],
        _ => line,
    };
    without_labels.replacen("[It] ", "", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_counted_and_failures_are_named() {
        let output = "Running Suite: Kubernetes e2e suite\n\
            •\n\
            ------------------------------\n\
            • [FAILED] [5.012 seconds]\n\
            [sig-apps] Job [It] should run [Conformance] [sig-apps, Conformance]\n\
            k8s.io/kubernetes/test/e2e/apps/job.go:1\n\
            •\n\
            • [1.002 seconds]\n\
            [sig-apps] Job should print [sig-apps]\n\
            • [PANICKED] [0.001 seconds]\n\
            [sig-auth] A [It] b [sig-auth]\n";
        let mut follow = Follow::default();
        let failed: Vec<String> = output
            .lines()
            .filter_map(|line| follow.line(line))
            .collect();
        assert_eq!((follow.passed, follow.failed), (3, 2));
        assert_eq!(
            failed,
            ["[sig-apps] Job should run [Conformance]", "[sig-auth] A b"]
        );
    }
}
