//! `cargo xtask build`: the BPF object, then the release binary that carries it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::progress::Progress;
use crate::{bpf, command, workspace};

/// Builds `target/release/windlass` and returns its path.
pub fn build(progress: &Progress) -> Result<PathBuf> {
    let object = programs(progress)?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--release", "--package", "windlass"]);
    cargo
        .env("WINDLASS_BPF_OBJECT", &object)
        .current_dir(workspace::root());
    command::shown(&mut cargo)?;
    progress.mark("windlass built");
    Ok(workspace::windlass())
}

/// Builds all programs and tests of the workspace as `cargo test` does, and returns the path of
/// `target/debug/windlass`. Everything is built once and without optimizing: a release build beside it would
/// take as long as all tests run.
pub fn tests(object: &Path, progress: &Progress) -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo.args(["build", "--workspace", "--bins", "--tests"]);
    cargo
        .env("WINDLASS_BPF_OBJECT", object)
        .current_dir(workspace::root());
    command::shown(&mut cargo)?;
    progress.mark("programs and tests built");
    Ok(workspace::target().join("debug/windlass"))
}

/// Builds the binary for a control plane alone, and the hollow agent that stands in for nodes. Where
/// BPF cannot be compiled the binary carries no datapath, which such a server never loads.
pub fn hollow(progress: &Progress) -> Result<()> {
    let mut cargo = command::cargo();
    // together, so that both use the same build of their dependencies
    cargo.args([
        "build",
        "--release",
        "--package",
        "windlass",
        "--package",
        "hollow",
    ]);
    if bpf::toolchain().is_ok() {
        cargo.env("WINDLASS_BPF_OBJECT", programs(progress)?);
    }
    command::shown(cargo.current_dir(workspace::root()))?;
    progress.mark("windlass and the hollow agent built");
    Ok(())
}

/// Builds the BPF object and returns its path.
pub fn programs(progress: &Progress) -> Result<PathBuf> {
    let object = bpf::build().context("BPF programs")?;
    progress.mark("BPF programs compiled");
    Ok(object)
}
