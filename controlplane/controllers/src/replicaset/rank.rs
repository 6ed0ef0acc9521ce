//! Which active pods a controller that has too many deletes first.
//!
//! Mechanism of pkg/controller/controller_utils.go `ActivePodsWithRanks`: unassigned before
//! assigned, pending before running, not ready before ready, lower deletion cost, more siblings
//! on the node, ready for a shorter time, more restarts, younger.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::Replicated;
use crate::kinds::Pod;
use crate::object::MetaExt;
use crate::view::{Store, World};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods to delete.
pub fn to_delete<'a>(
    world: &World,
    set: &impl Replicated,
    active: &[&'a Arc<Pod>],
    count: usize,
) -> Vec<&'a Arc<Pod>> {
    let mut pods = active.to_vec();
    if count < pods.len() {
        let siblings = siblings_per_node(world, set, active);
        let rank = |pod: &Pod| {
            pod.spec
                .node_name
                .as_ref()
                .and_then(|n| siblings.get(n.as_str()))
                .copied()
                .unwrap_or(0)
        };
        pods.sort_by(|a, b| compare(a, rank(a), b, rank(b)));
    }
    pods.truncate(count);
    pods
}

/// Active pods per node of all sets with the same owner (`getIndirectlyRelatedPods`).
fn siblings_per_node<'a>(
    world: &'a World,
    set: &impl Replicated,
    active: &[&'a Arc<Pod>],
) -> HashMap<&'a str, usize> {
    let mut counts = HashMap::new();
    let mut count = |pod: &'a Pod| {
        if let (true, Some(node)) = (pod.is_active(), pod.spec.node_name.as_deref()) {
            *counts.entry(node).or_default() += 1;
        }
    };
    match set.metadata().controller() {
        Some(owner) => {
            for sibling in store_of(set, world).owned_by(&owner.uid) {
                world
                    .pods
                    .owned_by(sibling.metadata().uid())
                    .for_each(|pod| count(pod));
            }
        }
        None => active.iter().for_each(|pod| count(pod)),
    }
    counts
}

/// The store of the set's own kind.
fn store_of<'w, K: Replicated>(_: &K, world: &'w World) -> &'w Store<K> {
    K::store(world)
}

fn compare(a: &Pod, rank_a: usize, b: &Pod, rank_b: usize) -> Ordering {
    let cost = |pod: &Pod| -> i32 {
        pod.metadata
            .annotation(DELETION_COST)
            .and_then(|c| c.parse().ok())
            .unwrap_or(0)
    };
    stage(a, b)
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| age(a, b))
}

/// Those that have come less far first (`ActivePods`).
pub fn by_progress(a: &Pod, b: &Pod) -> Ordering {
    stage(a, b).then_with(|| age(a, b))
}

fn stage(a: &Pod, b: &Pod) -> Ordering {
    let assigned = |pod: &Pod| pod.spec.node_name.as_deref().is_some_and(|n| !n.is_empty());
    let phase = |pod: &Pod| match pod.status.phase.as_str() {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
}

fn age(a: &Pod, b: &Pod) -> Ordering {
    let restarts = |pod: &Pod| {
        let statuses = pod.status.container_statuses.iter();
        statuses.map(|c| c.restart_count).max().unwrap_or(0)
    };
    let ready_since = |pod: &Pod| pod.ready_since().unwrap_or(Timestamp::MAX);
    ready_since(b)
        .cmp(&ready_since(a))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| b.metadata.created().cmp(&a.metadata.created()))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}
