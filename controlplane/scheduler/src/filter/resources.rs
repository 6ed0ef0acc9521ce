//! Does the pod's request fit into what is left? plugins/noderesources/fit.go.

use super::{Plugin, Refusal};
use crate::resources::{CPU, EPHEMERAL, MEMORY, PODS, PodRequest};
use crate::snapshot::NodeInfo;

/// All resources that do not suffice are named.
pub fn fit(request: &PodRequest, node: &NodeInfo) -> Result<(), Refusal> {
    let mut reasons = Vec::new();
    let pods = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    if pods + 1 > node.allocatable.get(PODS) {
        reasons.push("Too many pods".to_owned());
    }
    let lacks = |name: &str, wanted: i64| {
        wanted > 0 && wanted > node.allocatable.get(name) - node.requested.get(name)
    };
    let first = [CPU, MEMORY, EPHEMERAL];
    for name in first {
        if lacks(name, request.amounts.get(name)) {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    for (name, wanted) in request.amounts.iter() {
        if !first.contains(&name) && name != PODS && lacks(name, wanted) {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Refusal {
        plugin: Plugin::NodeResourcesFit,
        reasons,
    })
}
