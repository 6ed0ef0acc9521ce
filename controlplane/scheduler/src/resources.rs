//! Amounts of resources: what a pod asks for, what a node has.
//!
//! Mechanism of k8s.io/component-helpers/resource/helpers.go (`PodRequests`): the sum of the
//! containers, or the largest moment of initialisation, plus overhead. cpu counts in thousandths,
//! everything else in units.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::object::{Container, Pod};

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const EPHEMERAL: &str = "ephemeral-storage";
pub const PODS: &str = "pods";
/// What a container without a request counts as when nodes are compared.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts(BTreeMap<String, i64>);

impl Amounts {
    pub fn parse(quantities: &BTreeMap<String, Quantity>) -> Self {
        let amount = |(name, quantity): (&String, &Quantity)| {
            let parsed = api::quantity::Quantity::parse(&quantity.0).ok()?;
            let value = if name == CPU {
                parsed.milli_value()
            } else {
                parsed.value()
            };
            Some((name.clone(), value))
        };
        Self(quantities.iter().filter_map(amount).collect())
    }

    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    pub fn add(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*value);
        }
    }

    pub fn subtract(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            let rest = self.0.entry(name.clone()).or_default();
            *rest = rest.saturating_sub(*value);
        }
    }

    fn raise_to(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            let most = self.0.entry(name.clone()).or_default();
            *most = (*most).max(*value);
        }
    }
}

/// What a pod takes from its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRequest {
    pub amounts: Amounts,
    /// cpu and memory with defaults for containers that ask for nothing.
    pub scored: (i64, i64),
}

impl PodRequest {
    pub fn of(pod: &Pod) -> Self {
        let amounts = total(pod, |container| {
            Amounts::parse(&container.resources.requests)
        });
        let scored = total(pod, |container| {
            let mut amounts = Amounts::parse(&container.resources.requests);
            amounts.0.entry(CPU.to_owned()).or_insert(DEFAULT_MILLI_CPU);
            amounts.0.entry(MEMORY.to_owned()).or_insert(DEFAULT_MEMORY);
            amounts
        });
        Self {
            scored: (scored.get(CPU), scored.get(MEMORY)),
            amounts,
        }
    }
}

fn total(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut sum = Amounts::default();
    for container in &pod.spec.containers {
        sum.add(&of(container));
    }
    // Sidecars stay, so each later step of initialisation comes on top of them.
    let mut sidecars = Amounts::default();
    let mut initialisation = Amounts::default();
    for container in &pod.spec.init_containers {
        let request = of(container);
        let mut moment = sidecars.clone();
        moment.add(&request);
        initialisation.raise_to(&moment);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&request);
        }
    }
    sum.add(&sidecars);
    sum.raise_to(&initialisation);
    let whole = pod
        .spec
        .resources
        .as_ref()
        .and_then(|r| r.requests.as_ref());
    if let Some(requests) = whole {
        for (name, value) in Amounts::parse(requests).0 {
            sum.0.insert(name, value);
        }
    }
    sum.add(&Amounts::parse(&pod.spec.overhead));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_asks_for_its_containers_or_its_largest_moment_of_initialisation() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar =
            json!({"resources": {"requests": {"cpu": "100m"}}, "restartPolicy": "Always"});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [container("300m"), container("200m")],
            "initContainers": [sidecar, container("1")],
            "overhead": {"cpu": "10m"}}}))
        .unwrap();
        // max(300 + 200 + 100, 100 + 1000) + 10
        assert_eq!(PodRequest::of(&pod).amounts.get(CPU), 1110);
    }

    #[test]
    fn containers_without_requests_count_when_scored_but_not_when_fitted() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{}]}})).unwrap();
        let request = PodRequest::of(&pod);
        assert_eq!(request.amounts.get(CPU), 0);
        assert_eq!(request.scored, (DEFAULT_MILLI_CPU, DEFAULT_MEMORY));
    }
}
