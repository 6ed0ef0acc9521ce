//! One lab for all tests of a test program: started by the first, handed to one test at a time,
//! removed when the program has ended, however it ended (by a guard process, `lab-guard`).

use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Lab, Process, Spec};
use crate::progress::Progress;
use crate::{images, workspace};

static LAB: OnceLock<Result<Mutex<Lab>, String>> = OnceLock::new();

/// The lab of this test program, made as `spec` says by the first caller. Holding it keeps every
/// other test waiting: what a test kills or fills up is its own business.
pub fn shared(spec: Spec) -> MutexGuard<'static, Lab> {
    let lab = LAB.get_or_init(|| start(spec).map(Mutex::new).map_err(|e| format!("{e:#}")));
    match lab {
        // a test that failed leaves the lab as it is; the next one judges for itself
        Ok(lab) => lab.lock().unwrap_or_else(PoisonError::into_inner),
        Err(error) => panic!("the lab did not start: {error}"),
    }
}

/// Starts a lab that is removed when this process ends.
pub fn start(spec: Spec) -> Result<Lab> {
    crate::setup::machine()?;
    let lab = Lab::named(&spec.name)?;
    lab.down()?;
    guard(&lab)?;
    let images = images::build()?;
    let spec = Spec {
        images: images.archives,
        toolbox: Some(images.toolbox),
        ..spec
    };
    Lab::up(&spec, &Progress::quiet())
}

/// Starts the process that removes the lab when this one has ended.
pub fn guard(lab: &Lab) -> Result<()> {
    let own = std::process::id().to_string();
    let mut guard = Command::new("setsid");
    guard
        .arg(workspace::xtask())
        .args(["lab-guard", &own, lab.name()]);
    guard
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    guard.spawn().context("xtask lab-guard")?;
    Ok(())
}

/// Body of `xtask lab-guard PID NAME`.
pub fn watch(pid: i32, name: &str) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(100);
    let lab = Lab::named(name)?;
    if let Some(owner) = Process::of(pid) {
        while owner.alive() {
            std::thread::sleep(LOOK);
        }
    }
    lab.down()?;
    Ok(())
}
