//! Gives each node its pod CIDRs, one per family.
//!
//! Mechanism of pkg/controller/nodeipam/ipam/range_allocator.go and cidrset. What is taken is read
//! from the nodes themselves; only allocations not visible there yet are remembered.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde_json::json;

use crate::kinds::{Node, Projection};
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Note, Plan};
use crate::view::{Change, World};
use crate::write::{PatchKind, Write};

/// Shares of one pool that are looked at.
const MAX_SHARES: u128 = 1 << 16;

/// The prefix lengths of nodes' shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCidrMask {
    pub ipv4: u8,
    pub ipv6: u8,
}

impl Default for NodeCidrMask {
    fn default() -> Self {
        Self { ipv4: 24, ipv6: 64 }
    }
}

#[derive(Debug)]
pub struct CidrAllocator {
    pools: Vec<IpNetwork>,
    mask: NodeCidrMask,
    /// Given out, perhaps not written yet.
    given: HashMap<Key, Vec<IpNetwork>>,
}

impl CidrAllocator {
    pub fn new(pools: Vec<IpNetwork>, mask: NodeCidrMask) -> Self {
        Self {
            pools,
            mask,
            given: HashMap::new(),
        }
    }

    /// A free share of every pool.
    fn allocate(&self, world: &World) -> Option<Vec<IpNetwork>> {
        let mut taken: HashSet<IpNetwork> = self.given.values().flatten().copied().collect();
        for (_, node) in world.nodes.iter() {
            taken.extend(
                node.spec
                    .pod_cidrs
                    .iter()
                    .filter_map(|c| c.parse::<IpNetwork>().ok()),
            );
        }
        let share = |pool: &IpNetwork| {
            let mask = if pool.is_ipv4() {
                self.mask.ipv4
            } else {
                self.mask.ipv6
            };
            first_free(*pool, mask, &taken)
        };
        self.pools.iter().map(share).collect()
    }
}

impl Controller for CidrAllocator {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        if let Change::Node(delta) = change {
            if delta.new.is_none() {
                self.given.remove(&delta.key());
                // Its shares are free for nodes that found none.
                let without = world.nodes.iter();
                let without = without.filter(|(_, node)| node.spec.pod_cidrs.is_empty());
                keys.extend(without.map(|(key, _)| key.clone()));
            }
            keys.push(delta.key());
        }
    }

    fn plan(&mut self, world: &World, key: &Key, _: &Cx<'_>) -> Plan {
        let Some(node) = world.nodes.get(key) else {
            return Plan::nothing();
        };
        if self.pools.is_empty() || node.metadata.is_deleting() {
            return Plan::nothing();
        }
        if !node.spec.pod_cidrs.is_empty() {
            self.given.remove(key);
            return Plan::nothing();
        }
        let cidrs = match self.given.get(key) {
            Some(cidrs) => cidrs.clone(),
            None => match self.allocate(world) {
                Some(cidrs) => cidrs,
                None => return exhausted(node),
            },
        };
        self.given.insert(key.clone(), cidrs.clone());
        let cidrs: Vec<String> = cidrs.iter().map(IpNetwork::to_string).collect();
        let body = json!({"metadata": {"uid": node.metadata.uid()},
            "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}});
        Plan::write(Write::patch(
            &Node::RESOURCE,
            key.clone(),
            PatchKind::Merge,
            body,
        ))
    }
}

fn exhausted(node: &Node) -> Plan {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let message = format!("Node {name} status is now: CIDRNotAvailable");
    Plan {
        events: vec![Note::normal(node, "CIDRNotAvailable", message)],
        ..Plan::default()
    }
}

/// The first subnet of `pool` with prefix length `mask` that touches nothing taken.
fn first_free(pool: IpNetwork, mask: u8, taken: &HashSet<IpNetwork>) -> Option<IpNetwork> {
    let bits = u32::from(mask.checked_sub(pool.prefix())?);
    let width = if pool.is_ipv4() { 32 } else { 128 };
    let step = width - u32::from(mask);
    let base = match pool.network() {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let count = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    let subnet = |index: u128| {
        let address = base + (index << step);
        let ip = if pool.is_ipv4() {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(address).ok()?))
        } else {
            IpAddr::V6(Ipv6Addr::from(address))
        };
        IpNetwork::new(ip, mask).ok()
    };
    let is_free = |net: &IpNetwork| {
        !taken.contains(net)
            && !taken
                .iter()
                .any(|t| t.contains(net.network()) || net.contains(t.network()))
    };
    (0..count.min(MAX_SHARES)).filter_map(subnet).find(is_free)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;
    use kube::runtime::watcher::Event;

    fn world(nodes: &[(&str, &[&str])]) -> World {
        let mut world = World::default();
        for (i, (name, cidrs)) in nodes.iter().enumerate() {
            let node: Node = serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "resourceVersion": (i + 1).to_string()},
                "spec": {"podCIDRs": cidrs}}))
            .unwrap();
            world.deliver(Event::Apply(node).into());
        }
        world
    }

    fn pools(text: &[&str]) -> Vec<IpNetwork> {
        text.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn each_node_gets_the_first_free_share_of_every_family() {
        let world = world(&[
            ("a", &["10.244.0.0/24", "fd00::/64"]),
            ("b", &[]),
            ("c", &[]),
        ]);
        let mut allocator = CidrAllocator::new(
            pools(&["10.244.0.0/16", "fd00::/48"]),
            NodeCidrMask::default(),
        );
        let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
        let cx = Cx { now, failure: None };
        let plan = |allocator: &mut CidrAllocator, name| {
            format!(
                "{:?}",
                allocator.plan(&world, &Key::cluster(name), &cx).writes
            )
        };
        assert_eq!(plan(&mut allocator, "a"), "[]");
        let b = plan(&mut allocator, "b");
        assert!(
            b.contains("10.244.1.0/24") && b.contains("fd00:0:0:1::/64"),
            "{b}"
        );
        assert!(plan(&mut allocator, "c").contains("10.244.2.0/24"));
        // Not visible yet: the same again.
        assert_eq!(plan(&mut allocator, "b"), b);
    }

    #[test]
    fn a_node_that_found_no_share_gets_that_of_one_that_goes() {
        let pool = pools(&["10.0.0.0/24"]);
        let allocator = CidrAllocator::new(pool, NodeCidrMask::default());
        let mut sim = Sim::new(vec![Box::new(allocator)]);
        let first = sim.create::<Node>(json!({"metadata": {"name": "a"}}));
        sim.settle();
        let second = sim.create::<Node>(json!({"metadata": {"name": "b"}}));
        sim.settle();
        assert!(sim.get::<Node>(&second).unwrap()["spec"]["podCIDR"].is_null());
        sim.remove::<Node>(&first);
        sim.settle();
        let cidr = &sim.get::<Node>(&second).unwrap()["spec"]["podCIDR"];
        assert_eq!(cidr, "10.0.0.0/24");
    }

    #[test]
    fn a_full_pool_gives_nothing() {
        let taken = pools(&["10.0.0.0/25", "10.0.0.128/25"])
            .into_iter()
            .collect();
        assert_eq!(first_free("10.0.0.0/24".parse().unwrap(), 25, &taken), None);
    }
}
