//! The order of writes from one compiled world to the next. At every point between two steps each
//! verdict is that of the old world or that of the new one: first every class that either world needs
//! is told apart and has its rows in every live set, then addresses move, then endpoints, and only
//! then is the old taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::compile::{Allowed, Compiled, RowKey, Verdicts};
use crate::{Name, World};

/// One step; what is in it may be written in any order.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Add rows. None of these keys exists with another value.
    AddRows(BTreeMap<RowKey, Allowed>),
    /// Classes of ranges: all of them, others are gone.
    Ranges(BTreeMap<IpNetwork, u32>),
    /// Classes of addresses: all of them, others are gone.
    Peers(BTreeMap<IpAddr, u32>),
    /// Sets of local pods: all of them, others are under no policy.
    Endpoints(BTreeMap<Name, Verdicts>),
    /// Verdicts for these sets may have narrowed.
    Narrowed(BTreeSet<u32>),
    /// Nothing refers to these rows any more; to be removed when readers are done.
    RemoveRows(BTreeSet<RowKey>),
}

/// The steps from `old` to `new`, the compilation of `world`.
pub fn transition(old: &Compiled, new: &Compiled, world: &World) -> Vec<Step> {
    let middle = new.refined(world, old);
    let added = |rows: &BTreeMap<RowKey, Allowed>, known: &[&Compiled]| -> BTreeMap<_, _> {
        let fresh = rows
            .iter()
            .filter(|(k, v)| known.iter().all(|c| c.rows.get(k) != Some(v)));
        fresh.map(|(k, v)| (*k, v.clone())).collect()
    };
    let mut steps = vec![
        Step::AddRows(added(&middle.rows, &[old])),
        Step::Ranges(middle.ranges.clone()),
        Step::Peers(middle.peers.clone()),
        Step::Endpoints(new.endpoints.clone()),
    ];
    if middle.universe != new.universe {
        steps.push(Step::AddRows(added(&new.rows, &[old, &middle])));
        steps.push(Step::Ranges(new.ranges.clone()));
        steps.push(Step::Peers(new.peers.clone()));
    }
    steps.push(Step::Narrowed(narrowed(old, new)));
    let all = old.rows.keys().chain(middle.rows.keys());
    let gone = all.filter(|k| !new.rows.contains_key(k)).copied().collect();
    steps.push(Step::RemoveRows(gone));
    steps.retain(|step| !is_idle(step, old));
    steps
}

fn is_idle(step: &Step, old: &Compiled) -> bool {
    match step {
        Step::AddRows(rows) => rows.is_empty(),
        Step::RemoveRows(keys) => keys.is_empty(),
        Step::Narrowed(sets) => sets.is_empty(),
        // Written in full wherever the middle may have differed: the writer skips what is there.
        Step::Ranges(all) => all.is_empty() && old.ranges.is_empty(),
        Step::Peers(all) => all.is_empty() && old.peers.is_empty(),
        Step::Endpoints(all) => *all == old.endpoints,
    }
}

/// Sets that exist before and after and for which some address's row allows less than before.
fn narrowed(old: &Compiled, new: &Compiled) -> BTreeSet<u32> {
    let moved: BTreeSet<(u32, u32)> = class_moves(old, new);
    let lost = |set: u32| {
        [abi::DIR_INGRESS, abi::DIR_EGRESS]
            .into_iter()
            .any(|direction| {
                moved.iter().any(|(before, after)| {
                    let row = |world: &Compiled, class| world.row(set, direction, class);
                    !row(new, *after).covers(&row(old, *before))
                })
            })
    };
    new.sets
        .keys()
        .copied()
        .filter(|set| old.sets.contains_key(set) && lost(*set))
        .collect()
}

/// Class before and after, of every address and range whose class changed.
fn class_moves(old: &Compiled, new: &Compiled) -> BTreeSet<(u32, u32)> {
    let mut moves = BTreeSet::new();
    for address in old.peers.keys().chain(new.peers.keys()) {
        moves.insert((old.class_of(*address), new.class_of(*address)));
    }
    for net in old.ranges.keys().chain(new.ranges.keys()) {
        moves.insert((old.class_around(net), new.class_around(net)));
    }
    moves.retain(|(before, after)| before != after);
    moves
}

// === impl Compiled: reading as the datapath does ===

impl Compiled {
    /// Class of an address: its own, else that of the narrowest range around it, else 0.
    pub fn class_of(&self, address: IpAddr) -> u32 {
        match self.peers.get(&address) {
            Some(class) => *class,
            None => self.class_around(&address.into()),
        }
    }

    fn class_around(&self, net: &IpNetwork) -> u32 {
        let around = (0..=net.prefix()).rev().filter_map(|prefix| {
            let wider = IpNetwork::new(net.ip(), prefix).ok()?;
            self.ranges
                .get(&IpNetwork::new(wider.network(), prefix).ok()?)
        });
        around.copied().next().unwrap_or(0)
    }

    /// What the rows say for a set, a direction and a class: the class's row, else that of class 0,
    /// else nothing is allowed.
    pub fn row(&self, set_id: u32, direction: u8, class: u32) -> Allowed {
        let found = self.rows.get(&RowKey {
            set_id,
            direction,
            class,
        });
        let found = found.or_else(|| {
            self.rows.get(&RowKey {
                set_id,
                direction,
                class: 0,
            })
        });
        found.cloned().unwrap_or(Allowed::Ports(BTreeMap::new()))
    }
}
