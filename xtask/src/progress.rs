//! Progress lines with the time since the start: what a person watches while the lab comes up,
//! and where benchmarks read their figures from.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// One running task with a clock. Shared by the threads of the task.
pub struct Progress {
    start: Instant,
    quiet: bool,
    marks: Mutex<Vec<(String, Duration)>>,
}

impl Progress {
    /// Prints every mark to standard error.
    pub fn shown() -> Progress {
        Progress {
            start: Instant::now(),
            quiet: false,
            marks: Mutex::default(),
        }
    }

    /// Only remembers the marks.
    pub fn quiet() -> Progress {
        Progress {
            start: Instant::now(),
            quiet: true,
            marks: Mutex::default(),
        }
    }

    /// A step is done.
    pub fn mark(&self, what: impl Into<String>) {
        let (what, at) = (what.into(), self.start.elapsed());
        if !self.quiet {
            eprintln!("{:7.2} s  {what}", at.as_secs_f64());
        }
        self.marks
            .lock()
            .expect("no holder panics")
            .push((what, at));
    }

    /// All marks so far, in order.
    pub fn marks(&self) -> Vec<(String, Duration)> {
        self.marks.lock().expect("no holder panics").clone()
    }
}

/// Waits until `done` holds, looking every 10 ms at first and every 100 ms later; the error names
/// what was waited for. For conditions only, never for time to pass.
pub fn wait(what: &str, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(10);
    while !done()? {
        if start.elapsed() > limit {
            bail!("{what}: not so after {} s", limit.as_secs_f32());
        }
        std::thread::sleep(pause);
        pause = (pause * 5 / 4).min(Duration::from_millis(100));
    }
    Ok(())
}
