//! The garbage collector: objects whose owners are gone go too.
//!
//! Mechanism of pkg/controller/garbagecollector (graph.go, graph_builder.go, garbagecollector.go):
//! metadata of every kind is watched and kept as a graph of owners and dependents; an owner that
//! the graph does not have is looked for at the API server before anything is deleted. What is
//! served is asked for again and again (upstream's `Sync`), so that kinds defined later are followed
//! too and those that went are not.
//!
//! `graph` is pure, `act` talks to the API server, this file moves data between them.

mod act;
mod graph;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::discovery::{self, Deletable};
use crate::driver::queue::Queue;
use crate::view::Removed;
use act::Acted;
use graph::{Changes, Graph, Kind, Object, Task};

/// Identity of the collector.
pub const NAME: &str = "generic-garbage-collector";
/// Objects worked on at the same time.
const MAX_IN_FLIGHT: usize = 20;
/// Watch events waiting to be taken in.
const FEED_CAPACITY: usize = 1024;
/// Watch events taken in before work is handed out.
const MAX_BATCH: usize = 256;
/// Kinds that cannot be listed do not stop the others for longer than this.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before discovery is tried again after a failure.
const DISCOVERY_RETRY: Duration = Duration::from_secs(1);
/// Time between two looks at what is served (upstream: 30 s).
const RESYNC: Duration = Duration::from_secs(30);
/// Answers of discovery waiting to be taken in.
const DISCOVERY_CAPACITY: usize = 1;
/// Resources that own nothing and are owned by nothing that matters.
const IGNORED: [&str; 2] = ["events.", "events.events.k8s.io"];

/// An event of one kind's watch, by the number of the kind.
type Delivery = (usize, Event<PartialObjectMeta<DynamicObject>>);

/// Runs until `shutdown`.
pub async fn run(client: Client, removals: Sender<Removed>, shutdown: CancellationToken) {
    let (sender, deliveries) = mpsc::channel(FEED_CAPACITY);
    let (found, discoveries) = mpsc::channel(DISCOVERY_CAPACITY);
    let collector = Collector {
        feeds: Feeds {
            client: client.clone(),
            sender,
            tasks: JoinSet::new(),
            running: HashMap::new(),
        },
        client: client.clone(),
        graph: Graph::default(),
        queue: Queue::default(),
        tasks: JoinSet::new(),
        unsynced: HashSet::new(),
        synced_by: None,
        removals,
        missed: HashSet::new(),
    };
    tokio::select! {
        () = collector.run(deliveries, discoveries) => {}
        () = discover(&client, found) => {}
        () = shutdown.cancelled() => {}
    }
}

/// Says what is served, now and whenever it has changed.
async fn discover(client: &Client, found: Sender<Vec<Deletable>>) {
    let mut last = Vec::new();
    loop {
        let pause = match discovery::deletable(client).await {
            Ok(mut resources) => {
                resources.retain(|r| r.watchable && !IGNORED.contains(&r.name().as_str()));
                if resources != last {
                    last.clone_from(&resources);
                    if found.send(resources).await.is_err() {
                        return;
                    }
                }
                RESYNC
            }
            Err(error) => {
                tracing::warn!(%error, "garbage collector: discovery failed");
                DISCOVERY_RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn feed(client: Client, resource: Deletable, number: usize, sender: Sender<Delivery>) {
    let kind = ApiResource {
        group: resource.group.clone(),
        version: resource.version.clone(),
        api_version: resource.api_version(),
        kind: resource.kind.clone(),
        plural: resource.plural.clone(),
    };
    let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, &kind);
    let config = watcher::Config::default().streaming_lists();
    let mut stream = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                if sender.send((number, event)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(resource = resource.name(), %error, "garbage collector's watch");
            }
        }
    }
}

/// The watches, by the number of their kind.
struct Feeds {
    client: Client,
    sender: Sender<Delivery>,
    tasks: JoinSet<()>,
    running: HashMap<usize, AbortHandle>,
}

struct Collector {
    feeds: Feeds,
    client: Client,
    graph: Graph,
    queue: Queue<Task>,
    tasks: JoinSet<(Task, Result<Acted, act::Error>)>,
    /// Kinds not listed yet.
    unsynced: HashSet<usize>,
    /// When kinds that are not listed yet are no longer waited for; none before the first discovery.
    synced_by: Option<Instant>,
    /// Who else wants to know what is gone: this is the one place that watches every kind.
    removals: Sender<Removed>,
    /// Kinds of which removals could not be told.
    missed: HashSet<usize>,
}

// === impl Feeds ===

impl Feeds {
    fn start(&mut self, number: usize, resource: Deletable) {
        let feed = feed(self.client.clone(), resource, number, self.sender.clone());
        let handle = self.tasks.spawn(feed);
        if let Some(old) = self.running.insert(number, handle) {
            old.abort();
        }
        // Those that were stopped are of no interest.
        while self.tasks.try_join_next().is_some() {}
    }

    fn stop(&mut self, number: usize) {
        if let Some(handle) = self.running.remove(&number) {
            handle.abort();
        }
    }
}

// === impl Collector ===

impl Collector {
    async fn run(
        mut self,
        mut deliveries: Receiver<Delivery>,
        mut discoveries: Receiver<Vec<Deletable>>,
    ) {
        loop {
            let due = self.next_due();
            tokio::select! {
                Some(served) = discoveries.recv() => self.follow(served),
                Some(delivery) = deliveries.recv() => self.take_in(delivery, &mut deliveries),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok((task, result)) => self.finish(task, result),
                    Err(error) => tracing::error!(%error, "a garbage task ended abnormally"),
                },
                () = tokio::time::sleep_until(due.into()) => {}
            }
            if self.is_ready() {
                self.dispatch();
            }
        }
    }

    /// Watches the kinds that are new and no longer those that went. Nothing is collected before the
    /// new ones are listed: they may be owners.
    fn follow(&mut self, served: Vec<Deletable>) {
        let Changes { added, removed } = self.graph.set_resources(served);
        for (number, resource) in added {
            self.unsynced.insert(number);
            self.feeds.start(number, resource);
        }
        for number in removed {
            self.unsynced.remove(&number);
            self.feeds.stop(number);
        }
        self.synced_by = Some(Instant::now() + SYNC_TIMEOUT);
    }

    fn is_ready(&self) -> bool {
        self.synced_by
            .is_some_and(|by| self.unsynced.is_empty() || by <= Instant::now())
    }

    fn next_due(&self) -> Instant {
        let idle = Instant::now() + Duration::from_secs(3600);
        if !self.is_ready() {
            return self.synced_by.unwrap_or(idle);
        }
        if self.tasks.len() >= MAX_IN_FLIGHT {
            return idle;
        }
        self.queue.next_due().unwrap_or(idle)
    }

    fn take_in(&mut self, first: Delivery, more: &mut Receiver<Delivery>) {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some((number, event)) = next {
            let tasks = match event {
                Event::Init => {
                    self.graph.begin_listing(number);
                    Vec::new()
                }
                Event::InitApply(object) | Event::Apply(object) => {
                    self.graph.set(Object::new(number, &object.metadata))
                }
                Event::InitDone => {
                    self.unsynced.remove(&number);
                    self.tell_removed(number, None);
                    self.graph.end_listing(number)
                }
                Event::Delete(object) => {
                    self.tell_removed(number, object.metadata.namespace.as_deref());
                    let uid = object.metadata.uid.as_deref();
                    self.graph.remove(uid.unwrap_or_default())
                }
            };
            tasks.into_iter().for_each(|task| self.queue.add(task));
            taken += 1;
            next = if taken < MAX_BATCH {
                more.try_recv().ok()
            } else {
                None
            };
        }
    }

    /// Says that an object is gone; `None`: perhaps, anywhere. What cannot be said now is said later,
    /// less exactly.
    fn tell_removed(&mut self, number: usize, namespace: Option<&str>) {
        self.missed.insert(number);
        let missed: Vec<usize> = self.missed.iter().copied().collect();
        for kind in missed {
            let Some(Kind { resource, .. }) = self.graph.resources().get(kind) else {
                continue;
            };
            let is_exact = kind == number && self.missed.len() == 1;
            let removed = Removed {
                group: resource.group.clone(),
                plural: resource.plural.clone(),
                namespace: namespace.filter(|_| is_exact).map(Arc::from),
            };
            if self.removals.try_send(removed).is_err() {
                return;
            }
            self.missed.remove(&kind);
        }
    }

    fn dispatch(&mut self) {
        while self.tasks.len() < MAX_IN_FLIGHT {
            let Some(task) = self.queue.pop(Instant::now()) else {
                return;
            };
            let Some(work) = self.graph.work(&task) else {
                self.queue.done(&task);
                continue;
            };
            let client = self.client.clone();
            let resources = Arc::clone(self.graph.resources());
            self.tasks.spawn(async move {
                let result = act::act(&client, &resources, work).await;
                (task, result)
            });
        }
    }

    fn finish(&mut self, task: Task, result: Result<Acted, act::Error>) {
        match result {
            Ok(acted) => {
                for uid in acted.absent {
                    self.graph.note_absent(uid);
                }
                self.queue.done(&task);
            }
            Err(error) => {
                let delay = self.queue.failed(&task, Instant::now());
                tracing::debug!(?task, %error, ?delay, "garbage task failed");
            }
        }
    }
}
