//! NetworkPolicies of the local endpoints: from the state to the world the compiler sees, and from its
//! steps to rows, in the order that keeps every verdict old or new.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use abi::{NetKey, NetKind, NetValue};
use ipnetwork::IpNetwork;
use policies::{Compiled, Name, NamedPort, World};

use super::{Core, Phase};
use crate::net::plan::endpoint::Verdicts;
use crate::net::plan::node::RangeClasses;
use crate::net::plan::policy::{keys_of, peer_row, rows_of};
use crate::net::plan::service::Family;
use crate::net::rows::{Key, Row, Step, Tables};
use crate::state::{NetworkPolicy, Node, ObjectKey, Pod, State};

/// Policies as planned.
#[derive(Debug, Default)]
pub(super) struct Policy {
    /// Classes of ranges, for the node plan.
    pub(super) ranges: RangeClasses,
    pub(super) ranges_new: bool,
    /// An endpoint came or went since the last plan.
    dirty: bool,
    pruned: bool,
    planned: Arc<State>,
    compiled: Compiled,
    policies: HashMap<ObjectKey, (Arc<NetworkPolicy>, Arc<policies::Policy>)>,
    order: Vec<Arc<policies::Policy>>,
    /// Local pods as last seen: their sandboxes may outlive their objects.
    local: HashMap<ObjectKey, Arc<policies::Pod>>,
}

impl Policy {
    /// Until the policies are known, ranges keep the classes an earlier agent gave them.
    pub(super) fn recover(tables: &Tables) -> Self {
        let wanted = |v: &NetValue| v.class != 0 || v.kind == NetKind::World as u8;
        let v4 = tables.net4.iter().filter(|(_, v)| wanted(v));
        let v4 = v4.filter_map(|(k, v)| Some((range(k)?, v.class)));
        let v6 = tables.net6.iter().filter(|(_, v)| wanted(v));
        let v6 = v6.filter_map(|(k, v)| Some((range(k)?, v.class)));
        Self {
            ranges: v4.chain(v6).collect(),
            ..Self::default()
        }
    }

    pub(super) fn endpoint_changed(&mut self) {
        self.dirty = true;
    }

    pub(super) fn verdicts(&self, pod: &ObjectKey) -> Verdicts {
        let found = self
            .compiled
            .endpoints
            .get(&name(pod))
            .copied()
            .unwrap_or_default();
        Verdicts {
            set_id: found.set_id,
            isolation: found.isolation,
        }
    }

    /// Parses what changed; whether anything did.
    fn parse(&mut self, state: &State) -> bool {
        if self.planned.policies.ptr_eq(&state.policies) {
            return false;
        }
        let old = std::mem::take(&mut self.policies);
        for (key, object) in &state.policies {
            let parsed = match old.get(key) {
                Some((known, parsed)) if Arc::ptr_eq(known, object) => parsed.clone(),
                _ => Arc::new(policies::Policy::new(name(key), &object.spec)),
            };
            self.policies.insert(key.clone(), (object.clone(), parsed));
        }
        self.order = state
            .policies
            .keys()
            .map(|key| self.policies[key].1.clone())
            .collect();
        true
    }
}

impl Core {
    /// Makes endpoints, peers and rows show the policies of the newest state.
    pub(super) fn plan_policy(&mut self, now: Instant) {
        let state = self.state.clone();
        let unchanged = state.pods.ptr_eq(&self.policy.planned.pods)
            && state.namespaces.ptr_eq(&self.policy.planned.namespaces)
            && state.policies.ptr_eq(&self.policy.planned.policies);
        if unchanged && !self.policy.dirty && self.policy.pruned {
            return;
        }
        self.policy.dirty = false;
        let before = self.policy.order.clone();
        let policies_changed = self.policy.parse(&state);
        let idle = before.is_empty() && self.policy.order.is_empty();
        let pods = if idle {
            Vec::new()
        } else {
            self.world_pods(&state)
        };
        // Two steps, so that no verdict mixes old policies with new pods.
        if !before.is_empty() {
            self.move_to(
                &World {
                    policies: before,
                    pods: pods.clone(),
                },
                now,
            );
        }
        if policies_changed {
            self.move_to(
                &World {
                    policies: self.policy.order.clone(),
                    pods,
                },
                now,
            );
        }
        self.write_endpoints(now);
        if !self.policy.pruned {
            self.policy.pruned = true;
            self.prune_policy(now);
        }
        self.policy.planned = state;
    }

    fn move_to(&mut self, world: &World, now: Instant) {
        let new = Compiled::new(world, &self.policy.compiled);
        let steps = policies::transition(&self.policy.compiled, &new, world);
        self.policy.compiled = new;
        for step in steps {
            self.policy_step(step, now);
        }
    }

    fn policy_step(&mut self, step: policies::Step, now: Instant) {
        match step {
            policies::Step::AddRows(rows) => {
                let rows = rows.iter().flat_map(|(key, allowed)| rows_of(key, allowed));
                self.writer
                    .apply(&rows.map(Step::Put).collect::<Vec<_>>(), now);
            }
            policies::Step::Ranges(ranges) => {
                if ranges != self.policy.ranges {
                    self.policy.ranges = ranges;
                    self.write_nodes(&self.state.clone(), now);
                }
            }
            policies::Step::Peers(peers) => self.write_peers(&peers, now),
            policies::Step::Endpoints(_) => self.write_endpoints(now),
            policies::Step::Narrowed(sets) => {
                let eps = self.writer.tables().ep.iter();
                let hit = eps
                    .filter(|(_, ep)| sets.contains(&ep.set_id))
                    .map(|(ix, _)| *ix);
                let steps: Vec<Step> = hit.map(Step::BumpEpoch).collect();
                self.writer.apply(&steps, now);
            }
            policies::Step::RemoveRows(keys) => {
                let tables = self.writer.tables();
                let keys: Vec<Step> = keys
                    .iter()
                    .flat_map(|key| keys_of(key, tables))
                    .map(Step::Retire)
                    .collect();
                self.writer.apply(&keys, now);
            }
        }
    }

    /// All peers there are: others are removed.
    fn write_peers(&mut self, peers: &BTreeMap<IpAddr, u32>, now: Instant) {
        let rows: Vec<Row> = peers
            .iter()
            .map(|(ip, class)| peer_row(*ip, *class))
            .collect();
        let wanted: HashSet<Key> = rows.iter().map(Row::key).collect();
        let tables = self.writer.tables();
        let all4 = tables.peer4.keys().map(|k| Key::Peer4(*k));
        let all6 = tables.peer6.keys().map(|k| Key::Peer6(*k));
        let gone: Vec<Key> = all4.chain(all6).filter(|k| !wanted.contains(k)).collect();
        let mut steps: Vec<Step> = rows.into_iter().map(Step::Put).collect();
        steps.extend(gone.into_iter().map(Step::Remove));
        self.writer.apply(&steps, now);
    }

    /// Flips endpoints to their sets; flows of one that may have narrowed are judged again.
    fn write_endpoints(&mut self, now: Instant) {
        let mut steps = Vec::new();
        for row in self.endpoint_rows() {
            let Row::Ep(ix, new) = row else { continue };
            let old = self.writer.tables().ep.get(&ix);
            steps.push(Step::Put(row));
            let was_open = old.is_some_and(|ep| ep.flags & abi::EP_READY != 0 && *ep != new);
            if was_open {
                steps.push(Step::BumpEpoch(ix));
            }
        }
        self.writer.apply(&steps, now);
    }

    /// Rows an earlier agent left and nobody needs.
    fn prune_policy(&mut self, now: Instant) {
        let ranges = self.policy.compiled.ranges.clone();
        self.policy_step(policies::Step::Ranges(ranges), now);
        self.write_peers(&self.policy.compiled.peers.clone(), now);
        let rows = self.policy.compiled.rows.iter();
        let wanted: HashSet<Key> = rows
            .flat_map(|(key, allowed)| rows_of(key, allowed))
            .map(|row| row.key())
            .collect();
        let tables = self.writer.tables();
        let pol = tables.pol.keys().map(|k| Key::Pol(*k));
        let polx = tables.polx.keys().map(|k| Key::Polx(*k));
        let gone = pol
            .chain(polx)
            .filter(|k| !wanted.contains(k))
            .map(Step::Retire);
        let steps: Vec<Step> = gone.collect();
        self.writer.apply(&steps, now);
    }

    // --- whose rows ---

    /// Policies that select a local pod of that set.
    pub(super) fn policies_in_set(&self, set_id: u32) -> Vec<ObjectKey> {
        let compiled = self.policy.compiled.endpoints.iter();
        let pods: Vec<&Arc<policies::Pod>> = compiled
            .filter(|(_, verdicts)| verdicts.set_id == set_id)
            .filter_map(|(name, _)| {
                let key = ObjectKey::new(&name.namespace, &name.name);
                self.policy.local.get(&key)
            })
            .collect();
        let selecting = self.policy.policies.iter();
        let selecting =
            selecting.filter(|(_, (_, parsed))| pods.iter().any(|pod| parsed.selects(pod)));
        selecting.map(|(key, _)| key.clone()).collect()
    }

    /// Policies that name blocks of addresses.
    pub(super) fn policies_with_blocks(&self) -> impl Iterator<Item = ObjectKey> {
        let all = self.policy.policies.iter();
        let with = all.filter(|(_, (_, parsed))| parsed.has_blocks());
        with.map(|(key, _)| key.clone())
    }

    // --- the world ---

    /// Pods with addresses: those of the local sandboxes, and the owners of all others.
    fn world_pods(&mut self, state: &State) -> Vec<Arc<policies::Pod>> {
        let mut taken: HashSet<IpAddr> = HashSet::new();
        let mut local = HashMap::new();
        for attachment in self.attachments.values() {
            if matches!(attachment.phase, Phase::Reserved) {
                continue;
            }
            let sandbox = &attachment.sandbox;
            let key = sandbox.pod_key();
            taken.extend(&sandbox.addresses);
            let object = state.pods.get(&key);
            let object = object.filter(|p| !p.terminal && p.is_called(&sandbox.pod.uid));
            let pod = match object {
                Some(object) => Some(local_pod(state, object, &sandbox.addresses)),
                None => self.policy.local.get(&key).cloned(),
            };
            // Two sandboxes of one pod exist while it is made anew: both addresses are its own.
            let Some(pod) = pod else { continue };
            local
                .entry(key)
                .and_modify(|known: &mut Arc<policies::Pod>| {
                    Arc::make_mut(known).addresses.extend(&sandbox.addresses);
                })
                .or_insert(pod);
        }
        let mut pods: Vec<Arc<policies::Pod>> = local.values().cloned().collect();
        pods.extend(remote_pods(state, &local, &taken));
        self.policy.local = local;
        pods
    }
}

fn range<A: Family>(key: &NetKey<A>) -> Option<IpNetwork> {
    IpNetwork::new(key.addr.ip(), u8::try_from(key.prefix_len).ok()?).ok()
}

fn name(key: &ObjectKey) -> Name {
    Name {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

fn local_pod(state: &State, pod: &Pod, addresses: &[IpAddr]) -> Arc<policies::Pod> {
    Arc::new(policies::Pod {
        local: true,
        ..policy_pod(state, pod, addresses.to_vec())
    })
}

/// Pods that own an address: of several with the same, the one that started last.
fn remote_pods(
    state: &State,
    local: &HashMap<ObjectKey, Arc<policies::Pod>>,
    taken: &HashSet<IpAddr>,
) -> Vec<Arc<policies::Pod>> {
    let mut owners: HashMap<IpAddr, &Arc<Pod>> = HashMap::new();
    let candidates = state.pods.values().filter(|p| p.owns_its_addresses());
    for pod in candidates.filter(|p| !local.contains_key(&p.key)) {
        for address in pod.ips.iter().filter(|a| !taken.contains(a)) {
            let owner = owners.entry(*address).or_insert(pod);
            if (pod.started, &pod.uid) > (owner.started, &owner.uid) {
                *owner = pod;
            }
        }
    }
    let mut addresses: HashMap<&ObjectKey, (&Arc<Pod>, Vec<IpAddr>)> = HashMap::new();
    for (address, pod) in owners {
        addresses
            .entry(&pod.key)
            .or_insert_with(|| (pod, Vec::new()))
            .1
            .push(address);
    }
    let pods = addresses.into_values();
    pods.map(|(pod, mut addresses)| {
        // In one order: the compiler knows a pod again by all of it.
        addresses.sort_unstable();
        Arc::new(policy_pod(state, pod, addresses))
    })
    .collect()
}

fn policy_pod(state: &State, pod: &Pod, addresses: Vec<IpAddr>) -> policies::Pod {
    let namespace = state.namespaces.get(&pod.key.namespace);
    let ports = pod
        .ports
        .iter()
        .filter(|p| !p.name.is_empty())
        .map(|p| NamedPort {
            name: p.name.clone(),
            protocol: p.protocol.number(),
            port: p.port,
        });
    policies::Pod {
        name: name(&pod.key),
        labels: pod.labels.clone(),
        namespace_labels: namespace.map(|n| n.labels.clone()).unwrap_or_default(),
        addresses,
        ports: ports.collect(),
        local: false,
    }
}

impl Core {
    /// Writes the node plan's rows again: ranges have other classes.
    fn write_nodes(&mut self, state: &State, now: Instant) {
        if !state.synced.nodes {
            self.policy.ranges_new = true;
            return;
        }
        let nodes: Vec<Arc<Node>> = state.nodes.values().cloned().collect();
        let tables = self.writer.tables();
        let program = self
            .nodes
            .program(&nodes, &self.facts, &self.policy.ranges, tables);
        let steps = self.nodes.plan(&program, tables);
        self.writer.apply(&steps, now);
        self.node_program = program;
    }
}
