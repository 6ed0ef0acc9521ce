//! What a Pod uses. Port of `pkg/quota/v1/evaluator/core/pods.go`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Scope;
use crate::quantity::Quantity;
use crate::resources::{Amounts, PodResources, Resources};
use crate::time;

const COUNT: &str = "count/pods";
const PODS: &str = "pods";
const HUGE_PAGES: &str = "hugepages-";
const REQUESTS: &str = "requests.";
const LIMITS: &str = "limits.";
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";
/// Resources with a request and a limit of their own in quotas.
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// What each container must say when a quota limits it; no others, by upstream's rule.
const REQUIRED: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    metadata: Meta,
    spec: Spec,
    status: Status,
    #[serde(skip)]
    resources: PodResources,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    deletion_timestamp: Option<String>,
    deletion_grace_period_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    active_deadline_seconds: Option<i64>,
    priority_class_name: String,
    affinity: Affinity,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Affinity {
    pod_affinity: Terms,
    pod_anti_affinity: Terms,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Terms {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Vec<Term>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Vec<Weighted>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Weighted {
    pod_affinity_term: Term,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Term {
    namespaces: Vec<String>,
    namespace_selector: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
}

/// Quota names that pods count for.
pub(super) fn is_resource(name: &str) -> bool {
    let bare = name
        .strip_prefix(REQUESTS)
        .or_else(|| name.strip_prefix(LIMITS))
        .unwrap_or(name);
    let huge = name.strip_prefix(REQUESTS).unwrap_or(name);
    [COUNT, PODS].contains(&name)
        || COMPUTE.contains(&bare)
        || huge.starts_with(HUGE_PAGES)
        || name
            .strip_prefix(REQUESTS)
            .is_some_and(|resource| !is_native(name) || resource.starts_with(DEVICE_CLASS))
}

/// Resources of Kubernetes' own (pkg/apis/core/v1/helper/helpers.go, `IsNativeResource`).
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    (!is_native(name) && !name.starts_with(REQUESTS)) || name.starts_with(DEVICE_CLASS)
}

impl Pod {
    pub(super) fn read(json: &[u8]) -> serde_json::Result<Self> {
        let resources = serde_json::from_slice(json)?;
        Ok(Self {
            resources,
            ..serde_json::from_slice(json)?
        })
    }

    pub(super) fn is_terminating(&self) -> bool {
        self.spec.active_deadline_seconds.is_some_and(|s| s >= 0)
    }

    pub(super) fn is_in(&self, scope: &Scope) -> bool {
        match scope.scope_name.as_str() {
            "Terminating" => self.is_terminating(),
            "NotTerminating" => !self.is_terminating(),
            "BestEffort" => self.is_best_effort(),
            "NotBestEffort" => !self.is_best_effort(),
            "PriorityClass" => {
                let class = self.spec.priority_class_name.as_str();
                scope.selects(if class.is_empty() {
                    &[]
                } else {
                    std::slice::from_ref(&class)
                })
            }
            "CrossNamespacePodAffinity" => self.has_cross_namespace_affinity(),
            _ => false,
        }
    }

    fn is_best_effort(&self) -> bool {
        let asks = |resources: &Resources| {
            let amounts = resources.requests.iter().chain(resources.limits.iter());
            amounts
                .into_iter()
                .any(|(name, amount)| matches!(name, "cpu" | "memory") && amount.sign() > 0)
        };
        let mut containers = self.resources.containers().map(|c| &c.resources);
        !containers.any(asks) && !self.resources.pod_level().is_some_and(asks)
    }

    fn has_cross_namespace_affinity(&self) -> bool {
        let crosses =
            |term: &Term| !term.namespaces.is_empty() || term.namespace_selector.is_some();
        [
            &self.spec.affinity.pod_affinity,
            &self.spec.affinity.pod_anti_affinity,
        ]
        .into_iter()
        .any(|terms| {
            terms.required.iter().any(crosses)
                || terms
                    .preferred
                    .iter()
                    .any(|w| crosses(&w.pod_affinity_term))
        })
    }

    /// Each container says what the quotas require, unless the pod does for all.
    pub(super) fn constraints(&self, required: &[String]) -> Result<(), String> {
        if self.resources.pod_level().is_some() {
            return Ok(());
        }
        let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for container in self.resources.containers() {
            let Resources { requests, limits } = &container.resources;
            let said = compute_usage(requests, limits);
            for name in required
                .iter()
                .filter(|name| REQUIRED.contains(&name.as_str()))
            {
                if said.get(name).is_none() {
                    missing.entry(name).or_default().push(&container.name);
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let described = missing.into_iter().map(|(name, mut containers)| {
            containers.sort_unstable();
            containers.dedup();
            format!("{name} for: {}", containers.join(","))
        });
        let described: Vec<String> = described.collect();
        Err(format!("must specify {}", described.join("; ")))
    }

    pub(super) fn usage(&self, now: i64) -> Amounts {
        let mut usage: Amounts = [(COUNT, 1)].into_iter().collect();
        if self.is_charged(now) {
            usage = usage.plus(&compute_usage(
                &self.resources.requests(),
                &self.resources.limits(),
            ));
        }
        usage
    }

    /// Neither finished nor stuck in its deletion (`QuotaV1Pod`).
    fn is_charged(&self, now: i64) -> bool {
        if matches!(self.status.phase.as_str(), "Failed" | "Succeeded") {
            return false;
        }
        let Meta {
            deletion_timestamp,
            deletion_grace_period_seconds,
        } = &self.metadata;
        match (deletion_timestamp, deletion_grace_period_seconds) {
            (Some(at), Some(grace)) => time::parse_time(at)
                .is_none_or(|at| now <= at.unix_timestamp().saturating_add(*grace)),
            _ => true,
        }
    }
}

/// Requests and limits under their quota names (`podComputeUsageHelper`).
fn compute_usage(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::default();
    usage.set(PODS, Quantity::of(1));
    for name in COMPUTE {
        if let Some(request) = requests.get(name) {
            usage.set(name, request);
            usage.set(&format!("{REQUESTS}{name}"), request);
        }
        if let Some(limit) = limits.get(name) {
            usage.set(&format!("{LIMITS}{name}"), limit);
        }
    }
    for (name, request) in requests.iter() {
        if name.starts_with(HUGE_PAGES) {
            usage.set(name, request);
            usage.set(&format!("{REQUESTS}{name}"), request);
        }
        if is_extended(name) {
            usage.set(&format!("{REQUESTS}{name}"), request);
        }
    }
    usage
}
