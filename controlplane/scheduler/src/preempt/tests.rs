//! Victims on small clusters: one sentence per rule.

use serde_json::{Value, json};

use super::*;
use crate::object::Node;
use crate::schedule::schedule;

fn snapshot(nodes: &[&str]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for name in nodes {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name},
            "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}}))
        .unwrap();
        snapshot.set_node(node);
    }
    snapshot
}

fn pod(name: &str, priority: i32, cpu: &str, status: Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"namespace": "ns", "name": name, "uid": name, "labels": {"app": name}},
        "spec": {"priority": priority,
            "containers": [{"resources": {"requests": {"cpu": cpu}}}]},
        "status": status});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn put(snapshot: &mut Snapshot, node: &str, pods: &[(&str, i32, &str)]) {
    for (name, priority, cpu) in pods {
        snapshot.assume(&pod(name, *priority, cpu, json!({})), node);
    }
}

fn chosen(snapshot: &Snapshot, pod: &Pod) -> (String, Vec<String>) {
    let found = preempt(snapshot, pod, &BTreeMap::new()).unwrap();
    let name = |victim: &Arc<Pod>| victim.key().name.to_string();
    (found.node, found.victims.iter().map(name).collect())
}

fn urgent() -> Arc<Pod> {
    pod("urgent", 100, "2", json!({}))
}

#[test]
fn no_more_pods_go_than_have_to_and_the_least_important_ones() {
    let mut snapshot = snapshot(&["a"]);
    put(
        &mut snapshot,
        "a",
        &[("low", 1, "2"), ("lower", 0, "1"), ("lowest", -5, "1")],
    );
    let (node, victims) = chosen(&snapshot, &urgent());
    assert_eq!(
        (node.as_str(), victims),
        ("a", vec!["lower".to_owned(), "lowest".to_owned()])
    );
    assert_eq!(
        snapshot.node("a").unwrap().pods.len(),
        3,
        "nothing was changed"
    );
}

#[test]
fn the_node_with_the_lowest_highest_priority_is_taken() {
    let mut snapshot = snapshot(&["a", "b", "c"]);
    put(&mut snapshot, "a", &[("a1", 10, "4")]);
    put(&mut snapshot, "b", &[("b1", 5, "2"), ("b2", 5, "2")]);
    put(&mut snapshot, "c", &[("c1", 5, "3"), ("c2", 50, "1")]);
    // b needs one victim of 5 and so does c: the sums are equal, too; a's is of 10.
    assert_eq!(chosen(&snapshot, &urgent()).0, "b");
}

#[test]
fn a_budget_is_violated_only_if_nothing_else_does() {
    let mut snapshot = snapshot(&["a", "b"]);
    put(&mut snapshot, "a", &[("guarded", 0, "4")]);
    put(&mut snapshot, "b", &[("free", 50, "4")]);
    let budget: Budget = serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "b"},
        "spec": {"selector": {"matchLabels": {"app": "guarded"}}},
        "status": {"disruptionsAllowed": 0}}))
    .unwrap();
    let budgets = BTreeMap::from([(budget.key(), Arc::new(budget))]);
    assert_eq!(preempt(&snapshot, &urgent(), &budgets).unwrap().node, "b");
    snapshot.remove_pod(&pod("free", 0, "0", json!({})).key());
    put(&mut snapshot, "b", &[("equal", 100, "4")]);
    assert_eq!(preempt(&snapshot, &urgent(), &budgets).unwrap().node, "a");
}

#[test]
fn nobody_goes_for_a_pod_that_would_not_fit_anyway_or_must_not_preempt() {
    let mut snapshot = snapshot(&["a", "b"]);
    put(&mut snapshot, "a", &[("low", 0, "4")]);
    put(&mut snapshot, "b", &[("equal", 100, "4")]);
    let huge = preempt(
        &snapshot,
        &pod("huge", 100, "9", json!({})),
        &BTreeMap::new(),
    );
    assert_eq!(
        huge.unwrap_err().to_string(),
        "0/2 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod."
    );
    let mut meek = (*urgent()).clone();
    meek.spec.preemption_policy = Some("Never".to_owned());
    let found = preempt(&snapshot, &meek, &BTreeMap::new());
    assert_eq!(found.unwrap_err(), Useless::Never);
}

#[test]
fn while_victims_are_going_no_others_are_chosen_and_nobody_takes_the_room() {
    let mut snapshot = snapshot(&["a", "b"]);
    put(&mut snapshot, "a", &[("low", 0, "4")]);
    put(&mut snapshot, "b", &[("equal", 100, "4")]);
    let urgent = urgent();
    assert_eq!(chosen(&snapshot, &urgent).0, "a");
    snapshot.promise(&urgent, "a");
    let mut going = (*pod("low", 0, "4", json!({}))).clone();
    going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
    snapshot.assume(&Arc::new(going), "a");
    let found = preempt(&snapshot, &urgent, &BTreeMap::new());
    assert_eq!(found.unwrap_err(), Useless::Waiting);
    snapshot.remove_pod(&pod("low", 0, "0", json!({})).key());
    let thief = pod("thief", 0, "3", json!({}));
    assert!(schedule(&snapshot, &thief, 0).is_err());
    assert_eq!(
        schedule(&snapshot, &pod("small", 0, "2", json!({})), 0).unwrap(),
        "a"
    );
    assert_eq!(schedule(&snapshot, &urgent, 0).unwrap(), "a");
    let more_urgent = pod("more", 200, "3", json!({}));
    assert_eq!(schedule(&snapshot, &more_urgent, 0).unwrap(), "a");
    let again = displaced(&snapshot, &more_urgent, "a");
    let again: Vec<Key> = again.iter().map(|other| other.key()).collect();
    assert_eq!(again, [urgent.key()]);
}
