//! What did not fit: whose object, and which limit was reached. Plain data: the core says it, `report`
//! tells the cluster, `/metrics` counts it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::plan::service::Refused;
use crate::state::ObjectKey;

/// The object that did not fit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Service(ObjectKey),
    NetworkPolicy(ObjectKey),
    Pod(ObjectKey),
    Node(Arc<str>),
    /// No single object: this node as a whole.
    Here,
}

/// What was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Limit {
    #[error(transparent)]
    Service(#[from] Refused),
    #[error("the datapath's map {map} is full (limit {limit})")]
    Full { map: &'static str, limit: u32 },
    #[error("the datapath's map {map} could not be written (error {errno})")]
    Write { map: &'static str, errno: i32 },
    #[error("ipBlocks have {have} boundaries, limit {limit}: no address block is allowed")]
    Blocks { have: u32, limit: u32 },
    #[error("no free index for the node (limit {})", abi::limits::NODES)]
    NodeIndex,
    #[error("map writes were given up: the datapath may lack rows until the agent is restarted")]
    GivenUp,
}

/// An object and the limit it met.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shortage {
    pub subject: Subject,
    pub limit: Limit,
}

/// How full a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// `abi::map` name.
    pub map: &'static str,
    pub used: u32,
    pub limit: u32,
}

/// Everything about limits at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub shortages: BTreeSet<Shortage>,
    pub fill: Vec<Fill>,
}

// === impl ===

impl Subject {
    /// Kind of the object, as the API calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "Service",
            Self::NetworkPolicy(_) => "NetworkPolicy",
            Self::Pod(_) => "Pod",
            Self::Node(_) | Self::Here => "Node",
        }
    }
}

/// Entries a map takes by default.
pub fn limit_of(map: &str) -> u32 {
    let def = abi::map::ALL.iter().find(|def| def.name == map);
    def.map_or(0, |def| def.entries)
}
