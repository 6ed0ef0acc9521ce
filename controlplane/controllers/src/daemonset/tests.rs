//! DaemonSets over a simulated API.

use serde_json::{Value, json};

use super::*;
use crate::sim::{Sim, condition};

fn daemon_set(update: Value) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": "ds"},
        "spec": {
            "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"image": "v1"}], "nodeSelector": {"os": "linux"}}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": update},
            "revisionHistoryLimit": 1,
        },
    })
}

fn sim(nodes: &[&str]) -> Sim {
    let mut sim = Sim::new(vec![Box::<DaemonSetController>::default()]);
    for name in nodes {
        node(&mut sim, name, "linux");
    }
    sim
}

fn node(sim: &mut Sim, name: &str, os: &str) -> Key {
    sim.create::<Node>(json!({"metadata": {"name": name, "labels": {"os": os}}}))
}

fn target_of(pod: &Value) -> String {
    let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
    placement::target(&pod).unwrap().to_owned()
}

/// (node, image, being deleted), in order.
fn pods(sim: &Sim) -> Vec<(String, String, bool)> {
    let mut pods: Vec<_> = sim
        .all::<Pod>()
        .iter()
        .map(|(_, pod)| {
            let image = pod["spec"]["containers"][0]["image"]
                .as_str()
                .unwrap()
                .to_owned();
            (
                target_of(pod),
                image,
                !pod["metadata"]["deletionTimestamp"].is_null(),
            )
        })
        .collect();
    pods.sort();
    pods
}

fn run_kubelets(sim: &mut Sim) {
    for (key, pod) in sim.all::<Pod>() {
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            sim.remove::<Pod>(&key);
            continue;
        }
        let ready = condition("Ready", "True", sim.now);
        sim.edit::<Pod>(&key, |pod| {
            pod["spec"]["nodeName"] = target_of(pod).into();
            pod["status"] = json!({"phase": "Running", "conditions": [ready]});
        });
    }
    sim.settle();
}

fn set_image(sim: &mut Sim, key: &Key, image: &str) {
    let image = Value::from(image);
    sim.edit::<DaemonSet>(key, |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = image;
    });
    sim.settle();
}

#[test]
fn every_fitting_node_gets_one_pod_and_others_none() {
    let mut sim = sim(&["a", "b"]);
    node(&mut sim, "w", "windows");
    let key = sim.create::<DaemonSet>(daemon_set(json!({"maxUnavailable": 1})));
    sim.settle();
    run_kubelets(&mut sim);
    let nodes: Vec<_> = pods(&sim).into_iter().map(|(node, ..)| node).collect();
    assert_eq!(nodes, ["a", "b"]);
    let status = &sim.get::<DaemonSet>(&key).unwrap()["status"];
    assert_eq!(status["desiredNumberScheduled"], 2);
    assert_eq!(status["numberAvailable"], 2);
    node(&mut sim, "c", "linux");
    sim.settle();
    assert_eq!(pods(&sim).len(), 3);
}

#[test]
fn a_pod_leaves_a_node_that_no_longer_fits_but_stays_on_one_that_is_only_cordoned() {
    let mut sim = sim(&["a", "b"]);
    sim.create::<DaemonSet>(daemon_set(json!({"maxUnavailable": 1})));
    sim.settle();
    run_kubelets(&mut sim);
    sim.edit::<Node>(&Key::cluster("a"), |node| {
        node["spec"]["taints"] =
            json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]);
    });
    sim.edit::<Node>(&Key::cluster("b"), |node| {
        node["metadata"]["labels"] = json!({})
    });
    sim.settle();
    let leaving: Vec<_> = pods(&sim)
        .into_iter()
        .map(|(n, _, deleted)| (n, deleted))
        .collect();
    assert_eq!(leaving, [("a".to_owned(), false), ("b".to_owned(), true)]);
}

#[test]
fn an_update_replaces_as_many_pods_at_once_as_may_be_unavailable() {
    let mut sim = sim(&["a", "b", "c"]);
    let key = sim.create::<DaemonSet>(daemon_set(json!({"maxUnavailable": 1})));
    sim.settle();
    run_kubelets(&mut sim);
    set_image(&mut sim, &key, "v2");
    for _ in 0..12 {
        let down = pods(&sim).iter().filter(|(_, _, deleted)| *deleted).count();
        assert!(down <= 1, "{down} pods down at once");
        run_kubelets(&mut sim);
    }
    assert!(pods(&sim).iter().all(|(_, image, _)| image == "v2"));
    assert_eq!(
        sim.get::<DaemonSet>(&key).unwrap()["status"]["updatedNumberScheduled"],
        3
    );
}

#[test]
fn a_surging_update_starts_new_pods_before_old_ones_go() {
    let mut sim = sim(&["a", "b"]);
    let key = sim.create::<DaemonSet>(daemon_set(json!({"maxSurge": 1, "maxUnavailable": 0})));
    sim.settle();
    run_kubelets(&mut sim);
    set_image(&mut sim, &key, "v2");
    assert_eq!(pods(&sim).len(), 3, "one node has both");
    for _ in 0..12 {
        for node in ["a", "b"] {
            let alive = pods(&sim)
                .iter()
                .filter(|(n, _, gone)| n == node && !gone)
                .count();
            assert!(alive >= 1, "nothing on {node}");
        }
        run_kubelets(&mut sim);
    }
    let images: Vec<_> = pods(&sim).into_iter().map(|(_, image, _)| image).collect();
    assert_eq!(images, ["v2", "v2"]);
}

#[test]
fn failed_pods_are_replaced_with_a_growing_pause() {
    let mut sim = sim(&["a"]);
    let key = sim.create::<DaemonSet>(daemon_set(json!({"maxUnavailable": 1})));
    sim.settle();
    let fail = |sim: &mut Sim| {
        let pod = sim.all::<Pod>()[0].0.clone();
        sim.edit::<Pod>(&pod, |pod| pod["status"] = json!({"phase": "Failed"}));
        let plan = sim.plan(0, &key);
        sim.settle();
        plan
    };
    let first = fail(&mut sim);
    assert!(!first.writes.is_empty());
    let second = fail(&mut sim);
    assert!(second.writes.is_empty());
    assert_eq!(second.requeue_after, Some(Duration::from_secs(1)));
}

#[test]
fn revisions_follow_the_template_and_old_ones_beyond_the_limit_go() {
    let mut sim = sim(&["a"]);
    let key = sim.create::<DaemonSet>(daemon_set(json!({"maxUnavailable": 1})));
    for image in ["v1", "v2", "v3", "v2"] {
        set_image(&mut sim, &key, image);
        for _ in 0..6 {
            run_kubelets(&mut sim);
        }
    }
    let revisions = sim.all::<ControllerRevision>();
    let mut numbers: Vec<_> = revisions
        .iter()
        .map(|(_, r)| r["revision"].as_i64().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [3, 4]);
    assert_eq!(
        revisions[0].1["data"]["spec"]["template"]["$patch"],
        "replace"
    );
}
