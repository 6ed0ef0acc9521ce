//! Preemption: which pods of lower priority have to go, and from which node, so that a pod fits.
//!
//! A pure function of the snapshot and the budgets. Mechanism of pkg/scheduler/framework/preemption
//! and plugins/defaultpreemption: on each node all pods of lower priority are taken away; if the pod
//! fits then, as many as possible are put back, the most important ones first.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::filter::{Plugin, Prepared, check};
use crate::matching::selects;
use crate::object::{Budget, Key, Pod};
use crate::schedule::{NodeName, Unschedulable};
use crate::snapshot::Snapshot;

/// Nodes that are tried out at most (upstream's minCandidateNodesAbsolute; it goes on to a tenth of the
/// nodes in larger clusters).
const MAX_TRIED: usize = 100;

/// A node that would do without some pods.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: NodeName,
    /// The most important one first; there is at least one.
    pub victims: Vec<Arc<Pod>>,
    /// Victims whose budget does not allow it.
    violations: usize,
}

/// Why nothing is gained by preemption; shown behind the reasons of the filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Useless {
    Never,
    /// What goes already may suffice.
    Waiting,
    Nodes(Unschedulable),
}

impl std::fmt::Display for Useless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Never => f.write_str("not eligible due to preemptionPolicy=Never."),
            Self::Waiting => {
                f.write_str("not eligible due to a terminating pod on the nominated node.")
            }
            Self::Nodes(nodes) => nodes.fmt(f),
        }
    }
}

/// Chooses a node and its victims. `budgets` are those of every namespace.
pub fn preempt(
    snapshot: &Snapshot,
    pod: &Pod,
    budgets: &BTreeMap<Key, Arc<Budget>>,
) -> Result<Candidate, Useless> {
    if pod.spec.preemption_policy.as_deref() == Some("Never") {
        return Err(Useless::Never);
    }
    if is_waiting(snapshot, pod) {
        return Err(Useless::Waiting);
    }
    let mut why = Unschedulable {
        nodes: snapshot.len(),
        ..Unschedulable::default()
    };
    let mut refuse = |reason: &str| *why.reasons.entry(reason.to_owned()).or_default() += 1;
    let prepared = Prepared::new(snapshot, pod);
    let mut promising = Vec::new();
    for node in snapshot.nodes() {
        let has_lower = node.pods.values().any(|placed| is_lower(&placed.pod, pod));
        if check(pod, &prepared, node).is_err_and(|refusal| is_lasting(refusal.plugin)) {
            refuse("Preemption is not helpful for scheduling");
        } else if has_lower {
            promising.push(node.node.name().to_owned());
        } else {
            refuse("No preemption victims found for incoming pod");
        }
    }
    if promising.is_empty() {
        return Err(Useless::Nodes(why));
    }
    // The pods that are promised room already count.
    let mut trial = match snapshot.with_rivals(pod) {
        Some(trial) => trial,
        None => snapshot.clone(),
    };
    let mut best: Option<Candidate> = None;
    for node in promising.iter().take(MAX_TRIED) {
        match victims(&mut trial, pod, node, budgets) {
            Ok(candidate) => {
                if best
                    .as_ref()
                    .is_none_or(|best| rank(&candidate) < rank(best))
                {
                    best = Some(candidate);
                }
            }
            Err(reasons) => reasons.iter().for_each(|reason| refuse(reason)),
        }
    }
    best.ok_or(Useless::Nodes(why))
}

/// `PodEligibleToPreemptOthers`: victims on the node the pod was promised are still going.
fn is_waiting(snapshot: &Snapshot, pod: &Pod) -> bool {
    let promised = snapshot.promised(&pod.key());
    let node = promised.or(pod.status.nominated_node_name.as_deref());
    node.and_then(|node| snapshot.node(node))
        .is_some_and(|node| {
            let mut pods = node.pods.values().map(|placed| &placed.pod);
            pods.any(|other| is_lower(other, pod) && other.metadata.deletion_timestamp.is_some())
        })
}

fn is_lower(other: &Pod, pod: &Pod) -> bool {
    other.spec.priority < pod.spec.priority
}

/// No pod's end changes this refusal (upstream's UnschedulableAndUnresolvable).
fn is_lasting(plugin: Plugin) -> bool {
    matches!(
        plugin,
        Plugin::NodeUnschedulable | Plugin::TaintToleration | Plugin::NodeAffinity
    )
}

/// `SelectVictimsOnNode`; leaves `trial` as it was.
fn victims(
    trial: &mut Snapshot,
    pod: &Pod,
    node: &str,
    budgets: &BTreeMap<Key, Arc<Budget>>,
) -> Result<Candidate, Vec<String>> {
    let on_node = trial
        .node(node)
        .into_iter()
        .flat_map(|info| info.pods.values());
    let mut lower: Vec<Arc<Pod>> = on_node
        .map(|placed| placed.pod.clone())
        .filter(|other| is_lower(other, pod))
        .collect();
    lower
        .iter()
        .for_each(|other| trial.remove_pod(&other.key()));
    if let Err(reasons) = fits(trial, pod, node) {
        lower
            .iter()
            .for_each(|other| trial.place(other.clone(), node.into()));
        return Err(reasons);
    }
    lower.sort_by_key(|other| importance(other));
    let (violating, others) = split(lower, budgets);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (other, violates) in violating
        .into_iter()
        .map(|other| (other, true))
        .chain(others.into_iter().map(|other| (other, false)))
    {
        trial.place(other.clone(), node.into());
        if fits(trial, pod, node).is_err() {
            trial.remove_pod(&other.key());
            violations += usize::from(violates);
            victims.push(other);
        }
    }
    victims
        .iter()
        .for_each(|victim| trial.place(victim.clone(), node.into()));
    victims.sort_by_key(|victim| importance(victim));
    if victims.is_empty() {
        // It fits as it is: not a matter of preemption.
        return Err(Vec::new());
    }
    Ok(Candidate {
        node: node.to_owned(),
        victims,
        violations,
    })
}

fn fits(snapshot: &Snapshot, pod: &Pod, node: &str) -> Result<(), Vec<String>> {
    let Some(info) = snapshot.node(node) else {
        return Err(Vec::new());
    };
    check(pod, &Prepared::new(snapshot, pod), info).map_err(|refusal| refusal.reasons)
}

/// Orders pods, the most important one first (`MoreImportantPod`).
fn importance(pod: &Pod) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.spec.priority), started(pod))
}

/// A pod that has not started yet starts last.
fn started(pod: &Pod) -> Timestamp {
    pod.status
        .start_time
        .as_ref()
        .map_or(Timestamp::MAX, |time| time.0)
}

/// `filterPodsWithPDBViolation`: those a budget does not allow, and the others.
fn split(
    pods: Vec<Arc<Pod>>,
    budgets: &BTreeMap<Key, Arc<Budget>>,
) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let mut left: BTreeMap<&Key, i32> = budgets
        .iter()
        .map(|(key, budget)| (key, budget.status.disruptions_allowed))
        .collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        for (key, budget) in budgets
            .iter()
            .filter(|(key, _)| &*key.namespace == pod.namespace())
        {
            let covers = !pod.labels().is_empty()
                && selects(budget.spec.selector.as_ref(), pod.labels())
                && !budget.status.disrupted_pods.contains_key(name);
            if let (true, Some(left)) = (covers, left.get_mut(key)) {
                *left -= 1;
                violates |= *left < 0;
            }
        }
        violates
    })
}

/// Less is better (`pickOneNodeForPreemption`): budgets violated, the highest priority, the sum of
/// priorities, the number of victims; then the latest start of the most important ones.
fn rank(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
    let victims = &candidate.victims;
    let highest = victims
        .first()
        .map_or(i32::MIN, |victim| victim.spec.priority);
    // Shifted, so that more pods of negative priority are not better than fewer.
    let shifted = |victim: &Arc<Pod>| i64::from(victim.spec.priority) - i64::from(i32::MIN);
    let important = victims
        .iter()
        .filter(|victim| victim.spec.priority == highest);
    let earliest = important.map(|victim| started(victim)).min();
    (
        candidate.violations,
        highest,
        victims.iter().map(shifted).sum(),
        victims.len(),
        Reverse(earliest.unwrap_or(Timestamp::MAX)),
    )
}

/// Pods of lower priority that were promised this node and have to look again.
pub fn displaced(snapshot: &Snapshot, pod: &Pod, node: &str) -> Vec<Arc<Pod>> {
    let promised = snapshot.promised_to(node);
    promised
        .filter(|other| is_lower(other, pod))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
