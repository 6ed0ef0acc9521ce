//! Images of the lab, built from programs of this machine and of this repository; nothing is
//! pulled. Each becomes one OCI archive with one uncompressed layer, made of `tar` and
//! `sha256sum`, which every machine has. A program comes with the shared libraries it names.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{command, workspace};

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
                base(root)?;
                program(root, &toolbox)?;
                applets(root, &busybox)
            },
        )?,
    ];
    if let Some(iperf) = command::find("iperf3") {
        archives.push(image(&dir, IPERF, &[&iperf], &["/bin/iperf3"], |root| {
            base(root)?;
            program(root, &iperf)
        })?);
    }
    Ok(Images { archives, toolbox })
}

fn toolbox_program() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
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
    let source = workspace::root().join("xtask/images/pause.rs");
    image(dir, PAUSE, &[&source], &["/pause"], |root| {
        let mut rustc = Command::new("rustc");
        rustc.args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ]);
        rustc.args([
            "-C",
            "relocation-model=static",
            "-C",
            "target-feature=+crt-static",
        ]);
        for arg in [
            "-nostartfiles",
            "-nostdlib",
            "-static",
            "-Wl,--build-id=none",
            "-Wl,-n",
        ] {
            rustc.args(["-C", &format!("link-arg={arg}")]);
        }
        rustc.arg("-o").arg(root.join("pause")).arg(&source);
        command::output(&mut rustc)?;
        Ok(())
    })
}

/// Files every image has that a person may open a shell in.
fn base(root: &Path) -> Result<()> {
    for dir in [
        "bin", "etc", "root", "tmp", "proc", "sys", "dev", "run", "var/log",
    ] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    fs::write(root.join("etc/passwd"), passwd)?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    Ok(())
}

/// Copies a program into /bin and the shared libraries it needs to where its loader looks.
pub fn program(root: &Path, path: &Path) -> Result<()> {
    let name = path.file_name().context("program name")?;
    fs::copy(path, root.join("bin").join(name)).with_context(|| path.display().to_string())?;
    let listed = command::raw(Command::new("ldd").arg(path))?;
    // "libc.so.6 => /lib/…/libc.so.6 (0x…)" and "/lib64/ld-linux-x86-64.so.2 (0x…)"
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let wanted = line.trim().split(" => ").last().unwrap_or_default();
        let Some(library) = wanted
            .split_whitespace()
            .next()
            .filter(|p| p.starts_with('/'))
        else {
            continue;
        };
        let to = root.join(&library[1..]);
        fs::create_dir_all(to.parent().context("a library in the root directory")?)?;
        fs::copy(library, &to).with_context(|| library.to_owned())?;
    }
    Ok(())
}

fn applets(root: &Path, busybox: &Path) -> Result<()> {
    program(root, busybox)?;
    let list = command::output(Command::new(busybox).arg("--list"))?;
    for applet in list.lines() {
        let link = root.join("bin").join(applet);
        if !link.exists() && !link.is_symlink() {
            symlink("busybox", link)?;
        }
    }
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
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    fill(&root).with_context(|| format!("image {reference}"))?;
    write_layout(&work, &root, &layout, reference, entrypoint)?;
    let made = work.join("image.tar");
    tar(&layout, &made)?;
    fs::rename(&made, &archive)?;
    fs::remove_dir_all(&work)?;
    Ok(archive)
}

/// The files of the OCI image layout 1.0: one layer, its config, its manifest, the index.
fn write_layout(
    work: &Path,
    root: &Path,
    layout: &Path,
    reference: &str,
    entrypoint: &[&str],
) -> Result<()> {
    let layer_file = work.join("layer.tar");
    tar(root, &layer_file)?;
    let layer = blob(layout, &layer_file)?;
    let arch = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
    let config = json!({
        "architecture": arch,
        "os": "linux",
        "config": { "Env": env, "Entrypoint": entrypoint },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = json_blob(work, layout, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": media(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [media(layer, "application/vnd.oci.image.layer.v1.tar")],
    });
    let manifest = json_blob(work, layout, &manifest)?;
    let mut entry = media(manifest, "application/vnd.oci.image.manifest.v1+json");
    // containerd takes the full name from its own annotation
    entry["annotations"] = json!({ "io.containerd.image.name": reference });
    entry["platform"] = json!({ "architecture": arch, "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(())
}

fn media(mut descriptor: Value, kind: &str) -> Value {
    descriptor["mediaType"] = kind.into();
    descriptor
}

fn json_blob(work: &Path, layout: &Path, value: &Value) -> Result<Value> {
    let file = work.join("blob.json");
    fs::write(&file, value.to_string())?;
    blob(layout, &file)
}

/// Moves a file to where its digest says.
fn blob(layout: &Path, file: &Path) -> Result<Value> {
    let sum = command::output(Command::new("sha256sum").arg(file))?;
    let digest = sum
        .split_whitespace()
        .next()
        .context("sha256sum printed nothing")?;
    let size = fs::metadata(file)?.len();
    fs::rename(file, layout.join("blobs/sha256").join(digest))?;
    Ok(json!({ "digest": format!("sha256:{digest}"), "size": size }))
}

/// A tar archive that depends on nothing but the tree's content.
fn tar(tree: &Path, to: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ]);
    command::output(tar.arg("-C").arg(tree).arg("-cf").arg(to).arg("."))?;
    Ok(())
}
