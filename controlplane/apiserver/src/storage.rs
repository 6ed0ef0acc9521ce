//! The way to the Log and back: keys, sealing of secrets at rest, and the task that makes commits
//! visible in the Cache.
//!
//! Input: batches of object writes ([`Write`]). Output: a revision, given only once the Cache shows
//! it, so that every caller reads its own writes. Knows neither verbs nor identities.

pub mod seal;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use store::{Batch, Commit, Event, Expect, Log, ProposeError, Replayed};

use crate::{
    cache::{Cache, Key, Object},
    catalog::{Catalog, ResourceId},
};
use seal::{SealError, Sealer};

/// Largest object the store takes, in bytes of canonical JSON (upstream: etcd's 1.5 MiB request).
pub const MAX_OBJECT_BYTES: usize = 3 << 19;

/// One object of an atomic write.
#[derive(Clone, Debug)]
pub struct Write {
    pub resource: ResourceId,
    pub key: Key,
    pub change: WriteChange,
    /// The revision of the version that was read; none: the object must not exist.
    pub expect: Option<u64>,
}

/// What a write does to its object.
#[derive(Clone, Debug)]
pub enum WriteChange {
    /// New canonical bytes, and the seconds since the Unix epoch after which the object goes by
    /// itself.
    Put {
        bytes: Bytes,
        expires: Option<u32>,
    },
    Remove,
    /// Nothing; the others are made only if it is still what was read.
    Check,
}

/// Why a write was not made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The object of `writes[index]` was changed meanwhile.
    #[error("write {index} met another version")]
    Conflict { index: usize },
    #[error("store refused the write")]
    Store(#[from] ProposeError),
    #[error("seal an object")]
    Seal(#[from] SealError),
}

/// Why the storage could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("open the store")]
    Store(#[from] store::OpenError),
    #[error("read the encryption key")]
    Seal(#[from] SealError),
    #[error("stored object {key} is unreadable")]
    Object { key: String },
}

/// Log and Cache together; cheap to clone.
#[derive(Clone)]
pub struct Storage {
    log: Log,
    cache: Cache,
    sealer: Arc<Sealer>,
}

// === impl Storage ===

impl Storage {
    /// Opens `dir`, fills the cache and starts the task that follows the log. Blocks while it reads.
    pub fn open(dir: &Path, history: Duration) -> Result<Self, OpenError> {
        let sealer = Arc::new(Sealer::open(&dir.join("encryption.key"))?);
        let cache = Cache::new();
        let mut config = store::Config::new(dir.join("log"));
        config.compact_every = history;
        let mut failure = None;
        let opened = Log::open(config, |replayed| {
            if failure.is_none() {
                failure = replay(&cache, &sealer, replayed).err();
            }
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        cache.recovered(opened.revision, opened.compacted, opened.gap);
        let mut commits = opened.commits;
        let (target, unsealer) = (cache.clone(), sealer.clone());
        tokio::spawn(async move {
            while let Some(events) = commits.next().await {
                for event in events {
                    follow(&target, &unsealer, event);
                }
            }
        });
        Ok(Self {
            log: opened.log,
            cache,
            sealer,
        })
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Makes all writes or none; returns when they are durable and visible.
    pub async fn commit(&self, writes: &[Write]) -> Result<u64, CommitError> {
        let mut batch = Batch::new();
        for write in writes {
            batch = self.add(batch, write)?;
        }
        let relaxed = |w: &Write| is_relaxed(w.resource) || matches!(w.change, WriteChange::Check);
        if writes.iter().all(relaxed) {
            batch = batch.relaxed();
        }
        match self.log.propose(batch).await {
            Ok(revision) => {
                self.cache.wait_committed(revision).await;
                Ok(revision)
            }
            Err(ProposeError::Conflict { index, current }) => {
                if let Some(revision) = current {
                    self.cache.wait_committed(revision).await;
                }
                Err(CommitError::Conflict { index })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn add(&self, batch: Batch, write: &Write) -> Result<Batch, SealError> {
        let key = Bytes::from(log_key(write.resource, &write.key));
        let expect = write.expect.map_or(Expect::Absent, Expect::At);
        let action = match &write.change {
            WriteChange::Check => store::Action::Check,
            WriteChange::Remove => store::Action::Delete,
            WriteChange::Put { bytes, expires } => {
                let value = if is_sealed(write.resource) {
                    self.sealer.seal(&key, bytes)?
                } else {
                    bytes.clone()
                };
                store::Action::Put {
                    value,
                    expires: *expires,
                }
            }
        };
        Ok(batch.op(key, action, expect))
    }
}

/// `group/plural/namespace/name`, `core` for the group without a name.
fn log_key(resource: ResourceId, key: &str) -> String {
    let (group, plural) = Catalog::get().name(resource);
    let group = if group.is_empty() { "core" } else { group };
    format!("{group}/{plural}/{key}")
}

fn parse_log_key(key: &[u8]) -> Option<(ResourceId, Key)> {
    let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '/');
    let group = parts.next().map(|g| if g == "core" { "" } else { g })?;
    let resource = Catalog::get().id(group, parts.next()?)?;
    Some((resource, parts.next()?.into()))
}

/// Encrypted on the disk.
fn is_sealed(resource: ResourceId) -> bool {
    resource == ResourceId::named("", "secrets")
}

/// Acknowledged before it is on the disk: losing the last moments of these costs nothing.
fn is_relaxed(resource: ResourceId) -> bool {
    resource == ResourceId::named("", "events")
        || resource == ResourceId::named("coordination.k8s.io", "leases")
}

fn restore(
    sealer: &Sealer,
    key: &Bytes,
    value: Bytes,
    revision: u64,
) -> Option<(ResourceId, Object)> {
    let (resource, object_key) = parse_log_key(key)?;
    let bytes = if is_sealed(resource) {
        sealer.open_value(key, &value).ok()?
    } else {
        value
    };
    let is_pod = resource == ResourceId::named("", "pods");
    Some((resource, Object::new(object_key, bytes, revision, is_pod)?))
}

fn replay(cache: &Cache, sealer: &Sealer, replayed: Replayed) -> Result<(), OpenError> {
    match replayed {
        Replayed::Record {
            key,
            value,
            revision,
        } => {
            let (resource, object) =
                restore(sealer, &key, value, revision).ok_or_else(|| OpenError::Object {
                    key: String::from_utf8_lossy(&key).into(),
                })?;
            cache.load(resource, object.key.clone(), object);
            Ok(())
        }
        Replayed::Commit(commit) => publish(cache, sealer, commit),
    }
}

fn publish(cache: &Cache, sealer: &Sealer, commit: Commit) -> Result<(), OpenError> {
    let mut changes = Vec::with_capacity(commit.changes.len());
    for change in commit.changes {
        let bad = || OpenError::Object {
            key: String::from_utf8_lossy(&change.key).into(),
        };
        match change.value {
            Some(value) => {
                let (resource, object) =
                    restore(sealer, &change.key, value, commit.revision).ok_or_else(bad)?;
                changes.push((resource, object.key.clone(), Some(object)));
            }
            None => {
                let (resource, key) = parse_log_key(&change.key).ok_or_else(bad)?;
                changes.push((resource, key, None));
            }
        }
    }
    cache.apply(commit.revision, changes);
    Ok(())
}

fn follow(cache: &Cache, sealer: &Sealer, event: Event) {
    match event {
        Event::Commit(commit) => {
            let revision = commit.revision;
            if let Err(error) = publish(cache, sealer, commit) {
                // What this process wrote it can read; reaching this is a bug, not a bad disk.
                tracing::error!(%error, revision, "a commit cannot be shown");
                cache.apply(revision, Vec::new());
            }
        }
        Event::Compacted(revision) => cache.compact(revision),
    }
}
