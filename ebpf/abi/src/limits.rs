//! Default sizes of the maps (entries) and other bounds, together about 35 MB of kernel memory. The loader
//! scales the hashes up on machines with more memory; arrays have exactly these sizes because indices
//! are drawn from them.

/// Local endpoints, `ep_ix` in 1..ENDPOINTS (`ep`, `ep_mac`, `epoch`).
pub const ENDPOINTS: u32 = 4096;
/// Addresses in each of `ip4`, `ip6`.
pub const LOCAL_ADDRS: u32 = 8192;
/// Service ports (`svc`).
pub const SERVICES: u32 = 32_768;
/// Frontends in each of `fe4`, `fe6`.
pub const FRONTENDS: u32 = 65_536;
/// Backend slots in each of `be4`, `be6`.
pub const BACKENDS: u32 = 131_072;
/// Backend identities, `be_ix` in 1..INCARNATIONS (`live`, 4 bytes each).
pub const INCARNATIONS: u32 = 131_072;
/// Backends of one list.
pub const LIST: u32 = 16_384;
/// Nodes, `node` in 1..NODES.
pub const NODES: u32 = 8192;
/// Rows in each of `net4`, `net6`.
pub const NETS: u32 = 16_384;
/// Pods with a class in each of `peer4`, `peer6`.
pub const PEERS: u32 = 65_536;
/// Policy rows.
pub const POLICY_ROWS: u32 = 65_536;
/// Rows of the overflow of policy rows.
pub const POLICY_OVERFLOW: u32 = 16_384;
/// Port ranges inline in one policy row; more go to the overflow.
pub const RANGES_INLINE: usize = 7;
/// Conntrack entries (two per flow) in `ct4_tcp`; 64 bytes each.
pub const CT4_TCP: u32 = 65_536;
/// As above for UDP, ICMP and SCTP.
pub const CT4_ANY: u32 = 32_768;
/// IPv6: 112 bytes each.
pub const CT6_TCP: u32 = 32_768;
/// As above for UDP, ICMP and SCTP.
pub const CT6_ANY: u32 = 16_384;
/// Original destinations of translated host sockets in each of `sock4`, `sock6`.
pub const SOCKETS: u32 = 8192;
/// Clients of Services with session affinity in each of `aff4`, `aff6`.
pub const AFFINITY: u32 = 16_384;
/// Datagrams in fragments whose ports are remembered, in each of `frag4`, `frag6`.
pub const FRAGMENTS: u32 = 4096;
/// Bytes of the event ring buffer (power of two, multiple of the page size).
pub const EVENT_BYTES: u32 = 1 << 20;
/// Ports tried for one SNAT before the flow is dropped with `Outcome::SnatExhausted`.
pub const SNAT_PROBES: u32 = 32;
/// Backends whose frontends are remembered, in each of `rev4`, `rev6`.
pub const REVERSED: u32 = 8192;
