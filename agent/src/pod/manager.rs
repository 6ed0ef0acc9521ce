//! From the watch of this node's pods to one worker per pod. It owns the workers' handles and which pods
//! were taken, and nothing else of the pods' state. Pods of the runtime that the API does not know are
//! ended after the first full list, and looked for again now and then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::admission::{self, Capacity};
use super::cgroup;
use super::observed::POD_UID;
use super::plan::Waiting;
use super::relist;
use super::spec;
use super::worker::{Desired, Worker};
use crate::cri;
use crate::volume;

/// Hints of runtime changes waiting to be handed out.
const HINTS: usize = 256;
/// Pause between two looks for what belongs to no pod any more.
const ORPHANS: Duration = Duration::from_secs(60);
/// Orphans that are ended at the same time: each may take the whole grace of a container.
const ENDED_AT_ONCE: usize = 8;
/// Set on pods that come from files; their API objects are mirrors, not orders.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

struct Handle {
    desired: watch::Sender<Desired>,
    name: String,
    /// The node took the pod; one it refused claims nothing.
    taken: bool,
}

pub struct Manager {
    node: Arc<Node>,
    workers: HashMap<String, Handle>,
    tasks: JoinSet<String>,
    /// Pods seen since the list began.
    listing: HashSet<String>,
    synced: bool,
    /// The pods as the kubelet API shows them.
    pods: watch::Sender<Arc<HashMap<String, Arc<Pod>>>>,
}

impl Manager {
    pub fn new(node: Arc<Node>, pods: watch::Sender<Arc<HashMap<String, Arc<Pod>>>>) -> Self {
        Self {
            node,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            listing: HashSet::new(),
            synced: false,
            pods,
        }
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        let (sender, mut hints) = mpsc::channel(HINTS);
        let relisting = relist::run(self.node.runtime.clone(), sender, shutdown.clone());
        tokio::pin!(relisting);
        let api: Api<Pod> = Api::all(self.node.client.clone());
        let mine = format!("spec.nodeName={}", self.node.config.node_name);
        let config = watcher::Config::default().fields(&mine);
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut orphans = tokio::time::interval(ORPHANS);
        orphans.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = orphans.tick(), if self.synced => self.end_orphans().await,
                () = &mut relisting => break,
                event = events.try_next() => match event {
                    Ok(Some(event)) => self.event(event).await,
                    Ok(None) => break,
                    Err(error) => tracing::warn!(%error, "watch of pods failed"),
                },
                Some(uid) = hints.recv() => {
                    if let Some(handle) = self.workers.get(&uid) {
                        handle.desired.send_modify(|desired| desired.hints += 1);
                    }
                }
                Some(ended) = self.tasks.join_next() => self.ended(ended),
            }
        }
        // Workers end with their handles; pods live on.
        self.tasks.shutdown().await;
    }

    async fn event(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(pod) => {
                self.listing.insert(spec::uid(&pod).to_owned());
                self.apply(pod);
            }
            watcher::Event::InitDone => {
                let gone: Vec<String> = self
                    .workers
                    .keys()
                    .filter(|uid| !self.listing.contains(*uid))
                    .cloned()
                    .collect();
                for uid in gone {
                    self.gone(&uid, None);
                }
                if !self.synced {
                    self.synced = true;
                    self.end_orphans().await;
                }
            }
            watcher::Event::Apply(pod) => self.apply(pod),
            watcher::Event::Delete(pod) => {
                let pod = Arc::new(pod);
                self.gone(spec::uid(&pod), Some(pod.clone()));
            }
        }
    }

    fn apply(&mut self, pod: Pod) {
        let uid = spec::uid(&pod).to_owned();
        let source = pod
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(CONFIG_SOURCE));
        if source.is_some_and(|source| source != "api") {
            return;
        }
        let pod = Arc::new(pod);
        self.pods.send_modify(|pods| {
            Arc::make_mut(pods).insert(uid.clone(), pod.clone());
        });
        if let Some(handle) = self.workers.get(&uid) {
            handle.desired.send_modify(|desired| desired.pod = pod);
            return;
        }
        let name = spec::name(&pod).to_owned();
        let refused = self.admit(&pod).err();
        let taken = refused.is_none();
        let (sender, desired) = watch::channel(Desired {
            pod,
            gone: false,
            hints: 0,
        });
        let worker = Worker::new(self.node.clone(), desired, refused);
        let id = uid.clone();
        self.tasks.spawn(async move {
            worker.run().await;
            id
        });
        self.workers.insert(
            uid,
            Handle {
                desired: sender,
                name,
                taken,
            },
        );
    }

    /// Whether the node takes a new pod. One that has started was taken before.
    fn admit(&self, pod: &Pod) -> Result<(), Waiting> {
        let status = pod.status.as_ref();
        let started = status.is_some_and(|s| s.start_time.is_some());
        let ended = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            spec::is_terminal_phase(phase)
        };
        if started || ended(pod) {
            return Ok(());
        }
        let pods = self.pods.borrow();
        let taken = self.workers.iter().filter(|(_, handle)| handle.taken);
        let others: Vec<&Pod> = taken
            .filter_map(|(uid, _)| pods.get(uid).map(Arc::as_ref))
            .filter(|other| !ended(other))
            .collect();
        let capacity = Capacity {
            allocatable: self.node.allocatable,
            pods: self.node.config.max_pods,
        };
        admission::admit(pod, &others, capacity)
    }

    /// The API object is gone; its last state says with which grace.
    fn gone(&mut self, uid: &str, last: Option<Arc<Pod>>) {
        self.pods.send_modify(|pods| {
            Arc::make_mut(pods).remove(uid);
        });
        if let Some(handle) = self.workers.get(uid) {
            handle.desired.send_modify(|desired| {
                desired.gone = true;
                desired.pod = last.unwrap_or_else(|| desired.pod.clone());
            });
        }
    }

    fn ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                if let Some(handle) = self.workers.remove(&uid) {
                    tracing::debug!(pod = handle.name, "pod is gone");
                }
            }
            Err(error) => tracing::error!(%error, "a pod's worker ended badly"),
        }
    }

    /// Ends what the runtime runs, and removes what the disk holds, of pods the API does not know.
    async fn end_orphans(&mut self) {
        let sandboxes = match self.node.runtime.list_pod_sandbox(HashMap::new()).await {
            Ok(sandboxes) => sandboxes,
            Err(error) => {
                tracing::warn!(%error, "orphans not looked for");
                return;
            }
        };
        let known = |uid: &str| self.workers.contains_key(uid);
        let runtime = &self.node.runtime;
        let orphaned = sandboxes.into_iter().filter_map(|sandbox| {
            let uid = sandbox.labels.get(POD_UID).filter(|uid| !known(uid))?;
            Some((uid.clone(), sandbox.id))
        });
        at_once(orphaned, |(uid, id)| end_sandbox(runtime, uid, id)).await;
        let cgroups = cgroup::existing(&self.node.config.cgroup_parent).into_iter();
        let orphaned = cgroups.filter(|(uid, _)| !known(uid));
        at_once(orphaned, |(uid, path)| async move {
            if let Err(error) = cgroup::remove(&path).await {
                tracing::warn!(%error, uid, "orphaned cgroup not removed");
            }
        })
        .await;
        for uid in volume::existing(&self.node.config.root_dir) {
            if !known(&uid)
                && let Err(error) = volume::remove(&self.node.config.root_dir, &uid)
            {
                tracing::warn!(%error, uid, "orphaned pod directory not removed");
            }
        }
    }
}

/// Ends each, a bounded number at the same time.
async fn at_once<T, F: Future<Output = ()>>(each: impl Iterator<Item = T>, end: impl Fn(T) -> F) {
    futures::stream::iter(each)
        .for_each_concurrent(ENDED_AT_ONCE, end)
        .await;
}

async fn end_sandbox(runtime: &cri::Client, uid: String, id: String) {
    tracing::info!(uid, sandbox = id, "ending an orphaned pod");
    let ended = match runtime.stop_pod_sandbox(&id).await {
        Ok(()) => runtime.remove_pod_sandbox(&id).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::warn!(%error, uid, "orphan not ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn orphans_end_side_by_side_up_to_the_limit() {
        let (now, most, ended) = (Cell::new(0), Cell::new(0), Cell::new(0));
        at_once(0..ENDED_AT_ONCE * 2, |_| async {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            tokio::task::yield_now().await;
            now.set(now.get() - 1);
            ended.set(ended.get() + 1);
        })
        .await;
        assert_eq!(ended.get(), ENDED_AT_ONCE * 2);
        assert_eq!(most.get(), ENDED_AT_ONCE);
    }
}
