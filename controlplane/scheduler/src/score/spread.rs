//! Spreading where it is wanted but not required. plugins/podtopologyspread/scoring.go.
//!
//! A pod without constraints of its own is spread over hosts and zones with its siblings, the pods
//! of the same controller (upstream's system defaults, whose selector is derived from Services and
//! controllers).

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{Domains, MAX};
use crate::filter::spread::{counts, includes};
use crate::object::Pod;
use crate::snapshot::{NodeInfo, Placed, Snapshot};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Key and maximal skew of the system defaults.
const DEFAULTS: [(&str, i32); 2] = [(HOSTNAME, 3), (ZONE, 5)];

/// What is counted in the domains of one label.
struct Rule<'a> {
    topology_key: &'a str,
    max_skew: i32,
    /// `None` stands for the siblings.
    constraint: Option<&'a TopologySpreadConstraint>,
}

fn rules<'a>(pod: &'a Pod) -> Vec<Rule<'a>> {
    let own = &pod.spec.topology_spread_constraints;
    if !own.is_empty() {
        let soft = own
            .iter()
            .filter(|c| c.when_unsatisfiable == "ScheduleAnyway");
        let rule = |constraint: &'a TopologySpreadConstraint| Rule {
            topology_key: &constraint.topology_key,
            max_skew: constraint.max_skew,
            constraint: Some(constraint),
        };
        return soft.map(rule).collect();
    }
    if pod.owner().is_none() {
        return Vec::new();
    }
    let default = |(topology_key, max_skew)| Rule {
        topology_key,
        max_skew,
        constraint: None,
    };
    DEFAULTS.into_iter().map(default).collect()
}

pub fn scores(snapshot: &Snapshot, pod: &Pod, nodes: &[&NodeInfo]) -> Vec<i64> {
    let rules = rules(pod);
    if rules.is_empty() {
        return vec![MAX; nodes.len()];
    }
    // System defaults do not demand their labels; the pod's own constraints do.
    let is_ignored = |node: &NodeInfo| {
        let lacks = |rule: &Rule<'_>| node.node.label(rule.topology_key).is_none();
        rules
            .iter()
            .any(|rule| rule.constraint.is_some() && lacks(rule))
    };
    let mut sums = vec![0.0_f64; nodes.len()];
    for rule in &rules {
        let domains = domains(snapshot, pod, rule);
        let weight = ((domains.len() + 2) as f64).ln();
        for (sum, node) in sums.iter_mut().zip(nodes) {
            if let Some(domain) = node.node.label(rule.topology_key) {
                let count = domains.get(domain).copied().unwrap_or(0);
                *sum += count as f64 * weight + f64::from(rule.max_skew - 1);
            }
        }
    }
    let sums: Vec<Option<i64>> = sums
        .iter()
        .zip(nodes)
        .map(|(sum, node)| (!is_ignored(node)).then(|| sum.round() as i64))
        .collect();
    let max = sums.iter().flatten().copied().max().unwrap_or(0);
    let min = sums.iter().flatten().copied().min().unwrap_or(0);
    let normal = |sum: Option<i64>| match sum {
        None => 0,
        Some(_) if max == 0 => MAX,
        Some(sum) => MAX * (max + min - sum) / max,
    };
    sums.into_iter().map(normal).collect()
}

/// Counted pods per domain.
fn domains(snapshot: &Snapshot, pod: &Pod, rule: &Rule<'_>) -> Domains {
    let domain = |node: &NodeInfo| node.node.label(rule.topology_key).map(str::to_owned);
    let mut domains = Domains::new();
    let Some(constraint) = rule.constraint else {
        for domain in snapshot.nodes().filter_map(domain) {
            domains.entry(domain).or_default();
        }
        for (node, placed) in siblings(snapshot, pod) {
            let is_leaving = placed.pod.metadata.deletion_timestamp.is_some();
            if let (Some(domain), false) = (domain(node), is_leaving) {
                *domains.entry(domain).or_default() += 1;
            }
        }
        return domains;
    };
    for node in snapshot.nodes().filter(|n| includes(constraint, pod, n)) {
        let Some(domain) = domain(node) else {
            continue;
        };
        let placed = node.pods.values();
        let count = placed.filter(|placed| counts(constraint, pod, &placed.pod));
        *domains.entry(domain).or_default() += i64::try_from(count.count()).unwrap_or(0);
    }
    domains
}

/// The placed pods of the same controller.
fn siblings<'a>(
    snapshot: &'a Snapshot,
    pod: &'a Pod,
) -> impl Iterator<Item = (&'a NodeInfo, &'a Placed)> {
    let owner = pod.owner().into_iter();
    owner.flat_map(|uid| snapshot.owned_by(uid))
}
