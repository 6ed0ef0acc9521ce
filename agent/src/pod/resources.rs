//! Requests and limits as numbers of the kernel: QoS class, CPU shares and quota, memory limit, OOM
//! score. Pure. Formulas are upstream's (`pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`,
//! `pkg/apis/core/v1/helper/qos`).

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::spec;
use crate::cri::messages::LinuxContainerResources;

/// Length of a CFS period, microseconds.
const QUOTA_PERIOD: i64 = 100_000;
/// The kernel's smallest quota, microseconds.
const MIN_QUOTA: i64 = 1_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const SHARES_PER_CPU: i64 = 1024;
const MILLI: i64 = 1000;
/// For quota and memory.
const UNLIMITED: i64 = -1;

const OOM_GUARANTEED: i64 = -997;
const OOM_BEST_EFFORT: i64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl fmt::Display for Qos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        })
    }
}

type List = BTreeMap<String, Quantity>;

/// Thousandths of the unit, rounded up; `None` for what is not a quantity.
pub fn milli(quantity: &str) -> Option<i64> {
    let parsed = api::quantity::Quantity::parse(quantity.trim());
    Some(parsed.ok()?.milli_value())
}

/// Whole units, rounded up.
pub fn value(quantity: &str) -> Option<i64> {
    let parsed = api::quantity::Quantity::parse(quantity.trim());
    Some(parsed.ok()?.value())
}

fn cpu(list: Option<&List>) -> Option<i64> {
    milli(&list?.get("cpu")?.0)
}

fn memory(list: Option<&List>) -> Option<i64> {
    value(&list?.get("memory")?.0)
}

fn requests(container: &Container) -> Option<&List> {
    container.resources.as_ref()?.requests.as_ref()
}

fn limits(container: &Container) -> Option<&List> {
    container.resources.as_ref()?.limits.as_ref()
}

/// Request and limit of one resource, `None` for what is not set.
pub fn pair(resources: &ResourceRequirements, name: &str) -> (Option<i64>, Option<i64>) {
    let of = |list: &Option<List>| milli(&list.as_ref()?.get(name)?.0);
    (of(&resources.requests), of(&resources.limits))
}

/// The quality-of-service class; the API server stores it, this is the same rule.
pub fn qos_class(pod: &Pod) -> Qos {
    let containers = spec::init_containers(pod)
        .iter()
        .chain(&spec::spec(pod).containers);
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        for (request, limit) in [
            (cpu(requests(container)), cpu(limits(container))),
            (memory(requests(container)), memory(limits(container))),
        ] {
            let request = request.filter(|r| *r > 0).or(limit);
            let limit = limit.filter(|l| *l > 0);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

pub fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu * SHARES_PER_CPU / MILLI).clamp(MIN_SHARES, MAX_SHARES)
}

pub fn quota(milli_cpu: i64) -> i64 {
    (milli_cpu * QUOTA_PERIOD / MILLI).max(MIN_QUOTA)
}

/// The runtime's resources for one container.
pub fn of_container(
    pod: &Pod,
    container: &Container,
    memory_capacity: i64,
) -> LinuxContainerResources {
    let (request, limit) = (cpu(requests(container)), cpu(limits(container)));
    LinuxContainerResources {
        cpu_shares: shares(request.or(limit).unwrap_or(0)),
        cpu_period: QUOTA_PERIOD,
        cpu_quota: limit.filter(|limit| *limit > 0).map_or(0, quota),
        memory_limit_in_bytes: memory(limits(container)).unwrap_or(0),
        oom_score_adj: oom_score(pod, container, memory_capacity),
        ..LinuxContainerResources::default()
    }
}

fn oom_score(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    if spec::spec(pod).priority_class_name.as_deref() == Some("system-node-critical") {
        return OOM_GUARANTEED;
    }
    match qos_class(pod) {
        Qos::Guaranteed => OOM_GUARANTEED,
        Qos::BestEffort => OOM_BEST_EFFORT,
        Qos::Burstable => {
            let request = memory(requests(container)).unwrap_or(0);
            let used = i128::from(request) * 1000 / i128::from(memory_capacity.max(1));
            let score = OOM_BEST_EFFORT - i64::try_from(used).unwrap_or(OOM_BEST_EFFORT);
            score.clamp(OOM_BEST_EFFORT + OOM_GUARANTEED, OOM_BEST_EFFORT - 1)
        }
    }
}

/// What the pod as a whole may use: the sum of its containers (a limit only when all have one).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodResources {
    pub cpu_shares: i64,
    /// Microseconds per period of 100 ms.
    pub cpu_quota: Option<i64>,
    pub memory_limit: Option<i64>,
}

pub fn of_pod(pod: &Pod) -> PodResources {
    let overhead = spec::spec(pod).overhead.as_ref();
    let (more_cpu, more_memory) = (cpu(overhead), memory(overhead));
    let (cpu_limit, cpu_all) = total(pod, &|c| cpu(limits(c)).filter(|l| *l > 0));
    let (memory_limit, memory_all) = total(pod, &|c| memory(limits(c)).filter(|l| *l > 0));
    PodResources {
        cpu_shares: shares(requests_of_pod(pod).0),
        cpu_quota: cpu_all.then(|| quota(cpu_limit + more_cpu.unwrap_or(0))),
        memory_limit: memory_all.then(|| memory_limit + more_memory.unwrap_or(0)),
    }
}

/// What the pod as a whole is promised, with its overhead: milli-CPUs and bytes.
pub fn requests_of_pod(pod: &Pod) -> (i64, i64) {
    let overhead = spec::spec(pod).overhead.as_ref();
    let request = |list: fn(Option<&List>) -> Option<i64>| {
        let of = |c: &Container| Some(list(requests(c)).or(list(limits(c))).unwrap_or(0));
        total(pod, &of).0 + list(overhead).unwrap_or(0)
    };
    (request(cpu), request(memory))
}

/// The most the pod's containers have at a time, and whether every one of them says something
/// (upstream: `pkg/api/v1/resource` PodRequests).
fn total(pod: &Pod, read: &dyn Fn(&Container) -> Option<i64>) -> (i64, bool) {
    let mut all = true;
    let mut add = |container: &Container| {
        let amount = read(container);
        all &= amount.is_some();
        amount.unwrap_or(0)
    };
    let main: i64 = spec::spec(pod).containers.iter().map(&mut add).sum();
    let (mut sidecars, mut init_peak) = (0, 0);
    for container in spec::init_containers(pod) {
        let amount = add(container);
        if spec::is_sidecar(container) {
            sidecars += amount;
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars + amount);
        }
    }
    (init_peak.max(main + sidecars), all)
}

/// The runtime's resources for a container that runs already: what is not limited is unlimited from now
/// on, where 0 would leave it as it is.
pub fn of_running(
    pod: &Pod,
    container: &Container,
    memory_capacity: i64,
) -> LinuxContainerResources {
    let mut resources = of_container(pod, container, memory_capacity);
    if resources.cpu_quota == 0 {
        resources.cpu_quota = UNLIMITED;
    }
    if resources.memory_limit_in_bytes == 0 {
        resources.memory_limit_in_bytes = UNLIMITED;
    }
    resources
}

/// `resourceFieldRef`: the value of a container's resource divided by the divisor, rounded up. A limit
/// that is not set reads as what the node has for pods, as upstream.
pub fn field(
    container: &Container,
    resource: &str,
    divisor: Option<&str>,
    allocatable: (i64, i64),
) -> Option<String> {
    let (milli_cpus, memory_bytes) = allocatable;
    let divisor = divisor
        .filter(|d| !d.is_empty() && *d != "0")
        .unwrap_or("1");
    let (list, name) = resource.split_once('.')?;
    let set = match list {
        "limits" => limits(container),
        "requests" => requests(container),
        _ => return None,
    };
    let given = set.and_then(|set| set.get(name)).map(|q| q.0.as_str());
    let amount = match (given, name, list) {
        (Some(quantity), _, _) => milli(quantity)?,
        (None, "cpu", "limits") => milli_cpus,
        (None, "memory", "limits") => memory_bytes.saturating_mul(MILLI),
        (None, _, _) => 0,
    };
    let divisor = milli(divisor)?.max(1);
    Some((amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

    /// Resource names with their amounts.
    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn pod(containers: &[(Pairs<'_>, Pairs<'_>)]) -> Pod {
        let list = |pairs: &[(&str, &str)]| -> Option<List> {
            let list: List = pairs
                .iter()
                .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())))
                .collect();
            (!list.is_empty()).then_some(list)
        };
        let containers = containers
            .iter()
            .map(|(requests, limits)| Container {
                resources: Some(ResourceRequirements {
                    requests: list(requests),
                    limits: list(limits),
                    ..ResourceRequirements::default()
                }),
                ..Container::default()
            })
            .collect();
        Pod {
            spec: Some(PodSpec {
                containers,
                ..PodSpec::default()
            }),
            ..Pod::default()
        }
    }

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        assert_eq!(qos_class(&pod(&[(&[], &[])])), Qos::BestEffort);
        assert_eq!(qos_class(&pod(&[(&[("cpu", "1")], &[])])), Qos::Burstable);
        let full = [("cpu", "1"), ("memory", "1Gi")];
        assert_eq!(qos_class(&pod(&[(&full, &full)])), Qos::Guaranteed);
        assert_eq!(
            qos_class(&pod(&[(&full, &full), (&[], &[])])),
            Qos::Burstable
        );
    }

    #[test]
    fn a_pod_without_a_limit_on_every_container_has_none() {
        let p = pod(&[
            (&[], &[("cpu", "500m"), ("memory", "1Mi")]),
            (&[("cpu", "250m")], &[]),
        ]);
        let resources = of_pod(&p);
        assert_eq!(resources.cpu_shares, 768);
        assert_eq!(resources.cpu_quota, None);
        assert_eq!(resources.memory_limit, None);
    }

    #[test]
    fn shares_quota_and_score_have_the_kernels_bounds() {
        assert_eq!(
            (shares(0), shares(1000), quota(1), quota(500)),
            (2, 1024, 1000, 50_000)
        );
        let burstable = pod(&[(&[("memory", "1Gi")], &[])]);
        let container = &spec::spec(&burstable).containers[0];
        assert_eq!(oom_score(&burstable, container, 4 << 30), 750);
        assert_eq!(oom_score(&burstable, container, 1 << 30), 3);
    }

    #[test]
    fn resource_fields_fall_back_to_what_the_node_has() {
        let p = pod(&[(&[("cpu", "250m")], &[])]);
        let container = &spec::spec(&p).containers[0];
        let capacity = (2000, 8 << 30);
        assert_eq!(
            field(container, "requests.cpu", None, capacity).as_deref(),
            Some("1")
        );
        assert_eq!(
            field(container, "requests.cpu", Some("1m"), capacity).as_deref(),
            Some("250")
        );
        assert_eq!(
            field(container, "limits.cpu", None, capacity).as_deref(),
            Some("2")
        );
        assert_eq!(
            field(container, "limits.memory", Some("1Mi"), capacity).as_deref(),
            Some("8192")
        );
    }
}
