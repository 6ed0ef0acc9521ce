//! The maps' contents as text, a line per row: what a person reads when a packet goes the wrong way,
//! and what golden tests compare.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::{FeKey, FeValue, NetKey, NetKind, NetValue, PolValue, Port};

use super::plan::service::Family;
use super::rows::{Row, Tables};

/// All rows, sorted within each table; tables in the order of writing.
pub fn lines(tables: &Tables) -> Vec<String> {
    let mut lines: Vec<(usize, String)> = tables
        .rows()
        .iter()
        .map(|row| (table_of(row), line(row)))
        .collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Families share a place.
fn table_of(row: &Row) -> usize {
    match row {
        Row::Node(..) => 0,
        Row::Net4(..) | Row::Net6(..) => 1,
        Row::Ip4(..) | Row::Ip6(..) => 2,
        Row::Ep(..) => 3,
        Row::EpMac(..) => 4,
        Row::Peer4(..) | Row::Peer6(..) => 5,
        Row::Pol(..) => 6,
        Row::Polx(..) => 7,
        Row::Fe4(..) | Row::Fe6(..) => 8,
        Row::Svc(..) => 9,
        Row::Be4(..) | Row::Be6(..) => 10,
        Row::Slot(..) => 11,
    }
}

fn line(row: &Row) -> String {
    match row {
        Row::Node(ix, n) => {
            let (a4, a6) = (Ipv4Addr::from(n.addr4), Ipv6Addr::from(n.addr6));
            let (h4, h6) = (Ipv4Addr::from(n.next_hop4), Ipv6Addr::from(n.next_hop6));
            format!(
                "node {ix}: {a4} {a6} via {h4} {h6} on interface {}",
                n.ifindex
            )
        }
        Row::Net4(key, value) => net_line(key, value),
        Row::Net6(key, value) => net_line(key, value),
        Row::Ip4(ip, local) => local_line(IpAddr::V4((*ip).into()), *local),
        Row::Ip6(ip, local) => local_line(IpAddr::V6((*ip).into()), *local),
        Row::Ep(ix, ep) => endpoint_line(*ix, ep),
        Row::EpMac(ix, mac) => {
            let mac = mac.mac.map(|b| format!("{b:02x}")).join(":");
            format!("endpoint {ix}: MAC {mac}")
        }
        Row::Peer4(ip, class) => peer_line(IpAddr::V4((*ip).into()), *class),
        Row::Peer6(ip, class) => peer_line(IpAddr::V6((*ip).into()), *class),
        Row::Pol(key, value) => policy_line(key, value),
        Row::Polx(key, _) => overflow_line(key),
        Row::Fe4(key, value) => frontend_line(key, value),
        Row::Fe6(key, value) => frontend_line(key, value),
        Row::Svc(id, s) => format!(
            "service {id}: cluster list {} ({} backends), local list {} ({}), affinity {} s",
            s.cluster.list, s.cluster.n, s.local.list, s.local.n, s.affinity
        ),
        Row::Slot(key, slot) => format!(
            "list {:04}: identity {} is at slot {slot:04}",
            key.list, key.be_ix
        ),
        Row::Be4(key, b) => backend_line(
            key,
            IpAddr::V4(b.addr.into()),
            b.port,
            b.node,
            b.be_ix,
            b.flags,
        ),
        Row::Be6(key, b) => backend_line(
            key,
            IpAddr::V6(b.addr.into()),
            b.port,
            b.node,
            b.be_ix,
            b.flags,
        ),
    }
}

fn endpoint_line(ix: u32, ep: &abi::Endpoint) -> String {
    let set = |bits, bit, text: &'static str| if bits & bit != 0 { text } else { "" };
    let ingress = set(ep.isolation, abi::ISOLATED_INGRESS, " isolated in");
    let egress = set(ep.isolation, abi::ISOLATED_EGRESS, " isolated out");
    let ready = set(ep.flags, abi::EP_READY, " ready");
    let abi::Endpoint {
        ifindex, set_id, ..
    } = ep;
    format!("endpoint {ix}: interface {ifindex} set {set_id:08x}{ingress}{egress}{ready}")
}

fn policy_line(key: &abi::PolKey, value: &PolValue) -> String {
    let abi::PolKey {
        set_id,
        class,
        direction,
    } = key;
    let direction = direction_name(*direction);
    format!(
        "policy set {set_id:08x} {direction} class {class:08x}: {}",
        allowed(value)
    )
}

fn overflow_line(key: &abi::PolxKey) -> String {
    let abi::PolxKey {
        set_id,
        class,
        direction,
        proto,
        port,
        prefix_len,
    } = key;
    let direction = direction_name(u32::from(*direction));
    let (proto, port) = (protocol(*proto), port.get());
    let bits = prefix_len.saturating_sub(abi::PolxKey::FIXED_BITS);
    format!("policy set {set_id:08x} {direction} class {class:08x}: more: {proto} {port}/{bits}")
}

fn direction_name(direction: u32) -> &'static str {
    if direction == u32::from(abi::DIR_INGRESS) {
        "in"
    } else {
        "out"
    }
}

fn net_line<A: Family>(key: &NetKey<A>, value: &NetValue) -> String {
    let kind = [
        (NetKind::World, "world"),
        (NetKind::Pods, "pods"),
        (NetKind::Node, "node"),
        (NetKind::Services, "services"),
        (NetKind::Native, "native"),
    ];
    let kind = kind
        .iter()
        .find(|(k, _)| *k as u8 == value.kind)
        .map_or("unknown", |(_, n)| n);
    let NetValue { class, node, .. } = value;
    format!(
        "range {}/{}: {kind} of node {node}, class {class:08x}",
        key.addr.ip(),
        key.prefix_len
    )
}

fn local_line(ip: IpAddr, local: abi::LocalAddr) -> String {
    match local.ep_ix {
        0 => format!("address {ip}: the host"),
        ix => format!("address {ip}: endpoint {ix}"),
    }
}

fn peer_line(ip: IpAddr, class: u32) -> String {
    format!("peer {ip}: class {class:08x}")
}

fn allowed(value: &PolValue) -> String {
    if value.flags & abi::POL_ALL != 0 {
        return "everything".into();
    }
    let ranges = value.ranges.iter().take(usize::from(value.n));
    let ranges = ranges.map(|r| format!("{} {}-{}", protocol(r.proto), r.lo, r.hi));
    let more = if value.flags & abi::POL_OVERFLOW != 0 {
        ", more"
    } else {
        ""
    };
    format!("{}{more}", ranges.collect::<Vec<_>>().join(", "))
}

fn frontend_line<A: Family>(key: &FeKey<A>, value: &FeValue) -> String {
    let scope = if key.scope == abi::SCOPE_INTERNAL {
        "inside"
    } else {
        "outside"
    };
    let ip = key.addr.ip();
    if value.flags & abi::FE_MARKER != 0 {
        return format!("frontend {ip} from {scope}: alive");
    }
    let at = std::net::SocketAddr::new(ip, key.port.get());
    let served = if value.flags & abi::FE_SOCKET != 0 {
        "a socket of the node".into()
    } else {
        format!("service {}", value.svc_id)
    };
    let local = if value.flags & abi::FE_LOCAL != 0 {
        ", local backends only"
    } else {
        ""
    };
    format!(
        "frontend {at}/{} from {scope}: {served}{local}",
        protocol(key.proto)
    )
}

fn backend_line(
    key: &abi::BeKey,
    ip: IpAddr,
    port: Port,
    node: u16,
    be_ix: u32,
    flags: u16,
) -> String {
    let at = std::net::SocketAddr::new(ip, port.get());
    let host = if flags & abi::BE_HOST != 0 {
        ", host network"
    } else {
        ""
    };
    format!(
        "list {:04} slot {:04}: {at} on node {node}, identity {be_ix}{host}",
        key.list, key.slot
    )
}

fn protocol(number: u8) -> String {
    match number {
        abi::PROTO_TCP => "TCP".into(),
        abi::PROTO_UDP => "UDP".into(),
        abi::PROTO_SCTP => "SCTP".into(),
        other => other.to_string(),
    }
}
