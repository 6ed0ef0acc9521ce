//! What the owner does by the clock: expire keys, drop history, replace old segments by a snapshot.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Message, Owner};
use crate::Revision;
use crate::batch::{Batch, Expect};
use crate::log::Event;
use crate::recover::Sealed;
use crate::snapshot::{self, SnapshotJob, SnapshotMade};

/// How often expiry is looked at.
pub const EXPIRY_EVERY: Duration = Duration::from_secs(1);
/// Keys expired in one batch.
const MAX_EXPIRED: usize = 256;

impl Owner {
    pub(super) fn tick(&mut self, now: Instant) {
        if now >= self.compact_at {
            self.compact_at = now + self.config.compact_every;
            let published = self.published();
            let mark = std::mem::replace(&mut self.compact_mark, published);
            self.compact(mark);
        }
        if now >= self.expire_at {
            self.expire_at = now + EXPIRY_EVERY;
            self.expire();
        }
    }

    fn expire(&mut self) {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        let due = self.expiries.due(seconds, MAX_EXPIRED);
        if due.is_empty() || self.closing.is_some() || !self.held.is_empty() {
            return;
        }
        let batch = due
            .into_iter()
            .fold(Batch::new(), |batch, key| batch.delete(key, Expect::Any))
            .relaxed();
        if self.fits(&batch) {
            self.admit(batch, None);
        }
    }

    pub(super) fn compact(&mut self, revision: Revision) {
        if revision > self.compacted {
            self.compacted = revision;
            self.figures.compacted.store(revision, Ordering::Release);
            self.send(vec![Event::Compacted(revision)]);
        }
        self.start_snapshot();
    }

    /// Replaces the old full segments by a snapshot, in a thread of its own: they no longer change once
    /// they are durable. (Relaxed batches are compacted before; their write may be under way.)
    fn start_snapshot(&mut self) {
        let replaceable = self.compacted.min(self.durable_revision);
        let old = |sealed: &&Sealed| sealed.last_revision <= replaceable;
        let covered: Vec<Sealed> = self.sealed.iter().take_while(old).copied().collect();
        let bytes: u64 = covered.iter().map(|sealed| sealed.bytes).sum();
        let live = self.snapshot.map_or(0, |(_, bytes)| bytes);
        let stuck = self.snapshotting || self.read_only().is_some();
        if stuck || covered.is_empty() || bytes < self.config.snapshot_bytes.max(live) {
            return;
        }
        let job = SnapshotJob {
            dir: PathBuf::clone(&self.config.dir),
            store_id: self.store_id,
            base: self.snapshot.map(|(seq, _)| seq),
            segments: covered.iter().map(|sealed| sealed.seq).collect(),
        };
        let disk = self.disk.clone();
        let to_self = self.to_self.clone();
        let started = thread::Builder::new()
            .name("store-snap".into())
            .spawn(move || {
                // The owner is gone only when the process ends.
                let _ = to_self.send(Message::Snapshotted(snapshot::make(&disk, &job)));
            });
        match started {
            Ok(_) => self.snapshotting = true,
            Err(error) => tracing::warn!(%error, "cannot start the snapshot thread"),
        }
    }

    pub(super) fn snapshotted(&mut self, result: io::Result<SnapshotMade>) {
        self.snapshotting = false;
        match result {
            Ok(made) => {
                self.sealed.retain(|sealed| sealed.seq > made.seq);
                self.snapshot = Some((made.seq, made.bytes));
                self.count_files();
            }
            // The segments are still there; the next tick tries again.
            Err(error) => tracing::warn!(%error, "cannot make a snapshot of the store"),
        }
    }

    pub(super) fn count_files(&self) {
        let sealed: u64 = self.sealed.iter().map(|sealed| sealed.bytes).sum();
        let snapshot = self.snapshot.map_or(0, |(_, bytes)| bytes);
        let total = sealed + snapshot + self.segment.capacity;
        self.figures.file_bytes.store(total, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};

    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::disk::Disk;
    use crate::log::{Config, Figures};
    use crate::recover::recover;

    /// An owner whose messages to itself are handled when the test says so.
    fn owner(config: Config) -> (Owner, Receiver<Message>, mpsc::Receiver<Vec<Event>>) {
        let disk = Disk::new(config.faults.clone());
        let recovered = recover(&config, &disk, |_| {}).unwrap();
        let (events, commits) = mpsc::channel(1024);
        let (to_self, inbox) = channel();
        let figures = Arc::new(Figures::default());
        let owner = Owner::new(config, disk, recovered, figures, events, to_self).unwrap();
        (owner, inbox, commits)
    }

    fn put(owner: &mut Owner, key: usize) {
        let (reply, _) = oneshot::channel();
        let batch = Batch::new().put(key.to_string(), vec![0; 1000], Expect::Any);
        let batch = batch.relaxed();
        owner.handle(Message::Propose { batch, reply });
    }

    /// Relaxed batches are published, and so compacted, before they are written.
    #[test]
    fn a_segment_whose_last_write_is_under_way_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path());
        (config.segment_bytes, config.snapshot_bytes) = (4096, 1);
        let (mut owner, inbox, _commits) = owner(config);
        for key in 0..3 {
            put(&mut owner, key);
        }
        owner.flush_at = Some(Instant::now());
        owner.dispatch();
        assert!(owner.in_flight.is_some());
        put(&mut owner, 3);
        assert_eq!(owner.sealed.len(), 1);
        owner.compact(owner.published());
        assert!(!owner.snapshotting);
        owner.handle(inbox.recv().unwrap());
        owner.compact(owner.published());
        assert!(owner.snapshotting);
        let made = inbox.recv().unwrap();
        assert!(matches!(made, Message::Snapshotted(Ok(_))), "{made:?}");
    }
}
