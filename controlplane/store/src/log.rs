//! The handle to the Log: open, propose, the stream of events, status.
//!
//! The state belongs to one thread (`owner`); handles are cheap clones that send it messages.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::Revision;
use crate::batch::Batch;
use crate::disk::{Disk, Faults};
use crate::error::{OpenError, ProposeError};
use crate::owner::{Message, Owner};
use crate::recover;

/// Proposals waiting for an answer; further callers wait before theirs is taken.
const MAX_PROPOSALS: usize = 16_384;
/// Writes whose events the consumer of [`Commits`] has not taken; then the Log waits for it.
const MAX_UNREAD_WRITES: usize = 1024;

/// How a Log is kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of the files; made when absent. Used by one process at a time.
    pub dir: PathBuf,
    /// Size of a segment in bytes. A batch larger than that gets a segment of its own.
    pub segment_bytes: u64,
    /// Bytes of full segments after which the oldest are replaced by a snapshot.
    pub snapshot_bytes: u64,
    /// History is dropped when it is between one and two times this old.
    pub compact_every: Duration,
    /// How long a relaxed batch may stay unwritten.
    pub flush_every: Duration,
    /// Faults for tests.
    pub faults: Arc<Faults>,
}

impl Config {
    /// The usual configuration in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 16 << 20,
            snapshot_bytes: 64 << 20,
            compact_every: Duration::from_secs(290),
            flush_every: Duration::from_millis(200),
            faults: Arc::default(),
        }
    }
}

/// What a batch did to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: Bytes,
    /// The new value; none: the key was removed.
    pub value: Option<Bytes>,
    /// Revision of the version that was replaced or removed; none: the key did not exist.
    pub previous: Option<Revision>,
}

/// An accepted batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub revision: Revision,
    pub changes: Vec<Change>,
}

/// What the consumer of the stream sees, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A batch was accepted (and is durable, unless relaxed).
    Commit(Commit),
    /// History up to and including this revision may be forgotten: a watch that wants to start
    /// before it gets 410. The newest version of each key stays.
    Compacted(Revision),
}

/// What [`Log::open`] hands to its consumer before the stream begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// A live key as of [`Opened::compacted`]. All of these come first, in key order.
    Record {
        key: Bytes,
        value: Bytes,
        revision: Revision,
    },
    /// A batch accepted after that, in order.
    Commit(Commit),
}

/// A Log that was opened.
#[derive(Debug)]
pub struct Opened {
    pub log: Log,
    /// Every event from here on.
    pub commits: Commits,
    /// The newest revision; at least 1, also of an empty store.
    pub revision: Revision,
    /// Watches can resume after this revision: the replayed commits are complete from here.
    pub compacted: Revision,
    /// After an unclean stop: revisions greater than the first and up to the second number may
    /// have been seen by somebody and are lost. A watch that resumes inside gets 410.
    pub gap: Option<(Revision, Revision)>,
}

/// The ordered stream of events. Has one consumer; without one (dropped) events are discarded.
#[derive(Debug)]
pub struct Commits {
    receiver: mpsc::Receiver<Vec<Event>>,
}

impl Commits {
    /// The events of the next write (one or more), or none after the Log was closed.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        self.receiver.recv().await
    }

    /// What is there already, without waiting.
    pub fn try_next(&mut self) -> Option<Vec<Event>> {
        self.receiver.try_recv().ok()
    }
}

/// Figures of a running Log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Newest published revision.
    pub revision: Revision,
    /// Newest compacted revision.
    pub compacted: Revision,
    /// Segments and snapshot, in bytes of their files.
    pub file_bytes: u64,
    /// Syncs since the start.
    pub syncs: u64,
    /// Why writes are refused.
    pub read_only: Option<String>,
}

/// Figures shared between the owner and the handles.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub revision: AtomicU64,
    pub compacted: AtomicU64,
    pub file_bytes: AtomicU64,
    pub syncs: AtomicU64,
    pub read_only: OnceLock<String>,
}

/// A handle to the Log. The last one to go closes it.
#[derive(Debug, Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    owner: Sender<Message>,
    proposals: Semaphore,
    figures: Arc<Figures>,
}

// === impl Log ===

impl Log {
    /// Opens the store in `config.dir`, hands what it holds to `sink`, and starts its threads.
    /// Blocks; call it before the runtime serves anything.
    ///
    /// # Errors
    /// [`OpenError`]: the directory is in use, cannot be read or written, or is damaged in a place
    /// that was durable.
    pub fn open(config: Config, sink: impl FnMut(Replayed)) -> Result<Opened, OpenError> {
        let disk = Disk::new(config.faults.clone());
        let recovered = recover::recover(&config, &disk, sink)?;
        let figures = Arc::new(Figures::default());
        let (events, receiver) = mpsc::channel(MAX_UNREAD_WRITES);
        let (sender, inbox) = channel();
        let revision = recovered.revision;
        let compacted = recovered.compacted;
        let gap = recovered.gap;
        let dir = config.dir.clone();
        let thread_error = |source| OpenError::io("start a thread for", &dir, source);
        let owner = Owner::new(
            config,
            disk,
            recovered,
            figures.clone(),
            events,
            sender.clone(),
        )
        .map_err(thread_error)?;
        thread::Builder::new()
            .name("store-log".into())
            .spawn(move || owner.run(&inbox))
            .map_err(thread_error)?;
        let shared = Shared {
            owner: sender,
            proposals: Semaphore::new(MAX_PROPOSALS),
            figures,
        };
        Ok(Opened {
            log: Self {
                shared: Arc::new(shared),
            },
            commits: Commits { receiver },
            revision,
            compacted,
            gap,
        })
    }

    /// Applies the batch if all its conditions hold. When this returns, the commit (or, for a
    /// conflict, the commit that caused it) is in the stream of [`Commits`].
    ///
    /// Dropping the future does not withdraw the batch.
    ///
    /// # Errors
    /// [`ProposeError`]; except for `ReadOnly`, nothing was changed.
    pub async fn propose(&self, batch: Batch) -> Result<Revision, ProposeError> {
        batch.validate()?;
        let _slot = self
            .shared
            .proposals
            .acquire()
            .await
            .map_err(|_| ProposeError::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.shared
            .owner
            .send(Message::Propose { batch, reply })
            .map_err(|_| ProposeError::Closed)?;
        answer.await.map_err(|_| ProposeError::Closed)?
    }

    /// [`Log::propose`] for code outside of a runtime. Panics inside an async context.
    ///
    /// # Errors
    /// As [`Log::propose`].
    pub fn blocking_propose(&self, batch: Batch) -> Result<Revision, ProposeError> {
        batch.validate()?;
        let (reply, answer) = oneshot::channel();
        self.shared
            .owner
            .send(Message::Propose { batch, reply })
            .map_err(|_| ProposeError::Closed)?;
        answer.blocking_recv().map_err(|_| ProposeError::Closed)?
    }

    /// Newest published revision: a reader that has seen it has seen everything acknowledged.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared.figures.revision.load(Ordering::Acquire)
    }

    /// Drops history up to `revision` now, as the timer does (see [`Event::Compacted`]).
    pub fn compact(&self, revision: Revision) {
        // A closed Log has no history to drop.
        let _ = self.shared.owner.send(Message::Compact(revision));
    }

    /// Figures for metrics and health checks.
    #[must_use]
    pub fn status(&self) -> Status {
        let figures = &self.shared.figures;
        Status {
            revision: self.revision(),
            compacted: figures.compacted.load(Ordering::Acquire),
            file_bytes: figures.file_bytes.load(Ordering::Relaxed),
            syncs: figures.syncs.load(Ordering::Relaxed),
            read_only: figures.read_only.get().cloned(),
        }
    }

    /// Writes what is pending, marks a clean stop and ends the threads. Later proposals get
    /// [`ProposeError::Closed`].
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.shared.owner.send(Message::Close(Some(reply))).is_ok() {
            // The owner is gone either way.
            let _ = done.await;
        }
    }

    /// [`Log::close`] for code outside of a runtime. Panics inside an async context.
    pub fn blocking_close(&self) {
        let (reply, done) = oneshot::channel();
        if self.shared.owner.send(Message::Close(Some(reply))).is_ok() {
            let _ = done.blocking_recv();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Fails only if the owner has ended already.
        let _ = self.owner.send(Message::Close(None));
    }
}
