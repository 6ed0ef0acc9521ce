//! The Cache: the one copy of every object in memory, from which all reads and watches come.
//!
//! Input: the store's ordered stream of commits ([`Cache::apply`], called by `storage`). Output:
//! points reads ([`Cache::get`]), consistent snapshots ([`Cache::snapshot`], also of a recent past),
//! watches ([`Cache::watch`]) and synchronous observers ([`Cache::observe`]).
//! An object is its canonical bytes and a header of offsets into them; its resourceVersion is not in
//! the bytes but spliced while it is sent. Does not know HTTP, verbs or how values are stored.
//!
//! Nothing is visible here before it is durable, because nothing else feeds it than the log's stream.

mod history;
mod object;
mod table;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

pub use history::Change;
pub use object::{Key, Object};
pub use table::Snapshot;
pub use watch::{Progress, Scope, Watch};

use crate::catalog::{Catalog, ResourceId};
use table::Table;

/// How long a request waits for a revision that is not there yet (upstream: cacher's blockTimeout).
pub const REVISION_WAIT: Duration = Duration::from_secs(3);

/// The revision is older than the history that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    pub requested: u64,
    pub oldest: u64,
}

/// Called under the cache's lock for each change, before its revision becomes visible; must be
/// quick and must not call the cache.
pub type Observer = Box<dyn FnMut(&Change) + Send + Sync>;

/// Handle to the Cache; cheap to clone.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    catalog: &'static Catalog,
    state: RwLock<State>,
    visible: tokio::sync::watch::Sender<u64>,
}

struct State {
    revision: u64,
    /// Revisions between the two were seen by somebody before a crash and are lost; the second one
    /// is where this process began.
    gap: Option<(u64, u64)>,
    tables: Vec<Table>,
}

// === impl Cache ===

impl Cache {
    /// An empty cache with one table per stored resource.
    pub fn new() -> Self {
        let catalog = Catalog::get();
        let tables = catalog.ids().map(|_| Table::default()).collect();
        let state = State {
            revision: 0,
            gap: None,
            tables,
        };
        let inner = Inner {
            catalog,
            state: RwLock::new(state),
            visible: tokio::sync::watch::Sender::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The table of a resource, by the group it is *stored* under (Events: core).
    pub fn resource(&self, group: &str, plural: &str) -> Option<ResourceId> {
        self.inner.catalog.id(group, plural)
    }

    /// The newest visible revision.
    pub fn revision(&self) -> u64 {
        self.read().revision
    }

    /// One object; the namespace is `""` for cluster-scoped resources.
    pub fn get(&self, resource: ResourceId, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.get_with_revision(resource, namespace, name).0
    }

    /// One object and the revision at which it was looked up.
    pub fn get_with_revision(
        &self,
        resource: ResourceId,
        namespace: &str,
        name: &str,
    ) -> (Option<Arc<Object>>, u64) {
        let key = object::key(namespace, name);
        let state = self.read();
        (state.tables[resource.index()].get(&key), state.revision)
    }

    /// All objects of a resource at the newest revision, without copying them.
    pub fn snapshot(&self, resource: ResourceId) -> Snapshot {
        let state = self.read();
        state.tables[resource.index()].snapshot(state.revision)
    }

    /// All objects of a resource as they were at `revision`.
    pub fn snapshot_at(&self, resource: ResourceId, revision: u64) -> Result<Snapshot, Expired> {
        let state = self.read();
        state.check_reachable(resource, revision)?;
        Ok(state.tables[resource.index()].snapshot_at(revision, state.revision))
    }

    /// Waits until `revision` is visible; false when it is not within [`REVISION_WAIT`].
    pub async fn wait_for(&self, revision: u64) -> bool {
        let mut visible = self.inner.visible.subscribe();
        let reached = visible.wait_for(|seen| *seen >= revision);
        tokio::time::timeout(REVISION_WAIT, reached)
            .await
            .is_ok_and(|r| r.is_ok())
    }

    /// Waits without a limit: for a revision the log has accepted.
    pub async fn wait_committed(&self, revision: u64) {
        let mut visible = self.inner.visible.subscribe();
        // The sender lives as long as this handle.
        let _ = visible.wait_for(|seen| *seen >= revision).await;
    }

    /// Calls `observer` for every present object (as a creation) and then for every change.
    pub fn observe(&self, resource: ResourceId, mut observer: Observer) {
        let mut state = self.write();
        let table = &mut state.tables[resource.index()];
        for object in table.objects() {
            observer(&Change::created(resource, object.clone()));
        }
        table.observers.push(observer);
    }

    /// Events after `revision`.
    pub fn watch(
        &self,
        resource: ResourceId,
        scope: Scope,
        revision: u64,
    ) -> Result<Watch, Expired> {
        let state = self.read();
        state.check_reachable(resource, revision)?;
        Ok(Watch::register(
            self,
            &state.tables[resource.index()],
            resource,
            scope,
            revision,
        ))
    }

    /// A snapshot and the events after it, without a gap between them.
    pub fn snapshot_and_watch(&self, resource: ResourceId, scope: Scope) -> (Snapshot, Watch) {
        let state = self.read();
        let table = &state.tables[resource.index()];
        let snapshot = table.snapshot(state.revision);
        (
            snapshot,
            Watch::register(self, table, resource, scope, state.revision),
        )
    }

    /// Makes one commit visible: all its changes at once.
    pub(crate) fn apply(&self, revision: u64, changes: Vec<(ResourceId, Key, Option<Object>)>) {
        let mut state = self.write();
        for (resource, key, object) in changes {
            state.tables[resource.index()].apply(resource, revision, key, object.map(Arc::new));
        }
        state.revision = state.revision.max(revision);
        drop(state);
        self.inner.visible.send_replace(revision);
    }

    /// Makes an object visible without an event: what existed before the kept history.
    pub(crate) fn load(&self, resource: ResourceId, key: Key, object: Object) {
        self.write().tables[resource.index()].load(key, Arc::new(object));
    }

    /// Ends recovery: the newest revision, where the history begins, and what a crash lost.
    pub(crate) fn recovered(&self, revision: u64, oldest: u64, gap: Option<(u64, u64)>) {
        let mut state = self.write();
        state.revision = revision;
        state.gap = gap;
        for table in &mut state.tables {
            table.forget_until(oldest);
        }
        drop(state);
        self.inner.visible.send_replace(revision);
    }

    /// Drops the history up to and including `revision`.
    pub(crate) fn compact(&self, revision: u64) {
        for table in &mut self.write().tables {
            table.forget_until(revision);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.inner
            .state
            .read()
            .expect("no code panics under this lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.inner
            .state
            .write()
            .expect("no code panics under this lock")
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn check_reachable(&self, resource: ResourceId, revision: u64) -> Result<(), Expired> {
        let oldest = self.tables[resource.index()].floor();
        let lost = self
            .gap
            .filter(|(from, to)| revision > *from && revision < *to);
        match lost {
            Some((_, to)) => Err(Expired {
                requested: revision,
                oldest: to,
            }),
            None if revision < oldest => Err(Expired {
                requested: revision,
                oldest,
            }),
            None => Ok(()),
        }
    }
}
