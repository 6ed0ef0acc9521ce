//! Node health over a simulated API.

use serde_json::{Value, json};

use super::*;
use crate::sim::{Sim, condition};

fn sim() -> Sim {
    Sim::new(vec![Box::<NodeLifecycle>::default()])
}

fn node(sim: &mut Sim, name: &str) -> Key {
    let ready = condition("Ready", "True", sim.now);
    let key = sim.create::<Node>(json!({
        "metadata": {"name": name}, "status": {"conditions": [ready]}}));
    sim.create::<crate::kinds::Lease>(json!({
        "metadata": {"namespace": NODE_LEASE_NAMESPACE, "name": name},
        "spec": {"renewTime": sim.now.to_string()}}));
    sim.settle();
    key
}

fn renew(sim: &mut Sim, name: &str) {
    let now = sim.now.to_string();
    let key = Key::new(NODE_LEASE_NAMESPACE, name);
    sim.edit::<crate::kinds::Lease>(&key, |lease| lease["spec"]["renewTime"] = now.into());
    sim.settle();
}

fn wake(sim: &mut Sim, key: &Key) {
    sim.wake(0, key);
    sim.settle();
}

fn ready(sim: &Sim, key: &Key) -> Value {
    let conditions = sim.get::<Node>(key).unwrap()["status"]["conditions"].clone();
    let all = conditions.as_array().unwrap().clone();
    all.into_iter().find(|c| c["type"] == "Ready").unwrap()["status"].clone()
}

fn taints(sim: &Sim, key: &Key) -> Vec<String> {
    let taints = sim.get::<Node>(key).unwrap()["spec"]["taints"].clone();
    let text = |t: &Value| format!("{}:{}", t["key"], t["effect"]).replace('"', "");
    taints
        .as_array()
        .unwrap_or(&Vec::new())
        .iter()
        .map(text)
        .collect()
}

#[test]
fn a_node_is_unknown_after_forty_seconds_of_silence_and_not_before() {
    let mut sim = sim();
    let key = node(&mut sim, "a");
    node(&mut sim, "b");
    for _ in 0..3 {
        sim.advance(10);
        renew(&mut sim, "a");
        renew(&mut sim, "b");
    }
    for _ in 0..3 {
        sim.advance(10);
        renew(&mut sim, "b");
        wake(&mut sim, &key);
    }
    assert_eq!(ready(&sim, &key), "True");
    sim.advance(10);
    renew(&mut sim, "b");
    wake(&mut sim, &key);
    assert_eq!(ready(&sim, &key), "Unknown");
    assert_eq!(
        taints(&sim, &key),
        [
            "node.kubernetes.io/unreachable:NoSchedule",
            "node.kubernetes.io/unreachable:NoExecute"
        ]
    );
}

#[test]
fn taints_go_when_the_node_is_back_and_others_stay() {
    let mut sim = sim();
    let key = node(&mut sim, "a");
    node(&mut sim, "b");
    sim.edit::<Node>(&key, |node| {
        node["spec"]["taints"] = json!([{"key": "mine", "effect": "NoSchedule"}]);
        node["status"]["conditions"][0]["status"] = "False".into();
    });
    sim.settle();
    assert_eq!(taints(&sim, &key).len(), 3);
    sim.edit::<Node>(&key, |node| {
        node["status"]["conditions"][0]["status"] = "True".into()
    });
    sim.settle();
    assert_eq!(taints(&sim, &key), ["mine:NoSchedule"]);
}

#[test]
fn nothing_is_evicted_while_no_node_is_ready() {
    let mut sim = sim();
    let key = node(&mut sim, "a");
    sim.advance(40);
    wake(&mut sim, &key);
    assert_eq!(ready(&sim, &key), "Unknown");
    assert_eq!(
        taints(&sim, &key),
        ["node.kubernetes.io/unreachable:NoSchedule"]
    );
}

#[test]
fn pods_of_a_silent_node_are_not_ready_and_leave_when_their_patience_ends() {
    let mut sim = sim();
    let key = node(&mut sim, "a");
    node(&mut sim, "b");
    let ready = condition("Ready", "True", sim.now);
    let pod = sim.create::<Pod>(json!({
        "metadata": {"namespace": "ns", "name": "p"},
        "spec": {"nodeName": "a", "tolerations": [{"key": UNREACHABLE_TAINT,
            "operator": "Exists", "effect": NO_EXECUTE, "tolerationSeconds": 300}]},
        "status": {"phase": "Running", "conditions": [ready]}}));
    sim.settle();
    sim.advance(40);
    renew(&mut sim, "b");
    wake(&mut sim, &key);
    let state = |sim: &Sim| {
        let pod = sim.get::<Pod>(&pod).unwrap();
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|c| c["type"] == "Ready").unwrap()["status"].clone();
        (ready, !pod["metadata"]["deletionTimestamp"].is_null())
    };
    assert_eq!(state(&sim), (json!("False"), false));
    assert_eq!(
        sim.plan(0, &key).requeue_after,
        Some(Duration::from_secs(300))
    );
    sim.advance(300);
    renew(&mut sim, "b");
    wake(&mut sim, &key);
    assert_eq!(state(&sim), (json!("False"), true));
}

#[test]
fn a_node_that_never_reported_is_not_ready_rather_than_lost() {
    let mut sim = sim();
    node(&mut sim, "b");
    let key = sim.create::<Node>(json!({"metadata": {"name": "a"}}));
    sim.settle();
    assert_eq!(
        taints(&sim, &key),
        [
            "node.kubernetes.io/not-ready:NoSchedule",
            "node.kubernetes.io/not-ready:NoExecute"
        ]
    );
    sim.advance(61);
    renew(&mut sim, "b");
    wake(&mut sim, &key);
    assert_eq!(ready(&sim, &key), "Unknown");
}
