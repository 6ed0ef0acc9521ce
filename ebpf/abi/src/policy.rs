//! NetworkPolicy: rows of `pol`, keyed by the pod's set, the direction and the peer's class.
//!
//! A packet is judged after DNAT, by its destination port, at the pod's side(s) that are on this node:
//! `pol[{set, direction, class of the peer}]`, on a miss `pol[{set, direction, 0}]`, on a miss: deny.
//! Rules for any peer are merged into every row of the set, so one row decides.

use bytemuck::{Pod, Zeroable};

use crate::Port;
use crate::limits::RANGES_INLINE;

/// Packets to the pod.
pub const DIR_INGRESS: u8 = 0;
/// Packets from the pod.
pub const DIR_EGRESS: u8 = 1;

/// `PolValue::flags`: every protocol and port is allowed.
pub const POL_ALL: u8 = 1;
/// More ranges are in `polx`.
pub const POL_OVERFLOW: u8 = 2;

/// `PortRange::proto`: matches every protocol.
pub const PROTO_ANY: u8 = 0;

/// Key of `pol`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct PolKey {
    pub set_id: u32,
    pub class: u32,
    /// `DIR_*`.
    pub direction: u32,
}

/// One allowed range of destination ports, host byte order, inclusive.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct PortRange {
    /// `PROTO_*`, or [`PROTO_ANY`].
    pub proto: u8,
    pub reserved: u8,
    pub lo: u16,
    pub hi: u16,
}

/// Value of `pol`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct PolValue {
    /// Number of `ranges` in use.
    pub n: u8,
    /// `POL_*`.
    pub flags: u8,
    pub reserved: [u8; 4],
    pub ranges: [PortRange; RANGES_INLINE],
}

impl PolValue {
    /// Allows everything.
    pub const ALL: Self = Self {
        n: 0,
        flags: POL_ALL,
        reserved: [0; 4],
        ranges: [PortRange {
            proto: 0,
            reserved: 0,
            lo: 0,
            hi: 0,
        }; RANGES_INLINE],
    };
}

/// Key of `polx` (longest prefix match): a range is cut into port prefixes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct PolxKey {
    /// [`PolxKey::FIXED_BITS`] + the significant bits of `port`.
    pub prefix_len: u32,
    pub set_id: u32,
    pub class: u32,
    /// `DIR_*`.
    pub direction: u8,
    /// `PROTO_*`; a range for any protocol is written once per protocol.
    pub proto: u8,
    pub port: Port,
}

impl PolxKey {
    /// Bits before `port`, all of which must match.
    pub const FIXED_BITS: u32 = 80;
}
