//! `cargo xtask test`: unit tests of every crate, then what needs the real kernel: BPF programs
//! under BPF_PROG_TEST_RUN and labs with the real binary; then the tests of upstream's suite that
//! passed before, where Go is there to build it.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::lab::Lab;
use crate::progress::Progress;
use crate::{build, command, conformance, images, setup, workspace};

/// Labs made by tests begin with this.
pub const LABS: &str = "t-";

/// Runs everything; `only` is a filter for the names of tests.
pub fn test(only: Option<&str>) -> Result<()> {
    let progress = Progress::shown();
    setup::for_tests(&progress)?;
    down()?;
    // the agent's tests load the programs too
    let object = build::programs(&progress)?;
    let units = [
        "test",
        "--workspace",
        "--exclude",
        "tests",
        "--no-fail-fast",
    ];
    let units = cargo(&units, &object, only);
    progress.mark("unit tests");
    build::build(&progress)?;
    images::build()?;
    progress.mark("images built");
    // one lab after the other, and one test after the other within a lab
    let labs = ["test", "--package", "tests", "--no-fail-fast"];
    let labs = cargo(&labs, &object, only);
    down()?;
    // a filter asks for tests by name; these are upstream's
    let suite = match only {
        None => conformance::guarded(&progress),
        Some(_) => Ok(()),
    };
    units.and(labs).and(suite)
}

fn cargo(args: &[&str], object: &Path, only: Option<&str>) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(args).args(only).current_dir(workspace::root());
    cargo.env("WINDLASS_BPF_OBJECT", object);
    cargo.env("WINDLASS_XTASK", workspace::xtask());
    cargo.env("WINDLASS_BIN", workspace::windlass());
    command::shown(&mut cargo)
}

/// Removes labs that tests left, for instance ended ones.
fn down() -> Result<()> {
    for name in Lab::all()?
        .into_iter()
        .filter(|name| name.starts_with(LABS))
    {
        Lab::named(&name)?.down()?;
    }
    Ok(())
}
