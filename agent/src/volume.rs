//! Volumes of pods on the node: made before the containers, kept up to date, taken away after them.
//! Input: a pod and what it refers to; output: host paths for the runtime's mounts. Layout below the
//! root directory as upstream: `pods/UID/volumes/kubernetes.io~KIND/NAME`. It knows no container runtime.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use k8s_openapi::jiff::Timestamp;
use kube::Client;

use crate::events::Recorder;
use crate::pod::downward::Facts;
use crate::pod::objects::Objects;
use crate::pod::resources;
use crate::pod::spec;

pub mod atomic;
pub mod certificate;
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
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
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
    /// How long certificates that are not issued yet are waited for.
    pub patience: Duration,
}

/// What a pod's volumes hold of its own: kept between two looks at them.
pub struct Credentials {
    tokens: token::Tokens,
    certificates: certificate::Certificates,
}

impl Credentials {
    pub fn new(client: &Client, recorder: &Recorder, node: &str) -> Self {
        let (client, recorder) = (client.clone(), recorder.clone());
        Self {
            tokens: token::Tokens::new(client.clone()),
            certificates: certificate::Certificates::new(client, recorder, node),
        }
    }

    /// When the first of them has to be replaced.
    pub fn refresh_at(&self) -> Option<Timestamp> {
        let both = [self.tokens.refresh_at(), self.certificates.refresh_at()];
        both.into_iter().flatten().min()
    }

    /// Resolves when one that was asked for is there, or will never be.
    pub async fn changed(&mut self) {
        self.certificates.changed().await;
    }
}

/// What the credentials of a pod are right now.
struct Current {
    tokens: BTreeMap<payload::TokenKey, String>,
    certificates: BTreeMap<payload::CertificateKey, certificate::state::Bundle>,
}

/// `ROOT/pods/UID`.
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

/// Makes every volume of the pod ready, or brings it up to date, on past one that fails; the error is
/// that of the first one. Idempotent. Those of images are the container runtime's and have no path.
pub async fn prepare(input: Input<'_>, credentials: &mut Credentials) -> Result<Paths, Error> {
    let pod = input.pod;
    let Credentials {
        tokens,
        certificates,
    } = credentials;
    let tokens = tokens.ensure(pod, input.now).await.map_err(|error| Error {
        volume: "kube-api-access".to_owned(),
        source: Cause::Token(Box::new(error)),
    })?;
    let (certificates, mut waiting) = certificates.ensure(pod, input.now, input.patience).await;
    let current = Current {
        tokens,
        certificates,
    };
    let mut paths = Paths::new();
    let mut failed = None;
    let volumes = spec::spec(pod).volumes.iter().flatten();
    for volume in volumes.filter(|volume| volume.image.is_none()) {
        let prepared = match waiting.remove(&volume.name) {
            Some(error) => Err(Cause::Certificate(error)),
            None => prepare_one(input, &current, volume),
        };
        match prepared {
            Ok(path) => {
                paths.insert(volume.name.clone(), path);
            }
            Err(source) => {
                let volume = volume.name.clone();
                failed.get_or_insert(Error { volume, source });
            }
        }
    }
    failed.map_or(Ok(paths), Err)
}

fn prepare_one(input: Input<'_>, current: &Current, volume: &Volume) -> Result<PathBuf, Cause> {
    let Input {
        root,
        pod,
        facts,
        objects,
        allocatable,
        now,
        patience: _,
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
        tokens: &current.tokens,
        certificates: &current.certificates,
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
