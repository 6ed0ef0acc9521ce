//! Topology spread constraints that must hold. plugins/podtopologyspread/filtering.go.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::node::{NO_EXECUTE, NO_SCHEDULE, matches_node};
use super::{Plugin, Refusal};
use crate::matching::{selects, untolerated};
use crate::object::Pod;
use crate::snapshot::{NodeInfo, Snapshot};

/// A constraint with the matching pods per domain.
#[derive(Debug)]
pub struct Constraint {
    pub topology_key: String,
    pub max_skew: i64,
    min: i64,
    counts: HashMap<String, i64>,
    /// The pod itself would count.
    self_match: bool,
}

/// Does the constraint count this pod? `matchLabelKeys` are taken from the pod to place.
pub fn counts(constraint: &TopologySpreadConstraint, pod: &Pod, other: &Pod) -> bool {
    let keys = constraint.match_label_keys.as_deref().unwrap_or(&[]);
    other.namespace() == pod.namespace()
        && other.metadata.deletion_timestamp.is_none()
        && selects(constraint.label_selector.as_ref(), other.labels())
        && keys.iter().all(|key| {
            let own = pod.labels().get(key);
            own.is_none() || own == other.labels().get(key)
        })
}

/// Is the node one of those the constraint spreads over?
pub fn includes(constraint: &TopologySpreadConstraint, pod: &Pod, node: &NodeInfo) -> bool {
    let by_affinity =
        constraint.node_affinity_policy.as_deref() == Some("Ignore") || matches_node(pod, node);
    let effects = [NO_SCHEDULE, NO_EXECUTE];
    let by_taints = constraint.node_taints_policy.as_deref() != Some("Honor")
        || untolerated(&node.node.spec.taints, &pod.spec.tolerations, &effects).is_none();
    by_affinity && by_taints
}

/// The pod's DoNotSchedule constraints, counted.
pub fn hard(snapshot: &Snapshot, pod: &Pod) -> Vec<Constraint> {
    let all = &pod.spec.topology_spread_constraints;
    let hard: Vec<&TopologySpreadConstraint> = all
        .iter()
        .filter(|c| c.when_unsatisfiable == "DoNotSchedule")
        .collect();
    let has_all = |node: &NodeInfo| {
        hard.iter()
            .all(|c| node.node.label(&c.topology_key).is_some())
    };
    hard.iter()
        .map(|constraint| {
            let mut counts: HashMap<String, i64> = HashMap::new();
            for node in snapshot.nodes() {
                let Some(domain) = node.node.label(&constraint.topology_key) else {
                    continue;
                };
                if !has_all(node) || !includes(constraint, pod, node) {
                    continue;
                }
                let count = counts.entry(domain.to_owned()).or_default();
                let pods = node.pods.values();
                let matching = pods
                    .filter(|p| self::counts(constraint, pod, &p.pod))
                    .count();
                *count += i64::try_from(matching).unwrap_or(i64::MAX);
            }
            let domains = i32::try_from(counts.len()).unwrap_or(i32::MAX);
            let few = domains < constraint.min_domains.unwrap_or(1);
            Constraint {
                topology_key: constraint.topology_key.clone(),
                max_skew: i64::from(constraint.max_skew),
                min: if few {
                    0
                } else {
                    counts.values().min().copied().unwrap_or(0)
                },
                counts,
                self_match: self::counts(constraint, pod, pod),
            }
        })
        .collect()
}

pub fn check(constraints: &[Constraint], node: &NodeInfo) -> Result<(), Refusal> {
    for constraint in constraints {
        let Some(domain) = node.node.label(&constraint.topology_key) else {
            let reason =
                "node(s) didn't match pod topology spread constraints (missing required label)";
            return Err(Refusal::new(Plugin::PodTopologySpread, reason));
        };
        let count = constraint.counts.get(domain).copied().unwrap_or(0);
        let skew = count + i64::from(constraint.self_match) - constraint.min;
        if skew > constraint.max_skew {
            let reason = "node(s) didn't match pod topology spread constraints";
            return Err(Refusal::new(Plugin::PodTopologySpread, reason));
        }
    }
    Ok(())
}
