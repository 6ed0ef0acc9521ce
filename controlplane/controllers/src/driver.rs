//! The driver: feeds → view → queues → plans → apply, for all controllers in one loop.
//!
//! One task owns the view, the queues and the controllers; nothing is locked. Watches deliver
//! into a bounded channel; plans are carried out by spawned tasks that report back. Nothing is
//! planned before every kind has been listed once.

pub mod apply;
pub mod feed;
pub mod queue;
mod record;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::runtime::events::Recorder;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::object::Key;
use crate::plan::{Controller, Cx};
use crate::view::{Change, Delivery, Removed, World};
use apply::{Observation, Outcome};
use queue::Queue;

/// Plans of one controller being carried out at the same time.
const MAX_IN_FLIGHT: usize = 16;
/// Watch events taken in before plans are made.
const MAX_BATCH: usize = 256;
/// Watch events waiting to be taken in.
const FEED_CAPACITY: usize = 1024;

/// A controller with its queue.
struct Lane {
    controller: Box<dyn Controller>,
    client: Client,
    queue: Queue<Key>,
    failures: HashMap<Key, String>,
    in_flight: usize,
}

/// A carried-out plan.
struct Done {
    lane: usize,
    key: Key,
    outcome: Outcome,
}

pub struct Driver {
    world: World,
    lanes: Vec<Lane>,
    signer: Arc<crate::certificates::sign::Signer>,
    tasks: JoinSet<Done>,
    notes: Sender<record::Said>,
    said: Receiver<record::Said>,
}

impl Driver {
    pub fn new(
        controllers: Vec<Box<dyn Controller>>,
        signer: Arc<crate::certificates::sign::Signer>,
        client_for: impl Fn(&str) -> Client,
    ) -> Self {
        let lane = |controller: Box<dyn Controller>| {
            let client = client_for(controller.name());
            let queue = Queue::default();
            Lane {
                controller,
                client,
                queue,
                failures: HashMap::new(),
                in_flight: 0,
            }
        };
        let lanes = controllers.into_iter().map(lane).collect();
        let (notes, said) = record::channel();
        Self {
            world: World::default(),
            lanes,
            signer,
            tasks: JoinSet::new(),
            notes,
            said,
        }
    }

    /// Runs until `shutdown`.
    pub async fn run(
        mut self,
        feeds: Client,
        mut removals: Receiver<Removed>,
        shutdown: CancellationToken,
    ) {
        let (sender, mut deliveries) = mpsc::channel(FEED_CAPACITY);
        let mut background = feed::spawn_all(&feeds, &sender);
        drop(sender);
        let recorders = self
            .lanes
            .iter()
            .map(|lane| Recorder::new(lane.client.clone(), lane.controller.name().into()));
        let said = std::mem::replace(&mut self.said, mpsc::channel(1).1);
        background.spawn(record::run(recorders.collect(), said));
        loop {
            let due = self.next_due();
            tokio::select! {
                () = shutdown.cancelled() => break,
                delivery = deliveries.recv() => match delivery {
                    Some(delivery) => self.take_in(delivery, &mut deliveries),
                    None => break,
                },
                Some(removed) = removals.recv() => self.react(&[Change::Removed(removed)]),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    match done {
                        Ok(done) => self.finish(done),
                        Err(error) => tracing::error!(%error, "a controller task ended abnormally"),
                    }
                }
                () = sleep_until(due) => {}
            }
            if self.world.is_synced() {
                self.dispatch();
            }
        }
        background.abort_all();
        self.tasks.abort_all();
    }

    fn next_due(&self) -> Option<Instant> {
        if !self.world.is_synced() {
            return None;
        }
        let free = self
            .lanes
            .iter()
            .filter(|lane| lane.in_flight < MAX_IN_FLIGHT);
        free.filter_map(|lane| lane.queue.next_due()).min()
    }

    fn take_in(&mut self, first: Delivery, more: &mut mpsc::Receiver<Delivery>) {
        let was_synced = self.world.is_synced();
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(delivery) = next {
            let changes = self.world.deliver(delivery);
            self.react(&changes);
            taken += 1;
            next = if taken < MAX_BATCH {
                more.try_recv().ok()
            } else {
                None
            };
        }
        if !was_synced && self.world.is_synced() {
            tracing::info!("controllers have listed every kind");
        }
    }

    fn react(&mut self, changes: &[Change]) {
        let mut keys = Vec::new();
        for change in changes {
            for lane in &mut self.lanes {
                lane.controller.react(&self.world, change, &mut keys);
                for key in keys.drain(..) {
                    lane.queue.add(key);
                }
            }
        }
    }

    fn dispatch(&mut self) {
        let now = Timestamp::now();
        let instant = Instant::now();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            while lane.in_flight < MAX_IN_FLIGHT {
                let Some(key) = lane.queue.pop(instant) else {
                    break;
                };
                let failure = lane.failures.get(&key).map(String::as_str);
                let plan = lane
                    .controller
                    .plan(&self.world, &key, &Cx { now, failure });
                if let Some(delay) = plan.requeue_after {
                    lane.queue.add_at(key.clone(), instant + delay);
                }
                if plan.is_empty() {
                    lane.failures.remove(&key);
                    lane.queue.done(&key);
                    continue;
                }
                lane.in_flight += 1;
                let client = lane.client.clone();
                let signer = self.signer.clone();
                self.tasks.spawn(async move {
                    let outcome = apply::guarded(apply::apply(&client, &signer, plan)).await;
                    Done {
                        lane: index,
                        key,
                        outcome,
                    }
                });
            }
        }
    }

    fn finish(&mut self, done: Done) {
        let Done { lane, key, outcome } = done;
        for note in outcome.notes {
            if self.notes.try_send((lane, note)).is_err() {
                tracing::debug!("too many events: one dropped");
            }
        }
        let changes: Vec<Change> = outcome
            .observations
            .into_iter()
            .filter_map(|observation| match observation {
                Observation::Object { resource, object } => self.world.observe(resource, object),
                Observation::Deleted { resource, key, uid } => {
                    self.world.observe_delete(resource, &key, &uid)
                }
            })
            .collect();
        self.react(&changes);
        let lane = &mut self.lanes[lane];
        lane.in_flight -= 1;
        let now = Instant::now();
        if let Some(delay) = outcome.requeue_after {
            lane.queue.add_at(key.clone(), now + delay);
        }
        match outcome.failure {
            None => {
                lane.failures.remove(&key);
                lane.queue.done(&key);
            }
            Some(failure) => {
                let delay = lane.queue.failed(&key, now);
                if failure.is_conflict {
                    tracing::debug!(controller = lane.controller.name(), %key, error = %failure.message, "write conflict");
                } else {
                    tracing::warn!(controller = lane.controller.name(), %key, ?delay, error = %failure.message, "plan failed");
                }
                if !failure.is_conflict {
                    lane.failures.insert(key, failure.message);
                }
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
