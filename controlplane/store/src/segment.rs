//! Files of the log: their names, their header, creating one so that it is never seen half-made.
//!
//! A segment `<seq>.log` is preallocated and filled with records; a snapshot `<seq>.snap` holds the
//! live records as of the end of segment `seq`. Both begin with the same 64-byte header.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Revision;
use crate::disk::Disk;
use crate::error::OpenError;

/// Bytes of the file header.
pub const FILE_HEADER_BYTES: usize = 64;
const VERSION: u32 = 1;
const CHECKED_BYTES: usize = 44;

/// What a file of the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Segment,
    Snapshot,
}

impl FileKind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Segment => b"wndl-log",
            Self::Snapshot => b"wndl-snp",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Segment => "log",
            Self::Snapshot => "snap",
        }
    }

    /// Path of the file with number `seq`.
    pub fn path(self, dir: &Path, seq: u64) -> PathBuf {
        dir.join(format!("{seq:016x}.{}", self.extension()))
    }

    /// The number in a file name of this kind.
    pub fn parse_name(self, name: &str) -> Option<u64> {
        let stem = name.strip_suffix(self.extension())?.strip_suffix('.')?;
        (stem.len() == 16)
            .then(|| u64::from_str_radix(stem, 16).ok())
            .flatten()
    }
}

/// The header of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    pub store_id: u32,
    pub seq: u64,
    /// Segment: checksum of the last record before it. Snapshot: of the last record it covers.
    pub chain: u32,
    /// Segment: last revision before it. Snapshot: the revision it shows.
    pub revision: Revision,
}

impl FileHeader {
    pub fn encode(&self, kind: FileKind) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        bytes[..8].copy_from_slice(kind.magic());
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.store_id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.seq.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.chain.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.revision.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..CHECKED_BYTES + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; `path` is for the error.
    pub fn parse(bytes: &[u8], kind: FileKind, path: &Path) -> Result<Self, OpenError> {
        let corrupt = |reason| OpenError::Corrupt {
            path: path.into(),
            offset: 0,
            reason,
        };
        let bytes = bytes
            .get(..FILE_HEADER_BYTES)
            .ok_or_else(|| corrupt("file is shorter than its header"))?;
        if &bytes[..8] != kind.magic() {
            return Err(corrupt("not a file of a store"));
        }
        let u32_at = |at: usize| {
            u32::from_le_bytes(
                bytes[at..at + 4]
                    .try_into()
                    .expect("four bytes were sliced"),
            )
        };
        let u64_at = |at: usize| {
            u64::from_le_bytes(
                bytes[at..at + 8]
                    .try_into()
                    .expect("eight bytes were sliced"),
            )
        };
        if u32_at(8) != VERSION {
            return Err(OpenError::Version {
                path: path.into(),
                found: u32_at(8),
                known: VERSION,
            });
        }
        if u32_at(CHECKED_BYTES) != crc32c::crc32c(&bytes[..CHECKED_BYTES]) {
            return Err(corrupt("header checksum"));
        }
        Ok(Self {
            store_id: u32_at(12),
            seq: u64_at(16),
            chain: u32_at(24),
            revision: u64_at(32),
        })
    }
}

/// The segment being written.
#[derive(Debug)]
pub struct Segment {
    pub file: Arc<File>,
    pub seq: u64,
    /// Where the next record goes.
    pub offset: u64,
    pub capacity: u64,
    /// Up to here zeros were written: the file system need not change its metadata to write here.
    pub zeroed: u64,
}

impl Segment {
    /// Creates a segment of `capacity` bytes, durable under its name before it returns.
    pub fn create(disk: &Disk, dir: &Path, header: FileHeader, capacity: u64) -> io::Result<Self> {
        let path = FileKind::Segment.path(dir, header.seq);
        let temporary = path.with_extension("tmp");
        let made = Self::write_new(disk, &temporary, header, capacity);
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // The half-made file would hold the space that is missing.
                let _ = std::fs::remove_file(&temporary);
                return Err(error);
            }
        };
        std::fs::rename(&temporary, &path)?;
        disk.sync_dir(dir)?;
        Ok(Self {
            file: Arc::new(file),
            seq: header.seq,
            offset: FILE_HEADER_BYTES as u64,
            capacity,
            zeroed: 0,
        })
    }

    fn write_new(disk: &Disk, path: &Path, header: FileHeader, capacity: u64) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        disk.allocate(&file, capacity)?;
        disk.write_synced(&file, 0, &header.encode(FileKind::Segment))?;
        file.sync_all()?;
        Ok(file)
    }

    /// Bytes still free.
    pub fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.offset)
    }
}
