//! Deployments with their ReplicaSets and pods over a simulated API.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kinds::Pod;
use crate::kinds::ReplicaSet;
use crate::replicaset::ReplicaController;
use crate::sim::{Sim, condition};

fn deployment(replicas: i32, surge: Value, unavailable: Value) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"image": "v1"}]}},
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 600,
        },
    })
}

fn sim() -> Sim {
    Sim::new(vec![
        Box::new(DeploymentController),
        Box::<ReplicaController<ReplicaSet>>::default(),
    ])
}

/// Starts every pod that is not running, and lets terminating ones go.
fn run_kubelets(sim: &mut Sim) {
    for (key, _) in sim.all::<Pod>() {
        run_kubelet(sim, &key, true);
    }
}

fn run_kubelet(sim: &mut Sim, key: &Key, ready: bool) {
    let Some(pod) = sim.get::<Pod>(key) else {
        return;
    };
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        sim.remove::<Pod>(key);
        return;
    }
    let ready = condition("Ready", if ready { "True" } else { "False" }, sim.now);
    sim.edit::<Pod>(key, |pod| {
        pod["spec"]["nodeName"] = "n".into();
        pod["status"] = json!({"phase": "Running", "conditions": [ready]});
    });
}

/// Lets controllers and kubelets work until nothing changes.
fn finish(sim: &mut Sim) {
    for _ in 0..200 {
        sim.settle();
        let before = sim.all::<Pod>();
        run_kubelets(sim);
        if before == sim.all::<Pod>() {
            return;
        }
    }
    panic!("the rollout does not end");
}

fn set_image(sim: &mut Sim, key: &Key, image: &str) {
    let image = Value::from(image);
    sim.edit::<Deployment>(key, |d| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = image;
    });
}

fn images(sim: &Sim) -> Vec<String> {
    let image = |pod: &Value| {
        pod["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    sim.all::<Pod>().iter().map(|(_, pod)| image(pod)).collect()
}

fn progressing(sim: &Sim, key: &Key) -> Value {
    let conditions = &sim.get::<Deployment>(key).unwrap()["status"]["conditions"];
    let all = conditions.as_array().unwrap();
    all.iter()
        .find(|c| c["type"] == "Progressing")
        .unwrap()
        .clone()
}

#[test]
fn a_rollout_ends_with_only_new_pods_and_says_so() {
    let mut sim = sim();
    let key = sim.create::<Deployment>(deployment(3, json!("25%"), json!("25%")));
    finish(&mut sim);
    assert_eq!(images(&sim), ["v1", "v1", "v1"]);
    let name = sim.all::<ReplicaSet>()[0].0.name.to_string();
    let done = progressing(&sim, &key);
    assert_eq!(done["reason"], "NewReplicaSetAvailable");
    assert_eq!(
        done["message"],
        format!("ReplicaSet {name:?} has successfully progressed.")
    );
    set_image(&mut sim, &key, "v2");
    sim.settle();
    assert_ne!(progressing(&sim, &key)["reason"], "NewReplicaSetAvailable");
    finish(&mut sim);
    assert_eq!(images(&sim), ["v2", "v2", "v2"]);
    assert_eq!(progressing(&sim, &key)["reason"], "NewReplicaSetAvailable");
    let status = &sim.get::<Deployment>(&key).unwrap()["status"];
    assert_eq!(status["availableReplicas"], 3);
    assert!(status["unavailableReplicas"].is_null());
}

#[test]
fn revisions_grow_and_an_undone_template_gets_the_newest() {
    let mut sim = sim();
    let key = sim.create::<Deployment>(deployment(1, json!(1), json!(0)));
    let revision_of = |sim: &Sim| {
        let object = sim.get::<Deployment>(&key).unwrap();
        object["metadata"]["annotations"][revision::REVISION]
            .as_str()
            .unwrap()
            .to_owned()
    };
    for (image, wanted) in [("v1", "1"), ("v2", "2"), ("v1", "3")] {
        set_image(&mut sim, &key, image);
        finish(&mut sim);
        assert_eq!(revision_of(&sim), wanted);
    }
    let sets = sim.all::<ReplicaSet>();
    assert_eq!(sets.len(), 2);
    let history = sets.iter().find_map(|(_, set)| {
        set["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"].as_str()
    });
    assert_eq!(history, Some("1"));
}

#[test]
fn old_sets_beyond_the_limit_go() {
    let mut sim = sim();
    let key = sim.create::<Deployment>(deployment(1, json!(1), json!(0)));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        set_image(&mut sim, &key, image);
        finish(&mut sim);
    }
    assert_eq!(
        sim.all::<ReplicaSet>().len(),
        3,
        "two old sets and the new one"
    );
}

#[test]
fn a_stuck_rollout_is_reported_after_its_deadline() {
    let mut sim = sim();
    let key = sim.create::<Deployment>(deployment(2, json!(1), json!(0)));
    finish(&mut sim);
    set_image(&mut sim, &key, "v2");
    sim.settle();
    let due = sim
        .plan(0, &key)
        .requeue_after
        .expect("a look at the deadline");
    assert!((590..=601).contains(&due.as_secs()), "{due:?}");
    sim.advance(602);
    sim.wake(0, &key);
    sim.settle();
    let condition = progressing(&sim, &key);
    assert_eq!(condition["reason"], "ProgressDeadlineExceeded");
    assert_eq!(condition["status"], "False");
    finish(&mut sim);
    assert_eq!(progressing(&sim, &key)["reason"], "NewReplicaSetAvailable");
}

#[test]
fn a_change_of_size_during_a_rollout_is_spread_in_proportion() {
    // Upstream's example: 10 replicas, surge 3; 8 old and 5 new grow to 15 in all plus surge.
    let mut sim = sim();
    let key = sim.create::<Deployment>(deployment(10, json!(3), json!(2)));
    finish(&mut sim);
    set_image(&mut sim, &key, "v2");
    sim.settle();
    let sizes = |sim: &Sim| {
        let size = |set: &Value| set["spec"]["replicas"].as_i64().unwrap();
        let mut sizes: Vec<i64> = sim
            .all::<ReplicaSet>()
            .iter()
            .map(|(_, s)| size(s))
            .collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&sim), [5, 8]);
    sim.edit::<Deployment>(&key, |d| d["spec"]["replicas"] = 15.into());
    sim.step(0);
    assert_eq!(sizes(&sim), [7, 11]);
}

#[test]
fn a_taken_name_leads_to_another_hash() {
    let mut sim = sim();
    let object = deployment(1, json!(1), json!(0));
    let (name, _) = {
        let parsed: Deployment = serde_json::from_value(object.clone()).unwrap();
        revision::new_name(&parsed)
    };
    sim.create::<ReplicaSet>(json!({"metadata": {"namespace": "ns", "name": name},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"x": "y"}}, "template": {}}}));
    let key = sim.create::<Deployment>(object);
    finish(&mut sim);
    assert_eq!(
        sim.get::<Deployment>(&key).unwrap()["status"]["collisionCount"],
        1
    );
    assert_eq!(images(&sim), ["v1"]);
}

#[test]
fn the_fenceposts_are_upstreams() {
    for (surge, unavailable, replicas, wanted) in [
        (json!("25%"), json!("25%"), 10, (3, 2)),
        (json!("25%"), json!("25%"), 1, (1, 0)),
        (json!(0), json!("25%"), 1, (0, 1)),
        (json!("100%"), json!(0), 3, (3, 0)),
        (json!(2), json!(1), 5, (2, 1)),
    ] {
        let parsed: Deployment =
            serde_json::from_value(deployment(replicas, surge, unavailable)).unwrap();
        assert_eq!(replicas::fenceposts(&parsed), wanted);
    }
}

/// What may happen between two looks at a cluster.
#[derive(Clone, Debug)]
enum Step {
    Plan(usize),
    /// A kubelet gets on with one pod.
    Kubelet(usize),
    Image(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => any::<usize>().prop_map(Step::Plan),
        4 => any::<usize>().prop_map(Step::Kubelet),
        1 => (0..3_u8).prop_map(Step::Image),
    ];
    proptest::collection::vec(step, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the order of events, a rolling update keeps its bounds, and it comes to its end.
    #[test]
    fn a_rolling_update_stays_within_its_bounds(
        replicas in 1..8_i32, surge in 0..4_i32, unavailable in 0..4_i32, steps in steps()
    ) {
        let mut sim = sim();
        let object = deployment(replicas, json!(surge), json!(unavailable));
        let key = sim.create::<Deployment>(object);
        finish(&mut sim);
        let parsed = sim.world.deployments.get(&key).unwrap().clone();
        let (surge, _) = replicas::fenceposts(&parsed);
        let unavailable = replicas::max_unavailable(&parsed);
        for step in steps {
            match step {
                Step::Plan(pick) => {
                    sim.step(pick);
                }
                Step::Kubelet(pick) => {
                    let pods = sim.all::<Pod>();
                    if !pods.is_empty() {
                        run_kubelet(&mut sim, &pods[pick % pods.len()].0, true);
                    }
                }
                Step::Image(image) => set_image(&mut sim, &key, &format!("v{image}")),
            }
            let alive = |pod: &&std::sync::Arc<Pod>| pod.is_active();
            let pods: Vec<_> = sim.world.pods.iter().map(|(_, pod)| pod).filter(alive).collect();
            let ready = pods.iter().filter(|pod| pod.is_ready()).count() as i32;
            // A set's surplus pods go a moment after its size: the sizes are what is bounded.
            let sizes = sim.world.replicasets.iter().map(|(_, set)| set.spec.replicas.unwrap());
            let total: i32 = sizes.sum();
            prop_assert!(total <= replicas + surge, "{total} replicas");
            prop_assert!(ready >= replicas - unavailable, "{ready} of {replicas} ready");
        }
        finish(&mut sim);
        prop_assert_eq!(sim.all::<Pod>().len() as i32, replicas);
        let plan = sim.plan(0, &key);
        prop_assert!(plan.is_empty(), "at rest: {plan:?}");
    }
}
