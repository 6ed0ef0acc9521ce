//! Filters: may this pod run on this node, and if not, why not?
//!
//! One file per group of plugins of pkg/scheduler/framework/plugins, in the default profile's
//! order. The texts of the reasons are upstream's: users and tests look for them.

pub mod interpod;
pub mod node;
pub mod resources;
pub mod spread;

use crate::object::Pod;
use crate::resources::PodRequest;
use crate::snapshot::{HostPort, NodeInfo, Snapshot, host_ports};

/// Which plugin refused; decides what can make the pod fit later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plugin {
    NodeUnschedulable,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    PodTopologySpread,
    InterPodAffinity,
}

/// Why a node does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub plugin: Plugin,
    pub reasons: Vec<String>,
}

impl Refusal {
    fn new(plugin: Plugin, reason: &str) -> Self {
        Self {
            plugin,
            reasons: vec![reason.to_owned()],
        }
    }
}

/// What the filters need to know about the pod, computed once for all nodes.
#[derive(Debug)]
pub struct Prepared {
    pub request: PodRequest,
    pub ports: Vec<HostPort>,
    pub interpod: interpod::Counts,
    pub spread: Vec<spread::Constraint>,
}

impl Prepared {
    pub fn new(snapshot: &Snapshot, pod: &Pod) -> Self {
        Self {
            request: PodRequest::of(pod),
            ports: host_ports(pod),
            interpod: interpod::Counts::new(snapshot, pod),
            spread: spread::hard(snapshot, pod),
        }
    }
}

/// The first refusal, if any.
pub fn check(pod: &Pod, prepared: &Prepared, node: &NodeInfo) -> Result<(), Refusal> {
    node::unschedulable(pod, node)?;
    node::taints(pod, node)?;
    node::affinity(pod, node)?;
    ports(prepared, node)?;
    resources::fit(&prepared.request, node)?;
    spread::check(&prepared.spread, node)?;
    interpod::check(pod, &prepared.interpod, node)
}

/// plugins/nodeports/node_ports.go
fn ports(prepared: &Prepared, node: &NodeInfo) -> Result<(), Refusal> {
    let taken = node.pods.values().flat_map(|placed| &placed.ports);
    for port in taken {
        if prepared.ports.iter().any(|wanted| wanted.conflicts(port)) {
            let reason = "node(s) didn't have free ports for the requested pod ports";
            return Err(Refusal::new(Plugin::NodePorts, reason));
        }
    }
    Ok(())
}
