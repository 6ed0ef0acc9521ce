//! Packets for tests: built from and read back into plain values, with checksums computed here, apart
//! from the code under test.

use std::net::IpAddr;

use abi::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// A packet of either family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub src_port: u16,
    pub dst_port: u16,
    /// TCP flags; ICMP type.
    pub flags: u8,
    pub ttl: u8,
    pub seq: u32,
    pub ack: u32,
    pub payload: Vec<u8>,
}

/// IPv6 extension header of fragments (RFC 8200).
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;

impl Packet {
    pub fn tcp(src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8) -> Self {
        Self::new(PROTO_TCP, src, dst, flags)
    }

    pub fn udp(src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        Self {
            payload: b"datagram".to_vec(),
            ..Self::new(PROTO_UDP, src, dst, 0)
        }
    }

    /// An echo request, or with `reply` the answer.
    pub fn echo(src: IpAddr, dst: IpAddr, id: u16, reply: bool) -> Self {
        let (proto, kind) = match (src, reply) {
            (IpAddr::V4(_), false) => (PROTO_ICMP, 8),
            (IpAddr::V4(_), true) => (PROTO_ICMP, 0),
            (IpAddr::V6(_), false) => (PROTO_ICMPV6, 128),
            (IpAddr::V6(_), true) => (PROTO_ICMPV6, 129),
        };
        Self {
            payload: b"ping".to_vec(),
            ..Self::new(proto, (src, id), (dst, id), kind)
        }
    }

    fn new(proto: u8, src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8) -> Self {
        Self {
            src: src.0,
            dst: dst.0,
            proto,
            src_port: src.1,
            dst_port: dst.1,
            flags,
            ttl: 64,
            seq: 1000,
            ack: 2000,
            payload: Vec::new(),
        }
    }

    /// The answer to this packet.
    pub fn reply(&self, flags: u8) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            flags,
            ttl: 64,
            ..self.clone()
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.part(&self.transport(), None)
    }

    /// The datagram in two fragments, the second from byte `at` of the transport header on.
    pub fn fragments(&self, at: usize) -> [Vec<u8>; 2] {
        let l4 = self.transport();
        let (first, rest) = l4.split_at(at);
        [
            self.part(first, Some((0, 1))),
            self.part(rest, Some((at as u16, 0))),
        ]
    }

    /// A part of the transport header and what follows it, behind a network header; `fragment`: its offset
    /// in bytes, and whether more follow.
    fn part(&self, l4: &[u8], fragment: Option<(u16, u16)>) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                bytes.extend([8, 0]);
                let len = (20 + l4.len()) as u16;
                let flags = fragment.map_or(0x4000, |(at, more)| (at / 8) | (more << 13));
                let mut head = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 1];
                head.extend(flags.to_be_bytes());
                head.extend([self.ttl, self.proto, 0, 0]);
                head.extend(src.octets());
                head.extend(dst.octets());
                let sum = checksum(&[&head]);
                head[10..12].copy_from_slice(&sum.to_be_bytes());
                bytes.extend(head);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                let extra = if fragment.is_some() {
                    FRAGMENT_HEADER
                } else {
                    0
                };
                bytes.extend(((l4.len() + extra) as u16).to_be_bytes());
                let next = if fragment.is_some() {
                    FRAGMENT
                } else {
                    self.proto
                };
                bytes.extend([next, self.ttl]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
                if let Some((at, more)) = fragment {
                    bytes.extend([self.proto, 0]);
                    bytes.extend((at | more).to_be_bytes());
                    bytes.extend([0, 0, 0, 1]);
                }
            }
            _ => panic!("one family per packet"),
        }
        bytes.extend_from_slice(l4);
        bytes
    }

    fn transport(&self) -> Vec<u8> {
        let mut l4 = Vec::new();
        let at = match self.proto {
            PROTO_TCP => {
                l4.extend(self.src_port.to_be_bytes());
                l4.extend(self.dst_port.to_be_bytes());
                l4.extend(self.seq.to_be_bytes());
                l4.extend(self.ack.to_be_bytes());
                l4.extend([0x50, self.flags, 0x20, 0, 0, 0, 0, 0]);
                16
            }
            PROTO_UDP => {
                l4.extend(self.src_port.to_be_bytes());
                l4.extend(self.dst_port.to_be_bytes());
                l4.extend((8 + self.payload.len() as u16).to_be_bytes());
                l4.extend([0, 0]);
                6
            }
            _ => {
                l4.extend([self.flags, 0, 0, 0]);
                l4.extend(self.src_port.to_be_bytes());
                l4.extend([0, 1]);
                2
            }
        };
        l4.extend(&self.payload);
        let sum = self.transport_checksum(&l4);
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        l4
    }

    fn transport_checksum(&self, l4: &[u8]) -> u16 {
        if self.proto == PROTO_ICMP {
            return checksum(&[l4]);
        }
        let mut pseudo = Vec::new();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                pseudo.extend(src.octets());
                pseudo.extend(dst.octets());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                pseudo.extend(src.octets());
                pseudo.extend(dst.octets());
            }
            _ => panic!("one family per packet"),
        }
        pseudo.extend([0, self.proto]);
        pseudo.extend((l4.len() as u16).to_be_bytes());
        checksum(&[&pseudo, l4])
    }

    /// Reads a datagram back from its two fragments.
    pub fn join(parts: &[Vec<u8>; 2]) -> Self {
        let [first, rest] = parts;
        let (head, l4) = if first[12] == 8 {
            assert_eq!(checksum(&[&rest[14..34]]), 0, "checksum of the IPv4 header");
            assert_eq!(rest[26..34], first[26..34], "addresses of the fragments");
            let mut head = first[..34].to_vec();
            head[20..22].fill(0);
            (head, 34)
        } else {
            assert_eq!(rest[22..54], first[22..54], "addresses of the fragments");
            let mut head = first[..54].to_vec();
            head[20] = first[54];
            (head, 54 + FRAGMENT_HEADER)
        };
        let mut bytes = [&head[..], &first[l4..], &rest[l4..]].concat();
        let len = bytes.len() - 14;
        if first[12] == 8 {
            bytes[16..18].copy_from_slice(&(len as u16).to_be_bytes());
            bytes[24..26].fill(0);
            let sum = checksum(&[&bytes[14..34]]);
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            bytes[18..20].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }
        Self::parse(&bytes)
    }

    /// Reads a packet back; panics if a checksum or a length is wrong.
    pub fn parse(bytes: &[u8]) -> Self {
        let ip = &bytes[14..];
        let (src, dst, proto, ttl, l4): (IpAddr, IpAddr, u8, u8, &[u8]) = if bytes[12] == 8 {
            assert_eq!(checksum(&[&ip[..20]]), 0, "checksum of the IPv4 header");
            let len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            assert_eq!(len, ip.len(), "length in the IPv4 header");
            let (src, dst): ([u8; 4], [u8; 4]) = (
                ip[12..16].try_into().expect("as long as the address"),
                ip[16..20].try_into().expect("as long as the address"),
            );
            (src.into(), dst.into(), ip[9], ip[8], &ip[20..])
        } else {
            let len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            assert_eq!(len + 40, ip.len(), "length in the IPv6 header");
            let (src, dst): ([u8; 16], [u8; 16]) = (
                ip[8..24].try_into().expect("as long as the address"),
                ip[24..40].try_into().expect("as long as the address"),
            );
            (src.into(), dst.into(), ip[6], ip[7], &ip[40..])
        };
        let word = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
        let long = |at: usize| (u32::from(word(at)) << 16) | u32::from(word(at + 2));
        let mut packet = Self::new(proto, (src, word(0)), (dst, word(2)), 0);
        packet.ttl = ttl;
        match proto {
            PROTO_TCP => {
                (packet.seq, packet.ack, packet.flags) = (long(4), long(8), l4[13]);
                packet.payload = l4[20..].to_vec();
            }
            PROTO_UDP => packet.payload = l4[8..].to_vec(),
            _ => {
                (packet.src_port, packet.dst_port, packet.flags) = (word(4), word(4), l4[0]);
                packet.payload = l4[8..].to_vec();
            }
        }
        assert_eq!(
            packet.transport_checksum(l4),
            0,
            "transport checksum of {packet:?}"
        );
        packet
    }
}

/// RFC 1071; 0 over data that contains its own correct checksum.
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += (u32::from(pair[0]) << 8) | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
