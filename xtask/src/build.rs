//! `cargo xtask build`: the BPF object, then the release binary that carries it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::Progress;
use crate::{bpf, command, workspace};

/// Builds `target/release/windlass` and returns its path.
pub fn build(progress: &Progress) -> Result<PathBuf> {
    let object = programs(progress)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--package", "windlass"]);
    cargo
        .env("WINDLASS_BPF_OBJECT", &object)
        .current_dir(workspace::root());
    command::shown(&mut cargo)?;
    progress.mark("windlass built");
    Ok(workspace::windlass())
}

/// Builds the BPF object and returns its path.
pub fn programs(progress: &Progress) -> Result<PathBuf> {
    let object = bpf::build().context("BPF programs")?;
    progress.mark("BPF programs compiled");
    Ok(object)
}
