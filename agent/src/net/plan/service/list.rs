//! Backend lists: dense, changed by swap-remove, in either family.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use abi::{Addr, BeKey, BeValue, List, Port, V4, V6};

use super::Nodes;
use crate::net::plan::backend::Target;
use crate::net::rows::{Key, Row, Step, Tables};

/// Writes that make a list what is wanted, and what they leave over.
pub(super) struct ListPlan {
    pub(super) writes: Vec<Row>,
    pub(super) tail: Vec<Key>,
    pub(super) n: u32,
    /// Identity and slot of each backend.
    pub(super) at: Vec<(u32, u32)>,
}

/// Swap-remove: backends that stay keep their slot, new ones fill holes, the last ones move into the
/// holes that remain, and the tail is retired. `n` is the number of slots in use now.
pub(super) fn plan_list<A: Family>(
    list: u32,
    n: u32,
    wanted: &[BeValue<A>],
    current: &Tables,
) -> ListPlan {
    let rows = A::backends(current);
    let mut by_identity: BTreeMap<u32, BeValue<A>> = wanted.iter().map(|v| (v.be_ix, *v)).collect();
    let mut slots: Vec<Option<BeValue<A>>> = (0..n)
        .map(|slot| {
            let old = rows.get(&BeKey { list, slot })?;
            by_identity.remove(&old.be_ix)
        })
        .collect();
    let mut fresh: Vec<BeValue<A>> = by_identity.into_values().collect();
    fresh.reverse();
    for slot in slots.iter_mut().filter(|s| s.is_none()) {
        *slot = fresh.pop();
    }
    while let Some(hole) = slots.iter().position(Option::is_none) {
        let last = slots.pop().flatten();
        if hole < slots.len() {
            slots[hole] = last;
        }
    }
    slots.extend(fresh.into_iter().rev().map(Some));
    let kept = u32::try_from(slots.len()).expect("lists are cut at abi::limits::LIST");
    let placed: Vec<(u32, BeValue<A>)> = (0u32..).zip(slots.into_iter().flatten()).collect();
    let at = placed.iter().map(|(slot, v)| (v.be_ix, *slot)).collect();
    let rows = placed.into_iter().map(|(slot, value)| {
        (
            slot,
            A::backend_row(BeKey { list, slot }, BeValue { list, ..value }),
        )
    });
    // A slot beyond the old end may be waiting for its removal: it is written in any case.
    let changed = rows.filter(|(slot, row)| *slot >= n || !current.has(row));
    ListPlan {
        writes: changed.map(|(_, row)| row).collect(),
        tail: (kept..n)
            .map(|slot| A::backend_key(BeKey { list, slot }))
            .collect(),
        n: kept,
        at,
    }
}

pub(super) fn backend_value<A: Family>(
    target: Target,
    node: Option<&str>,
    be_ix: u32,
    nodes: &Nodes,
) -> BeValue<A> {
    // Endpoints that no controller of pods made may name no node: kubernetes.default is one.
    let host = nodes.addresses.get(&target.address).copied();
    let node = node.and_then(|name| nodes.index.get(name)).copied();
    BeValue {
        addr: A::from_ip(target.address).expect("targets are chosen by family"),
        port: Port::new(target.port),
        node: node.or(host).unwrap_or(0),
        be_ix,
        list: 0,
        flags: if host.is_some() { abi::BE_HOST } else { 0 },
        reserved: 0,
    }
}

/// Retires all slots of a list.
pub(super) fn slots(list: List, ipv4: bool) -> impl Iterator<Item = Step> {
    (0..list.n).map(move |slot| {
        let key = BeKey {
            list: list.list,
            slot,
        };
        Step::Retire(if ipv4 { Key::Be4(key) } else { Key::Be6(key) })
    })
}

// === families ===

/// The rows of one family.
pub trait Family: Addr {
    fn from_ip(ip: IpAddr) -> Option<Self>;
    fn ip(self) -> IpAddr;
    fn backends(tables: &Tables) -> &HashMap<BeKey, BeValue<Self>>;
    fn backend_row(key: BeKey, value: BeValue<Self>) -> Row;
    fn backend_key(key: BeKey) -> Key;
}

impl Family for V4 {
    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(a) => Some(a.into()),
            IpAddr::V6(_) => None,
        }
    }
    fn ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }
    fn backends(tables: &Tables) -> &HashMap<BeKey, BeValue<Self>> {
        &tables.be4
    }
    fn backend_row(key: BeKey, value: BeValue<Self>) -> Row {
        Row::Be4(key, value)
    }
    fn backend_key(key: BeKey) -> Key {
        Key::Be4(key)
    }
}

impl Family for V6 {
    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V6(a) => Some(a.into()),
            IpAddr::V4(_) => None,
        }
    }
    fn ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }
    fn backends(tables: &Tables) -> &HashMap<BeKey, BeValue<Self>> {
        &tables.be6
    }
    fn backend_row(key: BeKey, value: BeValue<Self>) -> Row {
        Row::Be6(key, value)
    }
    fn backend_key(key: BeKey) -> Key {
        Key::Be6(key)
    }
}
