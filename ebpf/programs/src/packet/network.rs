//! The network header of both families: parsing, fragments (RFC 791, RFC 8200), rewriting addresses and TTL.

use abi::{Addr, Outcome, PROTO_ICMPV6, V4, V6};
use bytemuck::{Pod, Zeroable};

use super::{ETH, Packet};
use crate::Kernel;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ip4 {
    version_ihl: u8,
    tos: u8,
    len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    proto: u8,
    csum: u16,
    src: V4,
    dst: V4,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ip6 {
    version_flow: u32,
    len: u16,
    next: u8,
    hops: u8,
    src: V6,
    dst: V6,
}

/// The extension header of a fragment.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ip6Fragment {
    next: u8,
    reserved: u8,
    fragment: u16,
    id: u32,
}

/// What differs between the families in a packet.
pub trait Family: Addr {
    /// Parses the network header, and that of fragments.
    fn network<K: Kernel<Self>>(k: &K) -> Result<Network<Self>, Outcome>;
    /// Replaces the source or destination address and fixes the network header's checksum.
    #[must_use]
    fn store_addr<K: Kernel<Self>>(k: &mut K, side: Side, from: Self, to: Self) -> bool;
    /// Adds an address change to the transport checksum at `at`.
    #[must_use]
    fn fix_l4<K: Kernel<Self>>(k: &mut K, at: u32, from: Self, to: Self, flags: u64) -> bool;
    /// Decrements the TTL.
    #[must_use]
    fn decrement_ttl<K: Kernel<Self>>(k: &mut K, packet: &Packet<Self>) -> bool;
    /// Not a unicast address a packet may have as its destination.
    fn is_multicast(self) -> bool;
    /// 127.0.0.0/8 or ::1.
    fn is_loopback(self) -> bool;
    /// Source of hairpin flows.
    const HAIRPIN: Self;
    /// Own primary address.
    fn node_ip(cfg: &abi::Cfg) -> Self;
    fn next_hop(node: &abi::Node) -> Self;
}

/// Source or destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Src,
    Dst,
}

/// A parsed network header.
pub struct Network<A> {
    pub src: A,
    pub dst: A,
    pub proto: u8,
    pub ttl: u8,
    pub l4: u32,
    pub part: Part,
    /// Identification of a datagram in fragments, as it lies in the header.
    pub id: u32,
}

/// How much of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// The fragment with the transport header.
    First,
    Later,
}

impl Part {
    #[inline(always)]
    fn of(offset: bool, more: bool) -> Self {
        if offset {
            Self::Later
        } else if more {
            Self::First
        } else {
            Self::Whole
        }
    }
}

impl Family for V4 {
    const HAIRPIN: Self = Self(u32::from_ne_bytes(abi::HAIRPIN4));

    #[inline(always)]
    fn network<K: Kernel<Self>>(k: &K) -> Result<Network<Self>, Outcome> {
        let ip: Ip4 = k.load(ETH).ok_or(Outcome::Malformed)?;
        let ihl = ip.version_ihl & 15;
        if ip.version_ihl >> 4 != 4 || ihl < 5 {
            return Err(Outcome::Malformed);
        }
        const OFFSET: u16 = 0x1fff_u16.to_be();
        const MORE: u16 = 0x2000_u16.to_be();
        let l4 = ETH + ihl as u32 * 4;
        Ok(Network {
            src: ip.src,
            dst: ip.dst,
            proto: ip.proto,
            ttl: ip.ttl,
            l4,
            part: Part::of(ip.fragment & OFFSET != 0, ip.fragment & MORE != 0),
            id: ip.id as u32,
        })
    }

    #[inline(always)]
    fn store_addr<K: Kernel<Self>>(k: &mut K, side: Side, from: Self, to: Self) -> bool {
        let at = match side {
            Side::Src => ETH + 12,
            Side::Dst => ETH + 16,
        };
        k.l3_csum(ETH + 10, from.0, to.0, 4) && k.store(at, &to)
    }

    #[inline(always)]
    fn fix_l4<K: Kernel<Self>>(k: &mut K, at: u32, from: Self, to: Self, flags: u64) -> bool {
        k.l4_csum(at, from.0 as u64, to.0 as u64, flags | 4)
    }

    #[inline(always)]
    fn decrement_ttl<K: Kernel<Self>>(k: &mut K, packet: &Packet<Self>) -> bool {
        // The checksum covers 16-bit words: TTL and protocol share one.
        let from = u16::from_be_bytes([packet.ttl, packet.key.proto]).to_be();
        let to = u16::from_be_bytes([packet.ttl - 1, packet.key.proto]).to_be();
        k.l3_csum(ETH + 10, from as u32, to as u32, 2) && k.store(ETH + 8, &(packet.ttl - 1))
    }

    #[inline(always)]
    fn is_multicast(self) -> bool {
        // 224.0.0.0/3: multicast, reserved and broadcast; 0.0.0.0/8 and 127.0.0.0/8 never on a wire.
        let first = self.0.to_ne_bytes()[0];
        first >= 224 || first == 0 || first == 127
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0.to_ne_bytes()[0] == 127
    }

    #[inline(always)]
    fn node_ip(cfg: &abi::Cfg) -> Self {
        cfg.node_ip4
    }

    #[inline(always)]
    fn next_hop(node: &abi::Node) -> Self {
        node.next_hop4
    }
}

impl Family for V6 {
    const HAIRPIN: Self = {
        let a = abi::HAIRPIN6;
        Self([
            u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
            u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
            u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
            u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
        ])
    };

    #[inline(always)]
    fn network<K: Kernel<Self>>(k: &K) -> Result<Network<Self>, Outcome> {
        let ip: Ip6 = k.load(ETH).ok_or(Outcome::Malformed)?;
        if ip.version_flow.to_ne_bytes()[0] >> 4 != 6 {
            return Err(Outcome::Malformed);
        }
        const HOP_BY_HOP: u8 = 0;
        const FRAGMENT: u8 = 44;
        const OFFSET: u16 = 0xfff8_u16.to_be();
        const MORE: u16 = 1_u16.to_be();
        let mut proto = ip.next;
        let mut l4 = ETH + size_of::<Ip6>() as u32;
        let (mut part, mut id) = (Part::Whole, 0);
        if proto == FRAGMENT {
            let head: Ip6Fragment = k.load(l4).ok_or(Outcome::Malformed)?;
            part = Part::of(head.fragment & OFFSET != 0, head.fragment & MORE != 0);
            id = head.id;
            proto = head.next;
            l4 += size_of::<Ip6Fragment>() as u32;
        }
        // Multicast listener reports carry a router alert; other extension headers are not supported.
        if proto == HOP_BY_HOP {
            let [next, len]: [u8; 2] = k.load(l4).ok_or(Outcome::Malformed)?;
            if len != 0 || next != PROTO_ICMPV6 {
                return Err(Outcome::Protocol);
            }
            proto = next;
            l4 += 8;
        }
        Ok(Network {
            src: ip.src,
            dst: ip.dst,
            proto,
            ttl: ip.hops,
            l4,
            part,
            id,
        })
    }

    #[inline(always)]
    fn store_addr<K: Kernel<Self>>(k: &mut K, side: Side, _from: Self, to: Self) -> bool {
        let at = match side {
            Side::Src => ETH + 8,
            Side::Dst => ETH + 24,
        };
        k.store(at, &to)
    }

    #[inline(always)]
    fn fix_l4<K: Kernel<Self>>(k: &mut K, at: u32, from: Self, to: Self, flags: u64) -> bool {
        // The helper takes one word (or a ready difference) at a time.
        let mut diff: u64 = 0;
        let mut i = 0;
        while i < 4 {
            diff += (!from.0[i]) as u64 + to.0[i] as u64;
            i += 1;
        }
        diff = (diff & 0xffff_ffff) + (diff >> 32);
        diff = (diff & 0xffff_ffff) + (diff >> 32);
        k.l4_csum(at, 0, diff, flags)
    }

    #[inline(always)]
    fn decrement_ttl<K: Kernel<Self>>(k: &mut K, packet: &Packet<Self>) -> bool {
        k.store(ETH + 7, &(packet.ttl - 1))
    }

    #[inline(always)]
    fn is_multicast(self) -> bool {
        let first = self.0[0].to_ne_bytes()[0];
        // Multicast, unspecified and loopback.
        first == 0xff || (self.0[0] | self.0[1] | self.0[2] == 0 && u32::from_be(self.0[3]) <= 1)
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0[0] | self.0[1] | self.0[2] == 0 && self.0[3] == 1_u32.to_be()
    }

    #[inline(always)]
    fn node_ip(cfg: &abi::Cfg) -> Self {
        cfg.node_ip6
    }

    #[inline(always)]
    fn next_hop(node: &abi::Node) -> Self {
        node.next_hop6
    }
}
