//! One resource's objects, ordered by key, with their recent past and those who wait for changes.

use std::sync::{Arc, Mutex};

use imbl::OrdMap;

use super::{
    Observer,
    history::{Change, History},
    object::{Key, Object},
    watch::Watchers,
};
use crate::catalog::ResourceId;

/// One resource.
#[derive(Default)]
pub(super) struct Table {
    objects: OrdMap<Key, Arc<Object>>,
    history: History,
    pub(super) observers: Vec<Observer>,
    pub(super) watchers: Mutex<Watchers>,
}

/// All objects of a resource at one revision; shares structure with the table.
#[derive(Clone)]
pub struct Snapshot {
    pub revision: u64,
    objects: OrdMap<Key, Arc<Object>>,
}

// === impl Table ===

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.objects.get(key).cloned()
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    pub(super) fn floor(&self) -> u64 {
        self.history.floor()
    }

    pub(super) fn forget_until(&mut self, revision: u64) {
        self.history.forget_until(revision);
    }

    pub(super) fn changes_after(&self, revision: u64) -> impl Iterator<Item = &Arc<Change>> {
        self.history.after(revision)
    }

    pub(super) fn load(&mut self, key: Key, object: Arc<Object>) {
        self.objects.insert(key, object);
    }

    pub(super) fn apply(
        &mut self,
        resource: ResourceId,
        revision: u64,
        key: Key,
        object: Option<Arc<Object>>,
    ) {
        let prior = match &object {
            Some(object) => self.objects.insert(key, object.clone()),
            None => self.objects.remove(&key),
        };
        if object.is_none() && prior.is_none() {
            return;
        }
        let change = Arc::new(Change {
            resource,
            revision,
            object,
            prior,
        });
        for observer in &mut self.observers {
            observer(&change);
        }
        self.watchers
            .get_mut()
            .expect("no code panics under this lock")
            .offer(&change);
        self.history.push(change);
    }

    pub(super) fn snapshot(&self, revision: u64) -> Snapshot {
        Snapshot {
            revision,
            objects: self.objects.clone(),
        }
    }

    /// The objects as they were: the present with the younger changes undone.
    pub(super) fn snapshot_at(&self, revision: u64, current: u64) -> Snapshot {
        let mut objects = self.objects.clone();
        for change in self.history.after(revision.min(current)).rev() {
            let key = change.latest().key.clone();
            match &change.prior {
                Some(prior) => objects.insert(key, prior.clone()),
                None => objects.remove(&key),
            };
        }
        Snapshot { revision, objects }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Objects in key order; of one namespace unless that is `""`.
    pub fn iter<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        self.iter_from(namespace, None)
    }

    /// As [`Snapshot::iter`], beginning after the key `after`.
    pub fn iter_from<'a>(
        &'a self,
        namespace: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        use std::ops::Bound;
        let (mut from, to) = if namespace.is_empty() {
            (Bound::Unbounded, Bound::Unbounded)
        } else {
            // '0' follows '/' in ASCII: the half-open range of one namespace's keys.
            let from: Key = format!("{namespace}/").into();
            let to: Key = format!("{namespace}0").into();
            (Bound::Included(from), Bound::Excluded(to))
        };
        if let Some(after) = after {
            from = Bound::Excluded(after.into());
        }
        self.objects.range((from, to)).map(|(_, object)| object)
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}
