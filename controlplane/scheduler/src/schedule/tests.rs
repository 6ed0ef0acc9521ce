//! Decisions on small clusters: one sentence per rule.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::object::Node;

fn node(name: &str, extra: Value) -> Node {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
    merge(&mut node, extra);
    serde_json::from_value(node).unwrap()
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut pod = json!({
        "metadata": {"namespace": "ns", "name": name, "uid": name},
        "spec": {"containers": [{"resources": {"requests": {"cpu": "100m"}}}]}});
    merge(&mut pod, spec);
    serde_json::from_value(pod).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn snapshot(nodes: Vec<Node>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    nodes.into_iter().for_each(|node| snapshot.set_node(node));
    snapshot
}

fn three() -> Snapshot {
    snapshot(vec![
        node("a", json!({})),
        node("b", json!({})),
        node("c", json!({})),
    ])
}

/// Places and counts the pod.
fn place(snapshot: &mut Snapshot, pod: Pod, seed: u64) -> Result<NodeName, Unschedulable> {
    let node = schedule(snapshot, &pod, seed)?;
    snapshot.assume(&Arc::new(pod), &node);
    Ok(node)
}

fn put(snapshot: &mut Snapshot, pod: Pod, node: &str) {
    snapshot.assume(&Arc::new(pod), node);
}

#[test]
fn every_reason_is_counted_in_upstreams_words() {
    let nodes = vec![
        node("a", json!({"spec": {"unschedulable": true}})),
        node(
            "b",
            json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
        ),
        node("c", json!({"status": {"allocatable": {"cpu": "50m"}}})),
        node(
            "d",
            json!({"status": {"allocatable": {"cpu": "50m", "pods": "0"}}}),
        ),
    ];
    let why = schedule(&snapshot(nodes), &pod("p", json!({})), 0).unwrap_err();
    assert_eq!(
        why.to_string(),
        "0/4 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint(s), \
         1 node(s) were unschedulable, 2 Insufficient cpu."
    );
}

#[test]
fn a_cluster_without_nodes_says_so() {
    let why = schedule(&Snapshot::default(), &pod("p", json!({})), 0).unwrap_err();
    assert_eq!(why.to_string(), "no nodes available to schedule pods");
}

#[test]
fn node_selector_and_required_affinity_both_bind() {
    let cluster = snapshot(vec![
        node(
            "a",
            json!({"metadata": {"labels": {"disk": "ssd", "zone": "x"}}}),
        ),
        node(
            "b",
            json!({"metadata": {"labels": {"disk": "ssd", "zone": "y"}}}),
        ),
        node("c", json!({"metadata": {"labels": {"zone": "y"}}})),
    ]);
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "zone", "operator": "In", "values": ["y"]}]}]});
    let spec = json!({"spec": {"nodeSelector": {"disk": "ssd"}, "affinity": {"nodeAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}});
    for seed in 0..10 {
        assert_eq!(
            schedule(&cluster, &pod("p", spec.clone()), seed).unwrap(),
            "b"
        );
    }
}

#[test]
fn a_daemon_pod_goes_to_the_node_it_names_or_nowhere() {
    let mut cluster = three();
    let daemon = |name: &str| {
        pod(
            name,
            json!({"spec": {"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In",
                    "values": ["b"]}]}]}}}}}),
        )
    };
    assert_eq!(place(&mut cluster, daemon("p"), 1).unwrap(), "b");
    let full = node("b", json!({"status": {"allocatable": {"pods": "1"}}}));
    cluster.set_node(full);
    assert_eq!(
        schedule(&cluster, &daemon("q"), 1).unwrap_err().to_string(),
        "0/3 nodes are available: 1 Too many pods, \
         2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    );
}

#[test]
fn host_ports_do_not_meet_on_one_node() {
    let mut cluster = snapshot(vec![node("a", json!({})), node("b", json!({}))]);
    let spec = json!({"spec": {"containers": [{"ports":
        [{"containerPort": 80, "hostPort": 8080}]}]}});
    let first = place(&mut cluster, pod("p", spec.clone()), 0).unwrap();
    let second = place(&mut cluster, pod("q", spec.clone()), 0).unwrap();
    assert_ne!(first, second);
    let why = schedule(&cluster, &pod("r", spec), 0).unwrap_err();
    assert!(
        why.to_string().contains("2 node(s) didn't have free ports"),
        "{why}"
    );
}

#[test]
fn replicas_of_one_owner_spread_over_the_nodes() {
    for seed in 0..20 {
        let mut cluster = three();
        let owned = |name: &str| {
            pod(
                name,
                json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1",
                "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}}),
            )
        };
        let mut nodes: Vec<_> = (0..3)
            .map(|i| place(&mut cluster, owned(&format!("p{i}")), seed).unwrap())
            .collect();
        nodes.sort();
        assert_eq!(nodes, ["a", "b", "c"], "seed {seed}");
    }
}

#[test]
fn anti_affinity_keeps_apart_and_placed_pods_are_respected() {
    let mut cluster = snapshot(vec![node("a", json!({})), node("b", json!({}))]);
    let apart = |name: &str| {
        pod(
            name,
            json!({"metadata": {"labels": {"app": "x"}}, "spec": {"affinity":
            {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname",
                 "labelSelector": {"matchLabels": {"app": "x"}}}]}}}}),
        )
    };
    let first = place(&mut cluster, apart("p"), 3).unwrap();
    let second = place(&mut cluster, apart("q"), 3).unwrap();
    assert_ne!(first, second);
    let why = schedule(&cluster, &apart("r"), 3).unwrap_err();
    assert!(
        why.to_string()
            .contains("2 node(s) didn't match pod anti-affinity rules"),
        "{why}"
    );
    // One without terms of its own is rejected by those that have them.
    let plain = pod("s", json!({"metadata": {"labels": {"app": "x"}}}));
    let why = schedule(&cluster, &plain, 3).unwrap_err();
    let text = "2 node(s) didn't satisfy existing pods anti-affinity rules";
    assert!(why.to_string().contains(text), "{why}");
}

#[test]
fn affinity_follows_the_first_of_its_group() {
    let mut cluster = three();
    let together = |name: &str| {
        pod(
            name,
            json!({"metadata": {"labels": {"app": "x"}}, "spec": {"affinity":
            {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname",
                 "labelSelector": {"matchLabels": {"app": "x"}}}]}}}}),
        )
    };
    let first = place(&mut cluster, together("p"), 7).unwrap();
    for i in 0..4 {
        assert_eq!(
            place(&mut cluster, together(&format!("q{i}")), i).unwrap(),
            first
        );
    }
}

#[test]
fn a_hard_spread_constraint_bounds_the_skew() {
    let zone = |name: &str, zone: &str| node(name, json!({"metadata": {"labels": {"zone": zone}}}));
    let mut cluster = snapshot(vec![zone("a", "x"), zone("b", "y")]);
    let spread = |name: &str| {
        pod(
            name,
            json!({"metadata": {"labels": {"app": "x"}}, "spec":
            {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "x"}}}]}}),
        )
    };
    put(&mut cluster, spread("p"), "a");
    assert_eq!(place(&mut cluster, spread("q"), 0).unwrap(), "b");
    put(&mut cluster, spread("r"), "a");
    assert_eq!(schedule(&cluster, &spread("s"), 0).unwrap(), "b");
}

#[test]
fn the_emptier_node_wins_and_soft_taints_repel() {
    let mut cluster = snapshot(vec![node("a", json!({})), node("b", json!({}))]);
    let big = json!({"spec": {"containers": [{"resources": {"requests":
        {"cpu": "1", "memory": "2Gi"}}}]}});
    put(&mut cluster, pod("p", big), "a");
    assert_eq!(schedule(&cluster, &pod("q", json!({})), 0).unwrap(), "b");
    let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    cluster.set_node(node("b", soft));
    assert_eq!(schedule(&cluster, &pod("q", json!({})), 0).unwrap(), "a");
}

#[test]
fn nothing_is_ever_overcommitted() {
    use proptest::prelude::*;
    proptest!(|(requests in proptest::collection::vec(1_i64..1500, 1..40), seed in any::<u64>())| {
        let mut cluster = three();
        for (i, milli) in requests.iter().enumerate() {
            let spec = json!({"spec": {"containers": [{"resources": {"requests":
                {"cpu": format!("{milli}m")}}}]}});
            let _ = place(&mut cluster, pod(&format!("p{i}"), spec), seed.wrapping_add(i as u64));
        }
        for node in cluster.nodes() {
            prop_assert!(node.requested.get("cpu") <= node.allocatable.get("cpu"));
            prop_assert!(node.pods.len() <= 10);
        }
    });
}
