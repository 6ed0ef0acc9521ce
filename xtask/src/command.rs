//! Runs other programs: the one place of xtask that waits for a child and judges its exit.

use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest time of a program whose end is waited for: a build from empty caches has room in it.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// Time a program has to tell where it stood, after its limit.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A command from its words: `command("ip", ["netns", "add", name])`.
pub fn command<const N: usize>(program: &str, args: [&str; N]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Cargo as an ordinary shell would run it: what the outer one tells xtask about its own package makes
/// build scripts run again (ring's look at it), and everything above them.
pub fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs to the end and returns standard output; a failure carries standard error.
pub fn output(command: &mut Command) -> Result<String> {
    output_within(command, LIMIT)
}

/// As `output`, with an own limit of time.
pub fn output_within(command: &mut Command, limit: Duration) -> Result<String> {
    let out = raw_within(command, limit)?;
    if !out.status.success() {
        let text = [out.stderr.as_slice(), out.stdout.as_slice()].concat();
        bail!(
            "{} ({}): {}",
            line(command),
            out.status,
            String::from_utf8_lossy(&text).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs to the end and returns everything, whatever the exit.
pub fn raw(command: &mut Command) -> Result<Output> {
    raw_within(command, LIMIT)
}

/// As `raw`, with an own limit of time.
pub fn raw_within(command: &mut Command, limit: Duration) -> Result<Output> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    end(child.with_context(|| line(command))?, limit).with_context(|| line(command))
}

/// Waits for the end of a child. One that is there after `limit` is an error with what it said, the stacks
/// of a Go program included (SIGQUIT).
pub fn end(child: Child, limit: Duration) -> Result<Output> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    if let Ok(out) = end.recv_timeout(limit) {
        return Ok(out?);
    }
    kill(pid, Signal::SIGQUIT)?;
    let said = match end.recv_timeout(LAST_WORDS) {
        Ok(out) => out.map(|out| [out.stderr, out.stdout].concat())?,
        Err(_) => {
            kill(pid, Signal::SIGKILL)?;
            Vec::new()
        }
    };
    bail!(
        "did not end within {} s: {}",
        limit.as_secs(),
        String::from_utf8_lossy(&said).trim()
    );
}

/// Runs with this terminal's input and output.
pub fn shown(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| line(command))?;
    if !status.success() {
        bail!("{}: {status}", line(command));
    }
    Ok(())
}

/// Runs to the end with `input` on standard input.
pub fn fed(command: &mut Command, input: &str) -> Result<String> {
    fed_within(command, input, LIMIT)
}

/// As `fed`, with an own limit of time.
pub fn fed_within(command: &mut Command, input: &str, limit: Duration) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| line(command))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // a program that ends early reports its own error below; EPIPE here says nothing
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    finished(command, child, limit)
}

fn finished(command: &Command, child: Child, limit: Duration) -> Result<String> {
    let out = end(child, limit).with_context(|| line(command))?;
    if !out.status.success() {
        bail!(
            "{} ({}): {}",
            line(command),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs to the end with a file or a pipe as standard input.
pub fn from(command: &mut Command, input: Stdio) -> Result<String> {
    let child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    finished(command, child.with_context(|| line(command))?, LIMIT)
}

/// Whether a program is on PATH (or the path itself is one).
pub fn exists(program: &str) -> bool {
    find(program).is_some()
}

/// The path of a program, searched as a shell does, with the system directories appended.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    if program.contains('/') {
        return Some(program.into()).filter(|path: &std::path::PathBuf| path.is_file());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain([
            "/usr/local/sbin",
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
        ])
        .filter(|dir| !dir.is_empty())
        .map(|dir| std::path::Path::new(dir).join(program))
        .find(|path| path.is_file())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
