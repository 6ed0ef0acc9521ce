//! `cargo xtask test`: the conformance tests that passed before, then unit tests of every crate and what
//! needs the real kernel: BPF programs under BPF_PROG_TEST_RUN and labs with the real binary.

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::progress::Progress;
use crate::{build, command, conformance, images, setup, workspace};

/// Labs made by tests begin with this.
pub const LABS: &str = "t-";

/// Runs everything; `only` is a filter for the names of Rust's tests, and leaves out conformance.
pub fn test(only: Option<&str>) -> Result<()> {
    let progress = Progress::shown();
    setup::for_tests(&progress)?;
    down()?;
    let object = build::programs(&progress)?;
    let windlass = build::tests(&object, &progress)?;
    images::build()?;
    progress.mark("images built");
    let guarded = match only {
        None => conformance::guarded(&windlass, &progress),
        Some(_) => Ok(()),
    };
    // All packages in one call: with fewer, what they share is built again with other features. One lab
    // after the other, and one test after the other within a lab.
    let mut ours = command::cargo();
    ours.args(["test", "--workspace", "--no-fail-fast"])
        .args(only)
        .env("WINDLASS_BPF_OBJECT", object)
        .env("WINDLASS_XTASK", workspace::xtask())
        .env("WINDLASS_BIN", windlass)
        .current_dir(workspace::root());
    let ours = command::shown(&mut ours);
    down()?;
    progress.mark("tests");
    ours.and(guarded.context("conformance tests that passed before"))
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
