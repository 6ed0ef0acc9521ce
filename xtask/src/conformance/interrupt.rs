//! Ctrl-C while a suite runs: the signal becomes something to read, so that the suite can be told
//! to end and the cluster is removed afterwards.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGINT and SIGTERM of this process, from its making to the end of the process.
pub struct Interrupt {
    signals: SignalFd,
}

impl Interrupt {
    /// Takes the signals over. Children start with the default handling: std clears the mask.
    pub fn new() -> Result<Interrupt> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGTERM);
        mask.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Interrupt {
            signals: SignalFd::with_flags(&mask, flags)?,
        })
    }

    /// Whether another signal has come since the last call.
    pub fn taken(&self) -> bool {
        matches!(self.signals.read_signal(), Ok(Some(_)))
    }

    /// Readable when a signal has come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}
