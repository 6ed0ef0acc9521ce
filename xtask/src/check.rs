//! `cargo xtask check`: what can be said of the source without running it. Formatting, lints,
//! documentation, licences, and `tidy`: the rules of the house that no other tool knows.

mod arrows;
mod licences;
mod tidy;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::{command, workspace};

/// Runs every check; all of them, so that one run shows everything. `quick` leaves out what
/// compiles: lints and documentation.
pub fn check(quick: bool) -> Result<()> {
    let mut failed: Vec<String> = Vec::new();
    let mut step = |name: &str, result: Result<()>| match result {
        Ok(()) => println!("ok   {name}"),
        Err(error) => {
            println!("FAIL {name}\n{error:#}");
            failed.push(name.to_owned());
        }
    };
    step("format", cargo(&["fmt", "--all", "--check"], &[]));
    step("tidy", report(tidy::problems()?));
    let metadata = metadata()?;
    step("arrows between crates", report(arrows::problems(&metadata)));
    step(
        "licences of dependencies",
        report(licences::problems(&metadata)),
    );
    if !quick {
        let lints = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ];
        step("lints", cargo(&lints, &[]));
        let docs = [
            "doc",
            "--workspace",
            "--no-deps",
            "--quiet",
            "--document-private-items",
        ];
        step(
            "documentation",
            cargo(&docs, &[("RUSTDOCFLAGS", "-D warnings")]),
        );
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("failed: {}", failed.join(", "))
    }
}

fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let mut cargo = command::cargo();
    cargo
        .args(args)
        .envs(env.iter().copied())
        .current_dir(workspace::root());
    command::output(&mut cargo).map(drop)
}

fn metadata() -> Result<Value> {
    let mut cargo = command::cargo();
    cargo
        .args(["metadata", "--format-version", "1"])
        .current_dir(workspace::root());
    Ok(serde_json::from_str(&command::output(&mut cargo)?)?)
}

fn report(problems: Vec<String>) -> Result<()> {
    if problems.is_empty() {
        Ok(())
    } else {
        bail!("  {}", problems.join("\n  "))
    }
}
