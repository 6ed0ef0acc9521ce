//! ReplicaSets over a simulated API.

use serde_json::{Value, json};

use super::*;
use crate::sim::{Sim, condition};

fn set(replicas: i32) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": "rs"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}},
        },
    })
}

fn sim() -> Sim {
    Sim::new(vec![Box::new(ReplicaController::<ReplicaSet>::default())])
}

/// Binds and starts a pod.
fn start(sim: &mut Sim, pod: &Key, node: &str, ready: bool) {
    let ready = condition("Ready", if ready { "True" } else { "False" }, sim.now);
    sim.edit::<Pod>(pod, |pod| {
        pod["spec"]["nodeName"] = node.into();
        pod["status"] = json!({"phase": "Running", "conditions": [ready]});
    });
}

#[test]
fn pods_are_created_with_their_owner_and_counted_in_the_status() {
    let mut sim = sim();
    let key = sim.create::<ReplicaSet>(set(3));
    sim.settle();
    let pods = sim.all::<Pod>();
    assert_eq!(pods.len(), 3);
    assert_eq!(pods[0].1["metadata"]["ownerReferences"][0]["name"], "rs");
    start(&mut sim, &pods[0].0, "n", true);
    start(&mut sim, &pods[1].0, "n", false);
    sim.settle();
    let status = &sim.get::<ReplicaSet>(&key).unwrap()["status"];
    assert_eq!(status["replicas"], 3);
    assert_eq!(status["readyReplicas"], 1);
    assert_eq!(status["availableReplicas"], 1);
    assert_eq!(status["observedGeneration"], 1);
}

#[test]
fn creations_start_slowly_and_deletions_take_the_least_useful_pods() {
    let mut sim = sim();
    let key = sim.create::<ReplicaSet>(set(4));
    assert_eq!(sim.plan(0, &key).pace, Pace::SlowStart);
    sim.settle();
    let pods: Vec<Key> = sim.all::<Pod>().into_iter().map(|(key, _)| key).collect();
    // Two on one node, one not ready, one not scheduled at all.
    start(&mut sim, &pods[0], "n", true);
    start(&mut sim, &pods[1], "n", true);
    start(&mut sim, &pods[2], "m", false);
    sim.edit::<ReplicaSet>(&key, |set| set["spec"]["replicas"] = 1.into());
    sim.settle();
    let left: Vec<Key> = sim
        .all::<Pod>()
        .into_iter()
        .filter(|(_, pod)| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|(key, _)| key)
        .collect();
    assert_eq!(left.len(), 1);
    assert!(pods[..2].contains(&left[0]));
}

#[test]
fn finished_and_terminating_pods_are_replaced() {
    let mut sim = sim();
    sim.create::<ReplicaSet>(set(2));
    sim.settle();
    let pods: Vec<Key> = sim.all::<Pod>().into_iter().map(|(key, _)| key).collect();
    sim.edit::<Pod>(&pods[0], |pod| pod["status"]["phase"] = "Failed".into());
    let now = sim.now.to_string();
    sim.edit::<Pod>(&pods[1], |pod| {
        pod["metadata"]["deletionTimestamp"] = now.into()
    });
    sim.settle();
    assert_eq!(sim.all::<Pod>().len(), 4);
}

#[test]
fn a_matching_orphan_is_adopted_instead_of_creating_a_pod() {
    let mut sim = sim();
    let orphan = sim.create::<Pod>(json!({"metadata":
        {"namespace": "ns", "name": "orphan", "labels": {"app": "a"}}}));
    sim.create::<ReplicaSet>(set(1));
    sim.settle();
    assert_eq!(sim.all::<Pod>().len(), 1);
    let owners = &sim.get::<Pod>(&orphan).unwrap()["metadata"]["ownerReferences"];
    assert_eq!(owners[0]["kind"], "ReplicaSet");
}

#[test]
fn a_failure_to_create_shows_in_a_condition_until_it_is_over() {
    let mut sim = sim();
    let key = sim.create::<ReplicaSet>(set(1));
    let object = sim.world.replicasets.get(&key).unwrap().clone();
    let cx = Cx {
        now: sim.now,
        failure: Some("quota exceeded"),
    };
    let failing = plan(&sim.world, &object, &cx);
    let text = format!("{:?}", failing.status);
    assert!(
        text.contains("ReplicaFailure") && text.contains("quota exceeded"),
        "{text}"
    );
    sim.carry_out(Plan {
        writes: Vec::new(),
        ..failing
    });
    assert!(!sim.get::<ReplicaSet>(&key).unwrap()["status"]["conditions"].is_null());
    sim.settle();
    assert!(sim.get::<ReplicaSet>(&key).unwrap()["status"]["conditions"].is_null());
}

#[test]
fn a_pod_becomes_available_after_min_ready_seconds() {
    let mut sim = sim();
    let mut object = set(1);
    object["spec"]["minReadySeconds"] = 10.into();
    let key = sim.create::<ReplicaSet>(object);
    sim.settle();
    let pod = sim.all::<Pod>()[0].0.clone();
    start(&mut sim, &pod, "n", true);
    assert_eq!(
        sim.plan(0, &key).requeue_after,
        Some(Duration::from_secs(10))
    );
    sim.settle();
    assert!(sim.get::<ReplicaSet>(&key).unwrap()["status"]["availableReplicas"].is_null());
    sim.advance(10);
    sim.wake(0, &key);
    sim.settle();
    assert_eq!(
        sim.get::<ReplicaSet>(&key).unwrap()["status"]["availableReplicas"],
        1
    );
}

#[test]
fn a_replication_controller_keeps_its_pods_by_its_plain_selector() {
    let controller = ReplicaController::<ReplicationController>::default();
    let mut sim = Sim::new(vec![Box::new(controller)]);
    let key = sim.create::<ReplicationController>(json!({
        "metadata": {"namespace": "ns", "name": "rc"},
        "spec": {
            "replicas": 2,
            "selector": {"app": "a"},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}},
        },
    }));
    sim.settle();
    let pods = sim.all::<Pod>();
    assert_eq!(pods.len(), 2);
    let owner = &pods[0].1["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["apiVersion"]),
        (&json!("ReplicationController"), &json!("v1"))
    );
    let status = &sim.get::<ReplicationController>(&key).unwrap()["status"];
    assert_eq!(status["replicas"], 2);
    assert!(status.get("terminatingReplicas").is_none());
    // A pod that no longer matches is released and replaced.
    sim.edit::<Pod>(&pods[0].0, |pod| {
        pod["metadata"]["labels"]["app"] = "b".into()
    });
    sim.settle();
    assert_eq!(sim.all::<Pod>().len(), 3);
}

#[test]
fn a_replication_controller_adopts_matching_pods() {
    let controller = ReplicaController::<ReplicationController>::default();
    let mut sim = Sim::new(vec![Box::new(controller)]);
    let pod = sim.create::<Pod>(json!({"metadata":
        {"namespace": "ns", "name": "orphan", "labels": {"app": "a"}}}));
    sim.create::<ReplicationController>(json!({
        "metadata": {"namespace": "ns", "name": "rc"},
        "spec": {
            "replicas": 1,
            "selector": {"app": "a"},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}},
        },
    }));
    sim.settle();
    let owners = &sim.get::<Pod>(&pod).unwrap()["metadata"]["ownerReferences"];
    assert_eq!(owners[0]["kind"], "ReplicationController");
    assert_eq!(sim.all::<Pod>().len(), 1);
}
