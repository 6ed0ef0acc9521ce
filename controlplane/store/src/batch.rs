//! What is proposed to the Log: operations on keys with conditions, applied together.

use std::collections::HashSet;

use bytes::Bytes;

use crate::Revision;
use crate::error::ProposeError;
use crate::record;

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 4096;
/// Most operations in one batch.
pub const MAX_OPS: usize = 4096;
/// Most bytes one batch may take in the log, headers included.
pub const MAX_BATCH_BYTES: usize = 12 << 20;

/// Condition on the key's current revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No condition. (A delete still needs the key to exist.)
    Any,
    /// The key does not exist.
    Absent,
    /// The key was last written at exactly this revision.
    At(Revision),
}

/// What happens to the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the value. With `expires` (seconds since the Unix epoch) the Log deletes the key by
    /// itself some seconds after that time, unless it is written again before.
    Put { value: Bytes, expires: Option<u32> },
    /// Remove the key.
    Delete,
    /// Change nothing; only the condition counts.
    Check,
}

/// One operation of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    pub key: Bytes,
    pub action: Action,
    pub expect: Expect,
}

/// When a batch is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After it is on the disk.
    #[default]
    Synced,
    /// As soon as it is ordered; a crash may lose it. For Events and Lease heartbeats.
    Relaxed,
}

/// Operations that are accepted together, at one revision, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    pub ops: Vec<Op>,
    pub durability: Durability,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a write of `key`.
    #[must_use]
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>, expect: Expect) -> Self {
        let action = Action::Put {
            value: value.into(),
            expires: None,
        };
        self.op(key, action, expect)
    }

    /// Adds a removal of `key`.
    #[must_use]
    pub fn delete(self, key: impl Into<Bytes>, expect: Expect) -> Self {
        self.op(key, Action::Delete, expect)
    }

    /// Adds a condition without a change.
    #[must_use]
    pub fn check(self, key: impl Into<Bytes>, expect: Expect) -> Self {
        self.op(key, Action::Check, expect)
    }

    /// Adds an operation.
    #[must_use]
    pub fn op(mut self, key: impl Into<Bytes>, action: Action, expect: Expect) -> Self {
        self.ops.push(Op {
            key: key.into(),
            action,
            expect,
        });
        self
    }

    /// Makes the whole batch relaxed (see [`Durability::Relaxed`]).
    #[must_use]
    pub fn relaxed(mut self) -> Self {
        self.durability = Durability::Relaxed;
        self
    }

    /// Bytes the batch takes in the log.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.ops
            .iter()
            .map(|op| match &op.action {
                Action::Put { value, .. } => record::encoded_len(op.key.len(), value.len()),
                Action::Delete => record::encoded_len(op.key.len(), 0),
                Action::Check => 0,
            })
            .sum()
    }

    /// Refuses what can never be accepted.
    pub(crate) fn validate(&self) -> Result<(), ProposeError> {
        let invalid = |reason| Err(ProposeError::Invalid(reason));
        if self.ops.len() > MAX_OPS {
            return invalid("too many operations");
        }
        if self.ops.iter().all(|op| op.action == Action::Check) {
            return invalid("no change");
        }
        let mut keys = HashSet::with_capacity(self.ops.len());
        for op in &self.ops {
            if op.key.is_empty() || op.key.len() > MAX_KEY_BYTES {
                return invalid("key is empty or too long");
            }
            if !keys.insert(&op.key) {
                return invalid("a key is named twice");
            }
        }
        if self.encoded_bytes() > MAX_BATCH_BYTES {
            return invalid("batch is too large");
        }
        Ok(())
    }
}
