//! containerd of a node: its configuration for the release that is used, where it pulls from, and
//! the import of images.
//!
//! Two families are known: 1.x (Debian's 1.6 reads configuration version 2, CRI is one plugin) and
//! 2.x (version 3, CRI is split into images and runtime; 2.4 reads it and writes version 4 itself).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Half, Lab, OUTSIDE, Place, REGISTRY_PORT, Spec, node, up, upstream};
use crate::{command, images, progress};

/// Where the socket is, in every node.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// Longest wait for the socket.
const START: Duration = Duration::from_secs(30);
/// f_type of overlayfs in statfs(2): no upper layer may lie on it.
const OVERLAY: i64 = 0x794c_7630;
/// Programs that belong to one release of containerd.
const FAMILY: [&str; 4] = ["containerd", "containerd-shim-runc-v2", "ctr", "runc"];

/// What differs between configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    One,
    Two,
}

impl Release {
    /// Of a program, by what it says about itself: `containerd MODULE VERSION REVISION`.
    fn of(program: &Path) -> Result<Release> {
        let said = command::output(Command::new(program).arg("--version"))?;
        Release::parse(&said).with_context(|| format!("{} says {said:?}", program.display()))
    }

    fn parse(said: &str) -> Option<Release> {
        let version = said.split_whitespace().nth(2)?;
        match version.trim_start_matches('v').split('.').next()? {
            "1" => Some(Release::One),
            "2" => Some(Release::Two),
            _ => None,
        }
    }
}

/// Puts a containerd that is none of the system's where every node sees it, with the programs
/// beside it: the lab's programs are searched first.
pub fn install(lab: &Lab, spec: &Spec) -> Result<()> {
    if of_the_system(&spec.containerd) {
        return Ok(());
    }
    let beside = FAMILY.map(|name| spec.containerd.with_file_name(name));
    beside
        .iter()
        .filter(|program| program.is_file())
        .try_for_each(|program| up::link(program, &lab.programs()))
}

fn of_the_system(program: &Path) -> bool {
    let dir = program.parent();
    node::PATH
        .split(':')
        .any(|system| dir == Some(Path::new(system)))
}

/// Writes configuration and unit; the unit starts with the next command to init.
pub fn write(lab: &Lab, n: u8, spec: &Spec) -> Result<()> {
    let dir = lab.place_dir(Place::Node(n));
    let release = Release::of(&spec.containerd)?;
    let registries = registries(&dir, spec)?;
    let file = dir.join("containerd.toml");
    let settings = Settings {
        snapshotter: snapshotter(lab.dir())?,
        registries: registries.display().to_string(),
        cni_template: match spec.node {
            Half::Windlass => String::new(),
            Half::Upstream => upstream::cni_template(lab)?.display().to_string(),
        },
    };
    fs::write(&file, config(release, &settings))?;
    let program = match of_the_system(&spec.containerd) {
        true => spec.containerd.clone(),
        false => lab.programs().join(FAMILY[0]),
    };
    let argv = [program, "--config".into(), file].map(|word| word.display().to_string());
    let path = format!("{}:{}", lab.programs().display(), node::PATH);
    node::write_unit(&dir, "containerd", &argv, &[("PATH".to_owned(), path)])
}

/// The directory of registries' hosts (containerd's `hosts.toml`): the lab's registry stands for
/// every name it has images of.
fn registries(dir: &Path, spec: &Spec) -> Result<PathBuf> {
    let all = dir.join("registries");
    fs::create_dir_all(&all)?;
    if spec.registry.is_some() {
        let own = all.join(images::REGISTRY);
        fs::create_dir_all(&own)?;
        let url = format!("http://{OUTSIDE}:{REGISTRY_PORT}");
        fs::write(
            own.join("hosts.toml"),
            format!(
                "server = \"{url}\"\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
            ),
        )?;
    }
    Ok(all)
}

fn snapshotter(dir: &Path) -> Result<&'static str> {
    let kind = nix::sys::statfs::statfs(dir)?.filesystem_type();
    Ok(if kind.0 as i64 == OVERLAY {
        "native"
    } else {
        "overlayfs"
    })
}

/// What differs between labs.
struct Settings {
    snapshotter: &'static str,
    /// Directory of registries' hosts.
    registries: String,
    /// Template of the CNI configuration; empty: somebody else writes it.
    cni_template: String,
}

/// `restrict_oom_score_adj`: the pause container asks for -998, which a machine without
/// CAP_SYS_RESOURCE refuses.
fn config(release: Release, settings: &Settings) -> String {
    let sandbox = images::PAUSE;
    let Settings {
        snapshotter,
        registries,
        cni_template,
    } = settings;
    match release {
        Release::One => format!(
            r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{registries}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_template = "{cni_template}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#
        ),
        Release::Two => format!(
            r#"version = 3
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[plugins.'io.containerd.cri.v1.images']
  snapshotter = '{snapshotter}'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{sandbox}'
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '{registries}'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    conf_template = '{cni_template}'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
"#
        ),
    }
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

/// Imports what a node does not have yet: archives, or OCI layouts.
pub fn import(lab: &Lab, n: u8, sources: &[PathBuf]) -> Result<()> {
    let done = lab.place_dir(Place::Node(n)).join("imported");
    let stamp = sources
        .iter()
        .map(|path| stamp(path))
        .collect::<Result<Vec<_>>>()?
        .join("\n");
    if fs::read_to_string(&done).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    for source in sources {
        import_one(lab, n, source).with_context(|| source.display().to_string())?;
    }
    fs::write(done, stamp)?;
    Ok(())
}

/// Through standard input: nothing has to be visible in the node or copied.
fn import_one(lab: &Lab, n: u8, source: &Path) -> Result<()> {
    let argv = ["ctr", "-a", SOCKET, "-n", "k8s.io", "images", "import", "-"];
    let mut ctr = lab.exec(Place::Node(n), &argv)?;
    if source.is_file() {
        return command::from(&mut ctr, fs::File::open(source)?.into()).map(drop);
    }
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(source).args(["-cf", "-", "."]);
    let mut tar = tar.stdout(Stdio::piped()).spawn().context("tar")?;
    let stream = tar.stdout.take().expect("stdout is piped");
    let imported = command::from(&mut ctr, stream.into());
    let status = tar.wait()?;
    imported?;
    if !status.success() {
        bail!("tar: {status}");
    }
    Ok(())
}

/// Size and time of an archive, or of a layout's index, which changes with every image.
fn stamp(path: &Path) -> Result<String> {
    let file = match path.is_dir() {
        true => path.join("index.json"),
        false => path.to_owned(),
    };
    let meta = fs::metadata(&file).with_context(|| file.display().to_string())?;
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
    fn the_release_is_read_from_what_containerd_says() {
        let debian = "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1";
        assert_eq!(Release::parse(debian), Some(Release::One));
        let built = "containerd github.com/containerd/containerd/v2 v2.4.2 ";
        assert_eq!(Release::parse(built), Some(Release::Two));
        assert_eq!(Release::parse("containerd"), None);
    }

    #[test]
    fn both_releases_are_told_what_differs_between_labs() {
        let settings = Settings {
            snapshotter: "native",
            registries: "/lab/registries".into(),
            cni_template: "/lab/cni.template".into(),
        };
        for release in [Release::One, Release::Two] {
            let text = config(release, &settings);
            for part in [
                images::PAUSE,
                "native",
                "/lab/registries",
                "/lab/cni.template",
            ] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
    }
}
