//! What a node knows of the network: `cfg`, `node` (next hops) and `net` (ranges).

use bytemuck::{Pod, Zeroable};

use crate::pod::family_pod;
use crate::{V4, V6};

/// `Cfg::flags`: a reader is attached to `events`; report new flows.
pub const CFG_EVENTS_FLOWS: u32 = 1;
/// A reader is attached to `events`; report drops.
pub const CFG_EVENTS_DROPS: u32 = 2;
/// Frontends with a host-network backend on this node exist: `uplink_out` looks replies up.
pub const CFG_UPLINK_OUT: u32 = 4;
/// hostPorts exist: frontends with address 0 may lie outside of the NodePort range.
pub const CFG_HOST_PORTS: u32 = 8;
/// Pod traffic between nodes is tunnelled (reserved).
pub const CFG_OVERLAY: u32 = 16;

/// Mark on packets the programs redirected: `uplink_out` returns at once.
pub const MARK_REDIRECTED: u32 = 0x574c_0001;

/// Value of `cfg[0]`. Every field is one word, read on its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Cfg {
    /// Secret of the cluster: hash choices agree on all nodes and cannot be predicted.
    pub secret: u64,
    /// Cookie of the node's network namespace (`SO_NETNS_COOKIE`): sockets in it are the host's.
    pub netns_cookie: u64,
    /// `CFG_*`.
    pub flags: u32,
    /// seconds = jiffies · tick_mult >> 32, that is 2³² / CONFIG_HZ. Filled in by the loader.
    pub tick_mult: u32,
    /// Address SNAT uses and NodePorts are reached at; 0 if the node has none.
    pub node_ip4: V4,
    /// As above.
    pub node_ip6: V6,
    /// Interface towards the world (default route).
    pub uplink: u32,
    /// Index of this node in `node`.
    pub node_ix: u32,
    /// Ports SNAT claims, host order, inclusive; in `ip_local_reserved_ports`.
    pub snat_lo: u16,
    pub snat_hi: u16,
    /// NodePort range, host order, inclusive.
    pub node_port_lo: u16,
    pub node_port_hi: u16,
    pub reserved: [u32; 9],
}

/// Default of `Cfg::snat_lo`.
pub const SNAT_LO: u16 = 49_152;
/// Default of `Cfg::snat_hi`.
pub const SNAT_HI: u16 = 65_535;

/// Value of `node[ix]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Node {
    /// Interface packets to it leave by; 0: the row is empty.
    pub ifindex: u32,
    /// Reserved.
    pub flags: u32,
    /// Next hop on that interface: the node's own address if on-link, else the router. 0: none.
    pub next_hop4: V4,
    /// The node's primary address.
    pub addr4: V4,
    /// As above.
    pub next_hop6: V6,
    pub addr6: V6,
    pub reserved: [u32; 4],
}

/// What lies in a range of addresses.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NetKind {
    /// The outside: pods reach it by SNAT. Also the answer for an address without a row.
    World = 0,
    /// Pod range of `NetValue::node`. An address of this node's own range that is no endpoint is dropped.
    Pods = 1,
    /// Address of `NetValue::node`. Reached with the pod's own source.
    Node = 2,
    /// Service range: an address in it without a frontend is dropped.
    Services = 3,
    /// Reached by the kernel's routes with the pod's own source (no SNAT).
    Native = 4,
}

family_pod! {
    /// Key of `net4/6` (longest prefix match).
    pub struct NetKey<A> {
        /// Bits of `addr` that count.
        pub prefix_len: u32,
        pub addr: A,
    }
}

/// Value of `net4/6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct NetValue {
    /// Policy class of the addresses in it; 0: none.
    pub class: u32,
    /// Index into `node` for [`NetKind::Pods`] and [`NetKind::Node`].
    pub node: u16,
    /// [`NetKind`].
    pub kind: u8,
    pub reserved: u8,
}
