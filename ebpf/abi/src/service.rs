//! Services: `fe` (address and port) → `svc` (a service port) → `be` (slot of a backend list).
//! A backend is chosen by a hash of the 5-tuple with the cluster's secret: slot = hash · n >> 32. With
//! session affinity the client's last backend comes first: `aff` (client → backend), `slot` (where that
//! backend is in the list now, if it still is).

use bytemuck::{Pod, Zeroable};

use crate::Port;
use crate::pod::family_pod;

/// The frontend is meant for pods and the node itself.
pub const SCOPE_INTERNAL: u8 = 0;
/// The frontend is meant for packets that come in on an uplink.
pub const SCOPE_EXTERNAL: u8 = 1;

/// `FeValue::flags`: marks a VIP as living, without a service port (`port` and `proto` are 0).
pub const FE_MARKER: u16 = 1;
/// The frontend is served by a local socket: leave its packets to the stack, untracked.
pub const FE_SOCKET: u16 = 2;
/// Use `Service::local` for this frontend (internal/externalTrafficPolicy Local); empty → drop.
pub const FE_LOCAL: u16 = 4;
/// A NodePort, or a load-balancer/external address.
pub const FE_NODE_PORT: u16 = 8;

/// `Service::flags`: a client stays with its backend.
pub const SVC_AFFINITY: u16 = 1;
/// loadBalancerSourceRanges apply (reserved).
pub const SVC_SRC_RANGES: u16 = 2;

/// `BeValue::flags`: the address is a node's own (hostNetwork): policy does not apply to it, and NodePort
/// traffic to it is always SNATed if remote.
pub const BE_HOST: u16 = 1;

family_pod! {
    /// Key of `fe4/6`.
    pub struct FeKey<A> {
        /// VIP; unspecified for NodePorts.
        pub addr: A,
        /// Port, 0 in a marker.
        pub port: Port,
        /// `PROTO_*`, 0 in a marker.
        pub proto: u8,
        /// `SCOPE_*`.
        pub scope: u8,
    }
}

/// Value of `fe4/6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FeValue {
    /// Service port; 0 in a marker.
    pub svc_id: u32,
    /// `FE_*`.
    pub flags: u16,
    pub reserved: u16,
}

/// A dense backend list: slots 0..n of `list`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct List {
    /// Id, from 1.
    pub list: u32,
    /// Number of backends.
    pub n: u32,
}

/// Value of `svc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Service {
    /// Cluster-wide list: ready ∧ topology, else all serving ∧ terminating.
    pub cluster: List,
    /// List of this node: local ready, else local serving ∧ terminating.
    pub local: List,
    /// Seconds of session affinity after a client's last new flow; 0 if none.
    pub affinity: u32,
    /// 0: hash (others reserved).
    pub algorithm: u16,
    /// `SVC_*`.
    pub flags: u16,
    pub reserved: [u32; 2],
}

/// Key of `be4/6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct BeKey {
    pub list: u32,
    pub slot: u32,
}

/// Key of `slot`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct SlotKey {
    pub list: u32,
    pub be_ix: u32,
}

family_pod! {
    /// Key of `aff4/6`.
    pub struct AffKey<A> {
        /// The client's address; unspecified for sockets of the node itself.
        pub client: A,
        /// Service port.
        pub svc_id: u32,
    }
}

/// Value of `aff4/6`. Written by the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct AffValue {
    /// The backend, and its incarnation when it was chosen.
    pub be_ix: u32,
    pub be_gen: u32,
    /// Seconds since boot at the client's last new flow.
    pub seen: u32,
    pub reserved: u32,
}

family_pod! {
    /// Value of `be4/6`.
    pub struct BeValue<A> {
        pub addr: A,
        pub port: Port,
        /// Node the backend is on; 0 if unknown (an address outside of the cluster).
        pub node: u16,
        /// Identity of (service port, address, port), index into `live`.
        pub be_ix: u32,
        /// Echo of the key's list: a reader that raced with reuse of a list id sees the difference.
        pub list: u32,
        /// `BE_*`.
        pub flags: u16,
        pub reserved: u16,
    }
}

family_pod! {
    /// Value of `rev4/6`: the frontends by which a backend (the key, an [`FeKey`] with the backend's
    /// address and port) was last reached from here, the last one first. Written by the programs, to
    /// translate a server's next packet when the conntrack entry is lost; port 0: none.
    pub struct RevValue<A> {
        pub last: A,
        pub before: A,
        pub last_port: Port,
        pub before_port: Port,
    }
}
