//! Volumes of pods on the node: made before the containers, kept up to date, taken away after them.
//! Input: a pod and what it refers to; output: host paths for the runtime's mounts. Layout below the
//! root directory as upstream: `pods/UID/volumes/kubernetes.io~KIND/NAME`. It knows no container runtime.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use k8s_openapi::jiff::Timestamp;

use crate::pod::downward::Facts;
use crate::pod::objects::Objects;
use crate::pod::resources;
use crate::pod::spec;

pub mod atomic;
pub mod host_path;
pub mod mount;
pub mod ownership;
pub mod payload;
pub mod token;

/// A volume that could not be made ready.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
pub struct Error {
    pub volume: String,
    #[source]
    pub source: Cause,
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error(transparent)]
    Payload(#[from] payload::Error),
    #[error(transparent)]
    HostPath(#[from] host_path::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("failed to fetch token: {0}")]
    Token(#[from] Box<kube::Error>),
}

/// Host path per volume name.
pub type Paths = BTreeMap<String, PathBuf>;

/// Everything `prepare` needs besides the pod.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub root: &'a Path,
    pub pod: &'a Pod,
    pub facts: &'a Facts,
    pub objects: &'a Objects,
    pub allocatable: (i64, i64),
    pub now: Timestamp,
}

/// `ROOT/pods/UID`.
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

/// Makes every volume of the pod ready, or brings it up to date. Idempotent. Those of images are the
/// container runtime's and have no path.
pub async fn prepare(input: Input<'_>, tokens: &mut token::Tokens) -> Result<Paths, Error> {
    let pod = input.pod;
    let tokens = tokens.ensure(pod, input.now).await.map_err(|error| Error {
        volume: "kube-api-access".to_owned(),
        source: Cause::Token(Box::new(error)),
    })?;
    let mut paths = Paths::new();
    let volumes = spec::spec(pod).volumes.iter().flatten();
    for volume in volumes.filter(|volume| volume.image.is_none()) {
        let path = prepare_one(input, &tokens, volume).map_err(|source| Error {
            volume: volume.name.clone(),
            source,
        })?;
        paths.insert(volume.name.clone(), path);
    }
    Ok(paths)
}

fn prepare_one(
    input: Input<'_>,
    tokens: &BTreeMap<payload::TokenKey, String>,
    volume: &Volume,
) -> Result<PathBuf, Cause> {
    let Input {
        root,
        pod,
        facts,
        objects,
        allocatable,
        now,
    } = input;
    if let Some(source) = &volume.host_path {
        let path = PathBuf::from(&source.path);
        host_path::check(&path, source.type_.as_deref())?;
        return Ok(path);
    }
    let group = spec::spec(pod)
        .security_context
        .as_ref()
        .and_then(|s| s.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    let dir = |kind: &str| {
        let volumes = pod_dir(root, spec::uid(pod)).join("volumes");
        volumes
            .join(format!("kubernetes.io~{kind}"))
            .join(&volume.name)
    };
    if let Some(source) = &volume.empty_dir {
        let path = dir("empty-dir");
        empty_dir(&path, source, group)?;
        return Ok(path);
    }
    let payload_input = payload::Input {
        pod,
        facts,
        objects,
        tokens,
        allocatable,
    };
    let Some(files) = payload::payload(payload_input, volume)? else {
        return Err(Cause::Payload(payload::Error::Unsupported(kind_of(volume))));
    };
    let (kind, secret) = if volume.config_map.is_some() {
        ("configmap", false)
    } else if volume.downward_api.is_some() {
        ("downward-api", true)
    } else if volume.secret.is_some() {
        ("secret", true)
    } else {
        ("projected", true)
    };
    let path = dir(kind);
    fs::create_dir_all(&path)?;
    if secret {
        // Secrets never touch a disk.
        mount::tmpfs(&path, 0)?;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    let version = now.as_nanosecond().to_string();
    if atomic::write(&path, &files, &version)?
        && let Some(group) = group
    {
        ownership::apply(&path, group, true)?;
    }
    Ok(path)
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> Result<(), Cause> {
    let existed = path.exists();
    fs::create_dir_all(path)?;
    if source.medium.as_deref() == Some("Memory") {
        let limit = source
            .size_limit
            .as_ref()
            .and_then(|q| resources::value(&q.0))
            .unwrap_or(0);
        mount::tmpfs(path, u64::try_from(limit).unwrap_or(0))?;
    }
    if !existed {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
        if let Some(group) = group {
            ownership::apply(path, group, false)?;
        }
    }
    Ok(())
}

fn kind_of(volume: &Volume) -> &'static str {
    if volume.persistent_volume_claim.is_some() {
        "persistentVolumeClaim"
    } else if volume.nfs.is_some() {
        "nfs"
    } else if volume.csi.is_some() {
        "csi"
    } else if volume.ephemeral.is_some() {
        "ephemeral"
    } else {
        "of this kind"
    }
}

/// Takes the volumes of a pod that runs no more away; its containers' termination messages stay.
pub fn tear_down(root: &Path, uid: &str) -> io::Result<()> {
    let dir = pod_dir(root, uid);
    if !dir.exists() {
        return Ok(());
    }
    mount::unmount_below(&dir)?;
    for part in ["volumes", "volume-subpaths"] {
        match fs::remove_dir_all(dir.join(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Removes everything of the pod below the root directory. Deleting nothing is fine.
pub fn remove(root: &Path, uid: &str) -> io::Result<()> {
    let dir = pod_dir(root, uid);
    if !dir.exists() {
        return Ok(());
    }
    mount::unmount_below(&dir)?;
    fs::remove_dir_all(&dir)
}

/// Uids that have a directory below the root.
pub fn existing(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root.join("pods")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
