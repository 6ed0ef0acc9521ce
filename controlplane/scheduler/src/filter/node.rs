//! What the node itself says: unschedulable, taints, labels.
//!
//! plugins/nodeunschedulable, plugins/tainttoleration, plugins/nodeaffinity.

use k8s_openapi::api::core::v1::{NodeSelector, Taint};

use super::{Plugin, Refusal};
use crate::matching::{selects_node, tolerates, untolerated};
use crate::object::Pod;
use crate::snapshot::NodeInfo;

pub const NO_SCHEDULE: &str = "NoSchedule";
pub const NO_EXECUTE: &str = "NoExecute";
pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

pub fn unschedulable(pod: &Pod, node: &NodeInfo) -> Result<(), Refusal> {
    let taint = Taint {
        key: UNSCHEDULABLE_TAINT.to_owned(),
        effect: NO_SCHEDULE.to_owned(),
        ..Taint::default()
    };
    if !node.node.spec.unschedulable || pod.spec.tolerations.iter().any(|t| tolerates(t, &taint)) {
        return Ok(());
    }
    Err(Refusal::new(
        Plugin::NodeUnschedulable,
        "node(s) were unschedulable",
    ))
}

pub fn taints(pod: &Pod, node: &NodeInfo) -> Result<(), Refusal> {
    let taints = &node.node.spec.taints;
    match untolerated(taints, &pod.spec.tolerations, &[NO_SCHEDULE, NO_EXECUTE]) {
        None => Ok(()),
        Some(_) => Err(Refusal::new(
            Plugin::TaintToleration,
            "node(s) had untolerated taint(s)",
        )),
    }
}

pub fn affinity(pod: &Pod, node: &NodeInfo) -> Result<(), Refusal> {
    if matches_node(pod, node) {
        return Ok(());
    }
    let reason = "node(s) didn't match Pod's node affinity/selector";
    Err(Refusal::new(Plugin::NodeAffinity, reason))
}

/// nodeSelector and required node affinity.
pub fn matches_node(pod: &Pod, node: &NodeInfo) -> bool {
    let labels = node.node.labels();
    pod.spec
        .node_selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && required(pod).is_none_or(|selector| selects_node(selector, &node.node))
}

fn required(pod: &Pod) -> Option<&NodeSelector> {
    let affinity = pod.spec.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()
}

/// The nodes the pod names itself (`metadata.name` in every term), as daemon pods do: no other
/// node needs to be looked at.
pub fn named_nodes(pod: &Pod) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    for term in &required(pod)?.node_selector_terms {
        let fields = term.match_fields.as_deref().unwrap_or(&[]);
        let field = fields
            .iter()
            .find(|f| f.key == "metadata.name" && f.operator == "In")?;
        names.extend(field.values.iter().flatten().map(String::as_str));
    }
    Some(names)
}
