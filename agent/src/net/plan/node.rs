//! Nodes → next hops, ranges and kernel routes. Native routing: a node's pod ranges are reached through
//! the node's own address, or through the router in front of it. Also the addresses that are the
//! host's own. Few and rarely changed, so this plan is made whole each time and compared by key.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use abi::{LocalAddr, NetKey, NetKind, NetValue, V4, V6};
use ipnetwork::IpNetwork;

use super::service::Nodes;
use crate::net::netlink::Route;
use crate::net::rows::{Key, Row, Step, Tables};
use crate::state::Node;

/// How the kernel reaches an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    pub ifindex: u32,
    /// `None`: on-link.
    pub gateway: Option<IpAddr>,
}

/// What does not come from Node objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub node_name: String,
    /// Next hops of the other nodes' addresses, as far as the kernel has one.
    pub reach: HashMap<IpAddr, Reach>,
    /// Every address of the node itself, and the cluster DNS addresses.
    pub own_addresses: BTreeSet<IpAddr>,
    pub service_cidrs: Vec<IpNetwork>,
    pub cluster_cidrs: Vec<IpNetwork>,
}

/// Policy classes of ranges: every boundary an ipBlock has is a range here.
pub type RangeClasses = BTreeMap<IpNetwork, u32>;

/// What the node plan wants.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Program {
    pub rows: Vec<Row>,
    /// Routes of the kernel, except those to local pods.
    pub routes: BTreeSet<Route>,
    /// For the service plan.
    pub nodes: Nodes,
    /// Index of this node.
    pub own_ix: u16,
    /// Policies' ranges have so many boundaries that none was written: their blocks allow nothing.
    pub blocks_refused: Option<u32>,
}

/// Indices given to nodes, recovered from the maps.
#[derive(Debug, Default)]
pub struct NodeIndex {
    index: BTreeMap<Arc<str>, u16>,
    owned: HashSet<Key>,
}

/// What lies in a range, apart from its policy class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    kind: NetKind,
    node: u16,
}

const WORLD: Content = Content {
    kind: NetKind::World,
    node: 0,
};

// === impl NodeIndex ===

impl NodeIndex {
    /// What the maps and the kernel's routes should hold.
    pub fn program(
        &mut self,
        nodes: &[Arc<Node>],
        facts: &Facts,
        classes: &RangeClasses,
        current: &Tables,
    ) -> Program {
        self.index
            .retain(|name, _| nodes.iter().any(|n| n.name == *name));
        let mut program = Program::default();
        let mut ranges: BTreeMap<IpNetwork, Content> = BTreeMap::new();
        let mut add = |net: IpNetwork, kind, node| {
            ranges.insert(canonical(net), Content { kind, node });
        };
        for net in &facts.cluster_cidrs {
            add(*net, NetKind::Native, 0);
        }
        for net in &facts.service_cidrs {
            add(*net, NetKind::Services, 0);
        }
        for node in nodes {
            let ix = self.index_of(node, current);
            program.nodes.index.insert(node.name.clone(), ix);
            let addresses = node.addresses.iter().map(|address| (*address, ix));
            program.nodes.addresses.extend(addresses);
            for address in &node.addresses {
                add((*address).into(), NetKind::Node, ix);
            }
            for net in &node.pod_cidrs {
                add(*net, NetKind::Pods, ix);
            }
            // This node's row has its addresses and no way to it.
            program
                .rows
                .push(Row::Node(u32::from(ix), node_row(node, facts)));
            if *node.name == *facts.node_name {
                program.own_ix = ix;
                continue;
            }
            program.routes.extend(routes(node, facts));
        }
        // A boundary left out could widen a block by what it excepts: all of them fit, or none is used.
        let bounds = ranges.len() + classes.len();
        let none = RangeClasses::new();
        let classes = if bounds > abi::limits::NETS as usize {
            program.blocks_refused = Some(u32::try_from(classes.len()).unwrap_or(u32::MAX));
            &none
        } else {
            classes
        };
        program.rows.extend(net_rows(&ranges, classes));
        program.rows.extend(
            facts
                .own_addresses
                .iter()
                .map(|a| local_row(*a, LocalAddr::HOST)),
        );
        program
    }

    /// Steps from what this plan wrote before (after a restart: from what the maps hold) to `program`.
    pub fn plan(&mut self, program: &Program, current: &Tables) -> Vec<Step> {
        if self.owned.is_empty() {
            self.owned = inherited(current);
        }
        let wanted: HashSet<Key> = program.rows.iter().map(Row::key).collect();
        let mut steps: Vec<Step> = program.rows.iter().copied().map(Step::Put).collect();
        for key in self.owned.difference(&wanted) {
            // Conntrack entries and backends may still name the index.
            let retire = matches!(key, Key::Node(_));
            steps.push(if retire {
                Step::Retire(*key)
            } else {
                Step::Remove(*key)
            });
        }
        self.owned = wanted;
        steps
    }

    fn index_of(&mut self, node: &Node, current: &Tables) -> u16 {
        if let Some(ix) = self.index.get(&node.name) {
            return *ix;
        }
        let taken: HashSet<u16> = self.index.values().copied().collect();
        let (v4, v6) = primary(node);
        let recovered = current.node.iter().find_map(|(ix, row)| {
            let same = (row.addr4 == v4 && v4 != V4(0)) || (row.addr6 == v6 && v6 != V6([0; 4]));
            u16::try_from(*ix)
                .ok()
                .filter(|ix| same && !taken.contains(ix))
        });
        let used = |ix: &u16| taken.contains(ix) || current.node.contains_key(&u32::from(*ix));
        let limit = u16::try_from(abi::limits::NODES - 1).expect("node indices are 16 bits wide");
        // Index 0 is "unknown": routed by the kernel, which is slower, not wrong.
        let ix = recovered
            .or_else(|| (1..=limit).find(|ix| !used(ix)))
            .unwrap_or(0);
        self.index.insert(node.name.clone(), ix);
        ix
    }
}

/// Keys an earlier agent's node plan left in the maps.
fn inherited(current: &Tables) -> HashSet<Key> {
    let nodes = current.node.keys().map(|k| Key::Node(*k));
    let net4 = current.net4.keys().map(|k| Key::Net4(*k));
    let net6 = current.net6.keys().map(|k| Key::Net6(*k));
    let host4 = current.ip4.iter().filter(|(_, v)| **v == LocalAddr::HOST);
    let host6 = current.ip6.iter().filter(|(_, v)| **v == LocalAddr::HOST);
    let own4 = host4.map(|(k, _)| Key::Ip4(*k));
    let own6 = host6.map(|(k, _)| Key::Ip6(*k));
    nodes
        .chain(net4)
        .chain(net6)
        .chain(own4)
        .chain(own6)
        .collect()
}

// === rows ===

fn canonical(net: IpNetwork) -> IpNetwork {
    IpNetwork::new(net.network(), net.prefix()).expect("the prefix of a network is valid")
}

fn primary(node: &Node) -> (V4, V6) {
    let v4 = node.addresses.iter().find_map(|a| match a {
        IpAddr::V4(a) => Some(V4::from(*a)),
        IpAddr::V6(_) => None,
    });
    let v6 = node.addresses.iter().find_map(|a| match a {
        IpAddr::V6(a) => Some(V6::from(*a)),
        IpAddr::V4(_) => None,
    });
    (v4.unwrap_or(V4(0)), v6.unwrap_or(V6([0; 4])))
}

fn node_row(node: &Node, facts: &Facts) -> abi::Node {
    let (addr4, addr6) = primary(node);
    let mut row = abi::Node {
        ifindex: 0,
        flags: 0,
        next_hop4: V4(0),
        addr4,
        next_hop6: V6([0; 4]),
        addr6,
        reserved: [0; 4],
    };
    // Primary addresses last, so that the first of a family wins.
    for address in node.addresses.iter().rev() {
        let Some(reach) = facts.reach.get(address) else {
            continue;
        };
        row.ifindex = reach.ifindex;
        match reach.gateway.unwrap_or(*address) {
            IpAddr::V4(hop) => row.next_hop4 = hop.into(),
            IpAddr::V6(hop) => row.next_hop6 = hop.into(),
        }
    }
    row
}

fn routes(node: &Node, facts: &Facts) -> Vec<Route> {
    let to = |net: &IpNetwork| {
        let address = node
            .addresses
            .iter()
            .find(|a| a.is_ipv4() == net.is_ipv4())?;
        let reach = facts.reach.get(address)?;
        Some(Route {
            destination: canonical(*net),
            gateway: Some(reach.gateway.unwrap_or(*address)),
            index: reach.ifindex,
            onlink: false,
            source: None,
        })
    };
    node.pod_cidrs.iter().filter_map(to).collect()
}

/// One row per range of either origin: the content of the narrowest range around it, and the class of
/// the narrowest range that has one.
fn net_rows(ranges: &BTreeMap<IpNetwork, Content>, classes: &RangeClasses) -> Vec<Row> {
    let mut all: Vec<IpNetwork> = ranges.keys().chain(classes.keys()).copied().collect();
    all.sort_unstable_by_key(|n| (n.prefix(), n.ip()));
    all.dedup();
    let rows = all.iter().map(|net| {
        let content = around(ranges, net).copied().unwrap_or(WORLD);
        let class = around(classes, net).copied().unwrap_or(0);
        net_row(*net, content, class)
    });
    rows.collect()
}

/// The value of the narrowest range in `map` that contains `net`.
fn around<'a, T>(map: &'a BTreeMap<IpNetwork, T>, net: &IpNetwork) -> Option<&'a T> {
    (0..=net.prefix()).rev().find_map(|prefix| {
        let wider = IpNetwork::new(net.ip(), prefix).expect("shorter than a valid prefix");
        map.get(&canonical(wider))
    })
}

fn net_row(net: IpNetwork, content: Content, class: u32) -> Row {
    let value = NetValue {
        class,
        node: content.node,
        kind: content.kind as u8,
        reserved: 0,
    };
    let prefix_len = u32::from(net.prefix());
    match net.network() {
        IpAddr::V4(a) => Row::Net4(
            NetKey {
                prefix_len,
                addr: a.into(),
            },
            value,
        ),
        IpAddr::V6(a) => Row::Net6(
            NetKey {
                prefix_len,
                addr: a.into(),
            },
            value,
        ),
    }
}

/// What a local address is.
pub fn local_row(address: IpAddr, value: LocalAddr) -> Row {
    match address {
        IpAddr::V4(a) => Row::Ip4(a.into(), value),
        IpAddr::V6(a) => Row::Ip6(a.into(), value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, address: &str, cidr: &str) -> Arc<Node> {
        Arc::new(Node {
            name: name.into(),
            labels: BTreeMap::new(),
            addresses: vec![address.parse().unwrap()],
            pod_cidrs: vec![cidr.parse().unwrap()],
        })
    }

    fn facts() -> Facts {
        let on_link = Reach {
            ifindex: 2,
            gateway: None,
        };
        let routed = Reach {
            ifindex: 2,
            gateway: Some("192.168.7.1".parse().unwrap()),
        };
        Facts {
            node_name: "a".into(),
            reach: HashMap::from([
                ("192.168.7.12".parse().unwrap(), on_link),
                ("192.168.8.13".parse().unwrap(), routed),
            ]),
            own_addresses: BTreeSet::from(["192.168.7.11".parse().unwrap()]),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        }
    }

    fn three() -> Vec<Arc<Node>> {
        vec![
            node("a", "192.168.7.11", "10.244.0.0/24"),
            node("b", "192.168.7.12", "10.244.1.0/24"),
            node("c", "192.168.8.13", "10.244.2.0/24"),
        ]
    }

    fn net(program: &Program, text: &str) -> NetValue {
        let net: IpNetwork = text.parse().unwrap();
        let found = program.rows.iter().find_map(|row| match row {
            Row::Net4(k, v) if net_row(net, WORLD, 0).key() == Key::Net4(*k) => Some(*v),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no row {text}"))
    }

    #[test]
    fn other_nodes_are_routed_on_link_or_through_their_router() {
        let mut index = NodeIndex::default();
        let program = index.program(&three(), &facts(), &RangeClasses::new(), &Tables::default());
        let routes: Vec<String> = program
            .routes
            .iter()
            .map(|r| format!("{} via {}", r.destination, r.gateway.unwrap()))
            .collect();
        assert_eq!(
            routes,
            [
                "10.244.1.0/24 via 192.168.7.12",
                "10.244.2.0/24 via 192.168.7.1"
            ]
        );
        let hops: Vec<_> = program
            .rows
            .iter()
            .filter_map(|r| match r {
                Row::Node(_, n) if n.ifindex != 0 => {
                    Some(std::net::Ipv4Addr::from(n.next_hop4).to_string())
                }
                _ => None,
            })
            .collect();
        assert_eq!(hops, ["192.168.7.12", "192.168.7.1"]);
    }

    #[test]
    fn an_ip_block_inside_a_pod_range_keeps_the_ranges_content() {
        let classes = RangeClasses::from([
            ("10.244.1.128/25".parse().unwrap(), 7),
            ("0.0.0.0/0".parse().unwrap(), 9),
        ]);
        let mut index = NodeIndex::default();
        let program = index.program(&three(), &facts(), &classes, &Tables::default());
        let ix = program.nodes.index["b"];
        let inside = net(&program, "10.244.1.128/25");
        assert_eq!(
            (inside.class, inside.node, inside.kind),
            (7, ix, NetKind::Pods as u8)
        );
        let around = net(&program, "10.244.1.0/24");
        assert_eq!((around.class, around.kind), (9, NetKind::Pods as u8));
        let world = net(&program, "0.0.0.0/0");
        assert_eq!((world.class, world.kind), (9, NetKind::World as u8));
        assert_eq!(net(&program, "10.96.0.0/16").kind, NetKind::Services as u8);
    }

    #[test]
    fn blocks_with_too_many_boundaries_allow_nothing() {
        let range = |i: u32| {
            let address = IpAddr::V4((0xac10_0000 + i * 256).into());
            (IpNetwork::new(address, 24).unwrap(), 9)
        };
        let classes = |n: u32| (0..n).map(range).collect::<RangeClasses>();
        let program = |classes: &RangeClasses| {
            NodeIndex::default().program(&three(), &facts(), classes, &Tables::default())
        };
        let fits = program(&classes(100));
        assert_eq!(fits.blocks_refused, None);
        let too_many = program(&classes(abi::limits::NETS));
        assert_eq!(too_many.blocks_refused, Some(abi::limits::NETS));
        let open = too_many.rows.iter().any(|row| match row {
            Row::Net4(_, net) => net.class != 0,
            _ => false,
        });
        assert!(!open);
    }

    #[test]
    fn indices_survive_a_restart_and_a_gone_node_is_cleaned_up() {
        let mut tables = Tables::default();
        let mut index = NodeIndex::default();
        let first = index.program(&three(), &facts(), &RangeClasses::new(), &tables);
        first.rows.iter().for_each(|row| tables.insert(row));
        let mut restarted = NodeIndex::default();
        let mut nodes = three();
        nodes.swap(1, 2);
        let second = restarted.program(&nodes, &facts(), &RangeClasses::new(), &tables);
        assert_eq!(first.nodes.index["b"], second.nodes.index["b"]);
        assert_eq!(first.nodes.index["c"], second.nodes.index["c"]);
        nodes.truncate(2);
        let third = restarted.program(&nodes, &facts(), &RangeClasses::new(), &tables);
        let gone: Vec<Step> = restarted
            .plan(&third, &tables)
            .into_iter()
            .filter(|s| !matches!(s, Step::Put(_)))
            .collect();
        // Address, pod range and next hop of node b.
        assert_eq!(gone.len(), 3);
    }
}
