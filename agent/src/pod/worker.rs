//! One task per pod. It owns what is known about the pod, fetches the runtime's state when something
//! happened, publishes the status, and hands plans to jobs (`pod/apply`), one at a time.
//!
//! ```text
//! Running ──deletion──▶ Terminating ──all stopped──▶ Cleanup ──files, cgroup, API object──▶ Gone
//!    └──nothing left to run──▶ Finished ──deletion──▶ Cleanup
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Node;
use super::apply::{Job, Progress};
use super::backoff::{Backoff, add};
use super::events::{Kind, Subject};
use super::objects::{self, Held, Objects};
use super::observe::{self, Exited};
use super::observed::Observed;
use super::plan::{self, Memory, Plan, Waiting};
use super::probe::{self, Probers, Results};
use super::publisher::Publisher;
use super::resize;
use super::spec;
use super::status;
use crate::volume::{self, Credentials};

mod ending;
mod progress;
mod resizing;

/// Pause before a failed start, sandbox or volume is tried again.
const RETRY: Duration = Duration::from_secs(10);
const SANDBOX_RETRY: Duration = Duration::from_secs(2);
/// Pause after the runtime did not answer.
const RUNTIME_RETRY: Duration = Duration::from_secs(1);
/// Pause between attempts to delete the API object.
const DELETE_RETRY: Duration = Duration::from_secs(1);
/// A plan that was carried out without effect is carried out again after this time.
const REPEAT: Duration = Duration::from_secs(1);
const PROGRESS_QUEUE: usize = 32;

/// What the manager tells the worker.
#[derive(Debug, Clone)]
pub struct Desired {
    pub pod: Arc<Pod>,
    /// The API object is gone: end the pod without asking.
    pub gone: bool,
    /// Counts hints that the runtime's state changed.
    pub hints: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Terminating,
    Finished,
    Cleanup,
    Gone,
}

/// A job under way.
struct Running {
    task: AbortOnDropHandle<Option<Credentials>>,
    cancel: CancellationToken,
}

pub struct Worker {
    node: Arc<Node>,
    desired: watch::Receiver<Desired>,
    pod: Arc<Pod>,
    phase: Phase,
    observed: Observed,
    exited: Exited,
    memory: Memory,
    pulls: BTreeMap<String, Backoff>,
    results: BTreeMap<String, Results>,
    probers: Probers,
    changes: mpsc::Receiver<probe::Change>,
    held: Held,
    credentials: Option<Credentials>,
    last: PodStatus,
    publisher: Publisher,
    job: Option<Running>,
    progress: (mpsc::Sender<Progress>, mpsc::Receiver<Progress>),
    wake: Option<Timestamp>,
    /// The grace the running termination was started with.
    grace: Duration,
    torn_down: bool,
    /// The last plan given to a job, and when.
    tried: Option<(Plan, Timestamp)>,
    /// Resizes carried out.
    resized: resize::Done,
}

impl Worker {
    /// A worker; `refused`: the node does not take the pod, which fails for that reason.
    pub fn new(
        node: Arc<Node>,
        desired: watch::Receiver<Desired>,
        refused: Option<Waiting>,
    ) -> Self {
        let pod = desired.borrow().pod.clone();
        let (sender, changes) = mpsc::channel(PROGRESS_QUEUE);
        let probers = Probers::new(node.runtime.clone(), node.recorder.clone(), sender);
        let held = node.store.hold(objects::references(&pod));
        let last = pod.status.clone().unwrap_or_default();
        let terminal = spec::is_terminal_phase(last.phase.as_deref());
        if let Some(why) = &refused {
            let subject = Subject::pod(&pod);
            let (reason, message) = (why.reason.clone(), why.message.clone());
            node.recorder
                .record(&subject, Kind::Warning, reason, message);
        }
        Self {
            publisher: Publisher::new(node.client.clone(), &pod),
            credentials: Some(new_credentials(&node)),
            results: probe::seed(&pod),
            phase: if terminal {
                Phase::Finished
            } else {
                Phase::Running
            },
            observed: Observed::default(),
            exited: Exited::new(),
            memory: Memory {
                failure: refused,
                ..Memory::default()
            },
            pulls: BTreeMap::new(),
            job: None,
            progress: mpsc::channel(PROGRESS_QUEUE),
            wake: None,
            grace: spec::grace(&pod),
            torn_down: false,
            tried: None,
            resized: resize::Done::load(&volume::pod_dir(&node.config.root_dir, spec::uid(&pod))),
            node,
            desired,
            pod,
            probers,
            changes,
            held,
            last,
        }
    }

    /// Runs until the pod is gone from the API and from the node.
    pub async fn run(mut self) {
        self.desired.borrow_and_update();
        let mut observe = true;
        while self.phase != Phase::Gone {
            if observe && !self.observe().await {
                continue;
            }
            self.publish();
            self.step().await;
            if self.phase != Phase::Gone {
                observe = self.wait().await;
            }
        }
        self.node.logs.forget(spec::uid(&self.pod));
    }

    /// Fetches the runtime's state; false when it has to be tried again.
    async fn observe(&mut self) -> bool {
        let uid = spec::uid(&self.pod).to_owned();
        match observe::observe(&self.node.runtime, &uid, &mut self.exited).await {
            Ok(observed) => {
                self.results
                    .retain(|id, _| observed.containers.iter().any(|c| &c.id == id));
                self.observed = observed;
                self.node.logs.note(&uid, &self.observed);
                self.resized.apply(&mut self.observed);
                self.stand_of_resize();
                true
            }
            Err(error) => {
                tracing::warn!(%error, pod = spec::name(&self.pod), "runtime did not report");
                tokio::time::sleep(RUNTIME_RETRY).await;
                false
            }
        }
    }

    fn publish(&mut self) {
        let finished = matches!(self.phase, Phase::Finished | Phase::Cleanup);
        let ended = self.phase == Phase::Terminating || finished;
        let status = status::status(status::Input {
            pod: &self.pod,
            observed: &self.observed,
            probes: &self.results,
            waiting: &self.memory.waiting,
            failure: self.memory.failure.as_ref(),
            resize: &self.memory.resize,
            old: &self.last,
            node_ips: &self.node.config.node_ips,
            runtime: &self.node.runtime_name,
            terminal: ended && !self.observed.anything_running(),
            now: Timestamp::now(),
        });
        if !self.desired.borrow().gone {
            self.publisher.publish(&status);
        }
        self.last = status;
        let ips = self.node.ips_of(&self.pod, &self.observed);
        let ip = ips.first().copied();
        if finished {
            self.probers.stop();
        } else {
            self.probers
                .reconcile(&self.pod, &self.observed, &self.results, ip);
        }
    }

    /// Starts what the phase asks for, unless a job is under way.
    async fn step(&mut self) {
        let ending = spec::deleting(&self.pod) || self.desired.borrow().gone;
        if ending {
            match self.phase {
                Phase::Running => self.phase = Phase::Terminating,
                Phase::Finished => self.phase = Phase::Cleanup,
                Phase::Terminating | Phase::Cleanup | Phase::Gone => {}
            }
        }
        if let Some(job) = &self.job {
            let shorter = spec::grace(&self.pod) < self.grace;
            if ending && (self.phase == Phase::Terminating && shorter || self.credentials_out()) {
                job.cancel.cancel();
            }
            self.grace = spec::grace(&self.pod).min(self.grace);
            return;
        }
        match self.phase {
            Phase::Running => self.sync().await,
            Phase::Terminating if self.observed.anything_running() => self.terminate(),
            Phase::Terminating => self.clean_up().await,
            Phase::Finished => self.tear_down().await,
            Phase::Cleanup => self.clean_up().await,
            Phase::Gone => {}
        }
    }

    /// Whether the job under way is a sync: only those hold the credentials.
    fn credentials_out(&self) -> bool {
        self.credentials.is_none()
    }

    async fn sync(&mut self) {
        let now = Timestamp::now();
        let deadline = self.check_deadline(now);
        let plan = Plan::new(plan::Input {
            pod: &self.pod,
            observed: &self.observed,
            probes: &self.results,
            memory: &self.memory,
            now,
        });
        self.wake = plan.wake.into_iter().chain(deadline).min();
        self.note_back_off(&plan);
        if plan.finished && plan.is_empty() {
            self.phase = Phase::Finished;
            self.publish();
            return self.tear_down().await;
        }
        if !plan.is_empty() && !self.may_try(&plan, now) {
            return;
        }
        let Some(credentials) = self.credentials.take() else {
            return;
        };
        if plan.is_empty() {
            self.refresh_volumes(credentials).await;
            return;
        }
        let objects = self.held.snapshot().await;
        let (job, cancel) = self.new_job(objects);
        let task = tokio::spawn(async move { Some(job.sync(plan, credentials).await) });
        self.job = Some(Running {
            task: AbortOnDropHandle::new(task),
            cancel,
        });
    }

    /// Fails the pod when its active deadline has passed; returns a deadline that is ahead.
    fn check_deadline(&mut self, now: Timestamp) -> Option<Timestamp> {
        let started = self.last.start_time.as_ref().map(|time| time.0);
        let deadline = spec::active_deadline(&self.pod, started)?;
        if deadline > now {
            return Some(deadline);
        }
        if self.memory.failure.is_none() {
            let failure = Waiting {
                reason: "DeadlineExceeded".to_owned(),
                message: "Pod was active on the node longer than the specified deadline".to_owned(),
            };
            let subject = Subject::pod(&self.pod);
            self.node
                .recorder
                .normal(&subject, "DeadlineExceeded", failure.message.clone());
            self.memory.failure = Some(failure);
            self.publish();
        }
        None
    }

    /// Containers the plan holds back become waiting, with an event when that is new.
    fn note_back_off(&mut self, plan: &Plan) {
        let mut changed = false;
        for (name, waiting) in &plan.backing_off {
            if self
                .memory
                .waiting
                .get(name)
                .is_some_and(|have| have.reason == waiting.reason)
            {
                continue;
            }
            let subject = Subject::container(&self.pod, name);
            let text = if waiting.reason == "CrashLoopBackOff" {
                let (pod, ns, uid) = (
                    spec::name(&self.pod),
                    spec::namespace(&self.pod),
                    spec::uid(&self.pod),
                );
                format!("Back-off restarting failed container {name} in pod {pod}_{ns}({uid})")
            } else {
                waiting.message.clone()
            };
            self.node.recorder.warning(&subject, "BackOff", text);
            self.memory.waiting.insert(name.clone(), waiting.clone());
            changed = true;
        }
        if changed {
            self.publish();
        }
    }

    fn new_job(&self, objects: Objects) -> (Job, CancellationToken) {
        let cancel = CancellationToken::new();
        let job = Job {
            node: self.node.clone(),
            pod: self.pod.clone(),
            observed: self.observed.clone(),
            objects,
            old: self.last.clone(),
            progress: self.progress.0.clone(),
            cancel: cancel.clone(),
        };
        (job, cancel)
    }

    /// False when the same plan was just tried: what it asks for does not work at the moment, and the
    /// pod is looked at again a little later.
    fn may_try(&mut self, plan: &Plan, now: Timestamp) -> bool {
        if let Some((tried, at)) = &self.tried {
            let again = add(*at, REPEAT);
            if tried == plan && again > now {
                self.wake_at(again);
                return false;
            }
        }
        self.tried = Some((plan.clone(), now));
        true
    }

    fn terminate(&mut self) {
        let ending = Plan {
            stop_pod: true,
            ..Plan::default()
        };
        let shorter = spec::grace(&self.pod) < self.grace;
        if !self.may_try(&ending, Timestamp::now()) && !shorter {
            return;
        }
        self.grace = spec::grace(&self.pod);
        let (job, cancel) = self.new_job(Objects::default());
        let task = tokio::spawn(async move {
            job.terminate().await;
            None
        });
        self.job = Some(Running {
            task: AbortOnDropHandle::new(task),
            cancel,
        });
    }

    /// Brings mounted volumes up to date with their sources and credentials.
    async fn refresh_volumes(&mut self, mut credentials: Credentials) {
        if self.observed.ready_sandbox().is_some() {
            let objects = self.held.snapshot().await;
            let facts = self.node.facts(&self.pod, &self.observed);
            let input = volume::Input {
                root: &self.node.config.root_dir,
                pod: &self.pod,
                facts: &facts,
                objects: &objects,
                allocatable: self.node.allocatable,
                now: Timestamp::now(),
                patience: Duration::ZERO,
            };
            if let Err(error) = volume::prepare(input, &mut credentials).await {
                tracing::debug!(%error, pod = spec::name(&self.pod), "volume not refreshed");
                self.wake_at(add(Timestamp::now(), RETRY));
            }
        }
        if let Some(at) = credentials.refresh_at() {
            // One that could not be renewed is due already.
            self.wake_at(at.max(add(Timestamp::now(), RETRY)));
        }
        self.credentials = Some(credentials);
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Waits for the next thing to happen; returns whether the runtime has to be asked again.
    async fn wait(&mut self) -> bool {
        let sleep = match self.wake {
            Some(at) if self.job.is_none() => {
                Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
            }
            Some(_) | None => Duration::MAX,
        };
        let idle = self.job.is_none() && self.phase == Phase::Running;
        let job = async {
            match &mut self.job {
                Some(job) => (&mut job.task).await,
                None => std::future::pending().await,
            }
        };
        let credential = async {
            match &mut self.credentials {
                Some(credentials) => credentials.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = job => {
                self.job = None;
                let returned = ended.ok().flatten();
                if self.credentials.is_none() {
                    let new = || new_credentials(&self.node);
                    self.credentials = Some(returned.unwrap_or_else(new));
                }
                while let Ok(progress) = self.progress.1.try_recv() {
                    self.take(progress).await;
                }
                true
            }
            Some(progress) = self.progress.1.recv() => self.take(progress).await,
            Some(change) = self.changes.recv() => {
                self.results.entry(change.container_id).or_default().set(change.kind, change.success);
                false
            }
            changed = self.desired.changed() => {
                if changed.is_err() {
                    // The manager is gone: the agent ends, the pod lives on.
                    self.phase = Phase::Gone;
                }
                self.take_desired()
            }
            () = self.held.changed(), if idle => {
                self.memory.hold.clear();
                self.memory.sandbox_hold = None;
                false
            }
            () = credential, if idle => {
                self.memory.hold.clear();
                self.memory.sandbox_hold = None;
                false
            }
            () = tokio::time::sleep(sleep.min(Duration::from_secs(86_400))) => {
                self.wake = None;
                true
            }
        }
    }

    fn take_desired(&mut self) -> bool {
        let desired = self.desired.borrow_and_update().clone();
        if !Arc::ptr_eq(&desired.pod, &self.pod) {
            let references = objects::references(&desired.pod);
            if references != objects::references(&self.pod) {
                self.held = self.node.store.hold(references);
            }
            self.publisher.seen(&desired.pod);
            if !same_orders(&desired.pod, &self.pod) {
                // What failed may work as it is written now.
                self.memory.hold.clear();
                self.memory.sandbox_hold = None;
                self.memory.resize_hold = None;
            }
            self.pod = desired.pod;
            self.stand_of_resize();
        }
        true
    }
}

fn new_credentials(node: &Node) -> Credentials {
    Credentials::new(&node.client, &node.recorder, &node.config.node_name)
}

/// Whether two versions of a pod ask for the same: only their statuses differ.
fn same_orders(a: &Pod, b: &Pod) -> bool {
    a.spec == b.spec
        && a.metadata.labels == b.metadata.labels
        && a.metadata.annotations == b.metadata.annotations
        && a.metadata.deletion_timestamp == b.metadata.deletion_timestamp
}
