//! Names and versions of the maps. A map is pinned as `NAME_vVERSION` below the agent's bpffs directory.
//! Raise a version whenever the shape or the meaning of its key or value changes; maps whose version and
//! `MapInfo` are unchanged are taken over by a new agent, others are built anew beside the old.

use crate::event::{COUNTERS, Count, TAILS};
use crate::{V4, V6, limits};

/// `bpf_map_type` of a map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hash = 1,
    Array = 2,
    ProgArray = 3,
    PerCpuArray = 6,
    LruHash = 9,
    LpmTrie = 11,
    RingBuf = 27,
}

/// What happens to a map's contents when a new agent or a new version starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Computed from the API; taken over if the version matches, rebuilt otherwise.
    Derived,
    /// Holds flows; frozen layout with reserved bytes, changed only on purpose.
    State,
    /// Belongs to one load of the programs.
    Load,
}

/// One map of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapDef {
    /// Name in the object and, with the version, in bpffs.
    pub name: &'static str,
    /// Version of shape and meaning.
    pub version: u16,
    /// What happens to its contents.
    pub keep: Keep,
    /// Its type.
    pub kind: Kind,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Default of `max_entries`.
    pub entries: u32,
}

macro_rules! maps {
    ($($(#[$meta:meta])* $ident:ident = $name:literal, $version:literal, $keep:ident,
       $kind:ident[$entries:expr], $key:ty => $value:ty;)*) => {
        $($(#[$meta])* pub const $ident: &str = $name;)*
        /// All maps.
        pub const ALL: &[MapDef] = &[
            $(MapDef {
                name: $name,
                version: $version,
                keep: Keep::$keep,
                kind: Kind::$kind,
                key: size_of::<$key>(),
                value: size_of::<$value>(),
                entries: $entries,
            },)*
        ];
    };
}

maps! {
    /// [`crate::Cfg`], index 0.
    CFG = "cfg", 1, Derived, Array[1], u32 => crate::Cfg;
    /// Counters, index [`crate::event::counter`].
    METRICS = "metrics", 1, Derived, PerCpuArray[COUNTERS], u32 => Count;
    /// [`crate::Event`]s.
    EVENTS = "events", 1, Derived, RingBuf[limits::EVENT_BYTES], () => ();
    /// Tail calls, index [`crate::event::Tail`].
    TAIL = "tail", 1, Load, ProgArray[TAILS], u32 => u32;
    /// Local addresses.
    IP4 = "ip4", 1, Derived, Hash[limits::LOCAL_ADDRS], V4 => crate::LocalAddr;
    /// See [`IP4`].
    IP6 = "ip6", 1, Derived, Hash[limits::LOCAL_ADDRS], V6 => crate::LocalAddr;
    /// Local endpoints by `ep_ix`.
    EP = "ep", 1, Derived, Hash[limits::ENDPOINTS], u32 => crate::Endpoint;
    /// MACs by `ep_ix`.
    EP_MAC = "ep_mac", 1, Derived, Array[limits::ENDPOINTS], u32 => crate::Mac;
    /// Policy epoch by `ep_ix`. Only ever incremented, also across agents.
    EPOCH = "epoch", 1, State, Array[limits::ENDPOINTS], u32 => u32;
    /// Frontends.
    FE4 = "fe4", 1, Derived, Hash[limits::FRONTENDS], crate::FeKey<V4> => crate::FeValue;
    /// See [`FE4`].
    FE6 = "fe6", 1, Derived, Hash[limits::FRONTENDS], crate::FeKey<V6> => crate::FeValue;
    /// Service ports by `svc_id`.
    SVC = "svc", 1, Derived, Hash[limits::SERVICES], u32 => crate::Service;
    /// Backend slots.
    BE4 = "be4", 1, Derived, Hash[limits::BACKENDS], crate::BeKey => crate::BeValue<V4>;
    /// See [`BE4`].
    BE6 = "be6", 1, Derived, Hash[limits::BACKENDS], crate::BeKey => crate::BeValue<V6>;
    /// Where in a list a backend is; only of Services with affinity.
    SLOT = "slot", 1, Derived, Hash[limits::BACKENDS], crate::SlotKey => u32;
    /// The backend a client had last.
    AFF4 = "aff4", 1, State, LruHash[limits::AFFINITY], crate::AffKey<V4> => crate::AffValue;
    /// See [`AFF4`].
    AFF6 = "aff6", 1, State, LruHash[limits::AFFINITY], crate::AffKey<V6> => crate::AffValue;
    /// Incarnation by `be_ix`, only ever incremented.
    LIVE = "live", 1, State, Array[limits::INCARNATIONS], u32 => u32;
    /// Ranges.
    NET4 = "net4", 1, Derived, LpmTrie[limits::NETS], crate::NetKey<V4> => crate::NetValue;
    /// See [`NET4`].
    NET6 = "net6", 1, Derived, LpmTrie[limits::NETS], crate::NetKey<V6> => crate::NetValue;
    /// Class of an address.
    PEER4 = "peer4", 1, Derived, Hash[limits::PEERS], V4 => u32;
    /// See [`PEER4`].
    PEER6 = "peer6", 1, Derived, Hash[limits::PEERS], V6 => u32;
    /// Policy rows.
    POL = "pol", 1, Derived, Hash[limits::POLICY_ROWS], crate::PolKey => crate::PolValue;
    /// Port prefixes that did not fit a row.
    POLX = "polx", 1, Derived, LpmTrie[limits::POLICY_OVERFLOW], crate::PolxKey => u32;
    /// Nodes by index.
    NODE = "node", 1, Derived, Array[limits::NODES], u32 => crate::Node;
    /// Flows, TCP.
    CT4_TCP = "ct4_tcp", 1, State, LruHash[limits::CT4_TCP], crate::CtKey<V4> => crate::CtValue<V4>;
    /// Flows, everything but TCP.
    CT4_ANY = "ct4_any", 1, State, LruHash[limits::CT4_ANY], crate::CtKey<V4> => crate::CtValue<V4>;
    /// See [`CT4_TCP`].
    CT6_TCP = "ct6_tcp", 1, State, LruHash[limits::CT6_TCP], crate::CtKey<V6> => crate::CtValue<V6>;
    /// See [`CT4_ANY`].
    CT6_ANY = "ct6_any", 1, State, LruHash[limits::CT6_ANY], crate::CtKey<V6> => crate::CtValue<V6>;
    /// Frontends of backends in use.
    REV4 = "rev4", 1, State, LruHash[limits::REVERSED], crate::FeKey<V4> => crate::RevValue<V4>;
    /// See [`REV4`].
    REV6 = "rev6", 1, State, LruHash[limits::REVERSED], crate::FeKey<V6> => crate::RevValue<V6>;
    /// Ports of datagrams whose first fragment was seen.
    FRAG4 = "frag4", 1, State, LruHash[limits::FRAGMENTS], crate::FragKey<V4> => crate::FragValue;
    /// See [`FRAG4`].
    FRAG6 = "frag6", 1, State, LruHash[limits::FRAGMENTS], crate::FragKey<V6> => crate::FragValue;
    /// Translated host sockets.
    SOCK4 = "sock4", 1, State, LruHash[limits::SOCKETS], crate::SockKey<V4> => crate::SockValue<V4>;
    /// See [`SOCK4`].
    SOCK6 = "sock6", 1, State, LruHash[limits::SOCKETS], crate::SockKey<V6> => crate::SockValue<V6>;
}
