//! Answers for connections that cannot be made: a TCP RST, or an ICMP "port unreachable", made out of the
//! packet itself and sent back where it came from.

use abi::{Addr, FAMILY_V4, PROTO_ICMPV6, PROTO_TCP, V4, V6};
use bytemuck::{Pod, Zeroable};

use crate::Kernel;
use crate::packet::{ETH, Family, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, parse};

const TTL: u8 = 64;
const ICMP4_UNREACHABLE: u8 = 3;
const ICMP4_PORT: u8 = 3;
const ICMP6_UNREACHABLE: u8 = 1;
const ICMP6_PORT: u8 = 4;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Tcp {
    src_port: u16,
    dst_port: u16,
    seq: u32,
    ack: u32,
    offset: u8,
    flags: u8,
    window: u16,
    csum: u16,
    urgent: u16,
}

/// What the families' answers differ in.
pub trait Answer: Family {
    /// Words of the network header and eight bytes more, quoted in an ICMP error.
    type Quote: Pod + AsRef<[u16]>;
    /// Type and code of "port unreachable".
    const UNREACHABLE: [u8; 2];
    /// Writes the network header of an answer from `src` to `dst` with `len` bytes after it.
    #[must_use]
    fn header<K: Kernel<Self>>(k: &mut K, src: Self, dst: Self, proto: u8, len: u16) -> bool;
}

impl Answer for V4 {
    type Quote = [u16; 14];
    const UNREACHABLE: [u8; 2] = [ICMP4_UNREACHABLE, ICMP4_PORT];

    #[inline(always)]
    fn header<K: Kernel<Self>>(k: &mut K, src: Self, dst: Self, proto: u8, len: u16) -> bool {
        let mut words = [0_u16; 10];
        words[0] = 0x4500_u16.to_be();
        words[1] = (20 + len).to_be();
        words[4] = u16::from_ne_bytes([TTL, proto]);
        let ([a, b, c, d], [e, f, g, h]) = (src.0.to_ne_bytes(), dst.0.to_ne_bytes());
        words[6] = u16::from_ne_bytes([a, b]);
        words[7] = u16::from_ne_bytes([c, d]);
        words[8] = u16::from_ne_bytes([e, f]);
        words[9] = u16::from_ne_bytes([g, h]);
        words[5] = fold(sum(&words));
        k.store(ETH, &words)
    }
}

impl Answer for V6 {
    type Quote = [u16; 24];
    const UNREACHABLE: [u8; 2] = [ICMP6_UNREACHABLE, ICMP6_PORT];

    #[inline(always)]
    fn header<K: Kernel<Self>>(k: &mut K, src: Self, dst: Self, proto: u8, len: u16) -> bool {
        let [len_hi, len_lo] = len.to_be_bytes();
        let head = [0x60_u8, 0, 0, 0, len_hi, len_lo, proto, TTL];
        k.store(ETH, &head) && k.store(ETH + 8, &src) && k.store(ETH + 24, &dst)
    }
}

/// Turns the packet into its own refusal. False: there is nothing to answer (or it failed), drop it.
#[inline(always)]
pub fn answer<A: Answer, K: Kernel<A>>(k: &mut K) -> bool {
    let Ok(packet) = parse::<A, K>(k) else {
        return false;
    };
    if !swap_macs(k) {
        return false;
    }
    if packet.key.proto == PROTO_TCP {
        packet.flags & TCP_RST == 0 && reset(k, &packet)
    } else if packet.key.proto != A::ICMP {
        unreachable(k, &packet)
    } else {
        false
    }
}

#[inline(always)]
fn swap_macs<A: Answer, K: Kernel<A>>(k: &mut K) -> bool {
    let Some([dst, src]) = k.load::<[[u8; 6]; 2]>(0) else {
        return false;
    };
    k.store(0, &src) && k.store(6, &dst)
}

const fn network_len<A: Addr>() -> u32 {
    if A::FAMILY == FAMILY_V4 { 20 } else { 40 }
}

#[inline(always)]
fn reset<A: Answer, K: Kernel<A>>(k: &mut K, packet: &Packet<A>) -> bool {
    let Some(from) = k.load_at::<Tcp>(packet.l4) else {
        return false;
    };
    let flags = packet.flags;
    // RFC 9293, 3.10.7.1: the reset takes its number from an ACK, else acknowledges what came.
    let payload = k.len() - packet.l4 - (from.offset >> 4) as u32 * 4;
    let taken = payload + u32::from(flags & TCP_SYN != 0) + u32::from(flags & TCP_FIN != 0);
    let (seq, ack, flags) = if flags & TCP_ACK != 0 {
        (from.ack, 0, TCP_RST)
    } else {
        (
            0,
            u32::from_be(from.seq).wrapping_add(taken).to_be(),
            TCP_RST | TCP_ACK,
        )
    };
    let len = size_of::<Tcp>() as u16;
    let mut to = Tcp {
        src_port: packet.key.dst_port.0,
        dst_port: packet.key.src_port.0,
        seq,
        ack,
        offset: (len as u8 / 4) << 4,
        flags,
        window: 0,
        csum: 0,
        urgent: 0,
    };
    let words: [u16; 10] = bytemuck::cast(to);
    to.csum = fold(sum(&words) + pseudo(packet, PROTO_TCP, len));
    k.resize(ETH + network_len::<A>() + len as u32)
        && A::header(k, packet.key.dst, packet.key.src, PROTO_TCP, len)
        && k.store(ETH + network_len::<A>(), &to)
}

#[inline(always)]
fn unreachable<A: Answer, K: Kernel<A>>(k: &mut K, packet: &Packet<A>) -> bool {
    let Some(quote) = k.load_at::<A::Quote>(ETH) else {
        return false;
    };
    let len = 8 + size_of::<A::Quote>() as u16;
    let [kind, code] = A::UNREACHABLE;
    let at = ETH + network_len::<A>();
    let first = u16::from_ne_bytes([kind, code]);
    let mut total = first as u32 + sum(quote.as_ref());
    if A::ICMP == PROTO_ICMPV6 {
        total += pseudo(packet, PROTO_ICMPV6, len);
    }
    let head = [first, fold(total), 0, 0];
    k.resize(at + len as u32)
        && A::header(k, packet.key.dst, packet.key.src, A::ICMP, len)
        && k.store(at, &head)
        && k.store(at + 8, &quote)
}

/// Sum of the pseudo header of an answer.
#[inline(always)]
fn pseudo<A: Family>(packet: &Packet<A>, proto: u8, len: u16) -> u32 {
    let (src, dst) = (packet.key.dst.to_v6().0, packet.key.src.to_v6().0);
    let from = if A::FAMILY == FAMILY_V4 { 3 } else { 0 };
    let mut total = (proto as u16).to_be() as u32 + len.to_be() as u32;
    let mut i = from;
    while i < 4 {
        total += (src[i] & 0xffff) + (src[i] >> 16) + (dst[i] & 0xffff) + (dst[i] >> 16);
        i += 1;
    }
    total
}

#[inline(always)]
fn sum(words: &[u16]) -> u32 {
    let mut total = 0;
    let mut i = 0;
    while i < words.len() {
        total += words[i] as u32;
        i += 1;
    }
    total
}

#[inline(always)]
fn fold(mut total: u32) -> u16 {
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    !(total as u16)
}
