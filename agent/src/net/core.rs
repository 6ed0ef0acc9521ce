//! The net half without its sockets: owns the picture of the maps, the address pool, the sandboxes and
//! the planners, and turns events (new state, new host facts, CNI steps) into map writes and into the
//! routes the kernel should have. Synchronous; time is an argument. The engine is its shell.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use imbl::ordmap::DiffItem;
use ipnetwork::IpNetwork;

use super::ipam::{self, Pool};
use super::maps::{MapError, MapSet};
use super::netlink::Route;
use super::plan::backend::Here;
use super::plan::endpoint;
use super::plan::indices::Indices;
use super::plan::node::{self, Facts, NodeIndex};
use super::plan::service::{self, Program, Services};
use super::rows::{Row, Step, Tables};
use super::sandbox::{Sandbox, SandboxId};
use super::veth;
use super::writer::Writer;
use crate::cni::Args;
use crate::state::{ObjectKey, State};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const DNS_PORT: u16 = 53;

mod host_ports;
mod limits;
mod policy;

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Addresses are given, the interface is being made.
    Reserved,
    /// The endpoint exists and nothing passes.
    Closed { ifindex: u32 },
    /// Its policies are loaded.
    Open { ifindex: u32 },
}

/// A sandbox and its phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub sandbox: Sandbox,
    pub phase: Phase,
}

/// What keeps an endpoint closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    #[error("policies, namespaces and pods are not known yet")]
    Unsynced,
    #[error("the pod is not known yet")]
    NoPod,
    #[error("the interface is not attached")]
    NotAttached,
}

/// What cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Address(#[from] ipam::Error),
    #[error("no free endpoint (limit {})", abi::limits::ENDPOINTS)]
    Endpoint,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    writer: Writer,
    node_name: String,
    cluster_dns: Vec<IpAddr>,
    state: Arc<State>,
    /// The state the maps show.
    planned: Arc<State>,
    facts: Facts,
    facts_changed: bool,
    nodes: NodeIndex,
    node_program: node::Program,
    services: Services,
    pruned: bool,
    host_backends: bool,
    /// What did not fit, of Services and of pods' hostPorts.
    refused: limits::RefusedOf,
    /// Removals after which what was refused was planned last.
    refused_at: u64,
    pool: Pool,
    indices: Indices<{ abi::limits::ENDPOINTS }>,
    attachments: BTreeMap<SandboxId, Attachment>,
    policy: policy::Policy,
    /// hostPorts as planned, by the name they have as a Service.
    host_ports: BTreeMap<ObjectKey, Program>,
}

// === impl Core ===

impl Core {
    /// Takes the maps over with what they hold.
    pub fn new(maps: MapSet, node_name: &str, cluster_dns: &[IpAddr]) -> Result<Self, MapError> {
        let writer = Writer::new(maps)?;
        Ok(Self {
            policy: policy::Policy::recover(writer.tables()),
            writer,
            node_name: node_name.into(),
            cluster_dns: cluster_dns.to_vec(),
            state: Arc::default(),
            planned: Arc::default(),
            facts: Facts {
                node_name: node_name.into(),
                ..Facts::default()
            },
            facts_changed: true,
            nodes: NodeIndex::default(),
            node_program: node::Program::default(),
            services: Services::default(),
            pruned: false,
            host_backends: false,
            refused: BTreeMap::new(),
            refused_at: 0,
            pool: Pool::default(),
            indices: Indices::default(),
            attachments: BTreeMap::new(),
            host_ports: BTreeMap::new(),
        })
    }

    /// What the maps hold.
    pub fn tables(&self) -> &Tables {
        self.writer.tables()
    }

    /// The maps themselves, for what is not a derived row.
    pub fn maps(&mut self) -> &mut MapSet {
        self.writer.maps()
    }

    /// Map writes so far.
    pub fn writes(&self) -> u64 {
        self.writer.writes()
    }

    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    pub fn attachments(&self) -> &BTreeMap<SandboxId, Attachment> {
        &self.attachments
    }

    /// Index of this node in the `node` map; 0 until its Node object is known.
    pub fn node_ix(&self) -> u16 {
        self.node_program.own_ix
    }

    /// Whether a Service has a backend in this node's host network; `None` until that is known.
    pub fn has_host_backends(&self) -> Option<bool> {
        self.pruned.then_some(self.host_backends)
    }

    /// Whether a pod has a hostPort.
    pub fn has_host_ports(&self) -> bool {
        !self.host_ports.is_empty()
    }

    /// Whether every Service and node has been written once and the node has pod addresses.
    pub fn complete(&self) -> bool {
        let own = self.state.nodes.get(self.node_name.as_str());
        self.pruned && own.is_some_and(|n| !n.pod_cidrs.is_empty())
    }

    /// A new snapshot of the cluster.
    pub fn set_state(&mut self, state: Arc<State>) {
        self.state = state;
    }

    /// New facts about the host.
    pub fn set_facts(&mut self, mut facts: Facts) {
        facts.own_addresses.extend(&self.cluster_dns);
        self.facts_changed |= facts != self.facts;
        self.facts = facts;
    }

    /// The routes the kernel should have through this agent, besides those to local pods. Empty until
    /// the nodes are known, when nothing may be removed either.
    pub fn routes(&self) -> Option<&BTreeSet<Route>> {
        self.state.synced.nodes.then_some(&self.node_program.routes)
    }

    /// Host routes to the local pods.
    pub fn local_routes(&self) -> BTreeSet<Route> {
        let routes = self.attachments.values().flat_map(|a| {
            let index = match a.phase {
                Phase::Reserved => None,
                Phase::Closed { ifindex } | Phase::Open { ifindex } => Some(ifindex),
            };
            let to = move |ip: &IpAddr| Some(veth::host_route(index?, *ip));
            a.sandbox.addresses.iter().filter_map(to)
        });
        routes.collect()
    }

    /// Makes the maps show the newest state; only what changed is planned.
    pub fn reconcile(&mut self, now: Instant) {
        let (new, old) = (self.state.clone(), self.planned.clone());
        let nodes_changed = new.synced.nodes && self.plan_nodes(&new, &old, now);
        if new.synced.services_and_nodes() && new.synced.pods {
            let first = !self.pruned;
            if first {
                self.write_sockets(now);
            }
            let changed: BTreeSet<ObjectKey> = if first || nodes_changed {
                let own = |key: &&ObjectKey| !self.host_ports.contains_key(*key);
                let gone: Vec<ObjectKey> = self.services.installed().filter(own).cloned().collect();
                new.services.keys().cloned().chain(gone).collect()
            } else {
                changed_services(&old, &new)
            };
            let any = !changed.is_empty();
            for key in changed {
                self.plan_service(&new, &key, now);
            }
            if any {
                self.host_backends = self.find_host_backends();
            }
            self.plan_host_ports(now);
            if first {
                self.prune_services(now);
            }
            self.plan_refused(now);
        }
        if new.synced.policy() {
            self.plan_policy(now);
        }
        if new.synced.services_and_nodes() && new.synced.policy() {
            self.planned = new;
        }
    }

    /// Whether [`Core::tick`] will have something to do.
    pub fn has_due(&self) -> bool {
        self.writer.has_due()
    }

    /// Time passes: retired rows go, failed writes are repeated.
    pub fn tick(&mut self, now: Instant) {
        self.writer.tick(now);
        self.plan_refused(now);
    }

    // --- nodes and services ---

    /// Whether backends must be planned anew.
    fn plan_nodes(&mut self, new: &State, old: &State, now: Instant) -> bool {
        let same = !self.facts_changed && new.nodes.ptr_eq(&old.nodes) && !self.policy.ranges_new;
        if same {
            return false;
        }
        self.facts_changed = false;
        self.policy.ranges_new = false;
        if let Some(own) = new.nodes.get(self.node_name.as_str()) {
            let before = old.nodes.get(self.node_name.as_str());
            let (usable, others) = self.split_ranges(&own.pod_cidrs);
            if !others.is_empty() && before.is_none_or(|b| b.pod_cidrs != own.pod_cidrs) {
                tracing::error!(ranges = ?others, "no --cluster-cidr has the family of these pod ranges: pods get no address of them");
            }
            self.pool.set_ranges(&usable);
        }
        let nodes: Vec<_> = new.nodes.values().cloned().collect();
        let tables = self.writer.tables();
        let program = self
            .nodes
            .program(&nodes, &self.facts, &self.policy.ranges, tables);
        let steps = self.nodes.plan(&program, tables);
        self.writer.apply(&steps, now);
        let moved = program.nodes != self.node_program.nodes;
        self.node_program = program;
        moved
    }

    /// The programs of a family the cluster's ranges lack are not loaded.
    fn split_ranges(&self, ranges: &[IpNetwork]) -> (Vec<IpNetwork>, Vec<IpNetwork>) {
        let clusters = &self.facts.cluster_cidrs;
        ranges.iter().partition(|range| {
            // Nothing is known of the host yet.
            clusters.is_empty() || clusters.iter().any(|c| c.is_ipv4() == range.is_ipv4())
        })
    }

    fn plan_service(&mut self, state: &State, key: &ObjectKey, now: Instant) {
        let program = match state.services.get(key) {
            Some(service) => {
                let slices: Vec<_> = state.slices_of(key).cloned().collect();
                service::program(service, &slices, &self.here(state), &self.cluster_dns)
            }
            None => Program::default(),
        };
        let tables = self.writer.tables();
        let (steps, refused) = self
            .services
            .plan(key, &program, &self.node_program.nodes, tables);
        self.writer.apply(&steps, now);
        self.note_refused(key, refused);
    }

    fn note_refused(&mut self, key: &ObjectKey, refused: BTreeSet<service::Refused>) {
        for refused in &refused {
            tracing::warn!(%key, %refused, "does not fit the datapath");
        }
        if refused.is_empty() {
            self.refused.remove(key);
        } else {
            self.refused.insert(key.clone(), refused);
            self.refused_at = self.writer.removals();
        }
    }

    /// Rows were removed: what did not fit may.
    fn plan_refused(&mut self, now: Instant) {
        if self.refused.is_empty() || self.refused_at == self.writer.removals() {
            return;
        }
        self.refused_at = self.writer.removals();
        let state = self.state.clone();
        for key in self.refused.keys().cloned().collect::<Vec<_>>() {
            match self.host_ports.remove(&key) {
                // Planned again as if it were new.
                Some(_) => self.plan_host_ports(now),
                None => self.plan_service(&state, &key, now),
            }
        }
    }

    fn find_host_backends(&self) -> bool {
        let own = self.node_program.own_ix;
        let is_own = |flags: u16, node: u16| flags & abi::BE_HOST != 0 && node == own;
        let tables = self.writer.tables();
        tables.be4.values().any(|b| is_own(b.flags, b.node))
            || tables.be6.values().any(|b| is_own(b.flags, b.node))
    }

    /// The node's own DNS comes before every Service, should the map be too small.
    fn write_sockets(&mut self, now: Instant) {
        let sockets = service::socket_rows(&self.cluster_dns, DNS_PORT);
        let steps: Vec<Step> = sockets.into_iter().map(Step::Put).collect();
        self.writer.apply(&steps, now);
    }

    fn prune_services(&mut self, now: Instant) {
        let sockets = service::socket_rows(&self.cluster_dns, DNS_PORT);
        let steps = self.services.prune(self.writer.tables(), &sockets);
        self.writer.apply(&steps, now);
        self.pruned = true;
    }

    fn here(&self, state: &State) -> Here {
        let own = state.nodes.get(self.node_name.as_str());
        let zone = own
            .and_then(|n| n.labels.get(ZONE_LABEL))
            .cloned()
            .unwrap_or_default();
        Here {
            node: self.node_name.clone(),
            zone,
        }
    }

    // --- endpoints ---

    /// Recovers an attachment whose interface is still there. Its endpoint keeps passing what the
    /// maps say until the policies are known.
    pub fn adopt(&mut self, sandbox: Sandbox, ifindex: u32, now: Instant) {
        self.pool.claim(&sandbox.addresses);
        if !self.indices.claim(sandbox.ep_ix) {
            tracing::error!(?sandbox, "endpoint index used twice");
        }
        let local = sandbox.local(ifindex);
        let known = self.writer.tables().ep.get(&sandbox.ep_ix);
        let steps = if known.is_some_and(|ep| ep.ifindex == ifindex) {
            endpoint::adopt(&local)
        } else {
            endpoint::close(&local)
        };
        self.writer.apply(&steps, now);
        self.policy.endpoint_changed();
        let attachment = Attachment {
            phase: Phase::Closed { ifindex },
            sandbox,
        };
        self.attachments
            .insert(attachment.sandbox.id.clone(), attachment);
    }

    /// After all sandboxes have been adopted: removes endpoints nobody has a record of.
    pub fn adopted(&mut self, last_addresses: Vec<IpAddr>, now: Instant) {
        self.pool.resume_after(last_addresses);
        let known: BTreeSet<u32> = self.attachments.values().map(|a| a.sandbox.ep_ix).collect();
        let mut addresses: HashMap<u32, Vec<IpAddr>> = HashMap::new();
        for (ip, local) in &self.writer.tables().ip4 {
            addresses
                .entry(local.ep_ix)
                .or_default()
                .push(IpAddr::V4((*ip).into()));
        }
        for (ip, local) in &self.writer.tables().ip6 {
            addresses
                .entry(local.ep_ix)
                .or_default()
                .push(IpAddr::V6((*ip).into()));
        }
        let endpoints = self.writer.tables().ep.iter();
        let orphans = endpoints
            .filter(|(ix, _)| !known.contains(ix))
            .map(|(ix, ep)| {
                let addresses = addresses.remove(ix).unwrap_or_default();
                endpoint::Local {
                    ep_ix: *ix,
                    ifindex: ep.ifindex,
                    mac: [0; 6],
                    addresses,
                }
            });
        let steps: Vec<Step> = orphans.flat_map(|o| endpoint::remove(&o)).collect();
        self.writer.apply(&steps, now);
    }

    /// Addresses and an endpoint for a sandbox; the same again if it has them.
    pub fn reserve(
        &mut self,
        id: &SandboxId,
        pod: &Args,
        seconds: u64,
    ) -> Result<Sandbox, Refusal> {
        if let Some(known) = self.attachments.get(id) {
            return Ok(known.sandbox.clone());
        }
        let ep_ix = self.indices.take().ok_or(Refusal::Endpoint)?;
        let addresses = self
            .pool
            .allocate(seconds)
            .inspect_err(|_| self.indices.free(ep_ix))?;
        let primary = addresses
            .first()
            .copied()
            .expect("a pool with ranges gives an address");
        let sandbox = Sandbox {
            id: id.clone(),
            pod: pod.clone(),
            mac: veth::pod_mac(primary),
            host_name: veth::host_name(&id.container_id, &id.ifname),
            addresses,
            ep_ix,
        };
        let attachment = Attachment {
            sandbox: sandbox.clone(),
            phase: Phase::Reserved,
        };
        self.attachments.insert(id.clone(), attachment);
        Ok(sandbox)
    }

    /// The interface is there: the endpoint exists from now on, closed.
    pub fn attached(&mut self, id: &SandboxId, ifindex: u32, now: Instant) -> bool {
        let Some(attachment) = self.attachments.get_mut(id) else {
            return false;
        };
        let again = matches!(attachment.phase, Phase::Open { ifindex: i } if i == ifindex);
        if !again {
            attachment.phase = Phase::Closed { ifindex };
            let steps = endpoint::close(&attachment.sandbox.local(ifindex));
            self.writer.apply(&steps, now);
        }
        true
    }

    /// Loads the endpoint's policies and opens it, or says what is missing.
    pub fn open(&mut self, id: &SandboxId, now: Instant) -> Result<(), Wait> {
        let attachment = self.attachments.get(id).ok_or(Wait::NotAttached)?;
        match attachment.phase {
            Phase::Reserved => return Err(Wait::NotAttached),
            Phase::Open { .. } => return Ok(()),
            Phase::Closed { .. } => {}
        }
        if !self.state.synced.policy() {
            return Err(Wait::Unsynced);
        }
        let pod = self
            .state
            .pods
            .get(&attachment.sandbox.pod_key())
            .ok_or(Wait::NoPod)?;
        if !pod.is_called(&attachment.sandbox.pod.uid) {
            return Err(Wait::NoPod);
        }
        self.mark_open(id);
        self.policy.endpoint_changed();
        self.plan_policy(now);
        if self.pruned {
            self.plan_host_ports(now);
        }
        Ok(())
    }

    fn mark_open(&mut self, id: &SandboxId) {
        if let Some(attachment) = self.attachments.get_mut(id)
            && let Phase::Closed { ifindex } = attachment.phase
        {
            attachment.phase = Phase::Open { ifindex };
        }
    }

    /// The sandbox goes: nothing passes any more. Returns its interface's index.
    pub fn release(&mut self, id: &SandboxId, now: Instant) -> Option<u32> {
        let attachment = self.attachments.get_mut(id)?;
        let ifindex = match attachment.phase {
            Phase::Reserved => return None,
            Phase::Closed { ifindex } | Phase::Open { ifindex } => ifindex,
        };
        attachment.phase = Phase::Reserved;
        self.policy.endpoint_changed();
        let steps = endpoint::remove(&attachment.sandbox.local(ifindex));
        self.writer.apply(&steps, now);
        if self.pruned {
            self.plan_host_ports(now);
        }
        Some(ifindex)
    }

    /// The sandbox's interface is gone: its addresses rest, then are free.
    pub fn freed(&mut self, id: &SandboxId, seconds: u64) {
        if let Some(attachment) = self.attachments.remove(id) {
            self.pool.free(&attachment.sandbox.addresses, seconds);
            self.indices.free(attachment.sandbox.ep_ix);
        }
    }

    /// The `ep` rows of all open endpoints.
    fn endpoint_rows(&self) -> Vec<Row> {
        let open = self.attachments.values().filter_map(|a| match a.phase {
            Phase::Open { ifindex } => Some((&a.sandbox, ifindex)),
            Phase::Reserved | Phase::Closed { .. } => None,
        });
        let row = |(sandbox, ifindex): (&Sandbox, u32)| {
            let verdicts = self.policy.verdicts(&sandbox.pod_key());
            endpoint::open(&sandbox.local(ifindex), verdicts)
        };
        open.map(row).collect()
    }
}

/// Services that differ themselves or in one of their slices.
fn changed_services(old: &State, new: &State) -> BTreeSet<ObjectKey> {
    let mut changed = BTreeSet::new();
    for item in old.services.diff(&new.services) {
        changed.insert(match item {
            DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key.clone(),
            DiffItem::Update { new: (key, _), .. } => key.clone(),
        });
    }
    for item in old.slices.diff(&new.slices) {
        changed.insert(match item {
            DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key.service.clone(),
            DiffItem::Update { new: (key, _), .. } => key.service.clone(),
        });
    }
    changed
}

#[cfg(test)]
mod tests;
