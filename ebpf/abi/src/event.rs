//! Outcomes: every packet leaves a program by exactly one of them, counted in `metrics`, and, while a
//! reader is attached, told in `events`.

use bytemuck::{Pod, Zeroable};

use crate::V6;

/// The program a packet was decided by.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// veth of a pod, packets from the pod.
    PodOut = 0,
    /// veth of a pod, packets from the host's stack to the pod.
    PodIn = 1,
    UplinkIn = 2,
    UplinkOut = 3,
    /// Tunnel device (reserved).
    Overlay = 4,
    /// Socket programs.
    Socket = 5,
}

/// Number of [`Hook`]s.
pub const HOOKS: u32 = 6;
/// Room for outcomes of one hook in `metrics`.
pub const OUTCOMES: u32 = 64;
/// Entries of `metrics`.
pub const COUNTERS: u32 = HOOKS * OUTCOMES;

macro_rules! outcomes {
    ($($(#[$meta:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// How a program left a packet. Values from 16 are drops; the names are the metric labels.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Outcome {
            $($(#[$meta])* $name = $value,)*
        }

        impl Outcome {
            /// All outcomes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Label in metrics and flows.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// From [`Event::outcome`] or a counter's index.
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

outcomes! {
    /// Delivered by an existing conntrack entry.
    Forwarded = 1, "forwarded";
    /// Delivered, and a flow was begun.
    NewFlow = 2, "new_flow";
    /// Left to the host's stack on purpose, untracked.
    ToHost = 3, "to_host";
    /// ARP, neighbour discovery.
    Neighbour = 4, "neighbour";
    /// Not for us (uplink): left to the host's stack.
    NotOurs = 5, "not_ours";
    /// A packet we sent ourselves, seen again.
    Redirected = 6, "redirected";
    /// A socket's destination was translated.
    Translated = 7, "translated";
    /// A related ICMP error was passed.
    Related = 8, "related";
    /// A mid-flow packet was picked up as a new flow.
    PickedUp = 9, "picked_up";
    /// Delivered without entries because the conntrack map is full.
    Untracked = 10, "untracked";

    /// Too short or inconsistent headers.
    Malformed = 16, "malformed";
    /// Neither IPv4, IPv6 nor neighbour discovery.
    NotIp = 17, "not_ip";
    /// A fragment whose datagram's first one, with the ports, was not seen before it.
    Fragment = 18, "fragment";
    /// A protocol that is not TCP, UDP, SCTP or ICMP.
    Protocol = 19, "protocol_not_supported";
    /// Broadcast and multicast from pods.
    Multicast = 20, "multicast";
    /// The source address does not belong to the interface.
    Spoofed = 21, "spoofed_source";
    /// The endpoint's policies are not loaded yet.
    NotReady = 22, "endpoint_not_ready";
    /// No egress rule allows it.
    PolicyEgress = 23, "policy_denied_egress";
    /// No ingress rule allows it.
    PolicyIngress = 24, "policy_denied_ingress";
    /// The service has no endpoint: rejected.
    NoEndpoints = 25, "service_without_endpoints";
    /// The service has no endpoint on this node and its traffic policy is Local: dropped.
    NoLocalEndpoints = 26, "service_without_local_endpoints";
    /// The VIP lives, but not this port: rejected.
    NoSuchPort = 27, "service_without_port";
    /// Address of the service range that is not allocated.
    NoSuchService = 28, "no_such_service";
    /// Address of this node's pod range that is no endpoint.
    NoSuchPod = 29, "no_such_pod";
    /// A slot of a backend list was missing twice.
    MissingSlot = 30, "backend_slot_missing";
    /// No free port within the bound.
    SnatExhausted = 31, "snat_ports_exhausted";
    /// The conntrack map refused an entry.
    ConntrackFull = 32, "conntrack_full";
    /// No next hop for the node.
    NoRoute = 33, "no_route_to_node";
    /// TTL or hop limit used up.
    TtlExceeded = 34, "ttl_exceeded";
    /// The host's stack forwarded a packet to a pod.
    ForwardedByHost = 35, "forwarded_by_host";
    /// A helper failed to change the packet.
    Rewrite = 36, "rewrite_failed";
    /// A map or tail call that must exist does not.
    Internal = 37, "internal";
    /// A router advertisement or other neighbour message a pod must not send.
    NeighbourForged = 38, "neighbour_forged";
    /// An ICMP error about a translated flow (a later version translates it).
    RelatedNat = 39, "icmp_error_not_translated";
    /// A reply towards a protocol that cannot be SNATed (SCTP).
    SnatProtocol = 40, "snat_protocol_not_supported";
    /// A mid-flow packet to a SNAT port without a conntrack entry and without a socket.
    NoFlow = 41, "no_such_flow";
    /// A reset that only says that a lost flow was resumed by a wrong guess.
    ResetGuarded = 42, "reset_guarded";
    /// A pod's packet of a family the cluster does not have.
    OtherFamily = 43, "family_not_in_cluster";
}

/// First outcome that is a drop.
pub const FIRST_DROP: u8 = 16;

impl Outcome {
    pub const fn is_drop(self) -> bool {
        self as u8 >= FIRST_DROP
    }
}

/// Index of `metrics`.
#[inline(always)]
pub const fn counter(hook: Hook, outcome: Outcome) -> u32 {
    hook as u32 * OUTCOMES + outcome as u32
}

/// Value of `metrics`, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// Programs reached by tail call, index of `tail`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tail {
    PodOutNew4 = 0,
    PodOut6 = 1,
    PodOutNew6 = 2,
    PodInNew4 = 3,
    PodIn6 = 4,
    PodInNew6 = 5,
    UplinkInNew4 = 6,
    UplinkIn6 = 7,
    UplinkInNew6 = 8,
    UplinkOutNew4 = 9,
    UplinkOut6 = 10,
    UplinkOutNew6 = 11,
    Reject4 = 12,
    Reject6 = 13,
    Probe4 = 14,
    Probe6 = 15,
    Begin4 = 16,
    Begin6 = 17,
    Judge4 = 18,
    Judge6 = 19,
    Resume4 = 20,
    Resume6 = 21,
    Part4 = 22,
    Part6 = 23,
}

impl Tail {
    /// Every slot with the name of the program that belongs there.
    pub const PROGRAMS: &'static [(Self, &'static str)] = &[
        (Self::PodOutNew4, "pod_out_new_4"),
        (Self::PodOut6, "pod_out_6"),
        (Self::PodOutNew6, "pod_out_new_6"),
        (Self::PodInNew4, "pod_in_new_4"),
        (Self::PodIn6, "pod_in_6"),
        (Self::PodInNew6, "pod_in_new_6"),
        (Self::UplinkInNew4, "uplink_in_new_4"),
        (Self::UplinkIn6, "uplink_in_6"),
        (Self::UplinkInNew6, "uplink_in_new_6"),
        (Self::UplinkOutNew4, "uplink_out_new_4"),
        (Self::UplinkOut6, "uplink_out_6"),
        (Self::UplinkOutNew6, "uplink_out_new_6"),
        (Self::Reject4, "reject_4"),
        (Self::Reject6, "reject_6"),
        (Self::Probe4, "probe_4"),
        (Self::Probe6, "probe_6"),
        (Self::Begin4, "begin_4"),
        (Self::Begin6, "begin_6"),
        (Self::Judge4, "judge_4"),
        (Self::Judge6, "judge_6"),
        (Self::Resume4, "resume_4"),
        (Self::Resume6, "resume_6"),
        (Self::Part4, "part_4"),
        (Self::Part6, "part_6"),
    ];

    /// The program is of IPv6 alone: not loaded where the cluster has none.
    pub const fn is_ipv6(self) -> bool {
        use Tail::*;
        matches!(
            self,
            PodOut6
                | PodOutNew6
                | PodIn6
                | PodInNew6
                | UplinkIn6
                | UplinkInNew6
                | UplinkOut6
                | UplinkOutNew6
                | Reject6
                | Probe6
                | Begin6
                | Judge6
                | Resume6
                | Part6
        )
    }
}

/// Slots of `tail`.
pub const TAILS: u32 = 32;

/// One record of `events`: a new flow or a drop. Addresses of IPv4 are v4-mapped.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Event {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    /// The packet as it arrived.
    pub src: V6,
    pub dst: V6,
    /// Destination after DNAT; equal to `dst` if none.
    pub nat_dst: V6,
    /// Ports in network byte order.
    pub src_port: crate::Port,
    pub dst_port: crate::Port,
    pub nat_dst_port: crate::Port,
    /// IP protocol.
    pub proto: u8,
    /// `FAMILY_*`.
    pub family: u8,
    /// [`Hook`].
    pub hook: u8,
    /// [`Outcome`].
    pub outcome: u8,
    /// Local endpoints, 0 if not local or not known.
    pub src_ep: u16,
    pub dst_ep: u16,
    /// TCP flags byte; ICMP type.
    pub l4_flags: u8,
    pub reserved: u8,
    /// Interface the program ran on.
    pub ifindex: u32,
    /// Length of the packet in bytes.
    pub len: u32,
}

impl Hook {
    /// From [`Event::hook`].
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::PodOut,
            1 => Self::PodIn,
            2 => Self::UplinkIn,
            3 => Self::UplinkOut,
            4 => Self::Overlay,
            5 => Self::Socket,
            _ => return None,
        })
    }

    /// Label in metrics and flows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodOut => "pod_out",
            Self::PodIn => "pod_in",
            Self::UplinkIn => "uplink_in",
            Self::UplinkOut => "uplink_out",
            Self::Overlay => "overlay",
            Self::Socket => "socket",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_fit_their_room_and_round_trip() {
        for outcome in Outcome::ALL {
            assert!((*outcome as u32) < OUTCOMES);
            assert_eq!(Outcome::from_u8(*outcome as u8), Some(*outcome));
        }
    }
}
