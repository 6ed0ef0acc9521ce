//! The Log: a durable, revisioned map from key to bytes that knows neither HTTP nor kinds.
//!
//! Input: [`Batch`]es of puts and deletes, each with a condition on the key's current revision.
//! Output: a [`Revision`] per accepted batch, and the ordered stream of [`Event`]s ([`Commits`]) from
//! which the API server builds its one copy in memory. The Log keeps of each key its revision and
//! nothing else; values live in the files and in whatever consumes the stream.
//!
//! Promises, each held by a test:
//! 1. nothing is published or acknowledged before it is durable (relaxed batches excepted, and they
//!    are published in order);
//! 2. a batch is applied as a whole or not at all, also across a crash;
//! 3. a revision is never used twice, also across a crash;
//! 4. a torn tail is repaired, damage before it is refused;
//! 5. after a failed write or sync the Log refuses writes and says why; the process stays up.

mod batch;
mod disk;
mod error;
mod expiry;
mod log;
mod owner;
mod record;
mod recover;
mod segment;
mod snapshot;
mod syncer;

pub use batch::{Action, Batch, Durability, Expect, MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_OPS, Op};
pub use disk::Faults;
pub use error::{OpenError, ProposeError};
pub use log::{Change, Commit, Commits, Config, Event, Log, Opened, Replayed, Status};

/// The number of an accepted batch: 1 for the first, growing, never used twice.
pub type Revision = u64;
