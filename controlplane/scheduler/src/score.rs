//! Scores: which of the nodes that do is best?
//!
//! Each plugin gives 0..=100 per node, times its weight in the default profile
//! (pkg/scheduler/apis/config/v1/default_plugins.go).

mod interpod;
mod spread;

use std::collections::HashMap;

use crate::filter::Prepared;
use crate::filter::node::PREFER_NO_SCHEDULE;
use crate::matching::{term_selects, tolerates};
use crate::object::Pod;
use crate::resources::{CPU, MEMORY};
use crate::snapshot::{NodeInfo, Snapshot};

/// Best score of one plugin.
pub const MAX: i64 = 100;

const TAINT_WEIGHT: i64 = 3;
const NODE_AFFINITY_WEIGHT: i64 = 2;
const SPREAD_WEIGHT: i64 = 2;
const INTERPOD_WEIGHT: i64 = 2;
const FIT_WEIGHT: i64 = 1;
const BALANCE_WEIGHT: i64 = 1;

/// The total score of each node.
pub fn scores(
    snapshot: &Snapshot,
    pod: &Pod,
    prepared: &Prepared,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    let each = |score: &dyn Fn(&NodeInfo) -> i64| nodes.iter().map(|n| score(n)).collect();
    let plugins: [(i64, Vec<i64>); 6] = [
        (
            TAINT_WEIGHT,
            normalize(each(&|node| intolerable(pod, node)), true),
        ),
        (
            NODE_AFFINITY_WEIGHT,
            normalize(each(&|node| node_affinity(pod, node)), false),
        ),
        (SPREAD_WEIGHT, spread::scores(snapshot, pod, nodes)),
        (INTERPOD_WEIGHT, interpod::scores(snapshot, pod, nodes)),
        (FIT_WEIGHT, each(&|node| least_allocated(prepared, node))),
        (BALANCE_WEIGHT, each(&|node| balanced(prepared, node))),
    ];
    let mut totals = vec![0; nodes.len()];
    for (weight, scores) in plugins {
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    }
    totals
}

/// Scales to 0..=100; reversed where less is better (`DefaultNormalizeScore`).
fn normalize(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in &mut scores {
        *score = match (max, reverse) {
            (0, true) => MAX,
            (0, false) => 0,
            (max, true) => MAX - *score * MAX / max,
            (max, false) => *score * MAX / max,
        };
    }
    scores
}

/// plugins/tainttoleration: PreferNoSchedule taints nothing tolerates.
fn intolerable(pod: &Pod, node: &NodeInfo) -> i64 {
    let soft = node
        .node
        .spec
        .taints
        .iter()
        .filter(|t| t.effect == PREFER_NO_SCHEDULE);
    let count = soft.filter(|taint| !pod.spec.tolerations.iter().any(|t| tolerates(t, taint)));
    i64::try_from(count.count()).unwrap_or(i64::MAX)
}

/// plugins/nodeaffinity: weights of the preferred terms that match.
fn node_affinity(pod: &Pod, node: &NodeInfo) -> i64 {
    let affinity = pod
        .spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| {
        a.preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let matching = terms
        .into_iter()
        .flatten()
        .filter(|t| term_selects(&t.preference, &node.node));
    matching.map(|term| i64::from(term.weight)).sum()
}

/// plugins/noderesources/least_allocated.go
fn least_allocated(prepared: &Prepared, node: &NodeInfo) -> i64 {
    let free = |name: &str, used: i64| {
        let all = node.allocatable.get(name);
        (all > 0).then(|| {
            if used > all {
                0
            } else {
                (all - used) * MAX / all
            }
        })
    };
    let (cpu, memory) = prepared.request.scored;
    let scores = [
        free(CPU, node.scored.0 + cpu),
        free(MEMORY, node.scored.1 + memory),
    ];
    let scores: Vec<i64> = scores.into_iter().flatten().collect();
    let count = i64::try_from(scores.len()).unwrap_or(1).max(1);
    scores.iter().sum::<i64>() / count
}

/// plugins/noderesources/balanced_allocation.go: the closer the used shares of cpu and memory
/// are, the better.
fn balanced(prepared: &Prepared, node: &NodeInfo) -> i64 {
    let share = |name: &str| {
        let all = node.allocatable.get(name);
        let used = node.requested.get(name) + prepared.request.amounts.get(name);
        (all > 0).then(|| (used as f64 / all as f64).min(1.0))
    };
    match (share(CPU), share(MEMORY)) {
        (Some(cpu), Some(memory)) => ((1.0 - (cpu - memory).abs() / 2.0) * MAX as f64) as i64,
        _ => MAX,
    }
}

/// Sums per topology domain, as several plugins need them.
type Domains = HashMap<String, i64>;
