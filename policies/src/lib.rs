//! NetworkPolicy as data: from policies, pods and namespaces to the rows the datapath looks up, and an
//! independent explanation of any verdict. Pure: no clock, no socket, no map.
//!
//! Data passes `selector` → `rule` (parsed policies) → `class` (what an address is to the policies that
//! matter here) → `compile` (sets, rows) → `transition` (the order of writes). `explain` is a naive
//! reading of the API text; it shares no code with the rest and is what the rest is tested against.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub mod class;
pub mod compile;
pub mod explain;
pub mod rule;
pub mod selector;
pub mod transition;

pub use class::Atom;
pub use compile::{Allowed, Compiled, Ports, RowKey, Verdicts};
pub use rule::Policy;
pub use transition::{Step, transition};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Namespace of the object.
    pub namespace: Arc<str>,
    /// Name within the namespace.
    pub name: Arc<str>,
}

/// A pod with addresses of its own (not hostNetwork, not terminal), as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The pod.
    pub name: Name,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// The labels of its namespace.
    pub namespace_labels: Arc<Labels>,
    /// Its addresses; each belongs to one pod.
    pub addresses: Vec<IpAddr>,
    /// Named container ports.
    pub ports: Vec<NamedPort>,
    /// Whether policies are enforced for it here: it runs on this node.
    pub local: bool,
}

/// A named container port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Name, as policies refer to it.
    pub name: String,
    /// `abi::PROTO_*`.
    pub protocol: u8,
    /// Port number, host order.
    pub port: u16,
}

/// Everything a compilation looks at.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Parsed policies of all namespaces.
    pub policies: Vec<Arc<Policy>>,
    /// Pods of all nodes.
    pub pods: Vec<Arc<Pod>>,
}
