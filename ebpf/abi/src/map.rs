//! Names and versions of the maps. A map is pinned as `NAME.vVERSION` below the agent's bpffs directory.
//! Raise a version whenever the shape or the meaning of its key or value changes; maps whose version and
//! `MapInfo` are unchanged are taken over by a new agent, others are built anew beside the old.

/// What happens to a map's contents when a new agent or a new version starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Computed from the API; taken over if the version matches, rebuilt otherwise.
    Derived,
    /// Holds flows; frozen layout with reserved bytes, changed only on purpose.
    State,
    /// Belongs to one load of the programs (tail calls, scratch).
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
}

macro_rules! maps {
    ($($(#[$meta:meta])* $ident:ident = $name:literal, $version:literal, $keep:ident;)*) => {
        $($(#[$meta])* pub const $ident: &str = $name;)*
        /// All maps.
        pub const ALL: &[MapDef] = &[
            $(MapDef { name: $name, version: $version, keep: Keep::$keep },)*
        ];
    };
}

maps! {
    /// array[1] of [`crate::Cfg`].
    CFG = "cfg", 1, Derived;
    /// per-CPU array[[`crate::event::COUNTERS`]] of [`crate::event::Count`], index [`crate::event::counter`].
    METRICS = "metrics", 1, Derived;
    /// ring buffer of [`crate::Event`].
    EVENTS = "events", 1, Load;
    /// program array, index [`crate::event::Tail`].
    TAIL = "tail", 1, Load;
    /// hash: address → [`crate::LocalAddr`].
    IP4 = "ip4", 1, Derived;
    /// See [`IP4`].
    IP6 = "ip6", 1, Derived;
    /// hash: `ep_ix` (u32) → [`crate::Endpoint`].
    EP = "ep", 1, Derived;
    /// array: `ep_ix` → [`crate::Mac`].
    EP_MAC = "ep_mac", 1, Derived;
    /// array: `ep_ix` → policy epoch (u32). Only ever incremented, also across agents.
    EPOCH = "epoch", 1, State;
    /// hash: [`crate::FeKey`] → [`crate::FeValue`].
    FE4 = "fe4", 1, Derived;
    /// See [`FE4`].
    FE6 = "fe6", 1, Derived;
    /// hash: `svc_id` (u32) → [`crate::Service`].
    SVC = "svc", 1, Derived;
    /// hash: [`crate::BeKey`] → [`crate::BeValue`].
    BE4 = "be4", 1, Derived;
    /// See [`BE4`].
    BE6 = "be6", 1, Derived;
    /// array: `be_ix` → incarnation (u32), only ever incremented.
    LIVE = "live", 1, State;
    /// LPM: [`crate::NetKey`] → [`crate::NetValue`].
    NET4 = "net4", 1, Derived;
    /// See [`NET4`].
    NET6 = "net6", 1, Derived;
    /// hash: address → class (u32).
    PEER4 = "peer4", 1, Derived;
    /// See [`PEER4`].
    PEER6 = "peer6", 1, Derived;
    /// hash: [`crate::PolKey`] → [`crate::PolValue`].
    POL = "pol", 1, Derived;
    /// LPM: [`crate::PolxKey`] → u32 (1).
    POLX = "polx", 1, Derived;
    /// array: node index → [`crate::Node`].
    NODE = "node", 1, Derived;
    /// LRU: [`crate::CtKey`] → [`crate::CtValue`], TCP.
    CT4_TCP = "ct4_tcp", 1, State;
    /// LRU, everything but TCP.
    CT4_ANY = "ct4_any", 1, State;
    /// See [`CT4_TCP`].
    CT6_TCP = "ct6_tcp", 1, State;
    /// See [`CT4_ANY`].
    CT6_ANY = "ct6_any", 1, State;
    /// LRU: [`crate::SockKey`] → [`crate::SockValue`].
    SOCK4 = "sock4", 1, State;
    /// See [`SOCK4`].
    SOCK6 = "sock6", 1, State;
}
