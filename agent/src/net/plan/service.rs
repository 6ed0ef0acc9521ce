//! Services → frontends, service ports and backend lists. Two stages: [`program()`] says, without any
//! number of the kernel's, what one Service wants; [`Services::plan`] gives ids, compares with what the
//! maps hold and yields the steps, a changed endpoint being three writes at any size of list.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use abi::{BeKey, BeValue, List, Service, SlotKey, V4, V6};

use super::backend::Target;
use super::indices::Indices;
use crate::net::rows::{Key, Row, Step, Tables};
use crate::state::ObjectKey;

mod list;
mod program;

pub use list::Family;
pub use program::{Frontend, PortId, PortProgram, Program, frontend_row, program, socket_rows};

use list::{ListPlan, backend_value, plan_list, slots};
use program::marker_row;

/// The nodes, as far as backends are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Name → index in the `node` map.
    pub index: HashMap<Arc<str>, u16>,
    /// Addresses of the nodes themselves → index.
    pub addresses: HashMap<IpAddr, u16>,
}

/// A limit reached: what did not fit is left out of the maps, and reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refused {
    #[error("no room for another service port (limit {limit})")]
    Ports { limit: u32 },
    #[error("no room for another address and port of a Service (limit {limit})")]
    Frontends { limit: u32 },
    #[error("no free backend identity (limit {})", abi::limits::INCARNATIONS)]
    Identities,
    #[error("{have} endpoints, of which {taken} fit")]
    Backends { have: u32, taken: u32 },
}

/// How many rows the maps take; the sizes of `abi` but in tests.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub ports: u32,
    pub frontends: u32,
    /// Of all lists together.
    pub backends: u32,
    /// Of one list.
    pub list: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ports: abi::limits::SERVICES,
            frontends: abi::limits::FRONTENDS,
            backends: abi::limits::BACKENDS,
            list: abi::limits::LIST,
        }
    }
}

/// Ids given out, and which rows belong to which Service.
#[derive(Debug, Default)]
pub struct Services {
    ports: HashMap<PortId, Installed>,
    owned: HashMap<ObjectKey, Owned>,
    /// Service that wrote a frontend last.
    owner: HashMap<Key, ObjectKey>,
    /// Ids of service ports in use.
    taken: HashSet<u32>,
    svc_ids: Ids,
    list_ids: Ids,
    /// Indices into `live`.
    identities: Indices<{ abi::limits::INCARNATIONS }>,
    limits: Limits,
    recovered: bool,
}

/// One call of [`Services::plan`]: what it looks at, and what it has come to.
struct Work<'a> {
    nodes: &'a Nodes,
    current: &'a Tables,
    room: Room,
    steps: Vec<Step>,
    refused: BTreeSet<Refused>,
}

/// Rows that can still be added; those that wait for their removal take room.
struct Room {
    ports: usize,
    fe4: usize,
    fe6: usize,
    be4: usize,
    be6: usize,
}

#[derive(Debug, Clone)]
struct Installed {
    svc_id: u32,
    cluster: u32,
    local: u32,
    /// Backend → index into `live`.
    identities: BTreeMap<Target, u32>,
    /// Rows that tell where its backends are: with affinity only.
    slots: BTreeSet<SlotKey>,
}

#[derive(Debug, Clone, Default)]
struct Owned {
    frontends: Vec<Key>,
    ports: Vec<PortId>,
}

/// Ids from 1 that are not given out twice within a run.
#[derive(Debug, Default)]
struct Ids {
    last: u32,
}

// === impl Services ===

impl Services {
    /// Recovers ids and identities from what the maps hold, so that a new agent changes nothing.
    pub fn recover(&mut self, current: &Tables) {
        if std::mem::replace(&mut self.recovered, true) {
            return;
        }
        self.svc_ids.last = current.svc.keys().copied().max().unwrap_or(0);
        let lists4 = current.be4.keys().map(|k| k.list);
        let lists6 = current.be6.keys().map(|k| k.list);
        let headers = current
            .svc
            .values()
            .flat_map(|s| [s.cluster.list, s.local.list]);
        self.list_ids.last = lists4.chain(lists6).chain(headers).max().unwrap_or(0);
        let used4 = current.be4.values().map(|b| b.be_ix);
        for be_ix in used4.chain(current.be6.values().map(|b| b.be_ix)) {
            self.identities.claim(be_ix);
        }
    }

    /// The same with maps of other sizes.
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Steps that make the maps hold `program` for `service` (an empty program removes it), and what
    /// of it does not fit.
    pub fn plan(
        &mut self,
        service: &ObjectKey,
        program: &Program,
        nodes: &Nodes,
        current: &Tables,
    ) -> (Vec<Step>, BTreeSet<Refused>) {
        self.recover(current);
        let mut work = Work {
            nodes,
            current,
            room: Room::of(current, &self.limits),
            steps: Vec::new(),
            refused: BTreeSet::new(),
        };
        let mut fe_rows = Vec::new();
        for port in &program.ports {
            let svc_id = if port.id.ipv4 {
                self.plan_port::<V4>(port, &mut work)
            } else {
                self.plan_port::<V6>(port, &mut work)
            };
            if let Some(svc_id) = svc_id {
                fe_rows.extend(port.frontends.iter().map(|f| frontend_row(f, svc_id)));
            }
        }
        for (address, scope) in &program.markers {
            fe_rows.push(marker_row(*address, *scope));
        }
        let limit = self.limits.frontends;
        fe_rows.retain(|row| work.room.takes_frontend(row, current));
        let wanted = program.markers.len()
            + program
                .ports
                .iter()
                .map(|p| p.frontends.len())
                .sum::<usize>();
        if fe_rows.len() < wanted && !work.refused.contains(&self.no_port()) {
            work.refused.insert(Refused::Frontends { limit });
        }
        let frontends: Vec<Key> = fe_rows.iter().map(Row::key).collect();
        self.owner
            .extend(frontends.iter().map(|key| (*key, service.clone())));
        let Work {
            mut steps, refused, ..
        } = work;
        steps.extend(fe_rows.into_iter().map(Step::Put));
        let ports = program.ports.iter().map(|p| p.id.clone()).collect();
        let old = self
            .owned
            .insert(service.clone(), Owned { frontends, ports });
        steps.extend(self.removals(service, old.unwrap_or_default(), current));
        if program.ports.is_empty() {
            self.owned.remove(service);
        }
        (steps, refused)
    }

    /// The Service (or pod with hostPorts) a row belongs to.
    pub fn owner_of(&self, key: &Key) -> Option<&ObjectKey> {
        let with = |test: &dyn Fn(&Installed) -> bool| {
            let mut ports = self.ports.iter();
            ports.find(|(_, i)| test(i)).map(|(id, _)| &id.service)
        };
        match key {
            Key::Fe4(_) | Key::Fe6(_) => self.owner.get(key),
            Key::Svc(id) => with(&|i| i.svc_id == *id),
            Key::Be4(slot) | Key::Be6(slot) => {
                with(&|i| i.cluster == slot.list || i.local == slot.list)
            }
            Key::Slot(slot) => with(&|i| i.slots.contains(slot)),
            Key::Node(_)
            | Key::EpMac(_)
            | Key::Polx(_)
            | Key::Pol(_)
            | Key::Net4(_)
            | Key::Net6(_)
            | Key::Peer4(_)
            | Key::Peer6(_)
            | Key::Ep(_)
            | Key::Ip4(_)
            | Key::Ip6(_) => None,
        }
    }

    fn no_port(&self) -> Refused {
        Refused::Ports {
            limit: self.limits.ports,
        }
    }

    /// Rows nobody owns: run once after the first full sync, when every Service has been planned.
    pub fn prune(&self, current: &Tables, keep: &[Row]) -> Vec<Step> {
        let mut owned: HashSet<Key> = self
            .owned
            .values()
            .flat_map(|o| o.frontends.iter().copied())
            .collect();
        owned.extend(keep.iter().map(Row::key));
        let svcs: HashSet<u32> = self.ports.values().map(|p| p.svc_id).collect();
        let headers = svcs.iter().filter_map(|id| current.svc.get(id));
        let lists: HashMap<u32, u32> = headers
            .flat_map(|s| [(s.cluster.list, s.cluster.n), (s.local.list, s.local.n)])
            .collect();
        let dead_slot = |k: &&BeKey| lists.get(&k.list).is_none_or(|n| k.slot >= *n);
        let fe4 = current.fe4.keys().map(|k| Key::Fe4(*k));
        let fe6 = current.fe6.keys().map(|k| Key::Fe6(*k));
        let stale = fe4
            .chain(fe6)
            .filter(|k| !owned.contains(k))
            .map(Step::Remove);
        let mut steps: Vec<Step> = stale.collect();
        let dead = current.svc.keys().filter(|id| !svcs.contains(id));
        steps.extend(dead.map(|id| Step::Retire(Key::Svc(*id))));
        let be4 = current.be4.keys().filter(dead_slot).map(|k| Key::Be4(*k));
        let be6 = current.be6.keys().filter(dead_slot).map(|k| Key::Be6(*k));
        steps.extend(be4.chain(be6).map(Step::Retire));
        let placed: HashSet<&SlotKey> = self.ports.values().flat_map(|p| &p.slots).collect();
        let unused = |key: &&SlotKey| !placed.contains(key);
        let unused = current.slot.keys().filter(unused).copied();
        steps.extend(unused.map(|key| Step::Remove(Key::Slot(key))));
        steps
    }

    /// Services that have rows.
    pub fn installed(&self) -> impl Iterator<Item = &ObjectKey> {
        self.owned.keys()
    }

    /// Backends first, then the service port; returns its id, if there is room for it.
    fn plan_port<A: Family>(&mut self, port: &PortProgram, work: &mut Work<'_>) -> Option<u32> {
        let mut installed = match self.ports.remove(&port.id) {
            Some(installed) => installed,
            None => self.adopt::<A>(port, work.current),
        };
        let old = work.current.svc.get(&installed.svc_id);
        if old.is_none() && !take(&mut work.room.ports) {
            self.taken.remove(&installed.svc_id);
            work.refused.insert(self.no_port());
            return None;
        }
        let wanted = self.identities_of::<A>(port, &mut installed, work);
        let old_n = old.map_or((0, 0), |s| (s.cluster.n, s.local.n));
        let list_limit = self.limits.list;
        let mut list = |id: u32, n: u32, targets: &[Target]| {
            let room = work.room.backends::<A>();
            let limit = (list_limit as usize).min(n as usize + *room);
            let values = targets.iter().filter_map(|t| wanted.get(t).copied());
            let plan = plan_list::<A>(id, n, &values.take(limit).collect::<Vec<_>>(), work.current);
            *room -= (plan.n.saturating_sub(n) as usize).min(*room);
            if targets.len() > limit {
                let (have, taken) = (bounded(targets.len()), bounded(limit));
                work.refused.insert(Refused::Backends { have, taken });
            }
            plan
        };
        let cluster = list(installed.cluster, old_n.0, &port.backends.cluster);
        let local = list(installed.local, old_n.1, &port.backends.local);
        let value = service_value(port, &installed, cluster.n, local.n);
        let writes = cluster.writes.iter().chain(&local.writes).copied();
        work.steps.extend(writes.map(Step::Put));
        let unplaced = place(port, &mut installed, [&cluster, &local], &mut work.steps);
        work.steps
            .push(Step::Put(Row::Svc(installed.svc_id, value)));
        let tails = cluster.tail.iter().chain(&local.tail).copied();
        work.steps.extend(tails.map(Step::Retire));
        work.steps.extend(unplaced);
        let serving = &port.backends.serving;
        self.release(
            &mut installed,
            |t| !serving.contains_key(t),
            &mut work.steps,
        );
        let svc_id = installed.svc_id;
        self.ports.insert(port.id.clone(), installed);
        Some(svc_id)
    }

    /// Every serving backend with its identity, as a row without a list.
    fn identities_of<A: Family>(
        &mut self,
        port: &PortProgram,
        installed: &mut Installed,
        work: &mut Work<'_>,
    ) -> BTreeMap<Target, BeValue<A>> {
        let mut values = BTreeMap::new();
        for (target, node) in &port.backends.serving {
            match self.identity(installed, *target, &mut work.steps) {
                Some(be_ix) => {
                    let value = backend_value::<A>(*target, node.as_deref(), be_ix, work.nodes);
                    values.insert(*target, value);
                }
                None => {
                    work.refused.insert(Refused::Identities);
                }
            }
        }
        values
    }

    /// The service port an earlier agent made for the same frontends, or a new one.
    fn adopt<A: Family>(&mut self, port: &PortProgram, current: &Tables) -> Installed {
        let of_frontend = |f: &Frontend| match frontend_row(f, 0) {
            Row::Fe4(key, _) => current.fe4.get(&key).map(|v| v.svc_id),
            Row::Fe6(key, _) => current.fe6.get(&key).map(|v| v.svc_id),
            _ => None,
        };
        let mut ids = port.frontends.iter().filter_map(of_frontend);
        let known = ids.find(|id| *id != 0 && !self.taken.contains(id));
        if let Some((id, svc)) = known.and_then(|id| Some((id, current.svc.get(&id)?))) {
            self.taken.insert(id);
            let slots = [svc.cluster, svc.local].into_iter().flat_map(|list| {
                (0..list.n).map(move |slot| BeKey {
                    list: list.list,
                    slot,
                })
            });
            let rows = slots.filter_map(|key| A::backends(current).get(&key));
            let identities = rows.map(|v| {
                (
                    Target {
                        address: A::ip(v.addr),
                        port: v.port.get(),
                    },
                    v.be_ix,
                )
            });
            let own = |key: &&SlotKey| [svc.cluster.list, svc.local.list].contains(&key.list);
            return Installed {
                svc_id: id,
                cluster: svc.cluster.list,
                local: svc.local.list,
                identities: identities.collect(),
                slots: current.slot.keys().filter(own).copied().collect(),
            };
        }
        let svc_id = self.svc_ids.next();
        self.taken.insert(svc_id);
        Installed {
            svc_id,
            cluster: self.list_ids.next(),
            local: self.list_ids.next(),
            identities: BTreeMap::new(),
            slots: BTreeSet::new(),
        }
    }

    fn identity(
        &mut self,
        installed: &mut Installed,
        target: Target,
        steps: &mut Vec<Step>,
    ) -> Option<u32> {
        if let Some(be_ix) = installed.identities.get(&target) {
            return Some(*be_ix);
        }
        let be_ix = self.identities.take()?;
        steps.push(Step::BumpLive(be_ix));
        installed.identities.insert(target, be_ix);
        Some(be_ix)
    }

    /// Ends the identities that `gone` selects: flows to them choose again.
    fn release(
        &mut self,
        installed: &mut Installed,
        gone: impl Fn(&Target) -> bool,
        steps: &mut Vec<Step>,
    ) {
        let ended: Vec<Target> = installed.identities.keys().copied().filter(gone).collect();
        for target in ended {
            if let Some(be_ix) = installed.identities.remove(&target) {
                self.identities.free(be_ix);
                steps.push(Step::BumpLive(be_ix));
            }
        }
    }

    /// What `service` owned and does not any more: frontends, then service ports, then backends.
    fn removals(&mut self, service: &ObjectKey, old: Owned, current: &Tables) -> Vec<Step> {
        let now = self.owned.get(service).cloned().unwrap_or_default();
        let kept: HashSet<&Key> = now.frontends.iter().collect();
        let mut steps = Vec::new();
        for key in old.frontends.iter().filter(|k| !kept.contains(k)) {
            // A frontend that another Service has taken over meanwhile is not ours to remove.
            if self.owner.get(key) == Some(service) {
                self.owner.remove(key);
                steps.push(Step::Remove(*key));
            }
        }
        for id in old.ports.iter().filter(|id| !now.ports.contains(id)) {
            let Some(mut installed) = self.ports.remove(id) else {
                continue;
            };
            self.taken.remove(&installed.svc_id);
            steps.push(Step::Retire(Key::Svc(installed.svc_id)));
            let slots_gone = std::mem::take(&mut installed.slots).into_iter();
            steps.extend(slots_gone.map(|key| Step::Remove(Key::Slot(key))));
            if let Some(svc) = current.svc.get(&installed.svc_id) {
                steps.extend(slots(svc.cluster, id.ipv4).chain(slots(svc.local, id.ipv4)));
            }
            self.release(&mut installed, |_| true, &mut steps);
        }
        steps
    }
}

/// Writes where each backend of a service port with affinity is; returns the removal of what is not so any
/// more. A reader that finds an old place sees by the backend's identity that it is one.
fn place(
    port: &PortProgram,
    installed: &mut Installed,
    lists: [&ListPlan; 2],
    steps: &mut Vec<Step>,
) -> Vec<Step> {
    let mut wanted = BTreeSet::new();
    if port.affinity_seconds > 0 {
        for (list, plan) in [installed.cluster, installed.local].into_iter().zip(lists) {
            for (be_ix, slot) in &plan.at {
                let key = SlotKey {
                    list,
                    be_ix: *be_ix,
                };
                steps.push(Step::Put(Row::Slot(key, *slot)));
                wanted.insert(key);
            }
        }
    }
    let old = std::mem::replace(&mut installed.slots, wanted);
    let gone = old.difference(&installed.slots);
    gone.map(|key| Step::Remove(Key::Slot(*key))).collect()
}

fn service_value(port: &PortProgram, installed: &Installed, cluster: u32, local: u32) -> Service {
    let list = |list, n| List { list, n };
    let affinity = port.affinity_seconds;
    Service {
        cluster: list(installed.cluster, cluster),
        local: list(installed.local, local),
        affinity,
        algorithm: 0,
        flags: if affinity > 0 { abi::SVC_AFFINITY } else { 0 },
        reserved: [0; 2],
    }
}

// === impl Room ===

impl Room {
    fn of(current: &Tables, limits: &Limits) -> Self {
        let left = |limit: u32, used: usize| (limit as usize).saturating_sub(used);
        Self {
            ports: left(limits.ports, current.svc.len()),
            fe4: left(limits.frontends, current.fe4.len()),
            fe6: left(limits.frontends, current.fe6.len()),
            be4: left(limits.backends, current.be4.len()),
            be6: left(limits.backends, current.be6.len()),
        }
    }

    fn backends<A: Family>(&mut self) -> &mut usize {
        if A::FAMILY == abi::FAMILY_V4 {
            &mut self.be4
        } else {
            &mut self.be6
        }
    }

    /// Whether the frontend is there, or fits.
    fn takes_frontend(&mut self, row: &Row, current: &Tables) -> bool {
        let room = if matches!(row, Row::Fe4(..)) {
            &mut self.fe4
        } else {
            &mut self.fe6
        };
        current.has_key(&row.key()) || take(room)
    }
}

fn take(room: &mut usize) -> bool {
    let fits = *room > 0;
    *room = room.saturating_sub(1);
    fits
}

fn bounded(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

// === ids ===

impl Ids {
    fn next(&mut self) -> u32 {
        self.last = self.last.checked_add(1).unwrap_or(1);
        self.last
    }
}

#[cfg(test)]
mod tests;
