//! Classes: what an address is, seen by the policies that select a pod on this node. An [`Atom`] is one
//! way a rule can mean a peer; a class is the set of atoms an address matches, and has an id that is a
//! hash of that set. Equal sets have equal ids across restarts and nodes, so a new agent finds the
//! classes of the old one in the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::Pod;
use crate::rule::{Block, Namespaces, Peer};

/// One way a rule can mean a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// The peer itself.
    Peer(Peer),
    /// The peer (`None`: any pod), if the pod calls `port` of `protocol` by `name`: what a rule with a
    /// named port means for traffic *to* peers.
    Named {
        /// The rule's peer.
        peer: Option<Peer>,
        /// Name of the port.
        name: String,
        /// `abi::PROTO_*`.
        protocol: u8,
        /// Number the pod gives that name.
        port: u16,
    },
}

/// The atoms an address matches.
pub type Atoms = BTreeSet<Atom>;

/// Gives sets of things ids that depend on nothing but their content. 0 is never given out except
/// for what the caller defines as "none".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interner<T: Ord> {
    ids: BTreeMap<T, u32>,
    taken: BTreeSet<u32>,
}

// === impl Atom ===

impl Atom {
    /// Whether the pod with this address matches.
    pub fn matches(&self, pod: &Pod, address: IpAddr) -> bool {
        match self {
            Self::Peer(peer) => peer_matches(peer, pod, address),
            Self::Named {
                peer,
                name,
                protocol,
                port,
            } => {
                let named = pod
                    .ports
                    .iter()
                    .any(|p| p.name == *name && p.protocol == *protocol && p.port == *port);
                named
                    && peer
                        .as_ref()
                        .is_none_or(|peer| peer_matches(peer, pod, address))
            }
        }
    }

    /// The block, if the atom is about addresses alone.
    pub fn block(&self) -> Option<&Block> {
        match self {
            Self::Peer(Peer::Block(block)) => Some(block),
            Self::Peer(Peer::Pods { .. }) | Self::Named { .. } => None,
        }
    }
}

/// Whether a rule's peer means the pod with this address.
pub fn peer_matches(peer: &Peer, pod: &Pod, address: IpAddr) -> bool {
    match peer {
        Peer::Block(block) => block.contains(&address.into()),
        Peer::Pods { namespaces, pods } => {
            let there = match namespaces {
                Namespaces::Named(name) => **name == *pod.name.namespace,
                Namespaces::Labelled(selector) => selector.matches(&pod.namespace_labels),
            };
            there && pods.matches(&pod.labels)
        }
    }
}

/// The atoms of `universe` that a range of addresses matches without regard to who has them.
pub fn atoms_of_range(universe: &Atoms, net: &IpNetwork) -> Atoms {
    let blocks = universe
        .iter()
        .filter(|a| a.block().is_some_and(|b| b.contains(net)));
    blocks.cloned().collect()
}

/// Every boundary the blocks of `universe` have.
pub fn boundaries(universe: &Atoms) -> BTreeSet<IpNetwork> {
    let blocks = universe.iter().filter_map(Atom::block);
    blocks
        .flat_map(|b| b.except.iter().chain([&b.cidr]))
        .copied()
        .collect()
}

// === impl Interner ===

impl<T: Ord> Default for Interner<T> {
    fn default() -> Self {
        Self {
            ids: BTreeMap::new(),
            taken: BTreeSet::new(),
        }
    }
}

impl<T: Ord + Clone + std::fmt::Debug> Interner<T> {
    /// Forgets what is not in use any more.
    pub fn retain(&mut self, in_use: impl Fn(u32) -> bool) {
        self.ids.retain(|_, id| in_use(*id));
        self.taken.retain(|id| in_use(*id));
    }

    /// The id of `thing`.
    pub fn id(&mut self, thing: &T) -> u32 {
        if let Some(id) = self.ids.get(thing) {
            return *id;
        }
        let mut id = hash(&format!("{thing:?}"));
        while id == 0 || self.taken.contains(&id) {
            id = id.wrapping_add(1);
        }
        self.taken.insert(id);
        self.ids.insert(thing.clone(), id);
        id
    }
}

/// FNV-1a, folded to 32 bits: stable across builds, unlike the standard library's hashers.
fn hash(text: &str) -> u32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    #[expect(clippy::cast_possible_truncation, reason = "folding is meant")]
    let folded = (hash ^ (hash >> 32)) as u32;
    folded
}
