//! Those who wait for changes of a resource: dispatch by scope, a small queue each, and the history
//! as the second source when a queue has overflowed.
//!
//! ```text
//!            offer (queue has room)            offer (queue full)
//!   Queued ────────────────────────▶ Queued ────────────────────▶ Behind(cursor)
//!      ▲                                                              │
//!      └────────── next(): scan the history after the cursor ─────────┘
//! ```
//! A new watcher begins as Behind. Nobody is disconnected for being slow, unless the history has
//! moved past the cursor; then the watch ends with 410.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;

use super::{Cache, Expired, history::Change, object::Object, table::Table};
use crate::catalog::ResourceId;

/// Changes waiting in one watcher's queue before it falls back to the history.
const MAX_QUEUED: usize = 64;

/// Which objects' changes are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    All,
    Namespace(String),
    /// Namespace (`""` when cluster-scoped) and name.
    Name(String, String),
    /// Pods bound to a node.
    Node(String),
}

/// What a watch has for its reader.
#[derive(Debug)]
pub enum Progress {
    Change(Arc<Change>),
    /// Nothing is waiting; everything up to this revision was delivered.
    Idle(u64),
}

/// A registered watcher; leaves the index when dropped.
pub struct Watch {
    cache: Cache,
    resource: ResourceId,
    id: u64,
    shared: Arc<Watcher>,
}

/// The watchers of one resource by what they want.
#[derive(Default)]
pub(super) struct Watchers {
    next_id: u64,
    by_scope: HashMap<Scope, Vec<(u64, Arc<Watcher>)>>,
    by_node: usize,
}

struct Watcher {
    scope: Scope,
    queue: Mutex<Queue>,
    wake: Notify,
}

struct Queue {
    changes: VecDeque<Arc<Change>>,
    /// Every change up to this revision was delivered or is queued.
    cursor: u64,
    /// The queue misses changes after the cursor.
    behind: bool,
}

// === impl Scope ===

impl Scope {
    fn covers(&self, object: &Object) -> bool {
        match self {
            Scope::All => true,
            Scope::Namespace(namespace) => object.namespace() == namespace,
            Scope::Name(namespace, name) => {
                object.name() == name && object.namespace() == namespace
            }
            Scope::Node(node) => object.node_name() == Some(node),
        }
    }

    fn covers_change(&self, change: &Change) -> bool {
        change.object.as_ref().is_some_and(|o| self.covers(o))
            || change.prior.as_ref().is_some_and(|o| self.covers(o))
    }
}

// === impl Watch ===

impl Watch {
    pub(super) fn register(
        cache: &Cache,
        table: &Table,
        resource: ResourceId,
        scope: Scope,
        revision: u64,
    ) -> Self {
        let queue = Queue {
            changes: VecDeque::new(),
            cursor: revision,
            behind: true,
        };
        let shared = Arc::new(Watcher {
            scope,
            queue: Mutex::new(queue),
            wake: Notify::new(),
        });
        let mut watchers = table
            .watchers
            .lock()
            .expect("no code panics under this lock");
        let id = watchers.add(shared.clone());
        Self {
            cache: cache.clone(),
            resource,
            id,
            shared,
        }
    }

    /// The next change, or that there is none now.
    pub fn poll(&mut self) -> Result<Progress, Expired> {
        if let Some(change) = self.shared.pop() {
            return Ok(Progress::Change(change));
        }
        // Under the read lock nothing is offered, so the queue and the revision belong together.
        let state = self.cache.read();
        let table = &state.tables[self.resource.index()];
        let mut queue = self.shared.lock();
        if queue.behind {
            if queue.cursor < table.floor() {
                return Err(Expired {
                    requested: queue.cursor,
                    oldest: table.floor(),
                });
            }
            queue.catch_up(table, &self.shared.scope, state.revision);
        }
        match queue.changes.pop_front() {
            Some(change) => Ok(Progress::Change(change)),
            None => {
                queue.cursor = state.revision;
                Ok(Progress::Idle(state.revision))
            }
        }
    }

    /// Waits until something may be there. Can wake without reason.
    pub async fn wait(&self) {
        self.shared.wake.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let state = self.cache.read();
        let table = &state.tables[self.resource.index()];
        let mut watchers = table
            .watchers
            .lock()
            .expect("no code panics under this lock");
        watchers.remove(&self.shared.scope, self.id);
    }
}

// === impl Watchers ===

impl Watchers {
    fn add(&mut self, watcher: Arc<Watcher>) -> u64 {
        self.next_id += 1;
        self.by_node += usize::from(matches!(watcher.scope, Scope::Node(_)));
        self.by_scope
            .entry(watcher.scope.clone())
            .or_default()
            .push((self.next_id, watcher));
        self.next_id
    }

    fn remove(&mut self, scope: &Scope, id: u64) {
        let Some(list) = self.by_scope.get_mut(scope) else {
            return;
        };
        list.retain(|(other, _)| *other != id);
        if list.is_empty() {
            self.by_scope.remove(scope);
        }
        self.by_node -= usize::from(matches!(scope, Scope::Node(_)));
    }

    /// Hands a change to everyone it concerns.
    pub(super) fn offer(&mut self, change: &Arc<Change>) {
        if self.by_scope.is_empty() {
            return;
        }
        let latest = change.latest();
        let (namespace, name) = (latest.namespace().to_owned(), latest.name().to_owned());
        self.offer_to(&Scope::All, change);
        self.offer_to(&Scope::Name(namespace.clone(), name), change);
        if !namespace.is_empty() {
            self.offer_to(&Scope::Namespace(namespace), change);
        }
        if self.by_node > 0 {
            let node = |o: &Option<Arc<Object>>| {
                o.as_ref()
                    .and_then(|o| o.node_name())
                    .map(|n| Scope::Node(n.to_owned()))
            };
            let (new, old) = (node(&change.object), node(&change.prior));
            if let Some(scope) = &new {
                self.offer_to(scope, change);
            }
            if let Some(scope) = old.filter(|old| Some(old) != new.as_ref()) {
                self.offer_to(&scope, change);
            }
        }
    }

    fn offer_to(&self, scope: &Scope, change: &Arc<Change>) {
        for (_, watcher) in self.by_scope.get(scope).into_iter().flatten() {
            watcher.lock().offer(change);
            watcher.wake.notify_one();
        }
    }
}

// === impl Watcher ===

impl Watcher {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().expect("no code panics under this lock")
    }

    fn pop(&self) -> Option<Arc<Change>> {
        self.lock().changes.pop_front()
    }
}

// === impl Queue ===

impl Queue {
    fn offer(&mut self, change: &Arc<Change>) {
        if self.behind {
            return;
        }
        // Changes of one commit share a revision; the cursor must not stop between them.
        if self.changes.len() >= MAX_QUEUED && change.revision > self.cursor {
            self.behind = true;
            return;
        }
        self.changes.push_back(change.clone());
        self.cursor = change.revision;
    }

    /// Fills the queue from the history.
    fn catch_up(&mut self, table: &Table, scope: &Scope, revision: u64) {
        let mut complete = true;
        for change in table
            .changes_after(self.cursor)
            .filter(|c| scope.covers_change(c))
        {
            // Changes of one commit share a revision; the cursor must not stop between them.
            if self.changes.len() >= MAX_QUEUED && change.revision > self.cursor {
                complete = false;
                break;
            }
            self.changes.push_back(change.clone());
            self.cursor = change.revision;
        }
        if complete {
            self.cursor = revision;
            self.behind = false;
        }
    }
}
