//! Preferred affinity and anti-affinity between pods. plugins/interpodaffinity/scoring.go.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::WeightedPodAffinityTerm;

use super::{Domains, MAX};
use crate::filter::interpod::term_matches;
use crate::object::Pod;
use crate::snapshot::{NodeInfo, Snapshot};

/// What a required affinity term of a placed pod is worth to others
/// (upstream's default hardPodAffinityWeight).
const HARD_WEIGHT: i64 = 1;

fn preferred(pod: &Pod) -> impl Iterator<Item = (i64, &WeightedPodAffinityTerm)> {
    let affinity = pod.spec.affinity.as_ref();
    let attract = affinity.and_then(|a| a.pod_affinity.as_ref());
    let attract = attract.and_then(|a| {
        a.preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let repel = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    let repel = repel.and_then(|a| {
        a.preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let attract = attract
        .into_iter()
        .flatten()
        .map(|t| (i64::from(t.weight), t));
    attract.chain(
        repel
            .into_iter()
            .flatten()
            .map(|t| (-i64::from(t.weight), t)),
    )
}

pub fn scores(snapshot: &Snapshot, pod: &Pod, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut worth: HashMap<String, Domains> = HashMap::new();
    let mut add = |node: &NodeInfo, key: &str, weight: i64| {
        if let Some(domain) = node.node.label(key) {
            let domains = worth.entry(key.to_owned()).or_default();
            *domains.entry(domain.to_owned()).or_default() += weight;
        }
    };
    for (weight, term) in preferred(pod) {
        let term = &term.pod_affinity_term;
        for (node, placed) in snapshot.placed() {
            if term_matches(snapshot, term, pod.namespace(), &placed.pod) {
                add(node, &term.topology_key, weight);
            }
        }
    }
    // The wishes of the pods already there count as well.
    for (node, placed) in snapshot.choosy() {
        let namespace = placed.pod.namespace();
        for (weight, term) in preferred(&placed.pod) {
            let term = &term.pod_affinity_term;
            if term_matches(snapshot, term, namespace, pod) {
                add(node, &term.topology_key, weight);
            }
        }
        for term in placed.pod.affinity_terms() {
            if term_matches(snapshot, term, namespace, pod) {
                add(node, &term.topology_key, HARD_WEIGHT);
            }
        }
    }
    let sum = |node: &&NodeInfo| -> i64 {
        let of = |(key, domains): (&String, &Domains)| domains.get(node.node.label(key)?).copied();
        worth.iter().filter_map(of).sum()
    };
    let sums: Vec<i64> = nodes.iter().map(sum).collect();
    let max = sums.iter().copied().max().unwrap_or(0);
    let min = sums.iter().copied().min().unwrap_or(0);
    let span = max - min;
    sums.into_iter()
        .map(|s| if span > 0 { MAX * (s - min) / span } else { 0 })
        .collect()
}
