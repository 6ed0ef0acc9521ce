//! The few file operations of the Log, in one place, with the faults tests can ask for.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};

/// Faults a test can switch on while the Log runs. All off by default.
#[derive(Debug, Default)]
pub struct Faults {
    /// Every sync fails with EIO.
    pub sync: AtomicBool,
    /// Every allocation of a segment or snapshot fails with ENOSPC.
    pub full: AtomicBool,
}

/// File operations, with faults.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    faults: Arc<Faults>,
}

impl Disk {
    pub fn new(faults: Arc<Faults>) -> Self {
        Self { faults }
    }

    /// Reserves `bytes` for `file`, reading as zeros.
    pub fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        if self.faults.full.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let length = i64::try_from(bytes).map_err(io::Error::other)?;
        match fallocate(file, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            // Some file systems cannot reserve: they get a sparse file, and ENOSPC at write time
            // makes the store read-only instead.
            Err(nix::errno::Errno::EOPNOTSUPP) => file.set_len(bytes),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes and makes durable.
    pub fn write_synced(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)?;
        self.sync_data(file)
    }

    pub fn sync_data(&self, file: &File) -> io::Result<()> {
        if self.faults.sync.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        nix::unistd::fdatasync(file).map_err(Into::into)
    }

    /// Makes creations, renames and removals in `dir` durable.
    pub fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// Whether the error means that the file system is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}
