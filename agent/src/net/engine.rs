//! The one task that owns the core: it feeds it snapshots of the cluster, host facts and CNI steps,
//! and carries the wanted routes into the kernel. Everybody else talks to it through [`Handle`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::core::{Core, Phase, Wait};
use super::hooks::{Hooks, Settings};
use super::netlink::{Netlink, Route};
use super::sandbox::{Sandbox, SandboxId, Store};
use super::shortage::Limits;
use super::{cni, host};
use crate::Config;
use crate::cni::{Args, Failure, code};
use crate::state::State;

/// Calls waiting for the engine.
const QUEUE: usize = 256;
/// How long ADD waits for the pod and its policies to be known.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Retired rows and failed writes.
const TICK: Duration = Duration::from_millis(250);
/// Addresses, links and next hops of the host are read again.
const FACTS_INTERVAL: Duration = Duration::from_secs(5);

type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// What is asked of the engine.
enum Call {
    Reserve(SandboxId, Args, Reply<Sandbox>),
    Attach(SandboxId, u32, Reply<()>),
    Ready(SandboxId, Reply<()>),
    Release(SandboxId, Reply<()>),
    Freed(SandboxId, Reply<()>),
    Lookup(SandboxId, Reply<Sandbox>),
    ReportEvents(bool),
}

/// The way to ask the engine.
#[derive(Clone)]
pub struct Handle {
    calls: mpsc::Sender<Call>,
}

/// Whether the node can have pods, and what did not fit; published by the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Services, nodes and the node's pod ranges have been written once.
    pub complete: bool,
    pub limits: Limits,
}

/// What the engine is made of.
pub struct Parts {
    pub cfg: Arc<Config>,
    pub core: Core,
    pub hooks: Hooks,
    pub netlink: Netlink,
    pub store: Store,
    pub states: watch::Receiver<Arc<State>>,
    /// Of the hash that chooses backends, once it is known.
    pub seed: watch::Receiver<Option<u64>>,
}

/// See the module.
pub struct Engine {
    parts: Parts,
    calls: mpsc::Receiver<Call>,
    waiting: Vec<Waiting>,
    /// Routes this agent has in the kernel.
    routes: BTreeSet<Route>,
    status: watch::Sender<Status>,
    /// Somebody reads flows and drops.
    events: bool,
}

struct Waiting {
    id: SandboxId,
    deadline: Instant,
    reply: Reply<()>,
}

// === impl Engine ===

impl Engine {
    /// An engine, the way to it, and its status.
    pub fn new(parts: Parts) -> (Self, Handle, watch::Receiver<Status>) {
        let (calls, receiver) = mpsc::channel(QUEUE);
        let (status, published) = watch::channel(Status::default());
        let engine = Self {
            parts,
            calls: receiver,
            waiting: Vec::new(),
            routes: BTreeSet::new(),
            status,
            events: false,
        };
        (engine, Handle { calls }, published)
    }

    /// Runs until `shutdown`; leaves everything in the kernel as it is.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.adopt().await;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut facts = tokio::time::interval(FACTS_INTERVAL);
        loop {
            // An idle node is left alone.
            let due = !self.waiting.is_empty() || self.parts.core.has_due();
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.parts.states.changed() => match changed {
                    Ok(()) => self.new_state().await,
                    Err(_) => return,
                },
                Some(call) = self.calls.recv() => self.call(call),
                // Written when the event is settled.
                () = changed(&mut self.parts.seed) => {}
                _ = facts.tick() => self.new_facts().await,
                _ = tick.tick(), if due => self.parts.core.tick(Instant::now()),
            }
            self.settle().await;
        }
    }

    /// Takes over what an earlier agent left: sandboxes with their interfaces, and routes.
    async fn adopt(&mut self) {
        match self.parts.netlink.own_routes().await {
            Ok(routes) => self.routes = routes.into_iter().collect(),
            Err(error) => tracing::error!(error = cni::chain(&error), "read routes"),
        }
        let sandboxes = self.parts.store.load().unwrap_or_else(|error| {
            tracing::error!(error = cni::chain(&error), "read sandbox records");
            Vec::new()
        });
        let links = self.parts.netlink.links().await.unwrap_or_default();
        for sandbox in sandboxes {
            match links.iter().find(|l| l.name == sandbox.host_name) {
                Some(link) => {
                    self.attach_hooks(link.index);
                    self.parts.core.adopt(sandbox, link.index, Instant::now());
                }
                None => {
                    tracing::info!(pod = %sandbox.pod_key(), "sandbox without interface forgotten");
                    if let Err(error) = self.parts.store.remove(&sandbox.id) {
                        tracing::warn!(error = cni::chain(&error), "forget sandbox");
                    }
                }
            }
        }
        self.parts
            .core
            .adopted(self.parts.store.last_addresses(), Instant::now());
    }

    async fn new_state(&mut self) {
        let state = self.parts.states.borrow_and_update().clone();
        let old = self.parts.core.state().clone();
        let nodes_changed = !state.nodes.ptr_eq(&old.nodes);
        self.parts.core.set_state(state);
        if nodes_changed {
            self.new_facts().await;
        } else {
            self.parts.core.reconcile(Instant::now());
        }
    }

    async fn new_facts(&mut self) {
        let state = self.parts.core.state().clone();
        match host::facts(&self.parts.netlink, &self.parts.cfg, &state).await {
            Ok(facts) => self.parts.core.set_facts(facts),
            Err(error) => tracing::warn!(error = cni::chain(&error), "read host facts"),
        }
        self.parts.core.reconcile(Instant::now());
        self.forget_vanished().await;
    }

    /// Sandboxes whose interface went with their namespace, without a DEL.
    async fn forget_vanished(&mut self) {
        let Ok(links) = self.parts.netlink.links().await else {
            return;
        };
        let there: BTreeSet<u32> = links.iter().map(|l| l.index).collect();
        let all = self.parts.core.attachments().values();
        let gone = all.filter(|a| match a.phase {
            Phase::Reserved => false,
            Phase::Closed { ifindex } | Phase::Open { ifindex } => !there.contains(&ifindex),
        });
        let ids: Vec<SandboxId> = gone.map(|a| a.sandbox.id.clone()).collect();
        for id in ids {
            tracing::info!(container = %id.container_id, "sandbox without interface forgotten");
            self.release(&id);
            if let Err(failure) = self.freed(&id) {
                tracing::warn!(details = %failure.details, "forget sandbox");
            }
        }
    }

    /// After every event: endpoints that can be opened, routes, status.
    async fn settle(&mut self) {
        self.open_adopted();
        self.answer_waiting();
        self.sync_routes().await;
        let settings = Settings {
            node_ix: u32::from(self.parts.core.node_ix()),
            host_backends: self.parts.core.has_host_backends(),
            host_ports: self.parts.core.has_host_ports(),
            events: self.events,
            seed: *self.parts.seed.borrow(),
        };
        self.parts.hooks.configure(self.parts.core.maps(), settings);
        let status = Status {
            complete: self.parts.core.complete(),
            limits: self.parts.core.limits(),
        };
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }

    fn open_adopted(&mut self) {
        let closed = self.parts.core.attachments().values();
        let closed = closed.filter(|a| matches!(a.phase, Phase::Closed { .. }));
        let ids: Vec<SandboxId> = closed.map(|a| a.sandbox.id.clone()).collect();
        for id in ids {
            // What cannot be opened yet is tried again after the next event.
            let _ = self.parts.core.open(&id, Instant::now());
        }
    }

    fn answer_waiting(&mut self) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            match self.parts.core.open(&waiting.id, now) {
                Ok(()) => answer(waiting.reply, Ok(())),
                Err(_) if now < waiting.deadline => self.waiting.push(waiting),
                Err(why) => answer(waiting.reply, Err(not_ready(why))),
            }
        }
    }

    async fn sync_routes(&mut self) {
        let Some(remote) = self.parts.core.routes() else {
            return;
        };
        let local = self.parts.core.local_routes();
        let wanted: BTreeSet<Route> = remote
            .iter()
            .copied()
            .chain(local.iter().copied())
            .collect();
        for route in self.routes.difference(&wanted).copied().collect::<Vec<_>>() {
            match self.parts.netlink.delete_route(&route).await {
                Ok(()) => {
                    self.routes.remove(&route);
                }
                Err(error) => tracing::warn!(error = cni::chain(&error), "remove route"),
            }
        }
        for route in wanted.difference(&self.routes).copied().collect::<Vec<_>>() {
            match self.parts.netlink.replace_route(&route).await {
                Ok(()) => {
                    self.routes.insert(route);
                }
                // The host's end of a pod that is being made is still down.
                Err(error) if local.contains(&route) => {
                    tracing::debug!(error = cni::chain(&error), "route to pod");
                }
                Err(error) => tracing::warn!(error = cni::chain(&error), "add route"),
            }
        }
    }

    fn attach_hooks(&mut self, ifindex: u32) {
        if let Err(error) = self.parts.hooks.attach_pod(ifindex) {
            tracing::error!(ifindex, error = cni::chain(&error), "attach programs");
        }
    }

    // --- calls ---

    fn call(&mut self, call: Call) {
        match call {
            Call::Reserve(id, pod, reply) => answer(reply, self.reserve(&id, &pod)),
            Call::Attach(id, ifindex, reply) => answer(reply, self.attach(&id, ifindex)),
            Call::Ready(id, reply) => {
                let deadline = Instant::now() + READY_TIMEOUT;
                self.waiting.push(Waiting {
                    id,
                    deadline,
                    reply,
                });
            }
            Call::Release(id, reply) => {
                self.release(&id);
                self.dismiss(&id);
                answer(reply, Ok(()));
            }
            Call::Freed(id, reply) => answer(reply, self.freed(&id)),
            Call::Lookup(id, reply) => {
                let known = self
                    .parts
                    .core
                    .attachments()
                    .get(&id)
                    .map(|a| a.sandbox.clone());
                let unknown = || Failure::new(code::FAILED, "sandbox unknown", &id.container_id);
                answer(reply, known.ok_or_else(unknown));
            }
            Call::ReportEvents(on) => self.events = on,
        }
    }

    fn reserve(&mut self, id: &SandboxId, pod: &Args) -> Result<Sandbox, Failure> {
        let sandbox = self
            .parts
            .core
            .reserve(id, pod, unix_seconds())
            .map_err(|e| Failure::new(code::TRY_AGAIN_LATER, "no address for the pod", e))?;
        self.parts.store.save(&sandbox).map_err(|e| {
            self.parts.core.freed(id, unix_seconds());
            Failure::new(code::FAILED, "record the sandbox", cni::chain(&e))
        })?;
        Ok(sandbox)
    }

    fn attach(&mut self, id: &SandboxId, ifindex: u32) -> Result<(), Failure> {
        if !self.parts.core.attached(id, ifindex, Instant::now()) {
            return Err(Failure::new(
                code::FAILED,
                "sandbox removed meanwhile",
                &id.container_id,
            ));
        }
        Ok(())
    }

    /// Nobody needs the sandbox any more that an ADD waits for.
    fn dismiss(&mut self, id: &SandboxId) {
        for waiting in self.waiting.extract_if(.., |waiting| waiting.id == *id) {
            let failure = Failure::new(code::FAILED, "the sandbox was deleted meanwhile", "");
            answer(waiting.reply, Err(failure));
        }
    }

    fn release(&mut self, id: &SandboxId) {
        if let Some(ifindex) = self.parts.core.release(id, Instant::now()) {
            self.parts.hooks.detach_pod(ifindex);
        }
    }

    fn freed(&mut self, id: &SandboxId) -> Result<(), Failure> {
        self.parts.core.freed(id, unix_seconds());
        let removed = self.parts.store.remove(id);
        removed.map_err(|e| Failure::new(code::FAILED, "forget the sandbox", cni::chain(&e)))
    }
}

/// Resolves when there is another value; never, once there can be none.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}

fn not_ready(why: Wait) -> Failure {
    Failure::new(
        code::TRY_AGAIN_LATER,
        "the pod's policies are not loaded",
        why,
    )
}

fn answer<T>(reply: Reply<T>, result: Result<T, Failure>) {
    // A caller that went away will ask again.
    let _ = reply.send(result);
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

// === impl Handle ===

impl Handle {
    pub async fn reserve(&self, id: SandboxId, pod: Args) -> Result<Sandbox, Failure> {
        self.ask(|reply| Call::Reserve(id, pod, reply)).await
    }

    /// The interface is there, with its programs.
    pub async fn attach(&self, id: SandboxId, ifindex: u32) -> Result<(), Failure> {
        self.ask(|reply| Call::Attach(id, ifindex, reply)).await
    }

    /// Returns when the endpoint is open.
    pub async fn ready(&self, id: SandboxId) -> Result<(), Failure> {
        self.ask(|reply| Call::Ready(id, reply)).await
    }

    pub async fn release(&self, id: SandboxId) -> Result<(), Failure> {
        self.ask(|reply| Call::Release(id, reply)).await
    }

    pub async fn freed(&self, id: SandboxId) -> Result<(), Failure> {
        self.ask(|reply| Call::Freed(id, reply)).await
    }

    pub async fn lookup(&self, id: SandboxId) -> Result<Sandbox, Failure> {
        self.ask(|reply| Call::Lookup(id, reply)).await
    }

    /// Has the programs report flows and drops, or stop it.
    pub async fn report_events(&self, on: bool) {
        // An engine that has ended leaves the programs as they are.
        let _ = self.calls.send(Call::ReportEvents(on)).await;
    }

    async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, Failure> {
        let stopping = || Failure::new(code::TRY_AGAIN_LATER, "the agent is stopping", "");
        let (reply, result) = oneshot::channel();
        self.calls.send(call(reply)).await.map_err(|_| stopping())?;
        result.await.map_err(|_| stopping())?
    }
}
