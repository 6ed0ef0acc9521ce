//! The packet: parsing headers into a tuple, and rewriting addresses, ports, TTL and checksums.

use abi::conntrack::CtValue;
use abi::{
    Addr, CtKey, FragKey, FragValue, Outcome, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP,
    PROTO_UDP, Port,
};
use bytemuck::Pod;

use crate::Kernel;

mod network;

pub use network::{Family, Side};
use network::{Network, Part};

/// Bytes of an Ethernet header.
pub const ETH: u32 = 14;
/// EtherTypes, in network byte order.
pub const ETH_IPV4: u16 = 0x0800_u16.to_be();
pub const ETH_IPV6: u16 = 0x86dd_u16.to_be();
pub const ETH_ARP: u16 = 0x0806_u16.to_be();

pub const TCP_FIN: u8 = 1;
pub const TCP_SYN: u8 = 2;
pub const TCP_RST: u8 = 4;
pub const TCP_ACK: u8 = 16;

/// `bpf_l4_csum_replace`: the change is in the pseudo header.
const PSEUDO: u64 = 0x10;
/// `bpf_l4_csum_replace`: a UDP checksum of 0 stays 0.
const MANGLED_0: u64 = 0x20;

const ICMP4_ECHO_REPLY: u8 = 0;
const ICMP4_UNREACHABLE: u8 = 3;
const ICMP4_ECHO: u8 = 8;
const ICMP4_TIME_EXCEEDED: u8 = 11;
const ICMP4_PARAMETER: u8 = 12;
const ICMP6_ERRORS_END: u8 = 5;
const ICMP6_ECHO: u8 = 128;
const ICMP6_ECHO_REPLY: u8 = 129;
/// Router solicitation, router advertisement, neighbour solicitation, advertisement, redirect.
const ND_ROUTER_SOLICITATION: u8 = 133;
const ND_ROUTER_ADVERTISEMENT: u8 = 134;
const ND_REDIRECT: u8 = 137;
/// Multicast listener reports, which hosts send on their own.
const MLD_QUERY: u8 = 130;
const MLD_DONE: u8 = 132;
const MLD2_REPORT: u8 = 143;

/// What kind of packet it is, beyond its tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP, UDP, SCTP, ICMP echo: has a tuple.
    Flow,
    /// An ICMP error about a packet quoted in it.
    Error,
    /// Neighbour discovery or multicast listener report (IPv6), with its ICMP type.
    Neighbour,
}

/// A parsed packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<A: Addr> {
    /// The tuple as it arrived.
    pub key: CtKey<A>,
    /// Offset of the transport header.
    pub l4: u32,
    pub kind: Kind,
    /// TCP flags, or ICMP type.
    pub flags: u8,
    pub ttl: u8,
    /// A later fragment: its datagram's ports are known, but it has no transport header.
    pub headless: bool,
}

/// Parses a packet of family `A` that is a whole datagram; a fragment is `Outcome::Fragment`.
#[inline(always)]
pub fn parse<A: Family, K: Kernel<A>>(k: &K) -> Result<Packet<A>, Outcome> {
    let net = A::network(k)?;
    if net.part != Part::Whole {
        return Err(Outcome::Fragment);
    }
    transport(k, &net)
}

/// As [`parse`], or a first fragment: all that has a transport header.
#[inline(always)]
pub fn parse_head<A: Family, K: Kernel<A>>(k: &K) -> Result<Packet<A>, Outcome> {
    let net = A::network(k)?;
    if net.part == Part::Later {
        return Err(Outcome::Fragment);
    }
    transport(k, &net)
}

/// Parses any fragment: a first one tells the ports of those that follow it. One that overtook the first
/// is `Outcome::Fragment`.
#[inline(always)]
pub fn parse_part<A: Family, K: Kernel<A>>(k: &K) -> Result<Packet<A>, Outcome> {
    let net = A::network(k)?;
    let key = FragKey {
        src: net.src,
        dst: net.dst,
        id: net.id,
        proto: net.proto,
        reserved: [0; 3],
    };
    if net.part == Part::Later {
        let ports = k.fragment(&key).ok_or(Outcome::Fragment)?;
        let mut packet = network_only(&net);
        packet.key.src_port = ports.src;
        packet.key.dst_port = ports.dst;
        packet.headless = true;
        return Ok(packet);
    }
    let packet = transport(k, &net)?;
    let ports = FragValue {
        src: packet.key.src_port,
        dst: packet.key.dst_port,
    };
    k.note_fragment(&key, &ports);
    Ok(packet)
}

#[inline(always)]
fn network_only<A: Family>(net: &Network<A>) -> Packet<A> {
    Packet {
        key: CtKey {
            src: net.src,
            dst: net.dst,
            src_port: Port(0),
            dst_port: Port(0),
            proto: net.proto,
            reserved: 0,
            via: 0,
        },
        l4: net.l4,
        kind: Kind::Flow,
        flags: 0,
        ttl: net.ttl,
        headless: false,
    }
}

#[inline(always)]
fn transport<A: Family, K: Kernel<A>>(k: &K, net: &Network<A>) -> Result<Packet<A>, Outcome> {
    let mut packet = network_only(net);
    match net.proto {
        PROTO_TCP => {
            let head: [u8; 14] = l4(k, &packet)?;
            set_ports(&mut packet, [head[0], head[1], head[2], head[3]]);
            packet.flags = head[13];
        }
        PROTO_UDP | PROTO_SCTP => {
            let head: [u8; 4] = l4(k, &packet)?;
            set_ports(&mut packet, head);
        }
        proto if proto == A::ICMP => {
            let head: [u8; 8] = l4(k, &packet)?;
            parse_icmp(&mut packet, head)?;
        }
        _ => return Err(Outcome::Protocol),
    }
    Ok(packet)
}

/// Reads the first bytes of the transport header, directly where its offset is the usual one.
#[inline(always)]
fn l4<A: Family, K: Kernel<A>, T: Pod>(k: &K, packet: &Packet<A>) -> Result<T, Outcome> {
    let usual = ETH + if A::FAMILY == abi::FAMILY_V4 { 20 } else { 40 };
    if packet.l4 == usual {
        k.load(usual)
    } else {
        k.load_at(packet.l4)
    }
    .ok_or(Outcome::Malformed)
}

#[inline(always)]
fn set_ports<A: Addr>(packet: &mut Packet<A>, ports: [u8; 4]) {
    packet.key.src_port = Port(u16::from_ne_bytes([ports[0], ports[1]]));
    packet.key.dst_port = Port(u16::from_ne_bytes([ports[2], ports[3]]));
}

#[inline(always)]
fn parse_icmp<A: Family>(packet: &mut Packet<A>, head: [u8; 8]) -> Result<(), Outcome> {
    packet.flags = head[0];
    let (echo, error, neighbour) = if A::FAMILY == abi::FAMILY_V4 {
        (
            matches!(head[0], ICMP4_ECHO | ICMP4_ECHO_REPLY),
            matches!(
                head[0],
                ICMP4_UNREACHABLE | ICMP4_TIME_EXCEEDED | ICMP4_PARAMETER
            ),
            false,
        )
    } else {
        (
            matches!(head[0], ICMP6_ECHO | ICMP6_ECHO_REPLY),
            head[0] < ICMP6_ERRORS_END,
            matches!(head[0], ND_ROUTER_SOLICITATION..=ND_REDIRECT | MLD_QUERY..=MLD_DONE | MLD2_REPORT),
        )
    };
    if echo {
        // The identifier stands for both ports.
        set_ports(packet, [head[4], head[5], head[4], head[5]]);
        Ok(())
    } else if error {
        packet.kind = Kind::Error;
        Ok(())
    } else if neighbour {
        packet.kind = Kind::Neighbour;
        Ok(())
    } else {
        Err(Outcome::Protocol)
    }
}

/// Whether a pod may send this neighbour message.
#[inline(always)]
pub fn neighbour_allowed<A: Addr>(packet: &Packet<A>) -> bool {
    packet.flags != ND_ROUTER_ADVERTISEMENT && packet.flags != ND_REDIRECT
}

/// The tuple of the answers to the packet an ICMP error quotes.
#[inline(always)]
pub fn quoted<A: Family, K: Kernel<A>>(k: &K, packet: &Packet<A>) -> Option<CtKey<A>> {
    let inner = packet.l4 + 8;
    let (src, dst, proto, l4) = if A::FAMILY == abi::FAMILY_V4 {
        let head: [u8; 20] = k.load_at(inner)?;
        let src: A = k.load_at(inner + 12)?;
        let dst: A = k.load_at(inner + 16)?;
        (src, dst, head[9], inner + (head[0] & 15) as u32 * 4)
    } else {
        let next: u8 = k.load_at(inner + 6)?;
        (
            k.load_at(inner + 8)?,
            k.load_at(inner + 24)?,
            next,
            inner + 40,
        )
    };
    let at = if proto == PROTO_ICMP || proto == PROTO_ICMPV6 {
        l4 + 4
    } else {
        l4
    };
    let ports: [u8; 4] = k.load_at(at)?;
    let src_port = Port(u16::from_ne_bytes([ports[0], ports[1]]));
    let dst_port = if at == l4 {
        Port(u16::from_ne_bytes([ports[2], ports[3]]))
    } else {
        src_port
    };
    Some(CtKey {
        src: dst,
        dst: src,
        src_port: dst_port,
        dst_port: src_port,
        proto,
        reserved: 0,
        via: 0,
    })
}

/// A SYN without ACK: the first packet of a TCP connection.
#[inline(always)]
pub fn is_syn<A: Addr>(packet: &Packet<A>) -> bool {
    packet.key.proto == PROTO_TCP && packet.flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// Writes the addresses and ports of `to` into the packet, with its checksums.
#[inline(always)]
pub fn rewrite<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    to: &CtValue<A>,
) -> Result<(), Outcome> {
    let from = &packet.key;
    let checksum = if packet.headless {
        None
    } else {
        checksum_at(packet)
    };
    let ok = rewrite_addr(k, Side::Src, from.src, to.src, checksum)
        && rewrite_addr(k, Side::Dst, from.dst, to.dst, checksum)
        && (packet.headless || rewrite_ports(k, packet, to, checksum));
    if ok { Ok(()) } else { Err(Outcome::Rewrite) }
}

/// Offset of the transport checksum and the flags to fix it with; `None` if addresses and ports are not
/// part of one we can fix.
#[inline(always)]
fn checksum_at<A: Family>(packet: &Packet<A>) -> Option<(u32, u64)> {
    match packet.key.proto {
        PROTO_TCP => Some((packet.l4 + 16, 0)),
        PROTO_UDP => Some((packet.l4 + 6, MANGLED_0)),
        PROTO_ICMPV6 => Some((packet.l4 + 2, 0)),
        _ => None,
    }
}

#[inline(always)]
fn rewrite_addr<A: Family, K: Kernel<A>>(
    k: &mut K,
    side: Side,
    from: A,
    to: A,
    checksum: Option<(u32, u64)>,
) -> bool {
    if from == to {
        return true;
    }
    if let Some((at, flags)) = checksum
        && !A::fix_l4(k, at, from, to, flags | PSEUDO)
    {
        return false;
    }
    A::store_addr(k, side, from, to)
}

#[inline(always)]
fn rewrite_ports<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    to: &CtValue<A>,
    checksum: Option<(u32, u64)>,
) -> bool {
    let from = &packet.key;
    if from.src_port == to.src_port && from.dst_port == to.dst_port {
        return true;
    }
    if packet.key.proto == A::ICMP {
        let at = packet.l4 + 2;
        return k.l4_csum(at, from.src_port.0 as u64, to.src_port.0 as u64, 2)
            && k.store(packet.l4 + 4, &to.src_port);
    }
    let Some((at, flags)) = checksum else {
        return false;
    };
    let old = words(from.src_port, from.dst_port);
    let new = words(to.src_port, to.dst_port);
    k.l4_csum(at, old as u64, new as u64, flags | 4) && k.store(packet.l4, &new)
}

/// Two ports as they lie in the transport header.
#[inline(always)]
fn words(src: Port, dst: Port) -> u32 {
    let ([a, b], [c, d]) = (src.0.to_ne_bytes(), dst.0.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}
