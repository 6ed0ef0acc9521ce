//! The recent past of one resource: a ring of changes, bounded by number and bytes.

use std::{collections::VecDeque, sync::Arc};

use super::object::Object;
use crate::catalog::ResourceId;

/// Most changes kept per resource.
const MAX_CHANGES: usize = 8 * 1024;
/// Most bytes of replaced or removed bodies kept per resource.
const MAX_BYTES: usize = 8 << 20;

/// One change of one object. Bodies are shared with the table, never copied.
#[derive(Clone, Debug)]
pub struct Change {
    pub resource: ResourceId,
    pub revision: u64,
    /// The new version; none when it was removed.
    pub object: Option<Arc<Object>>,
    /// The version before; none when it was created.
    pub prior: Option<Arc<Object>>,
}

/// Changes in order, the oldest first.
#[derive(Default)]
pub(super) struct History {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// Changes at and below this revision are gone.
    floor: u64,
}

// === impl Change ===

impl Change {
    pub(super) fn created(resource: ResourceId, object: Arc<Object>) -> Self {
        Self {
            resource,
            revision: object.revision,
            object: Some(object),
            prior: None,
        }
    }

    /// The newest version there is: the new one, or the removed one.
    pub fn latest(&self) -> &Arc<Object> {
        self.object
            .as_ref()
            .or(self.prior.as_ref())
            .expect("a change has one side at least")
    }
}

// === impl History ===

impl History {
    pub(super) fn push(&mut self, change: Arc<Change>) {
        self.bytes += weight(&change);
        self.changes.push_back(change);
        while self.changes.len() > MAX_CHANGES || self.bytes > MAX_BYTES {
            if !self.pop() {
                break;
            }
        }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn forget_until(&mut self, revision: u64) {
        while self.changes.front().is_some_and(|c| c.revision <= revision) {
            self.pop();
        }
        self.floor = self.floor.max(revision);
    }

    /// Changes after `revision`.
    pub(super) fn after(&self, revision: u64) -> impl DoubleEndedIterator<Item = &Arc<Change>> {
        let start = self.changes.partition_point(|c| c.revision <= revision);
        self.changes.range(start..)
    }

    fn pop(&mut self) -> bool {
        let Some(change) = self.changes.pop_front() else {
            return false;
        };
        self.bytes -= weight(&change);
        self.floor = self.floor.max(change.revision);
        true
    }
}

fn weight(change: &Change) -> usize {
    change.prior.as_ref().map_or(0, |o| o.bytes.len())
}
