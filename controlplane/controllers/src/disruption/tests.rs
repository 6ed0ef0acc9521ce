//! Budgets over a simulated API.

use serde_json::{Value, json};

use super::*;
use crate::kinds::{Deployment, ReplicaSet};
use crate::sim::{Sim, condition};

fn sim() -> Sim {
    Sim::new(vec![Box::new(DisruptionController)])
}

fn budget(sim: &mut Sim, spec: Value) -> Key {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "a"}});
    let key = sim.create::<PodDisruptionBudget>(json!({
        "metadata": {"namespace": "ns", "name": "b"}, "spec": spec}));
    sim.settle();
    key
}

fn pod(sim: &mut Sim, name: &str, owner: Option<&str>) -> Key {
    let ready = condition("Ready", "True", sim.now);
    let owners = owner.map(|uid| {
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": uid,
            "controller": true}])
    });
    let key = sim.create::<Pod>(json!({
        "metadata": {"namespace": "ns", "name": name, "labels": {"app": "a"},
            "ownerReferences": owners},
        "status": {"phase": "Running", "conditions": [ready]}}));
    sim.settle();
    key
}

fn status(sim: &Sim, key: &Key) -> PodDisruptionBudgetStatus {
    let budget = sim.get::<PodDisruptionBudget>(key).unwrap();
    serde_json::from_value(budget["status"].clone()).unwrap()
}

#[test]
fn a_number_of_healthy_pods_must_remain() {
    let mut sim = sim();
    let key = budget(&mut sim, json!({"minAvailable": 2}));
    assert_eq!(status(&sim, &key).disruptions_allowed, 0);
    let first = pod(&mut sim, "a", None);
    pod(&mut sim, "b", None);
    pod(&mut sim, "c", None);
    let now = status(&sim, &key);
    assert_eq!((now.disruptions_allowed, now.current_healthy), (1, 3));
    assert_eq!((now.desired_healthy, now.expected_pods), (2, 3));
    assert_eq!(now.conditions[0].reason, "SufficientPods");
    let not_ready = condition("Ready", "False", sim.now);
    sim.edit::<Pod>(&first, |pod| {
        pod["status"]["conditions"] = json!([not_ready])
    });
    sim.settle();
    assert_eq!(status(&sim, &key).disruptions_allowed, 0);
    assert_eq!(status(&sim, &key).conditions[0].reason, "InsufficientPods");
}

#[test]
fn shares_are_of_the_size_of_the_controllers() {
    let mut sim = sim();
    let deployment = sim.create::<Deployment>(json!({
        "metadata": {"namespace": "ns", "name": "d"}, "spec": {"replicas": 4}}));
    let uid = sim.get::<Deployment>(&deployment).unwrap()["metadata"]["uid"].clone();
    let set = sim.create::<ReplicaSet>(json!({
        "metadata": {"namespace": "ns", "name": "rs", "ownerReferences": [{"apiVersion": "apps/v1",
            "kind": "Deployment", "name": "d", "uid": uid, "controller": true}]},
        "spec": {"replicas": 2}}));
    let uid = sim.get::<ReplicaSet>(&set).unwrap()["metadata"]["uid"].clone();
    for name in ["a", "b", "c"] {
        pod(&mut sim, name, uid.as_str());
    }
    let key = budget(&mut sim, json!({"maxUnavailable": "50%"}));
    let now = status(&sim, &key);
    assert_eq!((now.expected_pods, now.desired_healthy), (4, 2));
    assert_eq!(now.disruptions_allowed, 1);
}

#[test]
fn what_cannot_be_counted_allows_nothing() {
    let mut sim = sim();
    pod(&mut sim, "a", Some("unknown"));
    let key = budget(&mut sim, json!({"maxUnavailable": 1}));
    assert_eq!(status(&sim, &key).conditions[0].reason, "SyncFailed");
    assert_eq!(status(&sim, &key).disruptions_allowed, 0);
}

#[test]
fn an_evicted_pod_counts_no_more_until_it_is_clear_that_it_stays() {
    let mut sim = sim();
    pod(&mut sim, "a", None);
    pod(&mut sim, "b", None);
    let key = budget(&mut sim, json!({"minAvailable": 1}));
    let now = sim.now.to_string();
    // What the API server does when it grants an eviction.
    sim.edit::<PodDisruptionBudget>(&key, |budget| {
        budget["status"]["disruptedPods"] = json!({"a": now});
        budget["status"]["disruptionsAllowed"] = 0.into();
    });
    sim.settle();
    assert_eq!(status(&sim, &key).disruptions_allowed, 0);
    assert_eq!(sim.plan(0, &key).requeue_after, Some(DELETION_TIMEOUT));
    sim.advance(120);
    sim.wake(0, &key);
    sim.settle();
    assert_eq!(status(&sim, &key).disruptions_allowed, 1);
    assert!(status(&sim, &key).disrupted_pods.is_empty());
}
