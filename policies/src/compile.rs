//! From the world to what the datapath holds: per local pod a set and its isolation, per address a
//! class, and for every set and class one row that decides. Pods under equal rules share a set.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use abi::{DIR_EGRESS, DIR_INGRESS, ISOLATED_EGRESS, ISOLATED_INGRESS};
use ipnetwork::IpNetwork;

use crate::class::{Atom, Atoms, Interner, atoms_of_range, boundaries, peer_matches};
use crate::rule::{Policy, PortSpec, Rule};
use crate::{Name, Pod, World};

/// Protocol → ranges of ports, inclusive, sorted, neither overlapping nor adjacent.
pub type Ports = BTreeMap<u8, Vec<(u16, u16)>>;

/// What a row allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// Every protocol and port.
    All,
    /// These ports.
    Ports(Ports),
}

/// Key of a row: `abi::PolKey` without its layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// Set of the local pod.
    pub set_id: u32,
    /// `abi::DIR_*`.
    pub direction: u8,
    /// Class of the peer; 0 for rules about everybody.
    pub class: u32,
}

/// What a local pod's endpoint says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// 0: under no policy.
    pub set_id: u32,
    /// `abi::ISOLATED_*`.
    pub isolation: u8,
}

/// The rules of a set, resolved: per direction `None` if it is not isolated.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set {
    ingress: Option<BTreeSet<Grant>>,
    egress: Option<BTreeSet<Grant>>,
}

/// One permission of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    /// `None`: everybody.
    peer: Option<Atom>,
    /// `None`: every protocol and port; else protocol, first and last port.
    ports: Option<(u8, u16, u16)>,
}

/// A compiled world.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Compiled {
    /// Every atom a live set refers to.
    pub universe: Atoms,
    /// Live sets by id.
    pub sets: BTreeMap<u32, Set>,
    /// Local pods under at least one policy.
    pub endpoints: BTreeMap<Name, Verdicts>,
    /// Classes in use.
    pub classes: BTreeMap<u32, Atoms>,
    /// Pods' addresses that match more than the ranges they are in.
    pub peers: BTreeMap<IpAddr, u32>,
    /// Ranges with every boundary of every block; a range outside of all has class 0.
    pub ranges: BTreeMap<IpNetwork, u32>,
    /// Rows, without those that say the same as their set's row of class 0.
    pub rows: BTreeMap<RowKey, Allowed>,
    /// The pods whose addresses have the classes above: the next compilation asks about others only.
    pods: BTreeMap<Name, Arc<Pod>>,
    interner: Ids,
}

/// Ids of sets and classes; kept from one compilation to the next.
#[derive(Debug, Clone, Default, PartialEq)]
struct Ids {
    sets: Interner<Set>,
    classes: Interner<Atoms>,
}

// === impl Compiled ===

impl Compiled {
    /// Compiles a world; ids are those of `before` where contents are.
    pub fn new(world: &World, before: &Compiled) -> Self {
        let mut compiled = Self {
            interner: before.interner.clone(),
            ..Self::default()
        };
        compiled.select(world);
        let universe = compiled
            .sets
            .values()
            .flat_map(Set::atoms)
            .cloned()
            .collect();
        compiled.classify(world, universe, before);
        let sets = |id| compiled.sets.contains_key(&id) || before.sets.contains_key(&id);
        let classes = |id| compiled.classes.contains_key(&id) || before.classes.contains_key(&id);
        let mut interner = std::mem::take(&mut compiled.interner);
        interner.sets.retain(sets);
        interner.classes.retain(classes);
        compiled.interner = interner;
        compiled
    }

    /// The same world and sets with the sets and atoms of `other` added: every class then tells
    /// apart what either needs.
    pub fn refined(&self, world: &World, other: &Compiled) -> Self {
        let is_known = |id| self.sets.contains_key(id);
        if other.universe.is_subset(&self.universe) && other.sets.keys().all(is_known) {
            return self.clone();
        }
        let mut refined = Self {
            interner: self.interner.clone(),
            sets: self.sets.clone(),
            endpoints: self.endpoints.clone(),
            ..Self::default()
        };
        refined
            .sets
            .extend(other.sets.iter().map(|(id, set)| (*id, set.clone())));
        let universe = self.universe.union(&other.universe).cloned().collect();
        refined.classify(world, universe, self);
        refined
    }

    /// Whether no local pod is under a policy.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Sets of the local pods.
    fn select(&mut self, world: &World) {
        for pod in world.pods.iter().filter(|p| p.local) {
            let policies: Vec<&Policy> = world
                .policies
                .iter()
                .map(|p| &**p)
                .filter(|p| p.selects(pod))
                .collect();
            if policies.is_empty() {
                continue;
            }
            let set = Set::new(&policies, pod, world);
            let isolation = set.isolation();
            let set_id = self.interner.sets.id(&set);
            self.sets.insert(set_id, set);
            self.endpoints
                .insert(pod.name.clone(), Verdicts { set_id, isolation });
        }
    }

    /// Classes of addresses and ranges over `universe`, and the rows of all sets for them. Over the
    /// universe of `before`, a pod that is as it was then keeps its classes.
    fn classify(&mut self, world: &World, universe: Atoms, before: &Compiled) {
        self.universe = universe;
        for net in boundaries(&self.universe) {
            let atoms = atoms_of_range(&self.universe, &net);
            let class = self.class(atoms);
            self.ranges.insert(net, class);
        }
        if !self.universe.is_empty() {
            let same_universe = self.universe == before.universe;
            for pod in &world.pods {
                let is_known = same_universe && before.pods.get(&pod.name) == Some(pod);
                for address in &pod.addresses {
                    if is_known {
                        self.keep_class(before, *address);
                    } else {
                        self.classify_address(pod, *address);
                    }
                }
                self.pods.insert(pod.name.clone(), pod.clone());
            }
        }
        let classes = std::mem::take(&mut self.classes);
        let sets = std::mem::take(&mut self.sets);
        for (set_id, set) in &sets {
            self.add_rows(*set_id, set, &classes);
        }
        (self.classes, self.sets) = (classes, sets);
    }

    fn classify_address(&mut self, pod: &Pod, address: IpAddr) {
        let matching = self.universe.iter().filter(|a| a.matches(pod, address));
        let atoms: Atoms = matching.cloned().collect();
        // An address that matches blocks alone has the class of its range.
        if atoms.iter().any(|a| a.block().is_none()) {
            let class = self.class(atoms);
            self.peers.insert(address, class);
        }
    }

    fn keep_class(&mut self, before: &Compiled, address: IpAddr) {
        if let Some(class) = before.peers.get(&address)
            && let Some(atoms) = before.classes.get(class)
        {
            self.classes.entry(*class).or_insert_with(|| atoms.clone());
            self.peers.insert(address, *class);
        }
    }

    fn class(&mut self, atoms: Atoms) -> u32 {
        if atoms.is_empty() {
            return 0;
        }
        let id = self.interner.classes.id(&atoms);
        self.classes.entry(id).or_insert(atoms);
        id
    }

    fn add_rows(&mut self, set_id: u32, set: &Set, classes: &BTreeMap<u32, Atoms>) {
        for (direction, grants) in [(DIR_INGRESS, &set.ingress), (DIR_EGRESS, &set.egress)] {
            let Some(grants) = grants else { continue };
            let anybody = allowed(grants, &Atoms::new());
            for (class, atoms) in classes {
                let row = allowed(grants, atoms);
                if row != anybody {
                    self.rows.insert(
                        RowKey {
                            set_id,
                            direction,
                            class: *class,
                        },
                        row,
                    );
                }
            }
            if anybody != Allowed::Ports(Ports::new()) {
                self.rows.insert(
                    RowKey {
                        set_id,
                        direction,
                        class: 0,
                    },
                    anybody,
                );
            }
        }
    }
}

// === impl Set ===

impl Set {
    fn new(policies: &[&Policy], pod: &Pod, world: &World) -> Self {
        let ingress: Vec<&Vec<Rule>> = policies.iter().filter_map(|p| p.ingress.as_ref()).collect();
        let egress: Vec<&Vec<Rule>> = policies.iter().filter_map(|p| p.egress.as_ref()).collect();
        let incoming = ingress
            .iter()
            .copied()
            .flatten()
            .flat_map(|r| ingress_grants(r, pod));
        let outgoing = egress
            .iter()
            .copied()
            .flatten()
            .flat_map(|r| egress_grants(r, world));
        Self {
            ingress: (!ingress.is_empty()).then(|| incoming.collect()),
            egress: (!egress.is_empty()).then(|| outgoing.collect()),
        }
    }

    fn isolation(&self) -> u8 {
        let bit = |grants: &Option<_>, bit| if grants.is_some() { bit } else { 0 };
        bit(&self.ingress, ISOLATED_INGRESS) | bit(&self.egress, ISOLATED_EGRESS)
    }

    fn atoms(&self) -> impl Iterator<Item = &Atom> {
        let both = self.ingress.iter().chain(&self.egress).flatten();
        both.filter_map(|grant| grant.peer.as_ref())
    }
}

/// Peers of a rule as atoms; one `None` for everybody.
fn peers(rule: &Rule) -> Vec<Option<Atom>> {
    match &rule.peers {
        None => vec![None],
        Some(peers) => peers.iter().cloned().map(|p| Some(Atom::Peer(p))).collect(),
    }
}

/// Named ports are those of the pod itself.
fn ingress_grants(rule: &Rule, pod: &Pod) -> Vec<Grant> {
    let ports: Vec<Option<(u8, u16, u16)>> = match &rule.ports {
        None => vec![None],
        Some(ports) => ports
            .iter()
            .flat_map(|p| of_pod(p, pod))
            .map(Some)
            .collect(),
    };
    let peers = peers(rule);
    let pairs = peers
        .iter()
        .flat_map(|peer| ports.iter().map(move |ports| (peer, ports)));
    pairs
        .map(|(peer, ports)| Grant {
            peer: peer.clone(),
            ports: *ports,
        })
        .collect()
}

fn of_pod(port: &PortSpec, pod: &Pod) -> Vec<(u8, u16, u16)> {
    match port {
        PortSpec::Range { protocol, lo, hi } => vec![(*protocol, *lo, *hi)],
        PortSpec::Named { protocol, name } => {
            let named = pod
                .ports
                .iter()
                .filter(|p| p.name == *name && p.protocol == *protocol);
            named.map(|p| (*protocol, p.port, p.port)).collect()
        }
    }
}

/// Named ports are those of each peer: one atom per number that some peer gives the name.
fn egress_grants(rule: &Rule, world: &World) -> Vec<Grant> {
    let Some(ports) = &rule.ports else {
        return peers(rule)
            .into_iter()
            .map(|peer| Grant { peer, ports: None })
            .collect();
    };
    let mut grants = Vec::new();
    for port in ports {
        match port {
            PortSpec::Range { protocol, lo, hi } => {
                let ports = Some((*protocol, *lo, *hi));
                grants.extend(peers(rule).into_iter().map(|peer| Grant { peer, ports }));
            }
            PortSpec::Named { protocol, name } => {
                grants.extend(named_grants(rule, *protocol, name, world));
            }
        }
    }
    grants
}

fn named_grants(rule: &Rule, protocol: u8, name: &str, world: &World) -> Vec<Grant> {
    let peers = match &rule.peers {
        None => vec![None],
        Some(peers) => peers.iter().map(Some).collect(),
    };
    let mut grants = Vec::new();
    for peer in peers {
        let meant = world.pods.iter().filter(|pod| {
            let matches = |peer| pod.addresses.iter().any(|a| peer_matches(peer, pod, *a));
            peer.is_none_or(matches)
        });
        let named = meant.flat_map(|pod| &pod.ports);
        let named = named.filter(|p| p.name == name && p.protocol == protocol);
        let numbers: BTreeSet<u16> = named.map(|p| p.port).collect();
        grants.extend(numbers.into_iter().map(|port| Grant {
            peer: Some(Atom::Named {
                peer: peer.cloned(),
                name: name.into(),
                protocol,
                port,
            }),
            ports: Some((protocol, port, port)),
        }));
    }
    grants
}

// === rows ===

fn allowed(grants: &BTreeSet<Grant>, atoms: &Atoms) -> Allowed {
    let mut ranges: BTreeMap<u8, Vec<(u16, u16)>> = BTreeMap::new();
    for grant in grants {
        if grant
            .peer
            .as_ref()
            .is_some_and(|atom| !atoms.contains(atom))
        {
            continue;
        }
        match grant.ports {
            None => return Allowed::All,
            Some((protocol, lo, hi)) => ranges.entry(protocol).or_default().push((lo, hi)),
        }
    }
    Allowed::Ports(ranges.into_iter().map(|(p, r)| (p, merged(r))).collect())
}

fn merged(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (lo, hi) in ranges {
        match merged.last_mut() {
            Some(last) if lo <= last.1.saturating_add(1) => last.1 = last.1.max(hi),
            _ => merged.push((lo, hi)),
        }
    }
    merged
}

// === impl Allowed ===

impl Allowed {
    /// Whether a packet to `port` of `protocol` passes.
    pub fn allows(&self, protocol: u8, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Ports(ports) => {
                let ranges = ports.get(&protocol).into_iter().flatten();
                ranges.clone().any(|(lo, hi)| (*lo..=*hi).contains(&port))
            }
        }
    }

    /// Whether everything `other` allows is allowed here too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Ports(_), Self::All) => false,
            (Self::Ports(own), Self::Ports(others)) => others.iter().all(|(protocol, ranges)| {
                let own = own.get(protocol).map(Vec::as_slice).unwrap_or_default();
                ranges
                    .iter()
                    .all(|(lo, hi)| own.iter().any(|(a, b)| a <= lo && hi <= b))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Labels;
    use k8s_openapi::api::networking::v1::{
        NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicySpec,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

    fn pod(name: &str, address: &str, label: &str, local: bool) -> Arc<Pod> {
        Arc::new(Pod {
            name: Name {
                namespace: "n".into(),
                name: name.into(),
            },
            labels: Arc::new(Labels::from([("a".into(), label.into())])),
            namespace_labels: Arc::default(),
            addresses: vec![address.parse().unwrap()],
            ports: Vec::new(),
            local,
        })
    }

    #[test]
    fn addresses_of_pods_that_are_as_before_are_not_matched_again() {
        let labelled = LabelSelector {
            match_labels: Some(Labels::from([("a".into(), "x".into())])),
            ..LabelSelector::default()
        };
        let peer = NetworkPolicyPeer {
            pod_selector: Some(labelled),
            ..NetworkPolicyPeer::default()
        };
        let rule = NetworkPolicyIngressRule {
            from: Some(vec![peer]),
            ..NetworkPolicyIngressRule::default()
        };
        let spec = NetworkPolicySpec {
            ingress: Some(vec![rule]),
            ..NetworkPolicySpec::default()
        };
        let name = Name {
            namespace: "n".into(),
            name: "p".into(),
        };
        let policies = vec![Arc::new(Policy::new(name, &spec))];
        let world = |other: &str| World {
            policies: policies.clone(),
            pods: vec![
                pod("own", "10.0.0.1", "-", true),
                pod("same", "10.0.0.2", "x", false),
                pod("other", "10.0.0.3", other, false),
            ],
        };
        let mut before = Compiled::new(&world("-"), &Compiled::default());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let class = before.peers[&address("10.0.0.2")];
        // A class nobody would find by matching shows that nothing was matched.
        let marked = class.wrapping_add(1);
        before.peers.insert(address("10.0.0.2"), marked);
        before
            .classes
            .insert(marked, before.classes[&class].clone());
        let after = Compiled::new(&world("x"), &before);
        assert_eq!(after.peers[&address("10.0.0.2")], marked);
        assert_eq!(after.peers[&address("10.0.0.3")], class);
    }
}
