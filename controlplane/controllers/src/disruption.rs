//! PodDisruptionBudget: how many pods may be evicted now.
//!
//! Mechanism of pkg/controller/disruption/disruption.go: the status counts the pods a budget selects,
//! those that are healthy, and how many there should be, which the pods' controllers say. What is not
//! known allows nothing. Pods whose eviction was accepted but that are still there count again after a
//! while. Controllers of other kinds than those of the view are not known yet.

pub mod stale;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::core::{Selector, SelectorExt};

use crate::deployment::replicas::scaled;
use crate::kinds::{ObservedCondition, Pod, PodDisruptionBudget, PodDisruptionBudgetStatus};
use crate::object::{Key, MetaExt, time};
use crate::plan::{Controller, Cx, Note, Plan};
use crate::view::{Change, World};
use crate::write::Write;

/// Time an accepted eviction has to become a deletion (upstream's DeletionTimeout).
const DELETION: Duration = Duration::from_secs(120);
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
                for pod in delta.both() {
                    that_select(world, pod, keys);
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(budget) = world.budgets.get(key) else {
            return Plan::nothing();
        };
        let pods = selected(world, budget);
        let mut plan = Plan::nothing();
        if pods.is_empty() && budget.status.observed_generation.is_none() {
            let text = "No matching pods found".to_owned();
            plan.events.push(Note::normal(&**budget, "NoPods", text));
        }
        let status = match expected(world, budget, &pods) {
            Ok(expected) => {
                plan.events.extend(unmanaged(budget, &pods));
                let (disrupted, recheck) = disrupted(budget, &pods, cx.now);
                if let Some(delay) = recheck {
                    plan.requeue(delay);
                }
                status(budget, &pods, expected, disrupted, cx.now)
            }
            Err(why) => {
                let text = format!("Failed to calculate the number of expected pods: {why}");
                let reason = "CalculateExpectedPodCountFailed";
                plan.events.push(Note::warning(&**budget, reason, text));
                unknown(budget, why, cx.now)
            }
        };
        if status == budget.status {
            plan.events.clear();
            return plan;
        }
        plan.status = Some(Write::status(&**budget, &status));
        plan
    }
}

/// Pods there are, and how many of them must stay healthy.
#[derive(Debug, PartialEq)]
struct Expected {
    pods: i32,
    healthy: i32,
}

fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    Selector::try_from(budget.spec.selector.clone()?).ok()
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let empty = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    selector(budget).is_some_and(|selector| selector.matches(labels))
}

fn that_select(world: &World, pod: &Pod, keys: &mut Vec<Key>) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let budgets = world.budgets.in_namespace(namespace);
    let selecting = budgets.filter(|budget| selects(budget, pod));
    keys.extend(selecting.map(|budget| Key::of(&budget.metadata)));
}

fn selected<'w>(world: &'w World, budget: &PodDisruptionBudget) -> Vec<&'w Arc<Pod>> {
    let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
    let pods = world.pods.in_namespace(namespace);
    pods.filter(|pod| selects(budget, pod)).collect()
}

/// Mechanism of `getExpectedPodCount`.
fn expected(
    world: &World,
    budget: &PodDisruptionBudget,
    pods: &[&Arc<Pod>],
) -> Result<Expected, String> {
    let spec = &budget.spec;
    let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let pods = scale(world, pods)?;
            let healthy = (pods - scaled(Some(most), pods, true)).max(0);
            Ok(Expected { pods, healthy })
        }
        (None, Some(IntOrString::Int(least))) => Ok(Expected {
            pods: count,
            healthy: *least,
        }),
        (None, Some(share)) => {
            let pods = scale(world, pods)?;
            let healthy = scaled(Some(share), pods, true);
            Ok(Expected { pods, healthy })
        }
        (None, None) => Ok(Expected {
            pods: 0,
            healthy: 0,
        }),
    }
}

/// A warning, when the budget needs a number of replicas and pods have no controller to say one.
fn unmanaged(budget: &PodDisruptionBudget, pods: &[&Arc<Pod>]) -> Option<Note> {
    let spec = &budget.spec;
    let is_share = matches!(spec.min_available, Some(IntOrString::String(_)));
    if !is_share && spec.max_unavailable.is_none() {
        return None;
    }
    let mut controllers = pods.iter().map(|pod| pod.metadata.controller());
    controllers.any(|controller| controller.is_none()).then(|| {
        let text = format!(
            "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. \
             As a result, the status of the PDB cannot be calculated correctly, which may result in \
             undefined behavior. To account for these pods please set \".spec.minAvailable\" field \
             of the PDB to an integer value.",
            in_go(spec.selector.as_ref())
        );
        Note::warning(budget, "UnmanagedPods", text)
    })
}

/// A selector as Go prints it.
fn in_go(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else {
        return "nil".to_owned();
    };
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels
        .map(|(key, value)| format!("{key}: {value},"))
        .collect();
    let expressions = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|requirement| {
            let values = requirement.values.as_deref().unwrap_or_default().join(" ");
            format!(
                "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
                requirement.key, requirement.operator
            )
        });
    let expressions: String = expressions.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:\
         []LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// The replicas of every controller that has one of the pods; pods without one count as none.
fn scale(world: &World, pods: &[&Arc<Pod>]) -> Result<i32, String> {
    let mut scales: HashMap<String, i32> = HashMap::new();
    for pod in pods {
        let Some(owner) = pod.metadata.controller() else {
            continue;
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let key = Key::new(namespace, &owner.name);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let found = match owner.kind.as_str() {
            "ReplicaSet" => replica_set_scale(world, &key, &owner.uid),
            "ReplicationController" => {
                let controller = world.replicationcontrollers.get(&key);
                controller
                    .filter(|c| c.metadata.uid() == owner.uid)
                    .map(|c| (owner.uid.clone(), c.spec.replicas.unwrap_or(1)))
            }
            "StatefulSet" => {
                let set = world.statefulsets.get(&key);
                set.filter(|set| set.metadata.uid() == owner.uid)
                    .map(|set| (owner.uid.clone(), set.spec.replicas.unwrap_or(1)))
            }
            _ => None,
        };
        let (uid, replicas) =
            found.ok_or_else(|| format!("found no controllers for pod {name:?}"))?;
        scales.insert(uid, replicas);
    }
    Ok(scales.values().fold(0, |sum, n| sum.saturating_add(*n)))
}

/// That of the Deployment where there is one.
fn replica_set_scale(world: &World, key: &Key, uid: &str) -> Option<(String, i32)> {
    let set = world
        .replicasets
        .get(key)
        .filter(|set| set.metadata.uid() == uid)?;
    match set
        .metadata
        .controller()
        .filter(|owner| owner.kind == "Deployment")
    {
        None => Some((uid.to_owned(), set.spec.replicas.unwrap_or(1))),
        Some(owner) => {
            let deployment = world
                .deployments
                .get(&Key::new(&key.namespace, &owner.name))?;
            (deployment.metadata.uid() == owner.uid)
                .then(|| (owner.uid.clone(), deployment.spec.replicas.unwrap_or(1)))
        }
    }
}

/// Pods whose eviction was accepted and that are not deleted yet; when to look again.
fn disrupted(
    budget: &PodDisruptionBudget,
    pods: &[&Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut kept = BTreeMap::new();
    let mut recheck: Option<Duration> = None;
    for pod in pods.iter().filter(|pod| !pod.metadata.is_deleting()) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(at) = budget.status.disrupted_pods.get(name) else {
            continue;
        };
        let passed = u64::try_from(now.as_second() - at.0.as_second()).unwrap_or(0);
        if let Some(left) = DELETION.checked_sub(Duration::from_secs(passed)) {
            recheck = Some(recheck.map_or(left, |earlier| earlier.min(left)));
            kept.insert(name.to_owned(), at.clone());
        }
    }
    (kept, recheck)
}

/// Mechanism of `updatePdbStatus`.
fn status(
    budget: &PodDisruptionBudget,
    pods: &[&Arc<Pod>],
    expected: Expected,
    disrupted_pods: BTreeMap<String, Time>,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let is_healthy = |pod: &&&Arc<Pod>| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        pod.is_ready() && !pod.metadata.is_deleting() && !disrupted_pods.contains_key(name)
    };
    let healthy = pods.iter().filter(is_healthy).count();
    let current_healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if expected.pods > 0 {
        (current_healthy - expected.healthy).max(0)
    } else {
        0
    };
    let mut status = PodDisruptionBudgetStatus {
        observed_generation: budget.metadata.generation,
        disrupted_pods,
        disruptions_allowed: allowed,
        current_healthy,
        desired_healthy: expected.healthy,
        expected_pods: expected.pods,
        conditions: budget.status.conditions.clone(),
    };
    let (is_allowed, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    condition(&mut status, is_allowed, reason, String::new(), now);
    status
}

/// Mechanism of `failSafe`: what is not known allows nothing.
fn unknown(budget: &PodDisruptionBudget, why: String, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = PodDisruptionBudgetStatus {
        disruptions_allowed: 0,
        ..budget.status.clone()
    };
    condition(&mut status, "False", "SyncFailed", why, now);
    status
}

fn condition(
    status: &mut PodDisruptionBudgetStatus,
    is_allowed: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let condition = ObservedCondition {
        type_: ALLOWED.to_owned(),
        status: is_allowed.to_owned(),
        observed_generation: status.observed_generation,
        last_transition_time: Some(time(now)),
        reason: reason.to_owned(),
        message,
    };
    condition.set(&mut status.conditions);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::{ReplicaSet, StatefulSet};
    use crate::sim::{self, Sim};

    fn sim() -> Sim {
        Sim::new(vec![Box::new(DisruptionController)])
    }

    fn budget(spec: Value) -> Value {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "a"}});
        json!({"metadata": {"namespace": "ns", "name": "b"}, "spec": spec})
    }

    fn pod(sim: &Sim, name: &str, owner: Option<&str>) -> Value {
        let ready = sim::condition("Ready", "True", sim.now);
        let mut pod = json!({
            "metadata": {"namespace": "ns", "name": name, "labels": {"app": "a"}},
            "status": {"phase": "Running", "conditions": [ready]},
        });
        if let Some(uid) = owner {
            pod["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": uid,
                "controller": true,
            }]);
        }
        pod
    }

    fn settled(sim: &mut Sim, key: &Key) -> Value {
        sim.settle();
        sim.get::<PodDisruptionBudget>(key).unwrap()["status"].clone()
    }

    #[test]
    fn a_budget_without_pods_is_looked_at_and_allows_nothing() {
        let mut sim = sim();
        let key = sim.create::<PodDisruptionBudget>(budget(json!({"minAvailable": 1})));
        let status = settled(&mut sim, &key);
        assert_eq!(status["observedGeneration"], 1);
        assert_eq!(status["disruptionsAllowed"], 0);
        assert_eq!(status["conditions"][0]["reason"], "InsufficientPods");
    }

    #[test]
    fn what_is_healthy_beyond_the_minimum_may_go() {
        let mut sim = sim();
        let key = sim.create::<PodDisruptionBudget>(budget(json!({"minAvailable": 1})));
        for name in ["x", "y", "z"] {
            let pod = pod(&sim, name, None);
            sim.create::<Pod>(pod);
        }
        let status = settled(&mut sim, &key);
        assert_eq!(status["disruptionsAllowed"], 2);
        assert_eq!(status["conditions"][0]["status"], "True");
        sim.edit::<Pod>(&Key::new("ns", "x"), |pod| {
            pod["status"]["conditions"][0]["status"] = "False".into();
        });
        assert_eq!(settled(&mut sim, &key)["disruptionsAllowed"], 1);
    }

    #[test]
    fn a_share_is_one_of_the_replicas_that_should_be_there() {
        let mut sim = sim();
        let set = sim.create::<ReplicaSet>(json!({
            "metadata": {"namespace": "ns", "name": "rs"}, "spec": {"replicas": 4},
        }));
        let uid = sim.get::<ReplicaSet>(&set).unwrap()["metadata"]["uid"].clone();
        let uid = uid.as_str().unwrap().to_owned();
        for name in ["x", "y", "z"] {
            let pod = pod(&sim, name, Some(&uid));
            sim.create::<Pod>(pod);
        }
        let key = sim.create::<PodDisruptionBudget>(budget(json!({"maxUnavailable": "50%"})));
        let status = settled(&mut sim, &key);
        assert_eq!(
            (&status["expectedPods"], &status["desiredHealthy"]),
            (&json!(4), &json!(2))
        );
        assert_eq!(status["disruptionsAllowed"], 1);
    }

    #[test]
    fn a_stateful_set_says_how_many_replicas_should_be_there() {
        let mut sim = sim();
        let set = sim.create::<StatefulSet>(json!({
            "metadata": {"namespace": "ns", "name": "rs"}, "spec": {"replicas": 3},
        }));
        let uid = sim.get::<StatefulSet>(&set).unwrap()["metadata"]["uid"].clone();
        let mut pod = pod(&sim, "x", uid.as_str());
        pod["metadata"]["ownerReferences"][0]["kind"] = "StatefulSet".into();
        sim.create::<Pod>(pod);
        let key = sim.create::<PodDisruptionBudget>(budget(json!({"maxUnavailable": 2})));
        let status = settled(&mut sim, &key);
        assert_eq!(status["expectedPods"], 3);
        assert_eq!(status["desiredHealthy"], 1);
    }

    #[test]
    fn a_controller_nobody_knows_makes_the_budget_unknown() {
        let mut sim = sim();
        let key = sim.create::<PodDisruptionBudget>(budget(json!({"maxUnavailable": 1})));
        let pod = pod(&sim, "x", Some("nobody"));
        sim.create::<Pod>(pod);
        let status = settled(&mut sim, &key);
        assert_eq!(status["disruptionsAllowed"], 0);
        assert_eq!(status["conditions"][0]["reason"], "SyncFailed");
    }

    #[test]
    fn pods_without_a_controller_are_told_where_their_number_is_needed() {
        for (spec, told) in [
            (json!({"maxUnavailable": 1}), 1),
            (json!({"minAvailable": "50%"}), 1),
            (json!({"minAvailable": 1}), 0),
        ] {
            let mut sim = sim();
            let key = sim.create::<PodDisruptionBudget>(budget(spec));
            let pod = pod(&sim, "x", None);
            sim.create::<Pod>(pod);
            let events = sim.plan(0, &key).events;
            assert_eq!(events.len(), told);
            for event in events {
                assert_eq!((event.reason, event.warning), ("UnmanagedPods", true));
                let selector = "(selector: &LabelSelector{MatchLabels:map[string]string{app: a,},\
                                MatchExpressions:[]LabelSelectorRequirement{},})";
                assert!(event.message.contains(selector), "{}", event.message);
            }
        }
    }

    #[test]
    fn an_accepted_eviction_counts_until_its_time_is_over() {
        let mut sim = sim();
        let key = sim.create::<PodDisruptionBudget>(budget(json!({"minAvailable": 1})));
        for name in ["x", "y"] {
            let pod = pod(&sim, name, None);
            sim.create::<Pod>(pod);
        }
        sim.settle();
        let at = sim.now.to_string();
        sim.edit::<PodDisruptionBudget>(&key, |budget| {
            budget["status"]["disruptedPods"] = json!({"x": at});
        });
        assert_eq!(settled(&mut sim, &key)["disruptionsAllowed"], 0);
        sim.advance(121);
        sim.wake(0, &key);
        let status = settled(&mut sim, &key);
        assert_eq!(status["disruptionsAllowed"], 1);
        assert!(status.get("disruptedPods").is_none());
    }
}
