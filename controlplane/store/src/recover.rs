//! Opening: snapshot, then segments, then the decision what a damaged end means.
//!
//! A write is one `pwrite` followed by a sync, and the next write starts only after it. So a crash
//! can damage the last write only, and every write's first record is marked. If an intact marked
//! record is found behind the damage, the damaged bytes were durable once: that is corruption, and
//! the Log refuses to open rather than to forget acknowledged writes. Otherwise it is a torn tail
//! nobody was told of, and it is cut off.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::Revision;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::expiry::Expiries;
use crate::log::{Change, Commit, Config, Replayed};
use crate::owner::{Head, MAX_UNFLUSHED};
use crate::record::{self, ALIGN, Parsed, Record};
use crate::segment::{FILE_HEADER_BYTES, FileHeader, FileKind, Segment};
use crate::snapshot;

/// A full segment: it no longer changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    pub seq: u64,
    pub last_revision: Revision,
    pub bytes: u64,
}

/// What the files held.
#[derive(Debug)]
pub struct Recovered {
    /// Held as long as the store is open.
    pub lock: File,
    pub store_id: u32,
    pub heads: HashMap<Bytes, Head>,
    pub expiries: Expiries,
    pub revision: Revision,
    pub compacted: Revision,
    pub gap: Option<(Revision, Revision)>,
    pub segment: Segment,
    pub sealed: Vec<Sealed>,
    /// Number and bytes of the snapshot.
    pub snapshot: Option<(u64, u64)>,
    pub chain: u32,
}

/// The numbers of the files in the directory.
#[derive(Debug, Default)]
struct Listing {
    segments: BTreeSet<u64>,
    snapshots: BTreeSet<u64>,
}

/// Where and how reading a segment ended.
enum End {
    /// Zeros from here on.
    Clean(usize),
    /// Something that does not verify, and nothing intact behind it.
    Torn(usize),
}

/// State while reading.
struct Reader<S> {
    sink: S,
    store_id: u32,
    heads: HashMap<Bytes, Head>,
    expiries: Expiries,
    revision: Revision,
    chain: u32,
    closed: bool,
    /// Changes of a batch of which more records follow.
    partial: Vec<(Change, u32)>,
}

/// Reads the store in `config.dir`, or makes an empty one; repairs a torn tail; marks the opening.
pub fn recover(
    config: &Config,
    disk: &Disk,
    sink: impl FnMut(Replayed),
) -> Result<Recovered, OpenError> {
    let dir = &config.dir;
    std::fs::create_dir_all(dir).map_err(|e| OpenError::io("create", dir, e))?;
    let lock = lock(dir)?;
    let listing = list(dir)?;
    let mut reader = Reader {
        sink,
        store_id: 0,
        heads: HashMap::new(),
        expiries: Expiries::default(),
        revision: 0,
        chain: 0,
        closed: true,
        partial: Vec::new(),
    };
    let base = reader.read_snapshot(dir, &listing)?;
    // Behind a snapshot only a close record proves a clean stop: the segment may hold nothing yet.
    reader.closed = base.is_none();
    let compacted = reader.revision.max(1);
    let first = remove_covered(dir, &listing, base)?;
    let mut sealed = Vec::new();
    let active = reader.read_segments(dir, &first, base, &mut sealed)?;
    let mut segment = match active {
        Some((seq, end)) => reopen(disk, dir, seq, &end)?,
        None => create_first(disk, config, &mut reader, base)?,
    };
    let gap = reader.skip_unflushed();
    mark_open(disk, dir, &mut reader, &mut segment)?;
    Ok(Recovered {
        lock,
        store_id: reader.store_id,
        heads: reader.heads,
        expiries: reader.expiries,
        revision: reader.revision,
        compacted,
        gap,
        segment,
        sealed,
        snapshot: base,
        chain: reader.chain,
    })
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| OpenError::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.into() }),
        Err(TryLockError::Error(e)) => Err(OpenError::io("lock", path, e)),
    }
}

/// Lists the files and removes half-made ones.
fn list(dir: &Path) -> Result<Listing, OpenError> {
    let mut listing = Listing::default();
    let io = |e| OpenError::io("list", dir, e);
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(seq) = FileKind::Segment.parse_name(name) {
            listing.segments.insert(seq);
        } else if let Some(seq) = FileKind::Snapshot.parse_name(name) {
            listing.snapshots.insert(seq);
        } else if name.ends_with(".tmp") {
            remove(&entry.path())?;
        }
    }
    Ok(listing)
}

fn remove(path: &Path) -> Result<(), OpenError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(OpenError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Removes what the snapshot made superfluous, and returns the segments to read, in order.
fn remove_covered(
    dir: &Path,
    listing: &Listing,
    base: Option<(u64, u64)>,
) -> Result<Vec<u64>, OpenError> {
    let covered = base.map_or(0, |(seq, _)| seq);
    for &seq in listing.snapshots.iter().filter(|&&seq| seq < covered) {
        remove(&FileKind::Snapshot.path(dir, seq))?;
    }
    for &seq in listing.segments.iter().filter(|&&seq| seq <= covered) {
        remove(&FileKind::Segment.path(dir, seq))?;
    }
    let segments: Vec<u64> = listing.segments.range(covered + 1..).copied().collect();
    for (&seq, expected) in segments.iter().zip(covered + 1..) {
        if seq != expected {
            let dir = dir.into();
            return Err(OpenError::Missing {
                dir,
                missing: expected,
            });
        }
    }
    Ok(segments)
}

// === impl Reader ===

impl<S: FnMut(Replayed)> Reader<S> {
    /// Reads the newest snapshot. An older one is never a substitute: its segments are gone.
    fn read_snapshot(
        &mut self,
        dir: &Path,
        listing: &Listing,
    ) -> Result<Option<(u64, u64)>, OpenError> {
        let Some(&seq) = listing.snapshots.last() else {
            return Ok(None);
        };
        let path = FileKind::Snapshot.path(dir, seq);
        let mut records = snapshot::Records::open(&path)?;
        while let Some(record) = records.next()? {
            let (key, value) = copy(&record);
            self.expiries.change(&key, 0, record.expires);
            let head = Head {
                revision: record.rev,
                expires: record.expires,
            };
            self.heads.insert(key.clone(), head);
            (self.sink)(Replayed::Record {
                key,
                value,
                revision: record.rev,
            });
        }
        let header = records.header();
        self.store_id = header.store_id;
        self.revision = header.revision;
        self.chain = header.chain;
        Ok(Some((seq, records.bytes())))
    }

    /// Reads `segments`; returns the one to go on writing and where.
    fn read_segments(
        &mut self,
        dir: &Path,
        segments: &[u64],
        base: Option<(u64, u64)>,
        sealed: &mut Vec<Sealed>,
    ) -> Result<Option<(u64, End)>, OpenError> {
        for (index, &seq) in segments.iter().enumerate() {
            let path = FileKind::Segment.path(dir, seq);
            let bytes = std::fs::read(&path).map_err(|e| OpenError::io("read", &path, e))?;
            let header = FileHeader::parse(&bytes, FileKind::Segment, &path)?;
            if index == 0 && base.is_none() {
                self.store_id = header.store_id;
                self.chain = header.chain;
            }
            if header.chain != self.chain || header.store_id != self.store_id {
                return Err(corrupt(&path, 0, "does not continue the segment before"));
            }
            let end = self.read_segment(&path, &bytes)?;
            let rest = &segments[index + 1..];
            if let End::Torn(offset) = end {
                cut_rest(dir, rest, &path, offset)?;
            }
            if rest.is_empty() || matches!(end, End::Torn(_)) {
                return Ok(Some((seq, end)));
            }
            sealed.push(Sealed {
                seq,
                last_revision: self.revision,
                bytes: bytes.len() as u64,
            });
        }
        Ok(None)
    }

    fn read_segment(&mut self, path: &Path, bytes: &[u8]) -> Result<End, OpenError> {
        let mut offset = FILE_HEADER_BYTES;
        // A batch whose last records are missing was never acknowledged: cut before its first.
        let mut whole = offset;
        let mut whole_chain = self.chain;
        let clean = loop {
            match record::parse(bytes, offset, self.store_id) {
                Parsed::Record {
                    record,
                    crc,
                    prev,
                    next,
                } if prev == self.chain => {
                    self.chain = crc;
                    self.take(&record);
                    offset = next;
                    if self.partial.is_empty() {
                        (whole, whole_chain) = (offset, crc);
                    }
                }
                Parsed::Record { .. } => {
                    return Err(corrupt(path, offset, "a record before this one is missing"));
                }
                Parsed::End => break bytes[offset.min(bytes.len())..].iter().all(|&b| b == 0),
                Parsed::Bad => break false,
            }
        };
        let complete = self.partial.is_empty();
        self.partial.clear();
        self.chain = whole_chain;
        if !clean && written_later(bytes, offset, self.store_id) {
            return Err(corrupt(path, offset, "intact records follow"));
        }
        Ok(if clean && complete {
            End::Clean(whole)
        } else {
            End::Torn(whole)
        })
    }

    fn take(&mut self, record: &Record<'_>) {
        self.closed = record.flags & record::CLOSE != 0;
        if record.flags & (record::OPEN | record::CLOSE) != 0 {
            self.revision = record.rev;
            return;
        }
        let (key, value) = copy(record);
        let deleted = record.flags & record::DELETE != 0;
        let change = Change {
            key,
            value: (!deleted).then_some(value),
            previous: None,
        };
        self.partial.push((change, record.expires));
        if record.flags & record::MORE == 0 {
            self.complete(record.rev);
        }
    }

    /// The last record of a batch was read: now it counts.
    fn complete(&mut self, revision: Revision) {
        self.revision = revision;
        let mut changes = Vec::with_capacity(self.partial.len());
        for (mut change, expires) in self.partial.drain(..) {
            let old = if change.value.is_some() {
                let head = Head { revision, expires };
                self.heads.insert(change.key.clone(), head)
            } else {
                self.heads.remove(&change.key)
            };
            let old_expires = old.map_or(0, |head| head.expires);
            self.expiries.change(&change.key, old_expires, expires);
            change.previous = old.map(|head| head.revision);
            changes.push(change);
        }
        (self.sink)(Replayed::Commit(Commit { revision, changes }));
    }

    /// After an unclean stop revisions above the last durable one may have been seen.
    fn skip_unflushed(&mut self) -> Option<(Revision, Revision)> {
        if self.closed {
            self.revision = self.revision.max(1);
            return None;
        }
        let durable = self.revision;
        self.revision += MAX_UNFLUSHED;
        Some((durable, self.revision))
    }
}

/// The segments after a torn one must be empty (they were only just created); they are removed.
fn cut_rest(dir: &Path, rest: &[u64], torn: &Path, offset: usize) -> Result<(), OpenError> {
    for &seq in rest {
        let path = FileKind::Segment.path(dir, seq);
        let mut first = [0; record::HEADER_BYTES];
        let read = File::open(&path).and_then(|mut file| {
            file.read_exact(&mut [0; FILE_HEADER_BYTES])?;
            file.read_exact(&mut first)
        });
        read.map_err(|e| OpenError::io("read", &path, e))?;
        if first.iter().any(|&byte| byte != 0) {
            return Err(corrupt(torn, offset, "records follow in the next segment"));
        }
    }
    for &seq in rest {
        remove(&FileKind::Segment.path(dir, seq))?;
    }
    Ok(())
}

/// Whether an intact first record of a later write stands behind `offset`.
fn written_later(bytes: &[u8], offset: usize, store_id: u32) -> bool {
    (offset + ALIGN..bytes.len()).step_by(ALIGN).any(|at| {
        matches!(
            record::parse(bytes, at, store_id),
            Parsed::Record { record, .. } if record.flags & record::WRITE_START != 0
        )
    })
}

/// Opens the last segment for writing; behind a torn record it is cut off and reserved again.
fn reopen(disk: &Disk, dir: &Path, seq: u64, end: &End) -> Result<Segment, OpenError> {
    let path = FileKind::Segment.path(dir, seq);
    let io = |action| {
        let path = path.clone();
        move |e| OpenError::io(action, path, e)
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io("open"))?;
    let capacity = file.metadata().map_err(io("stat"))?.len();
    let (offset, capacity) = match *end {
        End::Clean(offset) => (offset as u64, capacity),
        End::Torn(offset) => {
            let offset = offset as u64;
            file.set_len(offset).map_err(io("cut"))?;
            // A full disk is no reason not to serve: the segment then simply has no room.
            let allocated = disk.allocate(&file, capacity);
            if let Err(error) = &allocated {
                tracing::warn!(%error, "cannot reserve the rest of the log segment");
            }
            file.sync_all().map_err(io("sync"))?;
            (offset, if allocated.is_ok() { capacity } else { offset })
        }
    };
    Ok(Segment {
        file: Arc::new(file),
        seq,
        offset,
        capacity,
        zeroed: 0,
    })
}

fn create_first<S>(
    disk: &Disk,
    config: &Config,
    reader: &mut Reader<S>,
    base: Option<(u64, u64)>,
) -> Result<Segment, OpenError> {
    if base.is_none() {
        reader.store_id = random_id().map_err(|e| OpenError::io("read", "/dev/urandom", e))?;
    }
    let header = FileHeader {
        store_id: reader.store_id,
        seq: base.map_or(0, |(seq, _)| seq) + 1,
        chain: reader.chain,
        revision: reader.revision,
    };
    Segment::create(disk, &config.dir, header, config.segment_bytes)
        .map_err(|e| OpenError::io("create a segment in", &config.dir, e))
}

/// Marks the opening durably: from here on a stop without the closing mark is an unclean one, and
/// the revisions skipped stay skipped.
fn mark_open<S>(
    disk: &Disk,
    dir: &Path,
    reader: &mut Reader<S>,
    segment: &mut Segment,
) -> Result<(), OpenError> {
    let mut bytes = Vec::new();
    let record = Record {
        rev: reader.revision,
        flags: record::OPEN | record::WRITE_START,
        expires: 0,
        key: &[],
        value: &[],
    };
    let chain = record::encode(&mut bytes, reader.store_id, reader.chain, &record);
    disk.write_synced(&segment.file, segment.offset, &bytes)
        .map_err(|e| OpenError::io("write to", FileKind::Segment.path(dir, segment.seq), e))?;
    segment.offset += bytes.len() as u64;
    reader.chain = chain;
    Ok(())
}

fn random_id() -> io::Result<u32> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn copy(record: &Record<'_>) -> (Bytes, Bytes) {
    (
        Bytes::copy_from_slice(record.key),
        Bytes::copy_from_slice(record.value),
    )
}

fn corrupt(path: &Path, offset: usize, reason: &'static str) -> OpenError {
    OpenError::Corrupt {
        path: PathBuf::from(path),
        offset: offset as u64,
        reason,
    }
}
