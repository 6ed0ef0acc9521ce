//! What can go wrong with the Log: opening it, and proposing to it.

use std::io;
use std::path::PathBuf;

use crate::Revision;

/// Why a Log could not be opened. None of these is repaired by trying again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory open.
    #[error("store directory {dir} is in use by another process")]
    Locked { dir: PathBuf },
    /// A file operation failed.
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A record that was durable can no longer be read; what follows it is intact, so this is not
    /// a torn tail. Restore from a backup rather than losing acknowledged writes silently.
    #[error("{path} is damaged at byte {offset}: {reason}")]
    Corrupt {
        path: PathBuf,
        offset: u64,
        reason: &'static str,
    },
    /// A segment between two existing ones is gone.
    #[error("log segment {missing:016x} is missing from {dir}")]
    Missing { dir: PathBuf, missing: u64 },
    /// Written by a version of the program this one does not know.
    #[error("{path} has format version {found}, this program reads {known}")]
    Version {
        path: PathBuf,
        found: u32,
        known: u32,
    },
}

impl OpenError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source,
        }
    }
}

/// Why a batch was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// A condition did not hold. `current` is the key's revision (none: the key does not exist);
    /// it has been published, so a reader of the stream can catch up with it.
    #[error("operation {index} expected another revision of its key than {current:?}")]
    Conflict {
        index: usize,
        current: Option<Revision>,
    },
    /// The batch can never be accepted: it is empty, too large, or names a key twice.
    #[error("invalid batch: {0}")]
    Invalid(&'static str),
    /// The file system has no room for another segment. Reads go on, writes are accepted again as
    /// soon as there is room.
    #[error("no space left on the store's file system")]
    NoSpace,
    /// A write or sync failed earlier; nothing is accepted until the process is restarted. For the
    /// batch that met the failure the outcome is unknown until then.
    #[error("store is read-only after a failure: {reason}")]
    ReadOnly { reason: String },
    /// The Log was closed.
    #[error("store is closed")]
    Closed,
}
