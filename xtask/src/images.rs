//! Images of the lab, built from programs of this machine and of this repository; nothing is
//! pulled. Each becomes one OCI archive with one uncompressed layer, made of `tar` and
//! `sha256sum`, which every machine has. A program comes with the shared libraries it names.
//! The images of upstream's tests are another matter: [`conformance`].

pub mod oci;
pub mod tree;

mod busybox;
pub mod conformance;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, workspace};
use oci::{Image, Layout};

/// The sandbox image of every pod.
pub const PAUSE: &str = "lab.windlass/pause:1";
/// busybox, and `toolbox` with servers and clients for tests and the demo.
pub const TOOLBOX: &str = "lab.windlass/toolbox:1";
/// iperf3 for throughput.
pub const IPERF: &str = "lab.windlass/iperf3:1";

/// The registry whose names the images of upstream's tests have.
pub const REGISTRY: &str = "registry.k8s.io";

/// What [`build`] made.
#[derive(Debug, Clone)]
pub struct Images {
    /// OCI archives for `ctr images import`.
    pub archives: Vec<PathBuf>,
    /// The toolbox program, for use outside of pods.
    pub toolbox: PathBuf,
}

/// Builds every image whose inputs changed. Needs gcc (as rustc's linker) and busybox.
pub fn build() -> Result<Images> {
    let dir = workspace::images();
    fs::create_dir_all(&dir)?;
    let toolbox = toolbox_program()?;
    let busybox =
        command::find("busybox").context("busybox is not installed: cargo xtask setup")?;
    let mut archives = vec![
        pause(&dir)?,
        image(
            &dir,
            TOOLBOX,
            &[&busybox, &toolbox],
            &["/bin/toolbox"],
            |root| {
                tree::base(root)?;
                tree::program(root, &toolbox)?;
                tree::applets(root, &busybox)
            },
        )?,
    ];
    if let Some(iperf) = command::find("iperf3") {
        archives.push(image(&dir, IPERF, &[&iperf], &["/bin/iperf3"], |root| {
            tree::base(root)?;
            tree::program(root, &iperf)
        })?);
    }
    Ok(Images { archives, toolbox })
}

fn toolbox_program() -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "tests",
        "--bin",
        "toolbox",
    ]);
    command::output(cargo.current_dir(workspace::root()))?;
    Ok(workspace::target().join("release/toolbox"))
}

fn pause(dir: &Path) -> Result<PathBuf> {
    let source = pause_source();
    image(dir, PAUSE, &[&source], &["/pause"], |root| {
        pause_program(&root.join("pause"))
    })
}

fn pause_source() -> PathBuf {
    workspace::root().join("xtask/images/pause.rs")
}

/// Compiles the program of a sandbox: no standard library, not even a loader.
fn pause_program(to: &Path) -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-O"]);
    for option in [
        "panic=abort",
        "strip=symbols",
        "relocation-model=static",
        "target-feature=+crt-static",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-Wl,--build-id=none",
        "link-arg=-Wl,-n",
    ] {
        rustc.args(["-C", option]);
    }
    command::output(rustc.arg("-o").arg(to).arg(pause_source()))?;
    Ok(())
}

// === the archive ===

/// Makes `DIR/NAME.tar` unless it is newer than its inputs and this program.
fn image(
    dir: &Path,
    reference: &str,
    inputs: &[&Path],
    entrypoint: &[&str],
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let short = reference
        .rsplit('/')
        .next()
        .unwrap_or(reference)
        .replace(':', "-");
    let archive = dir.join(format!("{short}.tar"));
    let own = workspace::xtask();
    let newer = |input: &Path| -> Result<bool> {
        let made = fs::metadata(&archive)?.modified()?;
        Ok(fs::metadata(input)?.modified()? > made)
    };
    let fresh = archive.exists()
        && inputs
            .iter()
            .copied()
            .chain([own.as_path()])
            .all(|input| !newer(input).unwrap_or(true));
    if fresh {
        return Ok(archive);
    }
    let work = dir.join(format!("{short}.{}", std::process::id()));
    let (root, layout) = (work.join("root"), work.join("layout"));
    fs::create_dir_all(&root)?;
    fill(&root).with_context(|| format!("image {reference}"))?;
    let mut oci = Layout::create(&layout)?;
    let made = Image::of(oci.layer(&root)?).set("Entrypoint", entrypoint.to_vec());
    oci.add(&[reference], &made)?;
    oci.finish()?;
    let made = work.join("image.tar");
    oci::archive(&layout, &made)?;
    fs::rename(&made, &archive)?;
    fs::remove_dir_all(&work)?;
    Ok(archive)
}
