//! Runs tests through ginkgo in a process group of its own, shows how far they are, and ends them
//! all when asked to. In: a command for ginkgo in the right place, the tests, a folder. Out: the
//! report's text. Knows nothing of what the tests run against.

use std::fs::{self, File};
use std::io::{PipeReader, Read as _, Write as _, pipe};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::follow::Follow;
use super::interrupt::Interrupt;
use super::suite::{self, Test};
use crate::progress::Progress;

/// Between two lines that say how far a run is.
const SHOW: Duration = Duration::from_secs(15);
/// When no test of a phase has ended for this long, and for so much longer than its longest takes on
/// upstream's own cluster, those that run wait for what will never be: they are ended and have failed.
/// Many of upstream's tests give up by themselves after five minutes.
const STALLED: Duration = Duration::from_secs(330);
const LONGER: f64 = 1.2;
/// Time ginkgo has, once told to end, before it and its workers are killed. Its tests have
/// [`GRACE`] to clean up.
const END: Duration = Duration::from_secs(60);
const GRACE: &str = "20s";

/// Programs of a run.
#[derive(Debug, Clone)]
pub struct Programs {
    pub e2e: PathBuf,
    pub ginkgo: PathBuf,
    pub kubectl: PathBuf,
}

/// Tests that run together.
#[derive(Debug, Clone)]
pub struct Phase {
    /// Name of its folder.
    pub name: &'static str,
    pub tests: Vec<Test>,
    /// Tests at the same time.
    pub procs: usize,
}

/// What e2e.test is told of the cluster.
#[derive(Debug, Clone)]
pub struct Target {
    pub kubeconfig: PathBuf,
    pub nodes: usize,
}

/// How a phase ended.
#[derive(Debug)]
pub struct Ended {
    /// ginkgo's JSON report, if it came to write one.
    pub report: Option<String>,
    pub took: Duration,
    pub interrupted: bool,
}

/// The tests that may share the cluster, then those that want it for themselves.
pub fn phases(tests: &[Test], procs: usize) -> Vec<Phase> {
    let (serial, parallel): (Vec<Test>, Vec<Test>) =
        tests.iter().cloned().partition(|test| test.serial);
    let phases = [
        Phase {
            name: "parallel",
            procs: procs.min(parallel.len()),
            tests: parallel,
        },
        Phase {
            name: "serial",
            tests: serial,
            procs: 1,
        },
    ];
    phases
        .into_iter()
        .filter(|phase| !phase.tests.is_empty())
        .collect()
}

/// Runs a phase to its end. `at` makes a command that will run where the cluster is reached.
pub fn run(
    phase: &Phase,
    at: &dyn Fn(&[String]) -> Result<Command>,
    suite: (&Programs, &Target),
    dir: &Path,
    limit: Duration,
) -> Result<Started> {
    let (programs, target) = suite;
    let dir = dir.join(phase.name);
    let scratch = dir.join("tmp");
    fs::create_dir_all(&scratch)?;
    let mut command = at(&argv(phase, programs, target, &dir, limit))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let tools = programs
        .kubectl
        .parent()
        .context("kubectl lies in no folder")?;
    command
        .env("PATH", format!("{}:{path}", tools.display()))
        .env("KUBECONFIG", &target.kubeconfig)
        // kubectl keeps discovery in $HOME, tests keep files in $TMPDIR
        .env("HOME", &scratch)
        .env("TMPDIR", &scratch);
    let (output, writer) = pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        // ginkgo does not pass a signal on to its workers: the group gets it
        .process_group(0);
    let child = command.spawn().context("ginkgo")?;
    Ok(Started {
        child,
        output,
        dir,
        start: Instant::now(),
        of: phase.tests.len(),
        patience: patience(&phase.tests),
    })
}

/// How long a phase may go on without the end of a test.
fn patience(tests: &[Test]) -> Duration {
    let longest = tests.iter().filter_map(|test| test.upstream).max();
    STALLED.max(longest.unwrap_or_default().mul_f64(LONGER))
}

fn argv(
    phase: &Phase,
    programs: &Programs,
    target: &Target,
    dir: &Path,
    limit: Duration,
) -> Vec<String> {
    let own = |text: &str| text.to_owned();
    vec![
        // what is started here does not outlive this program
        own("setpriv"),
        own("--pdeathsig=TERM"),
        programs.ginkgo.display().to_string(),
        format!("--procs={}", phase.procs),
        format!("--focus={}", suite::focus(&phase.tests)),
        format!("--timeout={}s", limit.as_secs()),
        format!("--grace-period={GRACE}"),
        own("--no-color"),
        own("--force-newlines"),
        own("--silence-skips"),
        format!("--output-dir={}", dir.display()),
        own("--json-report=report.json"),
        own("--junit-report=junit.xml"),
        programs.e2e.display().to_string(),
        own("--"),
        format!("--kubeconfig={}", target.kubeconfig.display()),
        own("--provider=skeleton"),
        format!("--kubectl-path={}", programs.kubectl.display()),
        own("--dns-domain=cluster.local"),
        own("--node-os-distro=debian"),
        format!("--num-nodes={}", target.nodes),
        own("--dump-logs-on-failure=false"),
        own("--disable-log-dump=true"),
    ]
}

/// A running phase.
pub struct Started {
    child: Child,
    output: PipeReader,
    dir: PathBuf,
    start: Instant,
    of: usize,
    patience: Duration,
}

impl Started {
    /// Shows the run to its end; a signal ends it early.
    pub fn ended(mut self, interrupt: &Interrupt, progress: &Progress) -> Result<Ended> {
        let mut log = File::create(self.dir.join("output.log"))?;
        let mut lines = Lines::default();
        let mut shown = Instant::now();
        let mut interrupted = false;
        let mut ending: Option<Instant> = None;
        let mut latest = Instant::now();
        loop {
            let wait = match ending {
                Some(since) => END.saturating_sub(since.elapsed()),
                None => SHOW.saturating_sub(shown.elapsed()),
            };
            let (readable, signalled) = ready(&self.output, interrupt, wait)?;
            if signalled && interrupt.taken() {
                // the second Ctrl-C does not wait for anyone
                let signal = if interrupted {
                    Signal::SIGKILL
                } else {
                    Signal::SIGINT
                };
                progress.mark("ending the tests");
                self.signal(signal);
                interrupted = true;
                ending.get_or_insert_with(Instant::now);
            } else if ending.is_some_and(|since| since.elapsed() >= END) {
                self.signal(Signal::SIGKILL);
            } else if ending.is_none() && latest.elapsed() >= self.patience {
                let seconds = self.patience.as_secs();
                progress.mark(format!("ending the tests: none ended in {seconds} s"));
                self.signal(Signal::SIGINT);
                ending = Some(Instant::now());
            }
            if readable {
                let mut buffer = [0; 1 << 16];
                let n = self.output.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                log.write_all(&buffer[..n])?;
                let before = lines.follow.done();
                for failed in lines.take(&buffer[..n]) {
                    progress.mark(format!("FAILED {failed}"));
                }
                if lines.follow.done() > before {
                    latest = Instant::now();
                }
            }
            if shown.elapsed() >= SHOW {
                progress.mark(lines.follow.status(self.of));
                shown = Instant::now();
            }
        }
        self.child.wait()?;
        progress.mark(lines.follow.status(self.of));
        self.finish(interrupted)
    }

    fn finish(self, interrupted: bool) -> Result<Ended> {
        let _ = fs::remove_dir_all(self.dir.join("tmp"));
        let report = fs::read_to_string(self.dir.join("report.json")).ok();
        if report.is_none() && !interrupted {
            let log = self.dir.join("output.log");
            bail!("ginkgo wrote no report; its output is {}", log.display());
        }
        Ok(Ended {
            report,
            took: self.start.elapsed(),
            interrupted,
        })
    }

    fn signal(&self, signal: Signal) {
        // ESRCH: the group ended just now, which is what is wanted
        let _ = killpg(Pid::from_raw(self.child.id() as i32), signal);
    }
}

/// Waits for output or a signal; says which of them is there.
fn ready(output: &PipeReader, interrupt: &Interrupt, wait: Duration) -> Result<(bool, bool)> {
    let mut fds = [
        PollFd::new(output.as_fd(), PollFlags::POLLIN),
        PollFd::new(interrupt.fd(), PollFlags::POLLIN),
    ];
    let wait = PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, wait) {
        // EINTR only means: look again
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error).context("poll"),
    }
    let any = |fd: &PollFd| fd.any().unwrap_or(false);
    Ok((any(&fds[0]), any(&fds[1])))
}

/// Bytes to lines to the state of the run.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    follow: Follow,
}

impl Lines {
    /// Takes more output; returns the names of tests that failed in it.
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let mut failed = Vec::new();
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            failed.extend(self.follow.line(String::from_utf8_lossy(&line).trim_end()));
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str, serial: bool) -> Test {
        Test {
            sig: "apps".into(),
            serial,
            api_only: false,
            upstream: None,
            name: name.into(),
        }
    }

    #[test]
    fn serial_tests_run_alone_after_the_others() {
        let tests = [test("a", true), test("b", false), test("c", false)];
        let phases = phases(&tests, 12);
        let names: Vec<_> = phases
            .iter()
            .map(|p| (p.name, p.tests.len(), p.procs))
            .collect();
        assert_eq!(names, [("parallel", 2, 2), ("serial", 1, 1)]);
    }

    #[test]
    fn the_longest_test_is_waited_for() {
        let long = Test {
            upstream: Some(Duration::from_secs(500)),
            ..test("a", false)
        };
        assert_eq!(patience(&[test("b", false)]), STALLED);
        assert_eq!(
            patience(&[long, test("b", false)]),
            Duration::from_secs(600)
        );
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let mut lines = Lines::default();
        let bytes = "•\n• [FAILED] [1.0 seconds]\n[sig-a] A [It] b [sig-a]\n•\n".as_bytes();
        let failed: Vec<String> = bytes
            .chunks(3)
            .flat_map(|piece| lines.take(piece))
            .collect();
        assert_eq!(failed, ["[sig-a] A b"]);
        assert_eq!(lines.follow.status(5), "3 of 5 done: 2 passed, 1 failed");
    }
}
