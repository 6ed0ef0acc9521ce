//! Compiles the BPF object, `target/bpf/windlass.o`, with whichever toolchain is there:
//! rustup with the `rust-src` component (`-Z build-std=core`), or Debian's `rustc-web` with its prebuilt
//! `core` for BPF. Both link with `bpf-linker`. Knows nothing of what the programs do.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const TARGET: &str = "bpfel-unknown-none";
/// Instruction set of the object: 32-bit operations and atomics, on every kernel we support.
const TARGET_CPU: &str = "v3";
/// Debian's compiler and the `core` it comes with.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";
/// Where the object is put, below the workspace; `agent/build.rs` looks there.
pub const OBJECT: &str = "target/bpf/windlass.o";

/// A compiler that can produce BPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    /// rustup's, building `core` from its sources.
    BuildStd,
    /// Debian's rustc-web, with `core` prebuilt.
    Debian,
}

/// Compiles the object, always optimised as the verifier needs it, and returns its path.
pub fn build() -> Result<PathBuf> {
    let root = workspace_root();
    let toolchain = toolchain()?;
    let linker = linker()?;
    let target_dir = root.join("target/bpf-build");
    let mut command = cargo(&toolchain, &root, &target_dir, &linker);
    let status = command
        .status()
        .context("cannot run cargo for the BPF object")?;
    if !status.success() {
        bail!("the BPF programs do not compile ({toolchain:?}, {status})");
    }
    let built = target_dir.join(TARGET).join("release/windlass-bpf");
    let object = root.join(OBJECT);
    install(&built, &object)?;
    Ok(object)
}

/// The toolchain that is present, with what to do if there is none.
pub fn toolchain() -> Result<Toolchain> {
    if Path::new(DEBIAN_RUSTC).exists() && Path::new(DEBIAN_CORE).exists() {
        return Ok(Toolchain::Debian);
    }
    let sysroot = Command::new(rustc()).args(["--print", "sysroot"]).output();
    let sysroot = sysroot.context("cannot run rustc")?.stdout;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    if sysroot.join("lib/rustlib/src/rust/library/core").exists() {
        return Ok(Toolchain::BuildStd);
    }
    bail!(
        "no compiler for BPF: run `rustup component add rust-src`, or on Debian \
         `apt-get install rustc-web libstd-rust-web-dev-bpf`"
    )
}

fn cargo(toolchain: &Toolchain, root: &Path, target_dir: &Path, linker: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).env("RUSTC_BOOTSTRAP", "1");
    command.env(
        "CARGO_ENCODED_RUSTFLAGS",
        rustflags(linker).join(&OsString::from("\u{1f}")),
    );
    command
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_TARGET_DIR");
    command.args(["build", "--quiet", "--release", "--package", "programs"]);
    command.args([
        "--bin",
        "windlass-bpf",
        "--features",
        "bpf",
        "--target",
        TARGET,
    ]);
    command.arg("--target-dir").arg(target_dir);
    for setting in [
        "strip=\"none\"",
        "panic=\"abort\"",
        "codegen-units=1",
        "lto=true",
    ] {
        command
            .arg("--config")
            .arg(format!("profile.release.{setting}"));
    }
    match toolchain {
        Toolchain::Debian => command.env("RUSTC", DEBIAN_RUSTC),
        Toolchain::BuildStd => command.args(["-Z", "build-std=core"]),
    };
    command
}

fn rustflags(linker: &Path) -> Vec<OsString> {
    let arch = env::consts::ARCH;
    let mut linker_flag = OsString::from("linker=");
    linker_flag.push(linker);
    let mut flags: Vec<OsString> = vec![format!("--cfg=bpf_target_arch=\"{arch}\"").into()];
    for value in [
        linker_flag,
        "link-arg=--btf".into(),
        "debuginfo=2".into(),
        format!("target-cpu={TARGET_CPU}").into(),
    ] {
        flags.push("-C".into());
        flags.push(value);
    }
    flags
}

fn rustc() -> OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

fn linker() -> Result<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let in_cargo = cargo_home
        .map(|home| home.join("bin/bpf-linker"))
        .into_iter();
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path)
        .map(|dir| dir.join("bpf-linker"))
        .collect::<Vec<_>>();
    in_cargo.chain(in_path).find(|path| path.exists()).context(
        "bpf-linker is missing: `cargo install bpf-linker` (rustup), or see `cargo xtask setup`",
    )
}

/// Puts the object in its place without its DWARF, which only the linker needed; keeps the old file (and
/// its time) if nothing changed, so that the agent is not built again.
fn install(built: &Path, object: &Path) -> Result<()> {
    // Several builds may end at once (tests build too): each renames a file of its own.
    let stripped = built.with_extension(format!("stripped-{}", std::process::id()));
    if !strip(built, &stripped) {
        std::fs::copy(built, &stripped).context("cannot copy the BPF object")?;
    }
    let new = std::fs::read(&stripped).context("cannot read the BPF object")?;
    if std::fs::read(object).is_ok_and(|old| old == new) {
        return std::fs::remove_file(&stripped).context("cannot remove a temporary file");
    }
    let parent = object.parent().context("the object has a directory")?;
    std::fs::create_dir_all(parent)
        .with_context(|| format!("cannot create {}", parent.display()))?;
    std::fs::rename(&stripped, object).with_context(|| format!("cannot write {}", object.display()))
}

fn strip(from: &Path, to: &Path) -> bool {
    let candidates = [
        "/usr/lib/llvm-22/bin/llvm-objcopy",
        "llvm-objcopy",
        "llvm-objcopy-22",
        "rust-objcopy",
    ];
    candidates.iter().any(|tool| {
        let mut command = Command::new(tool);
        command.args([
            "--strip-debug",
            "--keep-section=.BTF",
            "--keep-section=.BTF.ext",
        ]);
        command.arg(from).arg(to);
        command.status().is_ok_and(|status| status.success())
    })
}

fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .map_or_else(|| manifest.to_path_buf(), Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustflags_name_the_linker_and_the_kernels_instruction_set() {
        let flags = rustflags(Path::new("/x/bpf-linker"));
        assert!(flags.contains(&OsString::from("linker=/x/bpf-linker")));
        assert!(flags.contains(&OsString::from("target-cpu=v3")));
    }
}
