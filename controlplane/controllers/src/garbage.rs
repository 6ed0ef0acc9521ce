//! The garbage collector: objects whose owners are gone go too.
//!
//! Mechanism of pkg/controller/garbagecollector (graph.go, graph_builder.go, garbagecollector.go):
//! metadata of every kind is watched and kept as a graph of owners and dependents; an owner that
//! the graph does not have is looked for at the API server before anything is deleted.
//!
//! `graph` is pure, `act` talks to the API server, this file moves data between them.

mod act;
mod graph;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::discovery::{self, Deletable};
use crate::driver::queue::Queue;
use act::Acted;
use graph::{Graph, Object, Task};

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
/// Pause before discovery is tried again.
const DISCOVERY_RETRY: Duration = Duration::from_secs(1);
/// Resources that own nothing and are owned by nothing that matters.
const IGNORED: [&str; 2] = ["events.", "events.events.k8s.io"];

/// An event of one kind's watch, by the number of the kind.
type Delivery = (usize, Event<PartialObjectMeta<DynamicObject>>);

/// Runs until `shutdown`.
pub async fn run(client: Client, shutdown: CancellationToken) {
    let resources = tokio::select! {
        () = shutdown.cancelled() => return,
        resources = discover(&client) => resources,
    };
    let (sender, deliveries) = mpsc::channel(FEED_CAPACITY);
    let mut feeds = JoinSet::new();
    for (number, resource) in resources.iter().enumerate() {
        feeds.spawn(feed(
            client.clone(),
            resource.clone(),
            number,
            sender.clone(),
        ));
    }
    drop(sender);
    let unsynced = (0..resources.len()).collect();
    let collector = Collector {
        client,
        graph: Graph::new(resources),
        queue: Queue::default(),
        tasks: JoinSet::new(),
        unsynced,
        started: Instant::now(),
    };
    collector.run(deliveries, shutdown).await;
}

async fn discover(client: &Client) -> Vec<Deletable> {
    loop {
        match discovery::deletable(client).await {
            Ok(mut resources) => {
                resources.retain(|r| r.watchable && !IGNORED.contains(&r.name().as_str()));
                return resources;
            }
            Err(error) => tracing::warn!(%error, "garbage collector: discovery failed"),
        }
        tokio::time::sleep(DISCOVERY_RETRY).await;
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

struct Collector {
    client: Client,
    graph: Graph,
    queue: Queue<Task>,
    tasks: JoinSet<(Task, Result<Acted, act::Error>)>,
    /// Kinds not listed yet.
    unsynced: HashSet<usize>,
    started: Instant,
}

impl Collector {
    async fn run(mut self, mut deliveries: Receiver<Delivery>, shutdown: CancellationToken) {
        loop {
            let due = self.next_due();
            tokio::select! {
                () = shutdown.cancelled() => return,
                delivery = deliveries.recv() => match delivery {
                    Some(delivery) => self.take_in(delivery, &mut deliveries),
                    None => return,
                },
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

    fn is_ready(&self) -> bool {
        self.unsynced.is_empty() || self.started.elapsed() >= SYNC_TIMEOUT
    }

    fn next_due(&self) -> Instant {
        let idle = Instant::now() + Duration::from_secs(3600);
        if !self.is_ready() {
            return self.started + SYNC_TIMEOUT;
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
                    self.graph.end_listing(number)
                }
                Event::Delete(object) => self
                    .graph
                    .remove(object.metadata.uid.as_deref().unwrap_or_default()),
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
            let resources = Arc::clone(&self.graph.resources);
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
