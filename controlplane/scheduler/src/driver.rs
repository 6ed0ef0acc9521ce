//! The shell: watches in, decisions out. One task owns snapshot and queue; bindings are spawned.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::events::Recorder;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bind;
use crate::object::{Budget, Key, Labels, Namespace, Node, Pod};
use crate::preempt::{Candidate, displaced, preempt};
use crate::queue::{Hint, Queue};
use crate::schedule::schedule;
use crate::snapshot::Snapshot;

/// Pods that name no scheduler are ours.
const SCHEDULER_NAME: &str = "default-scheduler";
/// Watch events waiting to be taken in.
const FEED_CAPACITY: usize = 1024;
/// Watch events taken in before the next decision.
const MAX_BATCH: usize = 256;
/// Bindings and explanations under way at the same time.
const MAX_IN_FLIGHT: usize = 256;
/// Decisions between two looks at the watches.
const MAX_DECISIONS: usize = 64;

#[expect(clippy::large_enum_variant, reason = "few exist, each for a moment")]
enum Delivery {
    Pod(Event<Pod>),
    Node(Event<Node>),
    Namespace(Event<Namespace>),
    Budget(Event<Budget>),
}

/// The end of a binding.
struct Bound {
    key: Key,
    uid: String,
    failure: Option<String>,
}

/// Runs until `shutdown`. The client's identity needs upstream's role `system:kube-scheduler`.
pub async fn run(client: Client, shutdown: CancellationToken) {
    let (sender, mut deliveries) = mpsc::channel(FEED_CAPACITY);
    let mut feeds = JoinSet::new();
    // Finished pods hold nothing and want nothing.
    let alive = "status.phase!=Succeeded,status.phase!=Failed";
    feeds.spawn(feed(
        Api::all(client.clone()),
        Some(alive),
        sender.clone(),
        Delivery::Pod,
    ));
    feeds.spawn(feed(
        Api::all(client.clone()),
        None,
        sender.clone(),
        Delivery::Node,
    ));
    feeds.spawn(feed(
        Api::all(client.clone()),
        None,
        sender.clone(),
        Delivery::Namespace,
    ));
    feeds.spawn(feed(
        Api::all(client.clone()),
        None,
        sender,
        Delivery::Budget,
    ));
    let mut driver = Driver::new(client);
    loop {
        let due = driver.next_due();
        tokio::select! {
            () = shutdown.cancelled() => break,
            delivery = deliveries.recv() => match delivery {
                Some(delivery) => driver.take_in(delivery, &mut deliveries),
                None => break,
            },
            Some(bound) = driver.tasks.join_next(), if !driver.tasks.is_empty() => match bound {
                Ok(bound) => driver.finish(bound),
                Err(error) => tracing::error!(%error, "a binding task ended abnormally"),
            },
            () = tokio::time::sleep_until(due.into()) => {}
        }
        driver.decide();
    }
}

async fn feed<K>(
    api: Api<K>,
    fields: Option<&str>,
    sender: Sender<Delivery>,
    wrap: fn(Event<K>) -> Delivery,
) where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut config = watcher::Config::default().streaming_lists();
    config.field_selector = fields.map(str::to_owned);
    let mut stream = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                if sender.send(wrap(event)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "the scheduler's watch failed"),
        }
    }
}

/// The names seen since a list began, and whether a list has ended yet.
struct Listing<N> {
    seen: HashSet<N>,
    listed_once: bool,
}

impl<N> Listing<N> {
    fn new() -> Self {
        Self {
            seen: HashSet::new(),
            listed_once: false,
        }
    }
}

struct Driver {
    client: Client,
    recorder: Recorder,
    snapshot: Snapshot,
    queue: Queue,
    /// Every pod that is alive.
    pods: HashMap<Key, Arc<Pod>>,
    pod_listing: Listing<Key>,
    node_listing: Listing<String>,
    namespace_listing: Listing<String>,
    budgets: BTreeMap<Key, Arc<Budget>>,
    budget_listing: Listing<Key>,
    tasks: JoinSet<Bound>,
    seed: u64,
    /// Ready pods were left over to look at the watches first.
    unfinished: bool,
}

impl Driver {
    fn new(client: Client) -> Self {
        let recorder = Recorder::new(client.clone(), SCHEDULER_NAME.into());
        Self {
            client,
            recorder,
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            pods: HashMap::new(),
            pod_listing: Listing::new(),
            node_listing: Listing::new(),
            namespace_listing: Listing::new(),
            budgets: BTreeMap::new(),
            budget_listing: Listing::new(),
            tasks: JoinSet::new(),
            seed: rand::random(),
            unfinished: false,
        }
    }

    fn is_synced(&self) -> bool {
        self.pod_listing.listed_once
            && self.node_listing.listed_once
            && self.namespace_listing.listed_once
            && self.budget_listing.listed_once
    }

    fn next_due(&self) -> Instant {
        let now = Instant::now();
        if self.unfinished {
            return now;
        }
        self.queue
            .next_due()
            .unwrap_or(now + Duration::from_secs(3600))
    }

    fn take_in(&mut self, first: Delivery, more: &mut Receiver<Delivery>) {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(delivery) = next {
            match delivery {
                Delivery::Pod(event) => self.pod_event(event),
                Delivery::Node(event) => self.node_event(event),
                Delivery::Namespace(event) => self.namespace_event(event),
                Delivery::Budget(event) => self.budget_event(event),
            }
            taken += 1;
            next = if taken < MAX_BATCH {
                more.try_recv().ok()
            } else {
                None
            };
        }
    }

    fn pod_event(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.pod_listing.seen.clear(),
            Event::InitApply(pod) => {
                self.pod_listing.seen.insert(pod.key());
                self.set_pod(pod);
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut self.pod_listing.seen);
                let gone: Vec<Key> = self
                    .pods
                    .keys()
                    .filter(|key| !seen.contains(*key))
                    .cloned()
                    .collect();
                gone.iter().for_each(|key| self.remove_pod(key));
                self.pod_listing.listed_once = true;
            }
            Event::Apply(pod) => self.set_pod(pod),
            Event::Delete(pod) => self.remove_pod(&pod.key()),
        }
    }

    fn set_pod(&mut self, mut pod: Pod) {
        pod.metadata.managed_fields = None;
        let key = pod.key();
        let pod = Arc::new(pod);
        let old = self.pods.insert(key.clone(), pod.clone());
        if old.as_ref().is_some_and(|old| old.uid() != pod.uid()) {
            self.forget_pod(&key);
        }
        let was_placed = old
            .as_ref()
            .is_some_and(|old| old.node().is_some() && !old.is_finished());
        let is_placed = pod.node().is_some() && !pod.is_finished();
        self.snapshot.set_pod(&pod);
        let promised = |pod: &Arc<Pod>| pod.status.nominated_node_name.clone();
        let old_promise = old.as_ref().and_then(promised);
        let changed = old.is_some_and(|old| differs(&old, &pod));
        let now = Instant::now();
        match (was_placed, is_placed) {
            (false, true) => self.queue.hint(Hint::PodPlaced, now),
            (true, false) => self.queue.hint(Hint::PodRemoved, now),
            // Its labels may matter to others, its request may have shrunk.
            (true, true) if changed => {
                self.queue.hint(Hint::PodPlaced, now);
                self.queue.hint(Hint::PodRemoved, now);
            }
            _ => {}
        }
        if !pod.wants_node(SCHEDULER_NAME) {
            self.queue.remove(&key);
            self.snapshot.break_promise(&key);
            return;
        }
        match (old_promise, promised(&pod)) {
            // An earlier scheduler's, too.
            (_, Some(node)) => self.snapshot.promise(&pod, &node),
            (Some(_), None) => self.snapshot.break_promise(&key),
            (None, None) => {}
        }
        if !self.snapshot.is_assumed(&key) {
            self.queue.add(&key, pod.spec.priority, changed);
        }
    }

    fn remove_pod(&mut self, key: &Key) {
        self.forget_pod(key);
        self.pods.remove(key);
    }

    fn forget_pod(&mut self, key: &Key) {
        self.snapshot.remove_pod(key);
        self.snapshot.break_promise(key);
        self.queue.remove(key);
        self.queue.hint(Hint::PodRemoved, Instant::now());
    }

    fn node_event(&mut self, event: Event<Node>) {
        match event {
            Event::Init => self.node_listing.seen.clear(),
            Event::InitApply(node) => {
                self.node_listing.seen.insert(node.name().to_owned());
                self.set_node(node);
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut self.node_listing.seen);
                let names = self
                    .snapshot
                    .nodes()
                    .map(|info| info.node.name().to_owned());
                let gone: Vec<String> = names.filter(|name| !seen.contains(name)).collect();
                gone.iter().for_each(|name| self.snapshot.remove_node(name));
                self.node_listing.listed_once = true;
            }
            Event::Apply(node) => self.set_node(node),
            Event::Delete(node) => self.snapshot.remove_node(node.name()),
        }
    }

    fn set_node(&mut self, node: Node) {
        let now = Instant::now();
        let mut hints = Vec::new();
        match self.snapshot.node(node.name()) {
            None => hints.push(Hint::NodeAdded),
            Some(info) => {
                let old = &info.node;
                if old.status != node.status {
                    hints.push(Hint::NodeResources);
                }
                if old.spec != node.spec {
                    hints.push(Hint::NodeTaints);
                }
                if old.labels() != node.labels() {
                    hints.push(Hint::NodeLabels);
                }
                if hints.is_empty() {
                    return;
                }
            }
        }
        self.snapshot.set_node(node);
        hints
            .into_iter()
            .for_each(|hint| self.queue.hint(hint, now));
    }

    fn namespace_event(&mut self, event: Event<Namespace>) {
        match event {
            Event::Init => self.namespace_listing.seen.clear(),
            Event::InitApply(namespace) | Event::Apply(namespace) => {
                let name = namespace.metadata.name.unwrap_or_default();
                let labels: Labels = namespace.metadata.labels.unwrap_or_default();
                if self.snapshot.namespace_labels(&name) != Some(&labels) {
                    self.snapshot.set_namespace(&name, labels);
                    self.queue.hint(Hint::NamespaceLabels, Instant::now());
                }
            }
            // Names of namespaces that went away unseen do no harm: their pods are gone.
            Event::InitDone => self.namespace_listing.listed_once = true,
            Event::Delete(namespace) => {
                self.snapshot
                    .remove_namespace(namespace.metadata.name.as_deref().unwrap_or(""));
            }
        }
    }

    fn budget_event(&mut self, event: Event<Budget>) {
        let listing = &mut self.budget_listing;
        match event {
            Event::Init => listing.seen.clear(),
            Event::InitApply(budget) => {
                listing.seen.insert(budget.key());
                self.budgets.insert(budget.key(), Arc::new(budget));
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut listing.seen);
                self.budgets.retain(|key, _| seen.contains(key));
                listing.listed_once = true;
            }
            Event::Apply(budget) => {
                self.budgets.insert(budget.key(), Arc::new(budget));
            }
            Event::Delete(budget) => {
                self.budgets.remove(&budget.key());
            }
        }
    }

    /// Decides pod after pod, and stops now and then for the watches.
    fn decide(&mut self) {
        self.unfinished = false;
        if !self.is_synced() {
            return;
        }
        for _ in 0..MAX_DECISIONS {
            // The end of a task brings the next look.
            if self.tasks.len() >= MAX_IN_FLIGHT {
                return;
            }
            let Some(key) = self.queue.pop(Instant::now()) else {
                return;
            };
            let Some(pod) = self.pods.get(&key).cloned() else {
                self.queue.remove(&key);
                continue;
            };
            self.seed = self.seed.wrapping_add(1);
            match schedule(&self.snapshot, &pod, self.seed) {
                Ok(node) => self.place(key, pod, node),
                Err(why) => {
                    let message = why.to_string();
                    tracing::debug!(pod = %key, %message, "no node for the pod");
                    self.queue.unschedulable(&key, why.plugins, Instant::now());
                    match preempt(&self.snapshot, &pod, &self.budgets) {
                        Ok(candidate) => self.preempt(pod, candidate, message),
                        Err(useless) => {
                            self.explain(pod, format!("{message} preemption: {useless}"));
                        }
                    }
                }
            }
        }
        self.unfinished = true;
    }

    fn place(&mut self, key: Key, pod: Arc<Pod>, node: String) {
        self.snapshot.assume(&pod, &node);
        let client = self.client.clone();
        let recorder = self.recorder.clone();
        self.tasks.spawn(async move {
            // A pod whose binding panics must not stay assumed for ever.
            let bound = AssertUnwindSafe(bind::bind(&client, &pod, &node)).catch_unwind();
            let failure = match bound.await {
                Ok(result) => result.err().map(|e| e.to_string()),
                Err(_) => Some("binding panicked".to_owned()),
            };
            if failure.is_none() {
                bind::record(&recorder, &pod, Ok(&node)).await;
            }
            Bound {
                key,
                uid: pod.uid().to_owned(),
                failure,
            }
        });
    }

    /// Makes room on a node; the pod tries again when its victims are gone.
    fn preempt(&mut self, pod: Arc<Pod>, candidate: Candidate, message: String) {
        let Candidate { node, victims, .. } = candidate;
        let displaced = displaced(&self.snapshot, &pod, &node);
        for other in &displaced {
            self.snapshot.break_promise(&other.key());
        }
        self.snapshot.promise(&pod, &node);
        let (client, recorder) = (self.client.clone(), self.recorder.clone());
        self.tasks.spawn(async move {
            let told = |what: &'static str, of: &Pod, result: Result<(), kube::Error>| {
                if let Err(error) = &result {
                    tracing::warn!(pod = %of.key(), %error, "{what}");
                }
                result.is_ok()
            };
            for victim in &victims {
                let evicted = bind::evict(&client, victim).await;
                if told("preemption failed", victim, evicted) {
                    bind::record_preempted(&recorder, victim, &pod, &node).await;
                }
            }
            for other in &displaced {
                let cleared = bind::break_promise(&client, other).await;
                told("nomination not cleared", other, cleared);
            }
            let marked = bind::mark(&client, &pod, &message, Some(&node)).await;
            told("nomination not written", &pod, marked);
            bind::record(&recorder, &pod, Err(&message)).await;
            Bound {
                key: pod.key(),
                uid: pod.uid().to_owned(),
                failure: None,
            }
        });
    }

    fn explain(&mut self, pod: Arc<Pod>, message: String) {
        let client = self.client.clone();
        let recorder = self.recorder.clone();
        self.tasks.spawn(async move {
            if let Err(error) = bind::mark(&client, &pod, &message, None).await {
                tracing::debug!(pod = %pod.key(), %error, "condition not written");
            }
            bind::record(&recorder, &pod, Err(&message)).await;
            Bound {
                key: pod.key(),
                uid: pod.uid().to_owned(),
                failure: None,
            }
        });
    }

    fn finish(&mut self, bound: Bound) {
        let Bound { key, uid, failure } = bound;
        let Some(error) = failure else { return };
        let Some(pod) = self.pods.get(&key).filter(|pod| pod.uid() == uid) else {
            return;
        };
        tracing::warn!(pod = %key, %error, "binding failed");
        self.snapshot.forget(&key);
        // Forgotten capacity is free again for others.
        let now = Instant::now();
        self.queue.hint(Hint::PodRemoved, now);
        if pod.wants_node(SCHEDULER_NAME) {
            self.queue.failed(&key, now);
        }
    }
}

/// What scheduling looks at has changed.
fn differs(old: &Pod, new: &Pod) -> bool {
    old.spec != new.spec || old.labels() != new.labels()
}
