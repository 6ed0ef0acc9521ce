//! The toolchain for the BPF programs, either of two ways: rustup's `rust-src` (core is built
//! along), or Debian's `rustc-web` with a prebuilt core for BPF. `bpf` compiles with whichever is
//! there; each needs the bpf-linker built for its LLVM.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Manager;
use crate::command;
use crate::progress::Progress;

const DEBIAN: [&str; 6] = [
    "rustc-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "libclang-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
];
/// Core for BPF as Debian's package installs it.
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";

pub fn setup(manager: Option<Manager>, progress: &Progress) -> Result<()> {
    if has_rust_src() {
        return linker("0.10.4", &[], &[], progress);
    }
    if !Path::new(DEBIAN_CORE).exists() {
        if add_rust_src() {
            progress.mark("rust-src added");
            return linker("0.10.4", &[], &[], progress);
        }
        match manager {
            Some(Manager::Apt) => {
                progress.mark(format!("installing {}", DEBIAN.join(" ")));
                Manager::Apt.install(&DEBIAN)?;
            }
            Some(Manager::Dnf) | None => {
                bail!("BPF programs need the rust-src component: rustup component add rust-src")
            }
        }
    }
    let features = ["--no-default-features", "--features", "llvm-22"];
    linker(
        "0.13.0",
        &features,
        &[("LLVM_PREFIX", "/usr/lib/llvm-22")],
        progress,
    )
}

fn has_rust_src() -> bool {
    let sysroot = command::output(Command::new("rustc").args(["--print", "sysroot"]));
    sysroot.is_ok_and(|dir| {
        Path::new(dir.trim())
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .exists()
    })
}

fn add_rust_src() -> bool {
    command::exists("rustup")
        && command::output(Command::new("rustup").args(["component", "add", "rust-src"])).is_ok()
}

fn linker(version: &str, args: &[&str], env: &[(&str, &str)], progress: &Progress) -> Result<()> {
    if cargo_bin("bpf-linker").is_some() {
        return Ok(());
    }
    progress.mark(format!("building bpf-linker {version} (about 40 s)"));
    let mut cargo = command::cargo();
    cargo
        .args(["install", "--quiet", "bpf-linker", "--version", version])
        .args(args);
    cargo.envs(env.iter().copied());
    // its own target directory: not the workspace's flags, not its lock
    cargo.env_remove("CARGO_TARGET_DIR");
    command::output(&mut cargo).context("bpf-linker")?;
    Ok(())
}

fn cargo_bin(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))?;
    command::find(name).or_else(|| Some(home.join("bin").join(name)).filter(|path| path.exists()))
}
