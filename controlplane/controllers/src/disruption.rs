//! PodDisruptionBudgets: how many pods may be evicted now.
//!
//! Mechanism of pkg/controller/disruption/disruption.go. The API server takes an eviction off the
//! status before it grants it (pods/eviction); here the status is counted anew whenever pods change.
//! `stale` clears the marks of evictions that did not happen.

pub mod stale;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::core::Selector;

use crate::claim::matches;
use crate::deployment::scaled;
use crate::kinds::{Pod, PodDisruptionBudget, PodDisruptionBudgetStatus, Projection};
use crate::object::{Key, MetaExt, time};
use crate::plan::{Controller, Cx, Note, Plan};
use crate::view::{Change, World};
use crate::write::Write;

/// An evicted pod that is not being deleted after this long will not be.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);
const ALLOWED: &str = "DisruptionAllowed";

#[derive(Debug, Default)]
pub struct DisruptionController;

impl Controller for DisruptionController {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::PodDisruptionBudget(delta) => keys.push(delta.key()),
            Change::Pod(delta) => {
                let namespace = delta.key().namespace;
                for budget in world.budgets.in_namespace(&namespace) {
                    let Some(selector) = selector(budget) else {
                        continue;
                    };
                    if delta.both().any(|pod| matches(&selector, &pod.metadata)) {
                        keys.push(Key::of(&budget.metadata));
                    }
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        match world.budgets.get(key) {
            Some(budget) => plan(world, budget, cx.now),
            None => Plan::nothing(),
        }
    }
}

/// An absent selector selects nothing, an empty one everything.
fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    let selector = budget.spec.selector.clone()?;
    Selector::try_from(selector).ok()
}

fn plan(world: &World, budget: &Arc<PodDisruptionBudget>, now: Timestamp) -> Plan {
    let selector = selector(budget);
    let namespace = budget.metadata.namespace.as_deref().unwrap_or("");
    let pods: Vec<&Arc<Pod>> = world
        .pods
        .in_namespace(namespace)
        .filter(|pod| selector.as_ref().is_some_and(|s| matches(s, &pod.metadata)))
        .collect();
    let mut plan = Plan::nothing();
    if pods.is_empty() {
        let message = "No matching pods found".to_owned();
        plan.events.push(Note::normal(&**budget, "NoPods", message));
    }
    let status = match expected(world, budget, &pods) {
        Ok(expected) => counted(budget, &pods, expected, now, &mut plan),
        Err(problem) => refused(budget, problem, now, &mut plan),
    };
    if status == budget.status {
        // Nothing new to say.
        plan.events.clear();
        return plan;
    }
    let value = serde_json::to_value(&status).expect("a status is plain data");
    let meta = &budget.metadata;
    let resource = &PodDisruptionBudget::RESOURCE;
    let version = meta.resource_version();
    plan.status = Some(Write::status(resource, Key::of(meta), version, value));
    plan
}

/// How many pods there should be, and how many of them healthy.
struct Expected {
    pods: i32,
    healthy: i32,
}

/// `getExpectedPodCount`.
fn expected(
    world: &World,
    budget: &PodDisruptionBudget,
    pods: &[&Arc<Pod>],
) -> Result<Expected, String> {
    let spec = &budget.spec;
    let all = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let pods = scale(world, pods)?;
            let healthy = (pods - scaled(Some(most), pods, true)).max(0);
            Ok(Expected { pods, healthy })
        }
        (None, Some(IntOrString::Int(least))) => Ok(Expected {
            pods: all,
            healthy: *least,
        }),
        (None, Some(least)) => {
            let pods = scale(world, pods)?;
            let healthy = scaled(Some(least), pods, true);
            Ok(Expected { pods, healthy })
        }
        (None, None) => Ok(Expected {
            pods: 0,
            healthy: 0,
        }),
    }
}

/// The sum of the sizes of all controllers of the pods; pods without one count for nothing
/// (`getExpectedScale`).
fn scale(world: &World, pods: &[&Arc<Pod>]) -> Result<i32, String> {
    let mut sizes: HashMap<String, i32> = HashMap::new();
    for pod in pods {
        let Some(owner) = pod.metadata.controller() else {
            continue;
        };
        if sizes.contains_key(&owner.uid) {
            continue;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let key = Key::new(namespace, &owner.name);
        let found = match owner.kind.as_str() {
            "ReplicaSet" => of_replica_set(world, &key, &owner.uid),
            "StatefulSet" => {
                let set = world.statefulsets.get(&key);
                let set = set.filter(|set| set.metadata.uid() == owner.uid);
                set.map(|set| (owner.uid.clone(), set.spec.replicas))
            }
            "ReplicationController" => {
                let set = world.controllers.get(&key);
                let set = set.filter(|set| set.metadata.uid() == owner.uid);
                set.map(|set| (owner.uid.clone(), set.spec.replicas))
            }
            _ => None,
        };
        let Some((uid, size)) = found else {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            return Err(format!("found no controllers for pod {name:?}"));
        };
        sizes.insert(uid, size.unwrap_or(1));
    }
    Ok(sizes.values().sum())
}

/// The size of a ReplicaSet, or of the Deployment it is a part of.
fn of_replica_set(world: &World, key: &Key, uid: &str) -> Option<(String, Option<i32>)> {
    let set = world.replicasets.get(key)?;
    if set.metadata.uid() != uid {
        return None;
    }
    let Some(owner) = set.metadata.controller().filter(|o| o.kind == "Deployment") else {
        return Some((uid.to_owned(), set.spec.replicas));
    };
    let deployment = world
        .deployments
        .get(&Key::new(&key.namespace, &owner.name))?;
    (deployment.metadata.uid() == owner.uid).then(|| (owner.uid.clone(), deployment.spec.replicas))
}

fn counted(
    budget: &PodDisruptionBudget,
    pods: &[&Arc<Pod>],
    expected: Expected,
    now: Timestamp,
    plan: &mut Plan,
) -> PodDisruptionBudgetStatus {
    let disrupted = disrupted(budget, pods, now, plan);
    let is_disrupted = |pod: &Pod| {
        let name = pod.metadata.name.as_ref();
        name.is_some_and(|name| disrupted.contains_key(name))
    };
    let healthy = pods
        .iter()
        .filter(|pod| !pod.metadata.is_deleting() && pod.is_ready() && !is_disrupted(pod));
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    // A budget without pods allows nothing: the first ones must find it safe.
    let allowed = if expected.pods > 0 {
        (healthy - expected.healthy).max(0)
    } else {
        0
    };
    let (value, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let generation = budget.metadata.generation;
    PodDisruptionBudgetStatus {
        observed_generation: generation,
        disruptions_allowed: allowed,
        current_healthy: healthy,
        desired_healthy: expected.healthy,
        expected_pods: expected.pods,
        conditions: conditions(budget, value, reason, "", generation, now),
        disrupted_pods: disrupted,
    }
}

/// Evicted pods that are not on their way out yet (`buildDisruptedPodMap`).
fn disrupted(
    budget: &PodDisruptionBudget,
    pods: &[&Arc<Pod>],
    now: Timestamp,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut disrupted = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod.metadata.is_deleting()) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(since) = budget.status.disrupted_pods.get(name) else {
            continue;
        };
        let age = Duration::try_from(now.duration_since(since.0)).unwrap_or_default();
        let left = DELETION_TIMEOUT.saturating_sub(age);
        if left.is_zero() {
            let message = "Pod was expected by its budget to be deleted but it wasn't".to_owned();
            plan.events
                .push(Note::warning(&***pod, "NotDeleted", message));
        } else {
            plan.requeue(left);
            disrupted.insert(name.to_owned(), since.clone());
        }
    }
    disrupted
}

/// What cannot be counted allows nothing (`failSafe`).
fn refused(
    budget: &PodDisruptionBudget,
    problem: String,
    now: Timestamp,
    plan: &mut Plan,
) -> PodDisruptionBudgetStatus {
    let generation = budget.status.observed_generation;
    let conditions = conditions(budget, "False", "SyncFailed", &problem, generation, now);
    let message = format!("Failed to calculate the number of expected pods: {problem}");
    let reason = "CalculateExpectedPodCountFailed";
    plan.events.push(Note::warning(budget, reason, message));
    PodDisruptionBudgetStatus {
        disruptions_allowed: 0,
        conditions,
        ..budget.status.clone()
    }
}

fn conditions(
    budget: &PodDisruptionBudget,
    status: &str,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = budget.status.conditions.clone();
    let at = conditions.iter().position(|c| c.type_ == ALLOWED);
    let kept = at
        .map(|at| &conditions[at])
        .filter(|old| old.status == status);
    let new = Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: kept.map_or(time(now), |old| old.last_transition_time.clone()),
    };
    match at {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
    conditions
}

#[cfg(test)]
mod tests;
