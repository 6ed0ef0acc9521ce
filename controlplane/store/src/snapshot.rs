//! Snapshots: the live records at the end of a full segment, merged from the snapshot before and
//! the full segments since. Both no longer change, so writing goes on meanwhile.
//!
//! A snapshot is a file header, the records in key order, and a last record marked `CLOSE` whose
//! value is their count: without it the file was not finished (it never gets its name before).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Revision;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::record::{self, Parsed, Record};
use crate::segment::{FILE_HEADER_BYTES, FileHeader, FileKind};

/// Read and write in pieces of this many bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// What to merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotJob {
    pub dir: PathBuf,
    pub store_id: u32,
    /// The snapshot before.
    pub base: Option<u64>,
    /// Full segments after it, in order.
    pub segments: Vec<u64>,
}

/// A finished snapshot; the files it replaces are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotMade {
    pub seq: u64,
    pub bytes: u64,
}

/// The newest version of a key in the segments.
#[derive(Debug, Clone, Copy)]
enum Newest {
    At {
        segment: usize,
        offset: usize,
        bytes: usize,
    },
    Deleted,
}

/// Reads a snapshot front to back.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    file: BufReader<File>,
    header: FileHeader,
    offset: usize,
    chain: u32,
    count: u64,
    buffer: Vec<u8>,
}

/// Writes a snapshot front to back.
struct Writer {
    out: BufWriter<File>,
    store_id: u32,
    chain: u32,
    count: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

/// Makes the snapshot `job` describes, durable under its name, and removes what it replaces.
pub fn make(disk: &Disk, job: &SnapshotJob) -> io::Result<SnapshotMade> {
    let seq = *job.segments.last().ok_or(io::ErrorKind::InvalidInput)?;
    let path = FileKind::Snapshot.path(&job.dir, seq);
    let temporary = path.with_extension("tmp");
    let made = write(disk, job, seq, &temporary);
    let bytes = match made {
        Ok(bytes) => bytes,
        Err(error) => {
            // The half-made file would hold space that may be missing.
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
    };
    std::fs::rename(&temporary, &path)?;
    disk.sync_dir(&job.dir)?;
    for &old in &job.segments {
        std::fs::remove_file(FileKind::Segment.path(&job.dir, old))?;
    }
    if let Some(base) = job.base {
        std::fs::remove_file(FileKind::Snapshot.path(&job.dir, base))?;
    }
    Ok(SnapshotMade { seq, bytes })
}

fn write(disk: &Disk, job: &SnapshotJob, seq: u64, temporary: &Path) -> io::Result<u64> {
    let mut newest = BTreeMap::new();
    let mut files = Vec::new();
    let mut header = None;
    for (index, &segment) in job.segments.iter().enumerate() {
        let path = FileKind::Segment.path(&job.dir, segment);
        let bytes = std::fs::read(&path)?;
        header = Some(index_segment(
            &bytes,
            index,
            job.store_id,
            seq,
            header,
            &mut newest,
        ));
        files.push(File::open(&path)?);
    }
    let header = header.ok_or(io::ErrorKind::InvalidInput)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(temporary)?;
    disk.allocate(&file, FILE_HEADER_BYTES as u64)?;
    let mut writer = Writer {
        out: BufWriter::with_capacity(BUFFER_BYTES, file),
        store_id: job.store_id,
        chain: 0,
        count: 0,
        bytes: FILE_HEADER_BYTES as u64,
        buffer: Vec::new(),
    };
    writer.out.seek(SeekFrom::Start(0))?;
    writer.out.write_all(&header.encode(FileKind::Snapshot))?;
    merge(job, &mut newest.into_iter().peekable(), &files, &mut writer)?;
    writer.finish(header.revision, disk)
}

/// Notes the newest version of every key in a segment; returns the header of the snapshot so far.
fn index_segment(
    bytes: &[u8],
    segment: usize,
    store_id: u32,
    seq: u64,
    before: Option<FileHeader>,
    newest: &mut BTreeMap<Vec<u8>, Newest>,
) -> FileHeader {
    let mut header = before.unwrap_or(FileHeader {
        store_id,
        seq,
        chain: 0,
        revision: 0,
    });
    let mut offset = FILE_HEADER_BYTES;
    while let Parsed::Record {
        record, crc, next, ..
    } = record::parse(bytes, offset, store_id)
    {
        header.chain = crc;
        header.revision = record.rev;
        if record.flags & record::DELETE != 0 {
            newest.insert(record.key.to_vec(), Newest::Deleted);
        } else if record.flags & (record::OPEN | record::CLOSE) == 0 {
            let at = Newest::At {
                segment,
                offset,
                bytes: next - offset,
            };
            newest.insert(record.key.to_vec(), at);
        }
        offset = next;
    }
    header
}

type Keys = std::iter::Peekable<std::collections::btree_map::IntoIter<Vec<u8>, Newest>>;

/// Writes the union of the snapshot before and the segments, in key order.
fn merge(job: &SnapshotJob, newest: &mut Keys, files: &[File], to: &mut Writer) -> io::Result<()> {
    if let Some(base) = job.base {
        let path = FileKind::Snapshot.path(&job.dir, base);
        let mut records = Records::open(&path).map_err(io::Error::other)?;
        while let Some(record) = records.next().map_err(io::Error::other)? {
            while newest
                .peek()
                .is_some_and(|(key, _)| key.as_slice() < record.key)
            {
                to.copy_newest(newest.next(), files)?;
            }
            if newest
                .peek()
                .is_some_and(|(key, _)| key.as_slice() == record.key)
            {
                to.copy_newest(newest.next(), files)?;
            } else {
                to.push(&record)?;
            }
        }
    }
    while newest.peek().is_some() {
        to.copy_newest(newest.next(), files)?;
    }
    Ok(())
}

// === impl Writer ===

impl Writer {
    fn copy_newest(&mut self, next: Option<(Vec<u8>, Newest)>, files: &[File]) -> io::Result<()> {
        let Some((
            _,
            Newest::At {
                segment,
                offset,
                bytes,
            },
        )) = next
        else {
            return Ok(());
        };
        let mut raw = vec![0; bytes];
        files[segment].read_exact_at(&mut raw, offset as u64)?;
        match record::parse(&raw, 0, self.store_id) {
            Parsed::Record { record, .. } => self.push(&record),
            Parsed::End | Parsed::Bad => Err(io::Error::other("a full segment changed")),
        }
    }

    fn push(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.count += 1;
        self.append(&Record {
            flags: 0,
            ..*record
        })
    }

    fn append(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.buffer.clear();
        self.chain = record::encode(&mut self.buffer, self.store_id, self.chain, record);
        self.bytes += self.buffer.len() as u64;
        self.out.write_all(&self.buffer)
    }

    fn finish(mut self, revision: Revision, disk: &Disk) -> io::Result<u64> {
        let count = self.count.to_le_bytes();
        self.append(&Record {
            rev: revision,
            flags: record::CLOSE,
            expires: 0,
            key: &[],
            value: &count,
        })?;
        let file = self
            .out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        disk.sync_data(&file)?;
        file.sync_all()?;
        Ok(self.bytes)
    }
}

// === impl Records ===

impl Records {
    /// Opens the snapshot at `path`.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let file = File::open(path).map_err(|e| OpenError::io("open", path, e))?;
        let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
        let mut bytes = [0; FILE_HEADER_BYTES];
        file.read_exact(&mut bytes)
            .map_err(|e| OpenError::io("read", path, e))?;
        Ok(Self {
            path: path.into(),
            file,
            header: FileHeader::parse(&bytes, FileKind::Snapshot, path)?,
            offset: FILE_HEADER_BYTES,
            chain: 0,
            count: 0,
            buffer: Vec::new(),
        })
    }

    pub fn header(&self) -> FileHeader {
        self.header
    }

    /// Bytes read so far: after the last record, the size of the file.
    pub fn bytes(&self) -> u64 {
        self.offset as u64
    }

    /// The next record, or none after the last one of a complete snapshot.
    pub fn next(&mut self) -> Result<Option<Record<'_>>, OpenError> {
        let offset = self.offset;
        let path = self.path.clone();
        let corrupt = |reason| OpenError::Corrupt {
            path: path.clone(),
            offset: offset as u64,
            reason,
        };
        self.fill().map_err(|_| corrupt("snapshot ends early"))?;
        let (store_id, chain) = (self.header.store_id, self.chain);
        let Parsed::Record {
            record, crc, prev, ..
        } = record::parse(&self.buffer, 0, store_id)
        else {
            return Err(corrupt("record checksum"));
        };
        if prev != chain {
            return Err(corrupt("a record before this one is missing"));
        }
        self.chain = crc;
        self.offset += self.buffer.len();
        if record.flags & record::CLOSE != 0 {
            return if record.value == self.count.to_le_bytes() {
                Ok(None)
            } else {
                Err(corrupt("number of records"))
            };
        }
        self.count += 1;
        Ok(Some(record))
    }

    /// Reads the bytes of one record.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.resize(record::HEADER_BYTES, 0);
        self.file.read_exact(&mut self.buffer)?;
        let total = record::stated_len(&self.buffer).ok_or(io::ErrorKind::InvalidData)?;
        self.buffer.resize(total, 0);
        self.file
            .read_exact(&mut self.buffer[record::HEADER_BYTES..])
    }
}
