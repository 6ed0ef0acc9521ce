//! Nodes: their health, the taints that follow from it, and the pods that must leave.
//!
//! `lifecycle` watches heartbeats and conditions, `evict` decides which pods go when, `cidr` gives
//! each node its share of the pod network.

pub mod cidr;
pub mod evict;
pub mod lifecycle;

use crate::kinds::{Node, condition};

const READY: &str = "Ready";
pub const NOT_READY_TAINT: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE_TAINT: &str = "node.kubernetes.io/unreachable";
pub const NO_SCHEDULE: &str = "NoSchedule";
pub const NO_EXECUTE: &str = "NoExecute";

/// `True`, `False` or `Unknown`.
fn readiness(node: &Node) -> &str {
    condition(&node.status.conditions, READY).map_or("Unknown", |c| c.status.as_str())
}
