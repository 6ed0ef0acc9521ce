//! ConfigMaps, Secrets and trust anchors that pods of this node refer to. `Store` keeps one watch per
//! reference for as long as a pod holds it (for objects the Node authorizer allows no more than that),
//! `Objects` is the snapshot of those one pod uses. Contents may be secret and have no `Debug`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::spec;
use anchors::Anchors;

pub mod anchors;

/// How long a container start waits for the first answer about an object.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    ConfigMap { namespace: String, name: String },
    Secret { namespace: String, name: String },
    Anchors(Anchors),
}

impl Key {
    pub fn config_map(namespace: &str, name: &str) -> Self {
        Self::ConfigMap {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub fn secret(namespace: &str, name: &str) -> Self {
        Self::Secret {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Resource, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ConfigMap { .. } => "configmap",
            Self::Secret { .. } => "secret",
            Self::Anchors(_) => "clustertrustbundle",
        }
    }

    /// Name, for messages.
    pub fn name(&self) -> String {
        match self {
            Self::ConfigMap { name, .. } | Self::Secret { name, .. } => name.clone(),
            Self::Anchors(anchors) => anchors.to_string(),
        }
    }
}

/// The contents of a ConfigMap (text and binary alike) or Secret, or trust anchors under their one name.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Data {
    pub data: BTreeMap<String, Vec<u8>>,
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.data.keys()).finish()
    }
}

/// What one pod's references look like right now.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    found: BTreeMap<Key, Arc<Data>>,
    /// The API has not answered about these: they may exist.
    unread: BTreeSet<Key>,
}

impl Objects {
    pub fn get(&self, key: &Key) -> Option<&Arc<Data>> {
        self.found.get(key)
    }

    /// Whether it is known that the object does not exist, rather than not known at all.
    pub fn is_missing(&self, key: &Key) -> bool {
        !self.found.contains_key(key) && !self.unread.contains(key)
    }

    pub fn insert(&mut self, key: Key, data: Data) {
        self.found.insert(key, Arc::new(data));
    }
}

/// Every object the pod's containers and volumes name.
pub fn references(pod: &Pod) -> BTreeSet<Key> {
    let namespace = spec::namespace(pod);
    let mut keys = BTreeSet::new();
    for (_, container) in spec::containers(pod) {
        for from in container.env_from.iter().flatten() {
            keys.extend(
                from.config_map_ref
                    .iter()
                    .map(|r| Key::config_map(namespace, &r.name)),
            );
            keys.extend(
                from.secret_ref
                    .iter()
                    .map(|r| Key::secret(namespace, &r.name)),
            );
        }
        for source in container
            .env
            .iter()
            .flatten()
            .filter_map(|v| v.value_from.as_ref())
        {
            keys.extend(
                source
                    .config_map_key_ref
                    .iter()
                    .map(|r| Key::config_map(namespace, &r.name)),
            );
            keys.extend(
                source
                    .secret_key_ref
                    .iter()
                    .map(|r| Key::secret(namespace, &r.name)),
            );
        }
    }
    for volume in spec::spec(pod).volumes.iter().flatten() {
        keys.extend(
            volume
                .config_map
                .iter()
                .map(|v| Key::config_map(namespace, &v.name)),
        );
        let secret = volume.secret.iter().filter_map(|v| v.secret_name.as_ref());
        keys.extend(secret.map(|name| Key::secret(namespace, name)));
        let projected = volume.projected.iter().filter_map(|p| p.sources.as_ref());
        for source in projected.flatten() {
            keys.extend(
                source
                    .config_map
                    .iter()
                    .map(|r| Key::config_map(namespace, &r.name)),
            );
            keys.extend(
                source
                    .secret
                    .iter()
                    .map(|r| Key::secret(namespace, &r.name)),
            );
            let bundle = source.cluster_trust_bundle.iter();
            keys.extend(bundle.map(|p| Key::Anchors(Anchors::from(p))));
        }
    }
    for secret in spec::spec(pod).image_pull_secrets.iter().flatten() {
        keys.insert(Key::secret(namespace, &secret.name));
    }
    keys
}

#[derive(Debug, Clone)]
enum Entry {
    /// No answer yet.
    Unknown,
    Missing,
    Found(Arc<Data>),
}

/// One watched object; ends its watch when the last holder drops it.
struct Slot {
    entry: watch::Receiver<Entry>,
    _task: AbortOnDropHandle<()>,
}

/// The shared watches of a node.
#[derive(Clone)]
pub struct Store {
    client: Client,
    slots: Arc<Mutex<HashMap<Key, Weak<Slot>>>>,
}

/// A pod's hold on its objects; remembers which versions the pod has seen.
pub struct Held {
    slots: BTreeMap<Key, (Arc<Slot>, watch::Receiver<Entry>)>,
}

impl Store {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            slots: Arc::default(),
        }
    }

    pub fn hold(&self, keys: BTreeSet<Key>) -> Held {
        let mut known = self.slots.lock().expect("no holder of this lock panics");
        known.retain(|_, slot| slot.strong_count() > 0);
        let slots = keys
            .into_iter()
            .map(|key| {
                let slot = known.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
                    let slot = Arc::new(self.start(&key));
                    known.insert(key.clone(), Arc::downgrade(&slot));
                    slot
                });
                let entry = slot.entry.clone();
                (key, (slot, entry))
            })
            .collect();
        Held { slots }
    }

    fn start(&self, key: &Key) -> Slot {
        let (sender, entry) = watch::channel(Entry::Unknown);
        let client = self.client.clone();
        let task = match key {
            Key::ConfigMap { namespace, name } => {
                let api = Api::<ConfigMap>::namespaced(client, namespace);
                tokio::spawn(follow(api, name.clone(), sender, |object| {
                    let text = object.data.unwrap_or_default().into_iter();
                    let binary = object.binary_data.unwrap_or_default().into_iter();
                    let text = text.map(|(name, value)| (name, value.into_bytes()));
                    Data {
                        data: text
                            .chain(binary.map(|(name, value)| (name, value.0)))
                            .collect(),
                    }
                }))
            }
            Key::Secret { namespace, name } => {
                let api = Api::<Secret>::namespaced(client, namespace);
                tokio::spawn(follow(api, name.clone(), sender, |object| {
                    let data = object.data.unwrap_or_default().into_iter();
                    Data {
                        data: data.map(|(name, value)| (name, value.0)).collect(),
                    }
                }))
            }
            Key::Anchors(anchors) => tokio::spawn(anchors.clone().follow(client, sender)),
        };
        Slot {
            entry,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

async fn follow<K>(api: Api<K>, name: String, sender: watch::Sender<Entry>, data: fn(K) -> Data)
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut seen = false;
    loop {
        match events.try_next().await {
            Ok(Some(watcher::Event::Init)) => seen = false,
            Ok(Some(watcher::Event::InitApply(object) | watcher::Event::Apply(object))) => {
                seen = true;
                sender.send_replace(Entry::Found(Arc::new(data(object))));
            }
            Ok(Some(watcher::Event::InitDone)) if !seen => {
                sender.send_replace(Entry::Missing);
            }
            Ok(Some(watcher::Event::InitDone)) => {}
            Ok(Some(watcher::Event::Delete(_))) => {
                sender.send_replace(Entry::Missing);
            }
            Ok(None) => return,
            Err(error) => tracing::debug!(%error, name, "watch of a referenced object failed"),
        }
    }
}

impl Held {
    /// Waits until each object has an answer (bounded), then returns those that exist.
    pub async fn snapshot(&mut self) -> Objects {
        let deadline = tokio::time::Instant::now() + FIRST_ANSWER;
        let mut objects = Objects::default();
        for (key, (_, entry)) in &mut self.slots {
            let known = entry.wait_for(|entry| !matches!(entry, Entry::Unknown));
            // On a time-out or the end of the watch the object counts as unread.
            let _ = tokio::time::timeout_at(deadline, known).await;
            match &*entry.borrow_and_update() {
                Entry::Found(data) => {
                    objects.found.insert(key.clone(), data.clone());
                }
                Entry::Missing => {}
                Entry::Unknown => {
                    objects.unread.insert(key.clone());
                }
            }
        }
        objects
    }

    /// Resolves when any of the objects differs from what the last snapshot saw.
    pub async fn changed(&mut self) {
        let changes: Vec<_> = self
            .slots
            .values_mut()
            .map(|(_, entry)| {
                Box::pin(async move {
                    if entry.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                })
            })
            .collect();
        if changes.is_empty() {
            std::future::pending::<()>().await;
        }
        futures::future::select_all(changes).await;
    }
}
