//! A process by pid and start time: a pid that was given to another program in the meantime is
//! never mistaken for ours, so nothing foreign is ever killed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One process of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    /// Clock ticks after boot, field 22 of /proc/PID/stat.
    start: u64,
}

impl Process {
    /// The living process with this pid.
    pub fn of(pid: i32) -> Option<Process> {
        Some(Process {
            pid,
            start: start_of(pid)?,
        })
    }

    /// Reads what [`Process::record`] wrote; `None` if there is no record or the process is gone.
    pub fn recorded(file: &Path) -> Result<Option<Process>> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        };
        let mut words = text.split_whitespace();
        let pid = words.next().and_then(|w| w.parse().ok());
        let start = words.next().and_then(|w| w.parse().ok());
        let (Some(pid), Some(start)) = (pid, start) else {
            return Ok(None);
        };
        Ok(Some(Process { pid, start }).filter(Process::alive))
    }

    /// Writes pid and start time to a file.
    pub fn record(&self, file: &Path) -> Result<()> {
        fs::write(file, format!("{} {}\n", self.pid, self.start))
            .with_context(|| file.display().to_string())
    }

    /// The pid in this machine's numbering.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it still runs (a zombie does not).
    pub fn alive(&self) -> bool {
        start_of(self.pid) == Some(self.start)
    }

    /// SIGKILL, if it is still the same process.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Sends a signal, if it is still the same process.
    pub fn signal(&self, signal: Signal) {
        if self.alive() {
            // ESRCH: it ended just now, which is what the caller wants
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// The pid inside the innermost pid namespace.
    pub fn inner_pid(&self) -> Option<i32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?;
        line.split_whitespace().last()?.parse().ok()
    }

    /// Short name of the program.
    pub fn comm(&self) -> String {
        let text = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        text.trim().to_owned()
    }

    /// Proportional share of memory in KiB, `(all, anonymous)`.
    pub fn pss_kib(&self) -> Option<(u64, u64)> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some((field("Pss:")?, field("Pss_Anon:")?))
    }

    /// CPU time used so far, in clock ticks (user and system).
    pub fn cpu_ticks(&self) -> Option<u64> {
        let fields = stat(self.pid)?;
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    }
}

/// Fields of /proc/PID/stat after the program's name, which may itself hold blanks.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn start_of(pid: i32) -> Option<u64> {
    let fields = stat(pid)?;
    if matches!(fields.first()?.as_str(), "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_found_again_from_its_record() {
        let dir = std::env::temp_dir().join(format!("wl-process-{}", std::process::id()));
        let own = Process::of(std::process::id() as i32).unwrap();
        own.record(&dir).unwrap();
        assert_eq!(Process::recorded(&dir).unwrap(), Some(own.clone()));
        assert_eq!(own.inner_pid(), Some(std::process::id() as i32));
        fs::remove_file(&dir).unwrap();
    }

    #[test]
    fn another_start_time_is_another_process() {
        let own = Process::of(std::process::id() as i32).unwrap();
        assert!(
            !Process {
                start: own.start + 1,
                ..own
            }
            .alive()
        );
    }
}
