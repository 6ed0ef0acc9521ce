//! The decision: which node for this pod, or why none.
//!
//! A pure function of the snapshot, the pod and a seed. Mechanism of
//! pkg/scheduler/schedule_one.go: filter, score, choose among the best at random.

use std::collections::{BTreeMap, BTreeSet};

use crate::filter::node::named_nodes;
use crate::filter::{Plugin, Prepared, check};
use crate::object::Pod;
use crate::score::scores;
use crate::snapshot::{NodeInfo, Snapshot};

/// Below this many nodes that do, all of them are looked for
/// (`minFeasibleNodesToFind`).
const MIN_FEASIBLE: usize = 100;
/// At least this share of a large cluster's nodes is looked for, in percent.
const MIN_PERCENTAGE: usize = 5;

/// A node's name.
pub type NodeName = String;

/// Why no node does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    pub nodes: usize,
    /// How many nodes each reason holds for.
    pub reasons: BTreeMap<String, usize>,
    /// The plugins that refused.
    pub plugins: BTreeSet<Plugin>,
}

impl std::fmt::Display for Unschedulable {
    /// Upstream's shape (`FitError.Error`): reasons sorted as texts that begin with their count.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available:", self.nodes)?;
        let mut reasons: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        reasons.sort();
        if !reasons.is_empty() {
            write!(f, " {}.", reasons.join(", "))?;
        }
        Ok(())
    }
}

/// Chooses a node.
pub fn schedule(snapshot: &Snapshot, pod: &Pod, seed: u64) -> Result<NodeName, Unschedulable> {
    let prepared = Prepared::new(snapshot, pod);
    let feasible = feasible(snapshot, pod, &prepared, seed)?;
    if let [only] = feasible.as_slice() {
        return Ok(only.node.name().to_owned());
    }
    let scores = scores(snapshot, pod, &prepared, &feasible);
    let best = scores.iter().copied().max().unwrap_or(0);
    let best: Vec<&&NodeInfo> = feasible
        .iter()
        .zip(&scores)
        .filter(|(_, s)| **s == best)
        .map(|(n, _)| n)
        .collect();
    let index = usize::try_from(mix(seed) % best.len() as u64).unwrap_or(0);
    Ok(best[index].node.name().to_owned())
}

/// The nodes that do; in a large cluster not more than are worth comparing.
fn feasible<'a>(
    snapshot: &'a Snapshot,
    pod: &Pod,
    prepared: &Prepared,
    seed: u64,
) -> Result<Vec<&'a NodeInfo>, Unschedulable> {
    let mut failure = Unschedulable {
        nodes: snapshot.len(),
        ..Unschedulable::default()
    };
    let nodes: Vec<&NodeInfo> = match named_nodes(pod) {
        Some(names) => {
            let nodes: Vec<_> = names.into_iter().filter_map(|n| snapshot.node(n)).collect();
            let others = snapshot.len() - nodes.len().min(snapshot.len());
            if others > 0 {
                let reason = "node(s) didn't satisfy plugin(s) [NodeAffinity]".to_owned();
                failure.reasons.insert(reason, others);
                failure.plugins.insert(Plugin::NodeAffinity);
            }
            nodes
        }
        None => snapshot.nodes().collect(),
    };
    let wanted = enough(nodes.len());
    let start = if nodes.is_empty() {
        0
    } else {
        (seed % nodes.len() as u64) as usize
    };
    // Upstream's RunFilterPluginsWithNominatedPods: with and without those that were promised room.
    let rivals = snapshot.with_rivals(pod);
    let rivals = rivals.map(|kept| (Prepared::new(&kept, pod), kept));
    let check = |node: &NodeInfo| {
        if let Some((prepared, kept)) = &rivals
            && let Some(node) = kept.node(node.node.name())
        {
            check(pod, prepared, node)?;
        }
        check(pod, prepared, node)
    };
    let mut feasible = Vec::new();
    for node in nodes[start..].iter().chain(&nodes[..start]) {
        match check(node) {
            Ok(()) => feasible.push(*node),
            Err(refusal) => {
                failure.plugins.insert(refusal.plugin);
                for reason in refusal.reasons {
                    *failure.reasons.entry(reason).or_default() += 1;
                }
            }
        }
        if feasible.len() >= wanted {
            break;
        }
    }
    if feasible.is_empty() {
        Err(failure)
    } else {
        Ok(feasible)
    }
}

/// `numFeasibleNodesToFind`.
fn enough(nodes: usize) -> usize {
    if nodes <= MIN_FEASIBLE {
        return nodes.max(1);
    }
    let percentage = 50_usize.saturating_sub(nodes / 125).max(MIN_PERCENTAGE);
    (nodes * percentage / 100).max(MIN_FEASIBLE)
}

/// SplitMix64's finaliser: neighbouring seeds give unrelated choices.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
