//! One kind's objects with their indexes.
//!
//! Indexes are the same for every kind: by controller owner, by label within a namespace, and by
//! node for pods. The key order makes a namespace a range.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::Event;

use super::Delta;
use crate::kinds::Projection;
use crate::object::{Key, MetaExt};

/// What an object can be found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Index {
    /// Uid of the controlling owner.
    Owner(String),
    /// Namespace, label key, label value.
    Label(Arc<str>, String, String),
    /// Namespace of an object that has no controller.
    Orphan(Arc<str>),
    /// `spec.nodeName` of a pod.
    Node(String),
}

#[derive(Debug)]
pub struct Store<K> {
    objects: BTreeMap<Key, Arc<K>>,
    index: HashMap<Index, BTreeSet<Key>>,
    /// Keys seen since the list began; `None` outside of a list.
    listing: Option<BTreeSet<Key>>,
    synced: bool,
    /// Highest revision the watch has delivered.
    seen: u64,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            index: HashMap::new(),
            listing: None,
            synced: false,
            seen: 0,
        }
    }
}

impl<K: Projection + Indexed> Store<K> {
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.objects.iter()
    }

    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// All objects of one namespace.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        let first = Key::new(namespace, "");
        self.objects
            .range(first.clone()..)
            .take_while(move |(key, _)| key.namespace == first.namespace)
            .map(|(_, object)| object)
    }

    pub fn by_index(&self, index: Index) -> impl Iterator<Item = &Arc<K>> {
        self.index
            .get(&index)
            .into_iter()
            .flatten()
            .filter_map(|key| self.objects.get(key))
    }

    /// Objects whose controller has that uid.
    pub fn owned_by(&self, uid: &str) -> impl Iterator<Item = &Arc<K>> {
        self.by_index(Index::Owner(uid.to_owned()))
    }

    /// Objects of a namespace without a controller.
    pub fn orphans(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        self.by_index(Index::Orphan(namespace.into()))
    }

    /// Objects of a namespace that carry all of `labels`; the rarest label is the entry point.
    pub fn labelled(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<&Arc<K>> {
        let namespace: Arc<str> = namespace.into();
        let rarest = labels
            .iter()
            .map(|(k, v)| {
                self.index
                    .get(&Index::Label(namespace.clone(), k.clone(), v.clone()))
            })
            .min_by_key(|keys| keys.map_or(0, BTreeSet::len));
        let Some(rarest) = rarest else {
            return self.in_namespace(&namespace).collect();
        };
        let carries = |object: &&Arc<K>| {
            let meta = object.metadata();
            labels.iter().all(|(k, v)| meta.label(k) == Some(v))
        };
        let found = rarest
            .into_iter()
            .flatten()
            .filter_map(|key| self.objects.get(key));
        found.filter(carries).collect()
    }

    /// Takes in one watch event.
    pub fn deliver(&mut self, event: Event<K>) -> Vec<Delta<K>> {
        match event {
            Event::Init => {
                self.listing = Some(BTreeSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(Key::of(object.metadata()));
                }
                self.deliver_one(object)
            }
            Event::InitDone => self.end_listing(),
            Event::Apply(object) => self.deliver_one(object),
            Event::Delete(object) => {
                self.seen = self.seen.max(object.metadata().revision());
                let key = Key::of(object.metadata());
                let old = self.objects.get(&key);
                if old.is_none_or(|old| old.metadata().uid != object.metadata().uid) {
                    return Vec::new();
                }
                self.remove(&key).into_iter().collect()
            }
        }
    }

    /// Takes in the answer to one of our own writes, unless the watch is ahead of it.
    pub fn observe(&mut self, object: K) -> Option<Delta<K>> {
        let revision = object.metadata().revision();
        if revision == 0 || revision <= self.seen {
            return None;
        }
        self.insert(object)
    }

    /// One of our own deletes was accepted: the object counts as terminating from now on.
    pub fn observe_delete(&mut self, key: &Key, uid: &str) -> Option<Delta<K>> {
        let old = self.objects.get(key)?;
        if old.metadata().uid() != uid || old.metadata().is_deleting() {
            return None;
        }
        let mut object = K::clone(old);
        object.meta_mut().deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        self.replace(object)
    }

    fn deliver_one(&mut self, object: K) -> Vec<Delta<K>> {
        self.seen = self.seen.max(object.metadata().revision());
        self.insert(object).into_iter().collect()
    }

    fn end_listing(&mut self) -> Vec<Delta<K>> {
        self.synced = true;
        let Some(listed) = self.listing.take() else {
            return Vec::new();
        };
        let gone: Vec<Key> = self
            .objects
            .keys()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        gone.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Inserts unless what is there is at least as new.
    fn insert(&mut self, object: K) -> Option<Delta<K>> {
        let key = Key::of(object.metadata());
        if let Some(old) = self.objects.get(&key)
            && old.metadata().uid == object.metadata().uid
            && old.metadata().revision() >= object.metadata().revision()
            && old.metadata().deletion_timestamp == object.metadata().deletion_timestamp
        {
            return None;
        }
        self.replace(object)
    }

    fn replace(&mut self, mut object: K) -> Option<Delta<K>> {
        object.meta_mut().managed_fields = None;
        let key = Key::of(object.metadata());
        let new = Arc::new(object);
        let old = self.objects.insert(key.clone(), new.clone());
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        for index in indexes(&*new) {
            self.index.entry(index).or_default().insert(key.clone());
        }
        Some(Delta {
            old,
            new: Some(new),
        })
    }

    fn remove(&mut self, key: &Key) -> Option<Delta<K>> {
        let old = self.objects.remove(key)?;
        self.unindex(key, &old);
        Some(Delta {
            old: Some(old),
            new: None,
        })
    }

    fn unindex(&mut self, key: &Key, old: &K) {
        for index in indexes(old) {
            if let Some(keys) = self.index.get_mut(&index) {
                keys.remove(key);
                if keys.is_empty() {
                    self.index.remove(&index);
                }
            }
        }
    }
}

/// What a kind is found by besides its owner.
pub trait Indexed {
    /// Objects of this kind are looked up by label.
    const BY_LABEL: bool = false;

    fn node(&self) -> Option<&str> {
        None
    }
}

fn indexes<K: Projection + Indexed>(object: &K) -> Vec<Index> {
    let meta = object.metadata();
    let mut indexes = Vec::new();
    let namespace: Arc<str> = meta.namespace.as_deref().unwrap_or("").into();
    match meta.controller() {
        Some(owner) => indexes.push(Index::Owner(owner.uid.clone())),
        None if K::BY_LABEL => indexes.push(Index::Orphan(namespace.clone())),
        None => {}
    }
    if K::BY_LABEL {
        for (k, v) in meta.labels.iter().flatten() {
            indexes.push(Index::Label(namespace.clone(), k.clone(), v.clone()));
        }
    }
    if let Some(node) = object.node() {
        indexes.push(Index::Node(node.to_owned()));
    }
    indexes
}

macro_rules! indexed {
    ($($kind:ident $by_label:literal),* $(,)?) => {
        $(impl Indexed for crate::kinds::$kind {
            const BY_LABEL: bool = $by_label;
        })*
    };
}
indexed! {
    Namespace false, Node false, Lease false, Service false, Endpoints false, EndpointSlice true,
    Deployment false, ReplicaSet true, DaemonSet false, ControllerRevision true,
    ServiceAccount false, ConfigMap false, CertificateSigningRequest false, ClusterRole false,
    ReplicationController false, ResourceQuota false,
    PodDisruptionBudget false,
}

impl Indexed for crate::kinds::Pod {
    const BY_LABEL: bool = true;

    fn node(&self) -> Option<&str> {
        self.spec
            .node_name
            .as_deref()
            .filter(|node| !node.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Pod;
    use serde_json::json;

    fn pod(name: &str, revision: u64, labels: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {
            "namespace": "ns", "name": name, "uid": format!("uid-{name}"),
            "resourceVersion": revision.to_string(), "labels": labels}}))
        .unwrap()
    }

    #[test]
    fn an_answer_older_than_the_watch_does_not_bring_back_a_deleted_object() {
        let mut store = Store::default();
        store.deliver(Event::Apply(pod("a", 5, json!({}))));
        store.deliver(Event::Delete(pod("a", 7, json!({}))));
        assert!(store.observe(pod("a", 5, json!({}))).is_none());
        assert!(store.observe(pod("b", 8, json!({}))).is_some());
        assert_eq!(store.iter().count(), 1);
    }

    #[test]
    fn a_relist_removes_what_is_not_listed() {
        let mut store = Store::default();
        store.deliver(Event::Apply(pod("a", 5, json!({}))));
        store.deliver(Event::Apply(pod("b", 6, json!({}))));
        store.deliver(Event::Init);
        store.deliver(Event::InitApply(pod("b", 6, json!({}))));
        let gone = store.deliver(Event::InitDone);
        assert_eq!(gone.len(), 1);
        assert!(gone[0].new.is_none());
    }

    #[test]
    fn a_label_index_follows_changes() {
        let mut store = Store::default();
        store.deliver(Event::Apply(pod("a", 1, json!({"app": "x", "v": "1"}))));
        store.deliver(Event::Apply(pod("b", 2, json!({"app": "x", "v": "2"}))));
        let labels = |v: &str| {
            BTreeMap::from([
                ("app".to_owned(), "x".to_owned()),
                ("v".to_owned(), v.to_owned()),
            ])
        };
        assert_eq!(store.labelled("ns", &labels("1")).len(), 1);
        store.deliver(Event::Apply(pod("a", 3, json!({"app": "x", "v": "2"}))));
        assert_eq!(store.labelled("ns", &labels("1")).len(), 0);
        assert_eq!(store.labelled("ns", &labels("2")).len(), 2);
    }
}
