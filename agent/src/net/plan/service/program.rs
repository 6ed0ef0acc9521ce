//! What one Service wants on this node: its frontends with the backends of each port, and the rows of
//! frontends. No number of the kernel's is given here.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use abi::{FeKey, FeValue, Port};

use crate::net::plan::backend::{Backends, Here, backends};
use crate::net::rows::Row;
use crate::state::{EndpointSlice, ObjectKey, Protocol, Service, ServiceKind};

/// What identifies a service port: one per family, so that lists are of one family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId {
    pub service: ObjectKey,
    pub name: String,
    pub protocol: Protocol,
    pub ipv4: bool,
}

/// An address, port and scope at which a service port is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    /// Unspecified for NodePorts.
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    /// `abi::SCOPE_*`.
    pub scope: u8,
    /// `abi::FE_*`.
    pub flags: u16,
}

/// What one service port wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortProgram {
    pub id: PortId,
    pub frontends: Vec<Frontend>,
    pub backends: Backends,
    pub affinity_seconds: u32,
}

/// What one Service wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    pub ports: Vec<PortProgram>,
    /// Living VIPs: address and scope.
    pub markers: BTreeSet<(IpAddr, u8)>,
}

// === programs ===

/// What `service` wants on this node. `sockets` are VIPs served by a socket of the node (DNS).
pub fn program(
    service: &Service,
    slices: &[Arc<EndpointSlice>],
    here: &Here,
    sockets: &[IpAddr],
) -> Program {
    let mut program = Program::default();
    if service.headless || service.foreign_proxy || service.kind == ServiceKind::ExternalName {
        return program;
    }
    for port in &service.ports {
        for ipv4 in [true, false] {
            let mut frontends = Vec::new();
            for vip in vips(service).filter(|v| v.address.is_ipv4() == ipv4) {
                if sockets.contains(&vip.address) {
                    continue;
                }
                program.markers.insert((vip.address, vip.scope));
                frontends.push(Frontend {
                    port: port.port,
                    protocol: port.protocol,
                    ..vip
                });
            }
            if let Some(node_port) = port.node_port.filter(|_| has_family(service, ipv4)) {
                frontends.extend(node_port_frontends(service, node_port, port.protocol, ipv4));
            }
            if frontends.is_empty() {
                continue;
            }
            program.ports.push(PortProgram {
                id: PortId {
                    service: service.key.clone(),
                    name: port.name.clone(),
                    protocol: port.protocol,
                    ipv4,
                },
                frontends,
                backends: backends(port, slices, here, ipv4),
                affinity_seconds: service.affinity_seconds.unwrap_or(0),
            });
        }
    }
    program
}

fn has_family(service: &Service, ipv4: bool) -> bool {
    service.cluster_ips.iter().any(|ip| ip.is_ipv4() == ipv4)
}

/// The VIPs of a Service with scope and flags; port and protocol are still to be filled in.
fn vips(service: &Service) -> impl Iterator<Item = Frontend> {
    let vip = |address: &IpAddr, scope, flags| Frontend {
        address: *address,
        port: 0,
        protocol: Protocol::Tcp,
        scope,
        flags,
    };
    let internal = if service.internal_local {
        abi::FE_LOCAL
    } else {
        0
    };
    let cluster = service
        .cluster_ips
        .iter()
        .map(move |ip| vip(ip, abi::SCOPE_INTERNAL, internal));
    let balanced: &[IpAddr] = match service.kind {
        ServiceKind::LoadBalancer => &service.load_balancer_ips,
        ServiceKind::ClusterIp | ServiceKind::NodePort | ServiceKind::ExternalName => &[],
    };
    let external = external_flags(service);
    let outside = service
        .external_ips
        .iter()
        .chain(balanced)
        .flat_map(move |ip| {
            // What a pod or a node sends to an external address is cluster traffic, whatever the policy.
            [
                vip(ip, abi::SCOPE_INTERNAL, abi::FE_NODE_PORT),
                vip(ip, abi::SCOPE_EXTERNAL, external),
            ]
        });
    cluster.chain(outside)
}

fn external_flags(service: &Service) -> u16 {
    abi::FE_NODE_PORT
        | if service.external_local {
            abi::FE_LOCAL
        } else {
            0
        }
}

fn node_port_frontends(
    service: &Service,
    port: u16,
    protocol: Protocol,
    ipv4: bool,
) -> [Frontend; 2] {
    let address = if ipv4 {
        IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED)
    };
    let at = |scope, flags| Frontend {
        address,
        port,
        protocol,
        scope,
        flags,
    };
    [
        at(abi::SCOPE_INTERNAL, abi::FE_NODE_PORT),
        at(abi::SCOPE_EXTERNAL, external_flags(service)),
    ]
}
// === frontends ===

/// The row of a frontend.
pub fn frontend_row(frontend: &Frontend, svc_id: u32) -> Row {
    let Frontend {
        address,
        port,
        protocol,
        scope,
        flags,
    } = *frontend;
    fe_row(
        address,
        Port::new(port),
        protocol.number(),
        scope,
        FeValue {
            svc_id,
            flags,
            reserved: 0,
        },
    )
}

pub(super) fn marker_row(address: IpAddr, scope: u8) -> Row {
    let value = FeValue {
        svc_id: 0,
        flags: abi::FE_MARKER,
        reserved: 0,
    };
    fe_row(address, Port::new(0), 0, scope, value)
}

/// Frontends of the addresses a socket of the node serves: left to the stack.
pub fn socket_rows(addresses: &[IpAddr], port: u16) -> Vec<Row> {
    let value = FeValue {
        svc_id: 0,
        flags: abi::FE_SOCKET,
        reserved: 0,
    };
    let protocols = [abi::PROTO_TCP, abi::PROTO_UDP];
    let row = |ip: &IpAddr, proto| fe_row(*ip, Port::new(port), proto, abi::SCOPE_INTERNAL, value);
    addresses
        .iter()
        .flat_map(|ip| protocols.map(|proto| row(ip, proto)))
        .collect()
}

fn fe_row(address: IpAddr, port: Port, proto: u8, scope: u8, value: FeValue) -> Row {
    match address {
        IpAddr::V4(a) => Row::Fe4(
            FeKey {
                addr: a.into(),
                port,
                proto,
                scope,
            },
            value,
        ),
        IpAddr::V6(a) => Row::Fe6(
            FeKey {
                addr: a.into(),
                port,
                proto,
                scope,
            },
            value,
        ),
    }
}
