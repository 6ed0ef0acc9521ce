//! The kernel↔user contract: names, shapes, sizes and versions of every BPF map, and the constants
//! both sides share. `no_std`, depends on nothing of ours; `programs` reads what `agent` writes.
//!
//! Conventions
//! - Addresses are [`V4`]/[`V6`]: words whose *memory* is network byte order. Ports in keys, values and
//!   ct entries are **network byte order** (`be16`, use [`Port`]); ranges (`lo`, `hi`) in [`policy`],
//!   and in [`Cfg`] are host order. Protocol numbers are IANA's (`PROTO_*`).
//! - Everything is `#[repr(C)]` without padding (proved at compile time) and `bytemuck::Pod`.
//!   Reserved bytes are written as 0 and ignored on read.
//! - `X<V4>` lives in the map `x4`, `X<V6>` in `x6` (one generic, two maps).
//! - Index 0 is "none" everywhere: endpoint, backend, node, service, list and set ids start at 1.
//!
//! # What user space writes, and in which order
//!
//! **Old or new, never neither**: each step leaves every reader a correct view; what is no longer
//! referred to is deleted ≥ 1 s later.
//!
//! *Local pod* ([`endpoint`]): pick a free `ep_ix` (1..[`limits::ENDPOINTS`], the lowest quarantined ≥ 1 s).
//! 1. `ep_mac[ep_ix]` := the pod's MAC; `epoch[ep_ix]` += 1 (the address has a new owner).
//! 2. `ep[ep_ix]` := [`Endpoint`] with both isolation bits and without [`EP_READY`].
//! 3. `ip4/ip6[address]` := [`LocalAddr::pod`]`(ep_ix)`.
//! 4. policy rows of its set, then `ep[ep_ix]` := final `set_id`, isolation, `EP_READY` (one write flips
//!    both families and both directions). Only now may its containers start.
//!
//! Removal: `ip4/ip6` first, then `ep`, then `ep_mac`; bump `epoch[ep_ix]`.
//! A policy change that may narrow a verdict: write the rows, flip `ep`, then bump `epoch[ep_ix]`.
//!
//! *The node itself*: `ip4/ip6[each own address, the cluster DNS addresses, loopback is implied]` :=
//! [`LocalAddr::HOST`]. Packets from pods to these go up the stack, untracked, always allowed.
//!
//! *Service* ([`service`]): one `svc_id` per service port, one list id per backend list.
//! Backends first, then `svc`, then `fe`. Lists are dense, changed by **swap-remove**:
//! - add: write `be[{list, n}]`, then `svc` with n+1;
//! - remove slot i: `be[{list, i}]` := last, `svc` with n−1, delete the old last ≥ 1 s later;
//! - replace: write slot i;
//! - change of category (ready → terminating, other topology): build a new list under a new list id,
//!   swing `svc`, delete the old list ≥ 1 s later.
//!
//! `live[be_ix]` is the backend's incarnation (≥ 1 while it serves); bump it when it stops serving.
//! `fe` entries of a ClusterIP: `{vip, port, proto, SCOPE_INTERNAL}`; of a load-balancer or external IP:
//! both scopes; of a NodePort: address 0, both scopes. Plus one *marker* `{vip, 0, 0, scope}` with
//! [`FE_MARKER`] per VIP and scope: an unknown port of a live VIP is rejected instead of dropped.
//! Removal: `fe`, then `svc`, then the backends ≥ 1 s later.
//!
//! *Another node* ([`node`]): `node[ix]` := next hop and device; `net` rows for its pod ranges
//! ([`NetKind::Pods`]) and addresses ([`NetKind::Node`]). *This* node too (its `ix` is `Cfg::node_ix`).
//! `net` is longest prefix match and returns one row only: an ipBlock inside a pod range repeats that
//! range's `kind` and `node`. Addresses without a row are the outside world.
//!
//! *Policy* ([`policy`]): rows of refined classes for all live sets → `peer` → new sets → flip `ep`;
//! removal in reverse. A pod's class includes the ipBlocks its address is in. An address' class is
//! `peer[address]`, else the class of its `net` row, else 0.
//!
//! *Configuration*: `cfg[0]` := [`Cfg`], complete, before the first program is attached.
#![no_std]

mod addr;
pub mod conntrack;
pub mod endpoint;
pub mod event;
pub mod limits;
pub mod map;
pub mod node;
mod pod;
pub mod policy;
pub mod service;
pub mod socket;

pub use addr::{
    Addr, FAMILY_V4, FAMILY_V6, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, Port,
    V4, V6,
};
pub use event::{Event, Hook, Outcome};
pub use socket::{SockKey, SockValue};

pub use conntrack::*;
pub use endpoint::*;
pub use node::*;
pub use policy::*;
pub use service::*;
