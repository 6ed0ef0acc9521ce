//! Which endpoints of a Service get traffic on this node, port by port. The semantics are those of
//! kube-proxy's `CategorizeEndpoints` (pkg/proxy/topology.go).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::state::{Endpoint, EndpointSlice, Protocol, ServicePort};

/// Where a backend is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub address: IpAddr,
    pub port: u16,
}

/// What the topology of this node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Here {
    pub node: String,
    /// Label `topology.kubernetes.io/zone`, empty if there is none.
    pub zone: String,
}

/// The backends of one Service port in one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backends {
    /// For policy Cluster.
    pub cluster: Vec<Target>,
    /// For policy Local.
    pub local: Vec<Target>,
    /// Every endpoint that serves, with its node: their flows keep their backend.
    pub serving: BTreeMap<Target, Option<Arc<str>>>,
}

/// A preference that the endpoints' hints allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    Any,
    SameNode,
    SameZone,
}

struct Candidate<'a> {
    target: Target,
    endpoint: &'a Endpoint,
}

/// Chooses the backends of `port` among `slices`, for IPv4 or IPv6.
pub fn backends(
    port: &ServicePort,
    slices: &[Arc<EndpointSlice>],
    here: &Here,
    ipv4: bool,
) -> Backends {
    let all = candidates(&port.name, port.protocol, slices, ipv4);
    let local = |c: &&Candidate<'_>| c.endpoint.node.as_deref() == Some(here.node.as_str());
    let ready = |c: &&Candidate<'_>| c.endpoint.ready;
    let leaving = |c: &&Candidate<'_>| c.endpoint.serving && c.endpoint.terminating;
    let topology = topology(&all, here);

    let mut cluster = targets(
        all.iter()
            .filter(ready)
            .filter(|c| topology.allows(c.endpoint, here)),
    );
    if cluster.is_empty() {
        cluster = targets(all.iter().filter(leaving));
    }
    let mut near = targets(all.iter().filter(local).filter(ready));
    if near.is_empty() {
        near = targets(all.iter().filter(local).filter(leaving));
    }
    let serving = all
        .iter()
        .filter(|c| c.endpoint.ready || c.endpoint.serving);
    let serving = serving
        .map(|c| (c.target, c.endpoint.node.clone()))
        .collect();
    Backends {
        cluster,
        local: near,
        serving,
    }
}

fn targets<'a>(chosen: impl Iterator<Item = &'a Candidate<'a>>) -> Vec<Target> {
    chosen.map(|c| c.target).collect()
}

/// The endpoints that have the port, each target once; a ready one wins over its duplicates, which
/// exist for a moment while an endpoint moves between slices.
fn candidates<'a>(
    name: &str,
    protocol: Protocol,
    slices: &'a [Arc<EndpointSlice>],
    ipv4: bool,
) -> Vec<Candidate<'a>> {
    let mut found: BTreeMap<Target, &Endpoint> = BTreeMap::new();
    for slice in slices {
        let of_slice = slice
            .ports
            .iter()
            .find(|p| p.name == name && p.protocol == protocol);
        let Some(port) = of_slice.and_then(|p| p.port) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let Some(address) = endpoint.addresses.first() else {
                continue;
            };
            if address.is_ipv4() != ipv4 {
                continue;
            }
            let kept = found
                .entry(Target {
                    address: *address,
                    port,
                })
                .or_insert(endpoint);
            if endpoint.ready && !kept.ready {
                *kept = endpoint;
            }
        }
    }
    found
        .into_iter()
        .map(|(target, endpoint)| Candidate { target, endpoint })
        .collect()
}

/// A hint counts only if every ready endpoint has one and one of them points here.
fn topology(all: &[Candidate<'_>], here: &Here) -> Topology {
    let ready = || all.iter().map(|c| c.endpoint).filter(|e| e.ready);
    if ready().next().is_none() {
        return Topology::Any;
    }
    let for_node = |e: &Endpoint| e.node_hints.contains(&here.node);
    let for_zone = |e: &Endpoint| e.zone_hints.contains(&here.zone);
    if ready().all(|e| !e.node_hints.is_empty()) && ready().any(for_node) {
        return Topology::SameNode;
    }
    if ready().all(|e| !e.zone_hints.is_empty()) && ready().any(for_zone) {
        return Topology::SameZone;
    }
    Topology::Any
}

impl Topology {
    fn allows(self, endpoint: &Endpoint, here: &Here) -> bool {
        match self {
            Self::Any => true,
            Self::SameNode => endpoint.node_hints.contains(&here.node),
            Self::SameZone => endpoint.zone_hints.contains(&here.zone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ObjectKey, SliceKey, SlicePort};

    fn endpoint(last: u8, conditions: &str, node: &str) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.0.{last}").parse().unwrap()],
            ready: conditions.contains('r'),
            serving: conditions.contains('s'),
            terminating: conditions.contains('t'),
            node: Some(node.into()),
            hostname: None,
            zone_hints: vec![],
            node_hints: vec![],
        }
    }

    fn slice(endpoints: Vec<Endpoint>) -> Arc<EndpointSlice> {
        let service = ObjectKey::new("default", "web");
        let port = SlicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: Some(80),
        };
        let key = SliceKey {
            service,
            name: "web-1".into(),
        };
        Arc::new(EndpointSlice {
            key,
            ports: vec![port],
            endpoints,
        })
    }

    /// Last bytes of the addresses in the cluster list and in the local list.
    fn chosen(endpoints: Vec<Endpoint>) -> (Vec<u8>, Vec<u8>) {
        let port = ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        };
        let here = Here {
            node: "here".into(),
            zone: "z1".into(),
        };
        let found = backends(&port, &[slice(endpoints)], &here, true);
        let last = |t: &Target| match t.address {
            IpAddr::V4(a) => a.octets()[3],
            IpAddr::V6(_) => 0,
        };
        (
            found.cluster.iter().map(last).collect(),
            found.local.iter().map(last).collect(),
        )
    }

    #[test]
    fn ready_endpoints_are_used_and_local_ones_for_policy_local() {
        let all = vec![endpoint(1, "rs", "here"), endpoint(2, "rs", "there")];
        assert_eq!(chosen(all), (vec![1, 2], vec![1]));
    }

    #[test]
    fn endpoints_that_are_neither_ready_nor_serving_get_nothing() {
        assert_eq!(
            chosen(vec![endpoint(1, "", "here"), endpoint(2, "t", "here")]),
            (vec![], vec![])
        );
    }

    #[test]
    fn without_a_ready_endpoint_serving_terminating_ones_are_used() {
        let all = vec![
            endpoint(1, "st", "here"),
            endpoint(2, "st", "there"),
            endpoint(3, "s", "here"),
        ];
        assert_eq!(chosen(all), (vec![1, 2], vec![1]));
    }

    #[test]
    fn terminating_endpoints_serve_policy_local_though_others_are_ready_elsewhere() {
        let all = vec![endpoint(1, "st", "here"), endpoint(2, "rs", "there")];
        assert_eq!(chosen(all), (vec![2], vec![1]));
    }

    #[test]
    fn zone_hints_count_if_all_ready_endpoints_have_them_and_one_is_for_here() {
        let hinted = |last, zone: &str| Endpoint {
            zone_hints: vec![zone.into()],
            ..endpoint(last, "rs", "there")
        };
        assert_eq!(chosen(vec![hinted(1, "z1"), hinted(2, "z2")]).0, [1]);
        assert_eq!(chosen(vec![hinted(1, "z3"), hinted(2, "z2")]).0, [1, 2]);
        assert_eq!(
            chosen(vec![hinted(1, "z1"), endpoint(2, "rs", "there")]).0,
            [1, 2]
        );
    }

    #[test]
    fn node_hints_win_over_zone_hints() {
        let hinted = |last, node: &str| Endpoint {
            zone_hints: vec!["z1".into()],
            node_hints: vec![node.into()],
            ..endpoint(last, "rs", "there")
        };
        assert_eq!(chosen(vec![hinted(1, "here"), hinted(2, "there")]).0, [1]);
        assert_eq!(chosen(vec![hinted(1, "a"), hinted(2, "b")]).0, [1, 2]);
    }

    #[test]
    fn a_duplicate_in_two_slices_counts_once_and_as_ready() {
        let all = vec![endpoint(1, "", "here"), endpoint(1, "rs", "here")];
        assert_eq!(chosen(all), (vec![1], vec![1]));
    }
}
