//! Local endpoints: `ip4/6` → `ep`, with one-word companions `ep_mac` and `epoch`.

use bytemuck::{Pod, Zeroable};

/// Policy, MAC and rows are complete: packets may pass. Without it everything is dropped
/// (`Outcome::NotReady`), except from and to the node itself.
pub const EP_READY: u8 = 1;
/// Isolated for ingress: only what a policy row allows comes in.
pub const ISOLATED_INGRESS: u8 = 1;
/// Isolated for egress.
pub const ISOLATED_EGRESS: u8 = 2;

/// Value of `ip4/6`: what a local address is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct LocalAddr {
    /// Endpoint of a pod; 0 for the host's own addresses.
    pub ep_ix: u32,
}

impl LocalAddr {
    /// An address of the node itself, or one it serves by a socket (cluster DNS).
    pub const HOST: Self = Self { ep_ix: 0 };

    /// An address of a local pod.
    pub const fn pod(ep_ix: u32) -> Self {
        Self { ep_ix }
    }
}

/// Value of `ep`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Endpoint {
    /// Index of the host side of the pod's veth; packets from the pod must come in here.
    pub ifindex: u32,
    /// Policy set (pods under the same policies share one); 0 if under none.
    pub set_id: u32,
    /// `ISOLATED_*`.
    pub isolation: u8,
    /// `EP_READY`.
    pub flags: u8,
    pub reserved: [u8; 6],
}

impl Endpoint {
    /// An endpoint that passes nothing until its policies are loaded.
    pub const fn closed(ifindex: u32) -> Self {
        Self {
            ifindex,
            set_id: 0,
            isolation: ISOLATED_INGRESS | ISOLATED_EGRESS,
            flags: 0,
            reserved: [0; 6],
        }
    }
}

/// Value of `ep_mac`: the MAC of the pod's side of the veth, as one word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Mac {
    pub mac: [u8; 6],
    pub reserved: [u8; 2],
}

impl Mac {
    pub const fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            reserved: [0; 2],
        }
    }
}

/// MAC of the host side of every pod's veth (locally administered).
pub const HOST_MAC: [u8; 6] = [0x0a, 0x57, 0x4c, 0, 0, 1];
/// First three bytes of a pod's MAC; the rest is the agent's choice (unique within the cluster is nice).
pub const POD_MAC_PREFIX: [u8; 3] = [0x0a, 0x57, 0x4d];
/// Gateway of the pods' default route, a permanent neighbour with [`HOST_MAC`].
pub const GATEWAY4: [u8; 4] = [169, 254, 1, 1];
/// fe80::1, a permanent neighbour with [`HOST_MAC`].
pub const GATEWAY6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// Source a pod sees when it reaches itself through a Service (hairpin): 169.254.1.2.
pub const HAIRPIN4: [u8; 4] = [169, 254, 1, 2];
/// fd57:4c57::2, see [`HAIRPIN4`].
pub const HAIRPIN6: [u8; 16] = [0xfd, 0x57, 0x4c, 0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
