//! busybox as upstream's images have it: built from the unpatched source, of the release that is in
//! their names. Debian's own is no stand-in: its shell prefers its applets to programs of the same
//! name and drops variables whose names are not a shell's, such as `data-1`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::debian::Archive;
use crate::progress::Progress;

/// What a static busybox needs beyond its defaults. `tc` does not compile with the kernel headers
/// of newer systems.
const SETTINGS: [(&str, &str); 3] = [
    ("# CONFIG_STATIC is not set", "CONFIG_STATIC=y"),
    ("CONFIG_TC=y", "# CONFIG_TC is not set"),
    (
        "CONFIG_FEATURE_TC_INGRESS=y",
        "# CONFIG_FEATURE_TC_INGRESS is not set",
    ),
];

/// The program, built below `dir` on the first call.
pub fn build(archive: &Archive, dir: &Path, progress: &Progress) -> Result<PathBuf> {
    let program = dir.join("busybox");
    if program.is_file() {
        return Ok(program);
    }
    progress.mark("building busybox (about 60 s)");
    let work = dir.join("busybox.source");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work)?;
    let source = archive.source("busybox")?;
    let mut tar = Command::new("tar");
    tar.args(["--strip-components=1", "-xf"]).arg(&source);
    command::output(tar.arg("-C").arg(&work))?;
    let make = |args: &[&str]| command::output(Command::new("make").args(args).current_dir(&work));
    make(&["-s", "defconfig"])?;
    let config = work.join(".config");
    let mut text = fs::read_to_string(&config)?;
    for (from, to) in SETTINGS {
        text = text.replace(from, to);
    }
    fs::write(&config, text)?;
    // an empty answer to every question the changed settings raise takes the default
    let mut settle = Command::new("make");
    settle.args(["-s", "oldconfig"]).current_dir(&work);
    command::fed(&mut settle, &"\n".repeat(1000))?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    make(&["-s", &format!("-j{jobs}"), "busybox"]).context("busybox")?;
    fs::rename(work.join("busybox"), &program)?;
    fs::remove_dir_all(&work)?;
    Ok(program)
}
