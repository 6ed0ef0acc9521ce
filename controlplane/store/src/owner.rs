//! The one owner of the Log's state: checks proposals, orders them, publishes what is durable.
//!
//! ```text
//! propose → admit: check against visible + pending, number, encode ─→ assembly
//!                                   assembly ─(idle)→ syncer: write + fdatasync ─→ publish, answer
//! ```
//! While one write is synced the next is assembled. A conflict with something pending is answered
//! only when that something is published, so nobody learns of a revision that may yet be lost.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::Revision;
use crate::batch::{Action, Batch, Durability, Expect};
use crate::disk::{Disk, is_full};
use crate::error::ProposeError;
use crate::expiry::Expiries;
use crate::log::{Change, Commit, Config, Event, Figures};
use crate::record::{self, Record};
use crate::recover::{Recovered, Sealed};
use crate::segment::{FILE_HEADER_BYTES, FileHeader, Segment};
use crate::snapshot::SnapshotMade;
use crate::syncer::{self, Write};

mod upkeep;

use upkeep::EXPIRY_EVERY;

/// Revisions that may be acknowledged before they are durable. After an unclean stop revisions go
/// on this far above the last durable one.
pub const MAX_UNFLUSHED: u64 = 4096;
/// Bytes assembled for one write; more waits for the next.
const MAX_WRITE_BYTES: usize = 4 << 20;
/// Relaxed bytes that are written without waiting for the timer.
const FLUSH_BYTES: usize = 1 << 20;
/// Zeros written ahead of the records.
const ZERO_AHEAD_BYTES: u64 = 256 << 10;
/// Messages taken before the state is looked at again.
const MAX_DRAIN: usize = 1024;

/// What the owner is told.
#[derive(Debug)]
pub enum Message {
    Propose { batch: Batch, reply: Reply },
    Written(io::Result<()>),
    Snapshotted(io::Result<SnapshotMade>),
    Compact(Revision),
    Close(Option<oneshot::Sender<()>>),
}

type Reply = oneshot::Sender<Result<Revision, ProposeError>>;

/// State of a key: its revision and expiry (0 = never). Its value is in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub revision: Revision,
    pub expires: u32,
}

/// A batch (or a late conflict) waiting to be published.
#[derive(Debug)]
struct Entry {
    commit: Option<Commit>,
    reply: Option<(Reply, Result<Revision, ProposeError>)>,
    /// The write that has to be durable before; 0 = none.
    write: u64,
}

/// The write being assembled.
#[derive(Debug)]
struct Assembly {
    number: u64,
    bytes: Vec<u8>,
    /// Something in it waits for the sync.
    urgent: bool,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    number: u64,
    last_revision: Revision,
}

/// See the module.
#[derive(Debug)]
pub struct Owner {
    config: Config,
    disk: Disk,
    /// Keeps the directory ours.
    _lock: File,
    store_id: u32,
    heads: HashMap<Bytes, Head>,
    expiries: Expiries,
    /// Newest revision given out.
    revision: Revision,
    durable_revision: Revision,
    compacted: Revision,
    /// What will be compacted at the next tick of the timer.
    compact_mark: Revision,
    segment: Segment,
    sealed: Vec<Sealed>,
    snapshot: Option<(u64, u64)>,
    snapshotting: bool,
    chain: u32,
    assembly: Assembly,
    in_flight: Option<InFlight>,
    entries: VecDeque<Entry>,
    held: VecDeque<(Batch, Option<Reply>)>,
    flush_at: Option<Instant>,
    compact_at: Instant,
    expire_at: Instant,
    closing: Option<Vec<oneshot::Sender<()>>>,
    writes: SyncSender<Write>,
    to_self: Sender<Message>,
    events: mpsc::Sender<Vec<Event>>,
    figures: Arc<Figures>,
}

// === impl Owner ===

impl Owner {
    pub fn new(
        config: Config,
        disk: Disk,
        recovered: Recovered,
        figures: Arc<Figures>,
        events: mpsc::Sender<Vec<Event>>,
        to_self: Sender<Message>,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let writes = syncer::start(disk.clone(), to_self.clone())?;
        figures
            .revision
            .store(recovered.revision, Ordering::Release);
        figures
            .compacted
            .store(recovered.compacted, Ordering::Release);
        let owner = Self {
            _lock: recovered.lock,
            store_id: recovered.store_id,
            heads: recovered.heads,
            expiries: recovered.expiries,
            revision: recovered.revision,
            durable_revision: recovered.revision,
            compacted: recovered.compacted,
            compact_mark: recovered.revision,
            segment: recovered.segment,
            sealed: recovered.sealed,
            snapshot: recovered.snapshot,
            snapshotting: false,
            chain: recovered.chain,
            assembly: Assembly {
                number: 1,
                bytes: Vec::new(),
                urgent: false,
            },
            in_flight: None,
            entries: VecDeque::new(),
            held: VecDeque::new(),
            flush_at: None,
            compact_at: now + config.compact_every,
            expire_at: now + EXPIRY_EVERY,
            closing: None,
            writes,
            to_self,
            events,
            figures,
            config,
            disk,
        };
        owner.count_files();
        Ok(owner)
    }

    /// Runs until the Log is closed.
    pub fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            match inbox.recv_timeout(self.patience()) {
                Ok(message) => self.handle(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for _ in 0..MAX_DRAIN {
                match inbox.try_recv() {
                    Ok(message) => self.handle(message),
                    Err(_) => break,
                }
            }
            self.tick(Instant::now());
            self.admit_held();
            self.dispatch();
            if self.closing.is_some() && self.is_idle() {
                return self.finish();
            }
        }
    }

    fn patience(&self) -> Duration {
        let mut next = self.compact_at.min(self.expire_at);
        if let Some(flush_at) = self.flush_at {
            next = next.min(flush_at);
        }
        next.saturating_duration_since(Instant::now())
    }

    fn is_idle(&self) -> bool {
        let nothing_to_write = self.assembly.bytes.is_empty() || self.read_only().is_some();
        self.in_flight.is_none() && nothing_to_write && self.held.is_empty() && !self.snapshotting
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Propose { batch, reply } => {
                if self.closing.is_some() {
                    answer(Some(reply), Err(ProposeError::Closed));
                } else if self.held.is_empty() && self.fits(&batch) {
                    self.admit(batch, Some(reply));
                } else {
                    self.held.push_back((batch, Some(reply)));
                }
            }
            Message::Written(result) => self.written(result),
            Message::Snapshotted(result) => self.snapshotted(result),
            Message::Compact(revision) => self.compact(revision.min(self.published())),
            Message::Close(reply) => self.closing.get_or_insert_default().extend(reply),
        }
    }

    // --- admission ---

    /// Whether the batch can join the write being assembled (or start one).
    fn fits(&self, batch: &Batch) -> bool {
        let bytes = self.assembly.bytes.len();
        if bytes == 0 {
            return true;
        }
        let total = bytes + batch.encoded_bytes();
        total <= MAX_WRITE_BYTES && total as u64 <= self.segment.room()
    }

    fn admit_held(&mut self) {
        while let Some((batch, _)) = self.held.front() {
            if !self.fits(batch) {
                return;
            }
            if let Some((batch, reply)) = self.held.pop_front() {
                self.admit(batch, reply);
            }
        }
    }

    fn admit(&mut self, batch: Batch, reply: Option<Reply>) {
        if let Some(reason) = self.read_only() {
            let reason = reason.to_owned();
            return answer(reply, Err(ProposeError::ReadOnly { reason }));
        }
        if let Err(conflict) = self.check(&batch) {
            self.entries.push_back(Entry {
                commit: None,
                reply: reply.map(|reply| (reply, Err(conflict))),
                write: 0,
            });
            return self.publish();
        }
        if let Err(error) = self.make_room(batch.encoded_bytes()) {
            return answer(reply, Err(error));
        }
        let relaxed = batch.durability == Durability::Relaxed
            && self.revision + 1 - self.durable_revision <= MAX_UNFLUSHED;
        let commit = self.apply(batch);
        let revision = commit.revision;
        if relaxed {
            self.flush_at
                .get_or_insert_with(|| Instant::now() + self.config.flush_every);
        } else {
            self.assembly.urgent = true;
        }
        self.entries.push_back(Entry {
            commit: Some(commit),
            reply: reply.map(|reply| (reply, Ok(revision))),
            write: if relaxed { 0 } else { self.assembly.number },
        });
        if relaxed {
            self.publish();
        }
    }

    fn check(&self, batch: &Batch) -> Result<(), ProposeError> {
        for (index, op) in batch.ops.iter().enumerate() {
            let current = self.heads.get(&op.key).map(|head| head.revision);
            let holds = match (op.expect, current) {
                (Expect::Any, None) => op.action != Action::Delete,
                (Expect::Any, Some(_)) | (Expect::Absent, None) => true,
                (Expect::Absent, Some(_)) | (Expect::At(_), None) => false,
                (Expect::At(expected), Some(current)) => expected == current,
            };
            if !holds {
                return Err(ProposeError::Conflict { index, current });
            }
        }
        Ok(())
    }

    /// Numbers and encodes a batch whose conditions hold and for which there is room.
    fn apply(&mut self, batch: Batch) -> Commit {
        self.revision += 1;
        let revision = self.revision;
        let changing = |op: &&crate::batch::Op| op.action != Action::Check;
        let last = batch.ops.iter().filter(changing).count() - 1;
        let mut changes = Vec::with_capacity(last + 1);
        let ops = batch.ops.into_iter().filter(|op| changing(&op));
        for (index, op) in ops.enumerate() {
            let (value, expires) = match op.action {
                Action::Put { value, expires } => (Some(value), expires.unwrap_or(0)),
                Action::Delete | Action::Check => (None, 0),
            };
            let mut flags = if index < last { record::MORE } else { 0 };
            if value.is_none() {
                flags |= record::DELETE;
            }
            if self.assembly.bytes.is_empty() {
                flags |= record::WRITE_START;
            }
            let record = Record {
                rev: revision,
                flags,
                expires,
                key: &op.key,
                value: value.as_deref().unwrap_or_default(),
            };
            let bytes = &mut self.assembly.bytes;
            self.chain = record::encode(bytes, self.store_id, self.chain, &record);
            let previous = self.change_head(&op.key, value.is_some(), revision, expires);
            changes.push(Change {
                key: op.key,
                value,
                previous,
            });
        }
        Commit { revision, changes }
    }

    fn change_head(
        &mut self,
        key: &Bytes,
        exists: bool,
        revision: Revision,
        expires: u32,
    ) -> Option<Revision> {
        let old = if exists {
            let head = Head { revision, expires };
            self.heads.insert(key.clone(), head)
        } else {
            self.heads.remove(key)
        };
        let old_expires = old.map_or(0, |head| head.expires);
        self.expiries.change(key, old_expires, expires);
        old.map(|head| head.revision)
    }

    /// Starts another segment when `bytes` do not fit in this one. Only called with room in the
    /// assembly or with an empty one, so a write never spans two files.
    fn make_room(&mut self, bytes: usize) -> Result<(), ProposeError> {
        let needed = (self.assembly.bytes.len() + bytes) as u64;
        if needed <= self.segment.room() {
            return Ok(());
        }
        let header = FileHeader {
            store_id: self.store_id,
            seq: self.segment.seq + 1,
            chain: self.chain,
            revision: self.revision,
        };
        let capacity = self
            .config
            .segment_bytes
            .max(bytes as u64 + FILE_HEADER_BYTES as u64);
        match Segment::create(&self.disk, &self.config.dir, header, capacity) {
            Ok(segment) => {
                let full = std::mem::replace(&mut self.segment, segment);
                self.sealed.push(Sealed {
                    seq: full.seq,
                    last_revision: self.revision,
                    bytes: full.capacity,
                });
                self.count_files();
                Ok(())
            }
            Err(error) if is_full(&error) => Err(ProposeError::NoSpace),
            Err(error) => {
                self.fail("create a log segment", &error);
                Err(ProposeError::ReadOnly {
                    reason: self.read_only().unwrap_or_default().to_owned(),
                })
            }
        }
    }

    // --- writing and publishing ---

    fn dispatch(&mut self) {
        let bytes = self.assembly.bytes.len();
        if self.in_flight.is_some() || bytes == 0 || self.read_only().is_some() {
            return;
        }
        let due = self.flush_at.is_some_and(|at| at <= Instant::now());
        let many = self.revision - self.durable_revision >= MAX_UNFLUSHED / 2;
        let urgent = self.assembly.urgent || !self.held.is_empty() || self.closing.is_some();
        if !(urgent || due || many || bytes >= FLUSH_BYTES) {
            return;
        }
        let number = self.assembly.number;
        let next = Assembly {
            number: number + 1,
            bytes: Vec::new(),
            urgent: false,
        };
        let full = std::mem::replace(&mut self.assembly, next);
        let mut write = Write {
            file: self.segment.file.clone(),
            offset: self.segment.offset,
            bytes: full.bytes,
        };
        self.segment.offset += bytes as u64;
        self.zero_ahead(&mut write.bytes);
        self.flush_at = None;
        self.in_flight = Some(InFlight {
            number,
            last_revision: self.revision,
        });
        if self.writes.send(write).is_err() {
            let gone = io::Error::other("the sync thread is gone");
            self.written(Err(gone));
        }
    }

    /// Appends zeros to a write that leaves the zeroed part of the segment. Reserved space that was
    /// never written costs a change of metadata in every sync; so it is paid once per stretch.
    fn zero_ahead(&mut self, bytes: &mut Vec<u8>) {
        let segment = &mut self.segment;
        if segment.offset > segment.zeroed && segment.offset < segment.capacity {
            let ahead = ZERO_AHEAD_BYTES.min(segment.capacity - segment.offset);
            segment.zeroed = segment.offset + ahead;
            bytes.resize(bytes.len() + usize::try_from(ahead).unwrap_or_default(), 0);
        }
    }

    fn written(&mut self, result: io::Result<()>) {
        let Some(done) = self.in_flight.take() else {
            return;
        };
        self.figures.syncs.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = result {
            return self.fail("write to the log", &error);
        }
        self.durable_revision = done.last_revision;
        for entry in &mut self.entries {
            if entry.write > done.number {
                break;
            }
            entry.write = 0;
        }
        self.publish();
        self.admit_held();
        self.dispatch();
    }

    /// Publishes, in order, whatever waits for nothing any more.
    fn publish(&mut self) {
        let mut events = Vec::new();
        let mut replies = Vec::new();
        while self.entries.front().is_some_and(|entry| entry.write == 0) {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            if let Some(commit) = entry.commit {
                self.figures
                    .revision
                    .store(commit.revision, Ordering::Release);
                events.push(Event::Commit(commit));
            }
            replies.extend(entry.reply);
        }
        self.send(events);
        for (reply, result) in replies {
            answer(Some(reply), result);
        }
    }

    fn send(&self, events: Vec<Event>) {
        if !events.is_empty() {
            // Without a consumer nobody misses them.
            let _ = self.events.blocking_send(events);
        }
    }

    fn published(&self) -> Revision {
        self.figures.revision.load(Ordering::Acquire)
    }

    fn read_only(&self) -> Option<&str> {
        self.figures.read_only.get().map(String::as_str)
    }

    /// Refuses writes from now on. The page cache may hold what the disk does not, so neither the
    /// write nor the sync is tried again.
    fn fail(&mut self, action: &str, error: &io::Error) {
        let reason = format!("{action}: {error}");
        tracing::error!(dir = %self.config.dir.display(), reason, "store is read-only");
        // Only the first failure is kept.
        let _ = self.figures.read_only.set(reason.clone());
        let held = std::mem::take(&mut self.held);
        let waiting = std::mem::take(&mut self.entries);
        let replies = waiting
            .into_iter()
            .filter_map(|entry| entry.reply.map(|(reply, _)| reply))
            .chain(held.into_iter().filter_map(|(_, reply)| reply));
        for reply in replies {
            let reason = reason.clone();
            answer(Some(reply), Err(ProposeError::ReadOnly { reason }));
        }
    }

    /// Marks the clean stop. Without the mark the next start only skips some revisions.
    fn finish(mut self) {
        if self.read_only().is_none() && self.make_room(record::encoded_len(0, 0)).is_ok() {
            let mut bytes = Vec::new();
            let record = Record {
                rev: self.revision,
                flags: record::CLOSE | record::WRITE_START,
                expires: 0,
                key: &[],
                value: &[],
            };
            record::encode(&mut bytes, self.store_id, self.chain, &record);
            let (file, offset) = (&self.segment.file, self.segment.offset);
            if let Err(error) = self.disk.write_synced(file, offset, &bytes) {
                tracing::warn!(%error, "cannot mark the clean stop of the store");
            }
        }
        let closing = self.closing.take().unwrap_or_default();
        // Whoever is told may open the directory again.
        drop(self);
        for done in closing {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }
}

fn answer(reply: Option<Reply>, result: Result<Revision, ProposeError>) {
    if let Some(reply) = reply {
        // A caller that gave up does not withdraw its batch.
        let _ = reply.send(result);
    }
}
