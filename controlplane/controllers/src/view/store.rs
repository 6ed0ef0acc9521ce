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
    /// `None` outside of a list.
    listing: Option<Listing>,
    synced: bool,
    /// Highest revision the watch has delivered.
    seen: u64,
    /// Answers to our own writes that the watch has not delivered yet, by revision.
    unconfirmed: BTreeSet<(u64, Key)>,
}

/// What a list that has not ended yet has shown.
#[derive(Debug, Default)]
struct Listing {
    keys: BTreeSet<Key>,
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
            unconfirmed: BTreeSet::new(),
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
                self.listing = Some(Listing::default());
                Vec::new()
            }
            Event::InitApply(object) => {
                // A list is in the order of names: only its end says which revision it shows.
                let key = Key::of(object.metadata());
                let revision = object.metadata().revision();
                self.unconfirmed.remove(&(revision, key.clone()));
                if let Some(listing) = &mut self.listing {
                    listing.keys.insert(key);
                    listing.seen = listing.seen.max(revision);
                }
                self.insert(object).into_iter().collect()
            }
            Event::InitDone => self.end_listing(),
            Event::Apply(object) => {
                let revision = object.metadata().revision();
                let key = Key::of(object.metadata());
                self.unconfirmed.remove(&(revision, key));
                let delta = self.insert(object);
                delta.into_iter().chain(self.pass(revision)).collect()
            }
            Event::Delete(object) => {
                let revision = object.metadata().revision();
                let key = Key::of(object.metadata());
                let old = self.objects.get(&key);
                let is_it = old.is_some_and(|old| old.metadata().uid == object.metadata().uid);
                let delta = is_it.then(|| self.remove(&key)).flatten();
                delta.into_iter().chain(self.pass(revision)).collect()
            }
        }
    }

    /// Takes in the answer to one of our own writes, unless the watch is ahead of it.
    pub fn observe(&mut self, object: K) -> Option<Delta<K>> {
        let revision = object.metadata().revision();
        if revision == 0 || revision <= self.seen {
            return None;
        }
        self.unconfirmed
            .insert((revision, Key::of(object.metadata())));
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

    fn end_listing(&mut self) -> Vec<Delta<K>> {
        self.synced = true;
        let Some(Listing { keys, seen }) = self.listing.take() else {
            return Vec::new();
        };
        let seen = self.seen.max(seen);
        // What we wrote after the list was made is not in it; the watch will deliver it.
        let gone = |(key, object): &(&Key, &Arc<K>)| {
            !keys.contains(*key) && object.metadata().revision() <= seen
        };
        let gone: Vec<Key> = self
            .objects
            .iter()
            .filter(gone)
            .map(|(k, _)| k.clone())
            .collect();
        let mut deltas: Vec<_> = gone.iter().filter_map(|key| self.remove(key)).collect();
        deltas.extend(self.pass(seen));
        deltas
    }

    /// The watch has delivered everything before `revision`. An answer it went past without
    /// delivering it is of an object that was gone before a list began.
    fn pass(&mut self, revision: u64) -> Vec<Delta<K>> {
        self.seen = self.seen.max(revision);
        let mut deltas = Vec::new();
        while let Some((answered, key)) = self.unconfirmed.pop_first() {
            if answered >= revision {
                self.unconfirmed.insert((answered, key));
                break;
            }
            let object = self.objects.get(&key);
            if object.is_some_and(|object| object.metadata().revision() == answered) {
                deltas.extend(self.remove(&key));
            }
        }
        deltas
    }

    /// Inserts unless what is there is at least as new. A deletion is never taken back: a version
    /// from before it may still be on its way.
    fn insert(&mut self, mut object: K) -> Option<Delta<K>> {
        let key = Key::of(object.metadata());
        if let Some(old) = self.objects.get(&key)
            && old.metadata().uid == object.metadata().uid
        {
            let (old, new) = (old.metadata(), object.meta_mut());
            if old.is_deleting() && !new.is_deleting() {
                new.deletion_timestamp.clone_from(&old.deletion_timestamp);
            }
            if old.revision() >= new.revision() && old.is_deleting() == new.is_deleting() {
                return None;
            }
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
    PodCertificateRequest false,
    ReplicationController false, ResourceQuota false, PodDisruptionBudget false,
    StatefulSet false, PersistentVolumeClaim false, Job false, CronJob false,
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
    fn what_was_written_after_a_list_was_made_survives_the_list() {
        let mut store = Store::default();
        store.deliver(Event::Apply(pod("a", 5, json!({}))));
        store.deliver(Event::Init);
        store.deliver(Event::InitApply(pod("a", 5, json!({}))));
        assert!(store.observe(pod("b", 7, json!({}))).is_some());
        assert!(store.deliver(Event::InitDone).is_empty());
        assert!(
            store
                .deliver(Event::Apply(pod("b", 7, json!({}))))
                .is_empty()
        );
        store.deliver(Event::Apply(pod("c", 8, json!({}))));
        assert_eq!(store.iter().count(), 3);
    }

    #[test]
    fn an_answer_is_taken_in_while_a_list_shows_newer_objects_first() {
        let mut store = Store::default();
        store.deliver(Event::Apply(pod("b", 5, json!({}))));
        store.deliver(Event::Init);
        store.deliver(Event::InitApply(pod("a", 9, json!({}))));
        assert!(store.observe(pod("c", 8, json!({}))).is_some());
    }

    #[test]
    fn an_answer_the_watch_went_past_is_of_an_object_that_is_gone() {
        let mut store = Store::default();
        store.deliver(Event::Apply(pod("a", 5, json!({}))));
        store.deliver(Event::Init);
        // Written at 7, deleted by someone at 8, listed at 9.
        store.observe(pod("b", 7, json!({})));
        store.deliver(Event::InitApply(pod("a", 5, json!({}))));
        store.deliver(Event::InitDone);
        let deltas = store.deliver(Event::Apply(pod("a", 10, json!({}))));
        assert!(deltas.iter().any(|delta| delta.new.is_none()));
        assert_eq!(store.iter().count(), 1);
    }

    #[test]
    fn a_version_from_before_an_accepted_deletion_does_not_take_it_back() {
        let mut store = Store::default();
        store.deliver(Event::Apply(pod("a", 5, json!({}))));
        let key = Key::new("ns", "a");
        assert!(store.observe_delete(&key, "uid-a").is_some());
        store.deliver(Event::Apply(pod("a", 5, json!({}))));
        store.deliver(Event::Apply(pod("a", 6, json!({"app": "x"}))));
        let now = store.get(&key).unwrap();
        assert!(now.metadata.is_deleting());
        assert_eq!(now.metadata.label("app"), Some("x"));
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
