//! containerd of a node: its configuration, and the import of images from archives.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Lab, Place, Spec, node};
use crate::{images, progress};

/// Where the socket is, in every node.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// Longest wait for the socket.
const START: Duration = Duration::from_secs(30);
/// f_type of overlayfs in statfs(2): no upper layer may lie on it.
const OVERLAY: i64 = 0x794c_7630;

/// Writes configuration and unit; the unit starts with the next command to init.
pub fn write(lab: &Lab, n: u8, spec: &Spec) -> Result<()> {
    let dir = lab.place_dir(Place::Node(n));
    let file = dir.join("containerd.toml");
    fs::write(&file, config(snapshotter(lab.dir())?))?;
    let argv = [&spec.containerd, &PathBuf::from("--config"), &file]
        .map(|word| word.display().to_string());
    node::write_unit(
        &dir,
        "containerd",
        &argv,
        &[("PATH".to_owned(), path(&spec.containerd))],
    )
}

/// Programs beside the given containerd (shim, runc, ctr) come before the system's.
fn path(containerd: &Path) -> String {
    let own = containerd
        .parent()
        .map(|dir| dir.display().to_string())
        .unwrap_or_default();
    format!("{own}:{}", node::PATH)
}

fn snapshotter(dir: &Path) -> Result<&'static str> {
    let kind = nix::sys::statfs::statfs(dir)?.filesystem_type();
    Ok(if kind.0 as i64 == OVERLAY {
        "native"
    } else {
        "overlayfs"
    })
}

/// Version 2 is what 1.6 reads and 2.x still understands. `restrict_oom_score_adj`: the pause
/// container asks for -998, which a machine without CAP_SYS_RESOURCE refuses.
fn config(snapshotter: &str) -> String {
    let sandbox = images::PAUSE;
    format!(
        r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#
    )
}

/// Waits for the socket of a node's containerd.
pub fn wait(lab: &Lab, n: u8) -> Result<()> {
    let init = lab.init(n)?;
    let socket = PathBuf::from(format!("/proc/{}/root{SOCKET}", init.pid()));
    progress::wait(&format!("containerd on node{n}"), START, || {
        Ok(socket.exists())
    })
    .with_context(|| format!("see {}", lab.log(n, "containerd").display()))
}

/// Imports the archives a node does not have yet.
pub fn import(lab: &Lab, n: u8, archives: &[PathBuf]) -> Result<()> {
    let done = lab.place_dir(Place::Node(n)).join("imported");
    let stamp = archives
        .iter()
        .map(|path| stamp(path))
        .collect::<Result<Vec<_>>>()?
        .join("\n");
    if fs::read_to_string(&done).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    for archive in archives {
        // visible in the node only below the lab's directory
        let link = lab
            .dir()
            .join("images")
            .join(archive.file_name().context("archive name")?);
        fs::create_dir_all(lab.dir().join("images"))?;
        if fs::canonicalize(&link).ok() != fs::canonicalize(archive).ok() {
            copy_once(archive, &link)?;
        }
        let link = link.display().to_string();
        let socket = SOCKET;
        lab.run(
            Place::Node(n),
            &[
                "ctr",
                "-a",
                socket,
                "-n",
                "k8s.io",
                "images",
                "import",
                link.as_str(),
            ],
        )?;
    }
    fs::write(done, stamp)?;
    Ok(())
}

/// A hard link where possible; several nodes do this at the same time.
fn copy_once(from: &Path, to: &Path) -> Result<()> {
    let temporary = to.with_extension(format!("{:?}", std::thread::current().id()));
    let _ = fs::remove_file(&temporary);
    if fs::hard_link(from, &temporary).is_err() {
        fs::copy(from, &temporary).with_context(|| from.display().to_string())?;
    }
    fs::rename(&temporary, to)?;
    // rename of two links to one file does nothing and leaves the first
    let _ = fs::remove_file(&temporary);
    Ok(())
}

fn stamp(path: &Path) -> Result<String> {
    let meta = fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(format!(
        "{} {} {:?}",
        path.display(),
        meta.len(),
        meta.modified()?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_beside_containerd_come_first() {
        assert!(path(Path::new("/opt/c/containerd")).starts_with("/opt/c:"));
    }
}
