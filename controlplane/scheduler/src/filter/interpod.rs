//! Required affinity and anti-affinity between pods. plugins/interpodaffinity/filtering.go.
//!
//! Counted per topology domain once per pod to place; a node is then judged by its labels alone.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::PodAffinityTerm;

use super::{Plugin, Refusal};
use crate::matching::selects;
use crate::object::{Labels, Pod};
use crate::snapshot::{NodeInfo, Snapshot};

/// Key and value of a topology label.
type Domain = (String, String);

#[derive(Debug, Default)]
pub struct Counts {
    /// Domains in which a placed pod rejects the pod.
    rejecting: HashMap<Domain, usize>,
    /// Per affinity term: matching pods by domain.
    affinity: Vec<HashMap<String, usize>>,
    /// Per anti-affinity term: matching pods by domain.
    anti: Vec<HashMap<String, usize>>,
}

/// Does the term of a pod in namespace `own` speak of `other`?
pub fn term_matches(snapshot: &Snapshot, term: &PodAffinityTerm, own: &str, other: &Pod) -> bool {
    let listed = term.namespaces.as_deref().unwrap_or(&[]);
    let namespace = other.namespace();
    let by_name = listed.iter().any(|n| n == namespace)
        || (listed.is_empty() && term.namespace_selector.is_none() && namespace == own);
    let by_labels = term.namespace_selector.is_some() && {
        static EMPTY: Labels = Labels::new();
        let labels = snapshot.namespace_labels(namespace).unwrap_or(&EMPTY);
        selects(term.namespace_selector.as_ref(), labels)
    };
    (by_name || by_labels) && selects(term.label_selector.as_ref(), other.labels())
}

impl Counts {
    pub fn new(snapshot: &Snapshot, pod: &Pod) -> Self {
        let mut counts = Self::default();
        for (node, placed) in snapshot.repelling() {
            for term in placed.pod.anti_affinity_terms() {
                let domain = node.node.label(&term.topology_key);
                if let Some(domain) = domain
                    && term_matches(snapshot, term, placed.pod.namespace(), pod)
                {
                    let domain = (term.topology_key.clone(), domain.to_owned());
                    *counts.rejecting.entry(domain).or_default() += 1;
                }
            }
        }
        let count = |term: &PodAffinityTerm| {
            let mut domains: HashMap<String, usize> = HashMap::new();
            for (node, placed) in snapshot.placed() {
                if let Some(domain) = node.node.label(&term.topology_key)
                    && term_matches(snapshot, term, pod.namespace(), &placed.pod)
                {
                    *domains.entry(domain.to_owned()).or_default() += 1;
                }
            }
            domains
        };
        counts.affinity = pod.affinity_terms().iter().map(count).collect();
        counts.anti = pod.anti_affinity_terms().iter().map(count).collect();
        // The first of a group that wants to be together may go anywhere.
        let is_alone = counts.affinity.iter().all(HashMap::is_empty);
        let wants_itself = pod
            .affinity_terms()
            .iter()
            .all(|t| term_matches(snapshot, t, pod.namespace(), pod));
        if is_alone && wants_itself {
            counts.affinity.clear();
        }
        counts
    }
}

pub fn check(pod: &Pod, counts: &Counts, node: &NodeInfo) -> Result<(), Refusal> {
    let refuse = |reason| Err(Refusal::new(Plugin::InterPodAffinity, reason));
    // Every term's label must be there, also for the first of a group.
    let terms = pod.affinity_terms();
    if terms
        .iter()
        .any(|term| node.node.label(&term.topology_key).is_none())
    {
        return refuse("node(s) didn't match pod affinity rules");
    }
    let has = |domains: &HashMap<String, usize>, term: &PodAffinityTerm| {
        node.node
            .label(&term.topology_key)
            .is_some_and(|domain| domains.contains_key(domain))
    };
    if !counts
        .affinity
        .iter()
        .zip(terms)
        .all(|(domains, term)| has(domains, term))
    {
        return refuse("node(s) didn't match pod affinity rules");
    }
    let anti = counts.anti.iter().zip(pod.anti_affinity_terms());
    if anti.into_iter().any(|(domains, term)| has(domains, term)) {
        return refuse("node(s) didn't match pod anti-affinity rules");
    }
    let is_rejected = |(key, value): &Domain| node.node.label(key) == Some(value);
    if counts.rejecting.keys().any(is_rejected) {
        return refuse("node(s) didn't satisfy existing pods anti-affinity rules");
    }
    Ok(())
}
