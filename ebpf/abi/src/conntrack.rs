//! Connection tracking: two self-contained entries per flow, one per direction, each keyed by the
//! literal tuple that arrives and holding the whole action. **Frozen**: versions change only on purpose.
//!
//! The partner of an entry is keyed by the reversed tuple after the rewrite:
//! `{src: value.dst, dst: value.src, src_port: value.dst_port, dst_port: value.src_port}`.

use bytemuck::{Pod, Zeroable};

use crate::pod::family_pod;
use crate::{Addr, PROTO_TCP, Port};

/// Any uplink may bring packets of this direction (`CtValue::iif`).
pub const IIF_UPLINK: u32 = 0;
/// Packets of this direction come from the host's own stack.
pub const IIF_HOST: u32 = u32::MAX;

/// `CtValue::flags`: this is the direction of the answers.
pub const CT_REPLY: u16 = 1;
/// The flow's source was translated to a claimed port: its closing state lasts longer.
pub const CT_SNAT: u16 = 2;
/// The flow goes to a Service.
pub const CT_SERVICE: u16 = 4;
/// A reply has been seen (UDP and ICMP: assured).
pub const CT_ASSURED: u16 = 8;
/// Addresses or ports differ from the key: the packet is rewritten.
pub const CT_REWRITE: u16 = 16;
/// Begun by a packet of the middle of a TCP connection and not yet answered by anything but a reset.
pub const CT_PICKUP: u16 = 32;
/// Source and destination are the same pod, which reached itself through a Service.
pub const CT_HAIRPIN: u16 = 64;
/// The other direction's packet made the pair of entries (for flows seen from their start: a reply).
pub const CT_SECOND: u16 = 128;
/// A pickup that is a guess at how the flow was translated: a reset in answer refutes the guess and must
/// not reach the one that only went on speaking.
pub const CT_GUESS: u16 = 256;
/// The guess was refuted: the next packet makes the next one (`CtValue::tries`).
pub const CT_RETRY: u16 = 512;

/// Seconds without a packet until an entry ends.
pub mod timeout {
    /// TCP, only a SYN seen.
    pub const SYN: u32 = 30;
    /// TCP established; above the keepalive of two hours.
    pub const ESTABLISHED: u32 = 8000;
    /// TCP after FIN or RST.
    pub const CLOSING: u32 = 10;
    /// TCP after FIN or RST if the flow owns a SNAT port.
    pub const CLOSING_SNAT: u32 = 120;
    /// UDP before and
    pub const UDP: u32 = 30;
    /// after a reply.
    pub const UDP_ASSURED: u32 = 180;
    /// ICMP and everything else.
    pub const ICMP: u32 = 10;
}

family_pod! {
    /// Key of `ct4/6_tcp` and `ct4/6_any`: 16 bytes for IPv4, 40 for IPv6.
    pub struct CtKey<A> {
        pub src: A,
        pub dst: A,
        /// ICMP echo: the identifier in both ports.
        pub src_port: Port,
        pub dst_port: Port,
        pub proto: u8,
        pub reserved: u8,
        /// Node a packet was forwarded by (source-preserving NodePort); 0 otherwise (reserved).
        pub via: u16,
    }
}

family_pod! {
    /// Key of `frag4/6`: the datagram a fragment belongs to (RFC 791, RFC 8200).
    pub struct FragKey<A> {
        pub src: A,
        pub dst: A,
        /// Identification, as it lies in the header; 16 bits for IPv4.
        pub id: u32,
        pub proto: u8,
        pub reserved: [u8; 3],
    }
}

/// Value of `frag4/6`: the ports in the first fragment. Written by the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FragValue {
    pub src: Port,
    pub dst: Port,
}

family_pod! {
    /// Value: the whole action. 48 bytes for IPv4, 72 for IPv6.
    pub struct CtValue<A> {
        /// Addresses and ports after the rewrite.
        pub src: A,
        pub dst: A,
        pub src_port: Port,
        pub dst_port: Port,
        /// Interface to leave by ([`Deliver::Pod`]: host side of the veth, [`Deliver::World`]: uplink) or
        /// index into `node` ([`Deliver::Node`]).
        pub out: u32,
        /// Where packets of this direction come from: a pod's veth, [`IIF_UPLINK`] or [`IIF_HOST`].
        pub iif: u32,
        /// Local endpoints at the two ends of *this direction*, 0 if not local.
        pub src_ep: u16,
        pub dst_ep: u16,
        /// `epoch[src_ep] + epoch[dst_ep]` when the flow was judged.
        pub epochs: u32,
        /// Backend of a service flow, in the direction of the requests; else 0.
        pub be_ix: u32,
        /// Seconds (`Cfg::tick_mult`) at which a packet was last noted; at most 1 s old.
        pub seen: u32,
        /// `live[be_ix]` when the backend was chosen.
        pub be_gen: u32,
        /// `CT_*`.
        pub flags: u16,
        /// [`Deliver`].
        pub deliver: u8,
        /// [`TcpState`]; 0 for others.
        pub state: u8,
        /// Guesses refuted so far.
        pub tries: u8,
        pub reserved: [u8; 3],
    }
}

/// What is done with a packet after its rewrite.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deliver {
    /// To a local pod: `redirect_peer` through the host side of its veth.
    Pod = 1,
    /// To another node by its row in `node`: `redirect_neigh`.
    Node = 2,
    /// To where the kernel's routes say, through an uplink: `redirect_neigh` without next hop.
    World = 3,
    /// Up (or on in) the host's stack.
    Host = 4,
    /// Through the tunnel to a node (reserved).
    Overlay = 5,
    /// Back through the node that forwarded it (reserved).
    Via = 6,
}

/// State of a TCP entry, by the packets of its own direction and RSTs of either.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// Only SYN (or SYN-ACK) seen.
    Syn = 1,
    Established = 2,
    /// FIN or RST seen.
    Closing = 3,
}

impl<A: Addr> CtKey<A> {
    /// Key of the other direction's entry.
    #[inline(always)]
    pub fn partner(&self, value: &CtValue<A>) -> Self {
        Self {
            src: value.dst,
            dst: value.src,
            src_port: value.dst_port,
            dst_port: value.src_port,
            proto: self.proto,
            reserved: 0,
            via: self.via,
        }
    }
}

/// Seconds after `seen` at which an entry of this protocol, state and flags has expired.
#[inline(always)]
pub const fn lifetime(proto: u8, state: u8, flags: u16) -> u32 {
    match proto {
        PROTO_TCP => {
            if state == TcpState::Established as u8 {
                timeout::ESTABLISHED
            } else if state == TcpState::Syn as u8 {
                timeout::SYN
            } else if flags & CT_SNAT != 0 {
                timeout::CLOSING_SNAT
            } else {
                timeout::CLOSING
            }
        }
        crate::PROTO_ICMP | crate::PROTO_ICMPV6 => timeout::ICMP,
        _ => {
            if flags & CT_ASSURED != 0 {
                timeout::UDP_ASSURED
            } else {
                timeout::UDP
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{V4, V6};

    #[test]
    fn conntrack_entries_have_their_frozen_sizes() {
        assert_eq!((size_of::<CtKey<V4>>(), size_of::<CtValue<V4>>()), (16, 48));
        assert_eq!((size_of::<CtKey<V6>>(), size_of::<CtValue<V6>>()), (40, 72));
    }
}
