//! StatefulSets over a simulated API.

use serde_json::{Value, json};

use super::*;
use crate::kinds::PersistentVolumeClaim;
use crate::sim::{Sim, condition};

fn sim() -> Sim {
    Sim::new(vec![Box::new(StatefulSetController)])
}

fn set(spec: Value) -> Value {
    let mut set = json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {
            "replicas": 3,
            "serviceName": "svc",
            "podManagementPolicy": "OrderedReady",
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"image": "v1"}]}},
            "updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"partition": 0, "maxUnavailable": 1}},
            "revisionHistoryLimit": 1,
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        set["spec"][key] = value.clone();
    }
    set
}

fn create(sim: &mut Sim, spec: Value) -> Key {
    let key = sim.create::<StatefulSet>(set(spec));
    sim.settle();
    key
}

fn pod(name: &str) -> Key {
    Key::new("ns", name)
}

/// Names with images; `-` behind those on their way out.
fn pods(sim: &Sim) -> Vec<String> {
    let show = |(key, pod): (Key, Value)| {
        let image = pod["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned();
        let leaving = !pod["metadata"]["deletionTimestamp"].is_null();
        format!("{}={image}{}", key.name, if leaving { "-" } else { "" })
    };
    sim.all::<Pod>().into_iter().map(show).collect()
}

fn ready(sim: &mut Sim, name: &str, status: &str) {
    let ready = condition("Ready", status, sim.now);
    sim.edit::<Pod>(&pod(name), |pod| {
        pod["spec"]["nodeName"] = "n".into();
        pod["status"] = json!({"phase": "Running", "conditions": [ready]});
    });
    sim.settle();
}

/// Kubelets start what is new and end what leaves, until nothing changes.
fn run_kubelets(sim: &mut Sim) {
    loop {
        let all = sim.all::<Pod>();
        let leaving = all
            .iter()
            .find(|(_, p)| !p["metadata"]["deletionTimestamp"].is_null());
        let new = all.iter().find(|(_, p)| p["status"]["phase"] != "Running");
        match (leaving, new) {
            (Some((key, _)), _) => {
                sim.remove::<Pod>(key);
                sim.settle();
            }
            (None, Some((key, _))) => ready(sim, &key.name.clone(), "True"),
            (None, None) => return,
        }
    }
}

fn status(sim: &Sim, key: &Key) -> StatefulSetStatus {
    serde_json::from_value(sim.get::<StatefulSet>(key).unwrap()["status"].clone()).unwrap()
}

fn set_image(sim: &mut Sim, key: &Key, image: &str) {
    sim.edit::<StatefulSet>(key, |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    });
    sim.settle();
}

#[test]
fn pods_come_one_after_the_other_with_their_own_names() {
    let mut sim = sim();
    let key = create(&mut sim, json!({}));
    assert_eq!(pods(&sim), ["web-0=v1"]);
    let first = sim.get::<Pod>(&pod("web-0")).unwrap();
    assert_eq!(first["spec"]["hostname"], "web-0");
    assert_eq!(first["spec"]["subdomain"], "svc");
    let labels = &first["metadata"]["labels"];
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "web-0");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "0");
    ready(&mut sim, "web-0", "False");
    assert_eq!(pods(&sim).len(), 1, "the next one waits for readiness");
    ready(&mut sim, "web-0", "True");
    assert_eq!(pods(&sim), ["web-0=v1", "web-1=v1"]);
    run_kubelets(&mut sim);
    assert_eq!(pods(&sim).len(), 3);
    let status = status(&sim, &key);
    assert_eq!((status.replicas, status.ready_replicas), (3, 3));
    assert_eq!((status.current_replicas, status.updated_replicas), (3, 3));
    assert_eq!(status.current_revision, status.update_revision);
}

#[test]
fn in_parallel_nothing_waits() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"podManagementPolicy": "Parallel"}));
    assert_eq!(pods(&sim).len(), 3);
    for name in ["web-0", "web-1", "web-2"] {
        ready(&mut sim, name, "False");
    }
    sim.edit::<StatefulSet>(&key, |set| set["spec"]["replicas"] = 1.into());
    sim.settle();
    assert_eq!(pods(&sim), ["web-0=v1", "web-1=v1-", "web-2=v1-"]);
}

#[test]
fn scaling_down_goes_from_the_end_and_halts_when_a_pod_is_unhealthy() {
    let mut sim = sim();
    let key = create(&mut sim, json!({}));
    run_kubelets(&mut sim);
    ready(&mut sim, "web-0", "False");
    sim.edit::<StatefulSet>(&key, |set| set["spec"]["replicas"] = 1.into());
    sim.settle();
    assert_eq!(pods(&sim).len(), 3, "web-0 is not ready");
    ready(&mut sim, "web-0", "True");
    assert_eq!(pods(&sim), ["web-0=v1", "web-1=v1", "web-2=v1-"]);
    sim.remove::<Pod>(&pod("web-2"));
    sim.settle();
    assert_eq!(pods(&sim), ["web-0=v1", "web-1=v1-"]);
    run_kubelets(&mut sim);
    assert_eq!(pods(&sim), ["web-0=v1"]);
}

#[test]
fn a_pod_that_ended_comes_back_under_its_name() {
    let mut sim = sim();
    create(&mut sim, json!({"replicas": 1}));
    run_kubelets(&mut sim);
    let uid = |sim: &Sim| {
        sim.get::<Pod>(&pod("web-0"))
            .map(|p| p["metadata"]["uid"].clone())
    };
    let before = uid(&sim);
    sim.edit::<Pod>(&pod("web-0"), |pod| {
        pod["status"]["phase"] = "Failed".into()
    });
    sim.settle();
    assert_eq!(pods(&sim), ["web-0=v1-"]);
    run_kubelets(&mut sim);
    assert_eq!(pods(&sim), ["web-0=v1"]);
    assert_ne!(uid(&sim), before);
}

#[test]
fn an_update_goes_pod_by_pod_from_the_end_and_can_be_undone() {
    let mut sim = sim();
    let key = create(&mut sim, json!({}));
    run_kubelets(&mut sim);
    let first = status(&sim, &key).current_revision;
    set_image(&mut sim, &key, "v2");
    assert_eq!(pods(&sim), ["web-0=v1", "web-1=v1", "web-2=v1-"]);
    let updating = status(&sim, &key);
    assert_eq!(updating.current_revision, first);
    assert_ne!(updating.update_revision, first);
    sim.remove::<Pod>(&pod("web-2"));
    sim.settle();
    assert_eq!(pods(&sim), ["web-0=v1", "web-1=v1", "web-2=v2"]);
    assert_eq!(status(&sim, &key).updated_replicas, 1);
    assert_eq!(status(&sim, &key).current_replicas, 2);
    run_kubelets(&mut sim);
    assert_eq!(pods(&sim), ["web-0=v2", "web-1=v2", "web-2=v2"]);
    let done = status(&sim, &key);
    assert_eq!(done.current_revision, done.update_revision);
    set_image(&mut sim, &key, "v1");
    run_kubelets(&mut sim);
    assert_eq!(
        status(&sim, &key).current_revision,
        first,
        "the old revision again"
    );
    assert_eq!(sim.all::<ControllerRevision>().len(), 2);
}

#[test]
fn a_partition_holds_the_update_back() {
    let mut sim = sim();
    let rolling = |partition: i32| {
        json!({"type": "RollingUpdate",
        "rollingUpdate": {"partition": partition, "maxUnavailable": 1}})
    };
    let key = create(&mut sim, json!({"updateStrategy": rolling(2)}));
    run_kubelets(&mut sim);
    set_image(&mut sim, &key, "v2");
    run_kubelets(&mut sim);
    assert_eq!(pods(&sim), ["web-0=v1", "web-1=v1", "web-2=v2"]);
    // What is below the partition comes back as it was.
    sim.remove::<Pod>(&pod("web-0"));
    sim.settle();
    run_kubelets(&mut sim);
    assert_eq!(pods(&sim), ["web-0=v1", "web-1=v1", "web-2=v2"]);
    sim.edit::<StatefulSet>(&key, |set| set["spec"]["updateStrategy"] = rolling(0));
    sim.settle();
    run_kubelets(&mut sim);
    assert_eq!(pods(&sim), ["web-0=v2", "web-1=v2", "web-2=v2"]);
}

#[test]
fn on_delete_updates_only_what_is_deleted() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"updateStrategy": {"type": "OnDelete"}}));
    run_kubelets(&mut sim);
    set_image(&mut sim, &key, "v2");
    assert_eq!(pods(&sim), ["web-0=v1", "web-1=v1", "web-2=v1"]);
    sim.remove::<Pod>(&pod("web-1"));
    sim.settle();
    run_kubelets(&mut sim);
    assert_eq!(pods(&sim), ["web-0=v1", "web-1=v2", "web-2=v1"]);
}

#[test]
fn history_is_kept_up_to_its_limit() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"replicas": 1}));
    for image in ["v1", "v2", "v3", "v4"] {
        set_image(&mut sim, &key, image);
        run_kubelets(&mut sim);
    }
    assert_eq!(sim.all::<ControllerRevision>().len(), 2);
}

#[test]
fn ordinals_can_start_elsewhere() {
    let mut sim = sim();
    create(&mut sim, json!({"replicas": 2, "ordinals": {"start": 5}}));
    run_kubelets(&mut sim);
    assert_eq!(pods(&sim), ["web-5=v1", "web-6=v1"]);
}

#[test]
fn claims_are_made_once_and_owned_as_the_policy_says() {
    let mut sim = sim();
    let claim = json!({"metadata": {"name": "data"}, "spec": {"resources": {}}});
    let key = create(
        &mut sim,
        json!({"replicas": 2, "volumeClaimTemplates": [claim],
            "persistentVolumeClaimRetentionPolicy":
                {"whenDeleted": "Delete", "whenScaled": "Delete"}}),
    );
    run_kubelets(&mut sim);
    let claims = sim.all::<PersistentVolumeClaim>();
    let names: Vec<&str> = claims.iter().map(|(key, _)| &*key.name).collect();
    assert_eq!(names, ["data-web-0", "data-web-1"]);
    assert_eq!(claims[0].1["metadata"]["labels"]["app"], "web");
    assert_eq!(
        claims[0].1["metadata"]["ownerReferences"][0]["kind"],
        "StatefulSet"
    );
    let volumes = &sim.get::<Pod>(&pod("web-1")).unwrap()["spec"]["volumes"];
    assert_eq!(
        volumes[0]["persistentVolumeClaim"]["claimName"],
        "data-web-1"
    );
    sim.edit::<StatefulSet>(&key, |set| set["spec"]["replicas"] = 1.into());
    sim.settle();
    let owner = |sim: &Sim, claim: &str| {
        let claim = sim.get::<PersistentVolumeClaim>(&pod(claim)).unwrap();
        claim["metadata"]["ownerReferences"][0]["kind"].clone()
    };
    assert_eq!(owner(&sim, "data-web-1"), "Pod", "goes with its pod");
    assert_eq!(owner(&sim, "data-web-0"), "StatefulSet");
    // While the claim of the last pod of that name is not gone the next one waits.
    run_kubelets(&mut sim);
    sim.edit::<StatefulSet>(&key, |set| set["spec"]["replicas"] = 2.into());
    sim.settle();
    assert_eq!(pods(&sim), ["web-0=v1"]);
    sim.remove::<PersistentVolumeClaim>(&pod("data-web-1"));
    sim.settle();
    assert_eq!(pods(&sim), ["web-0=v1", "web-1=v1"]);
}

#[test]
fn a_matching_orphan_is_adopted_only_under_a_name_of_the_set() {
    let mut sim = sim();
    for name in ["web-0", "other"] {
        sim.create::<Pod>(json!({
            "metadata": {"namespace": "ns", "name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"image": "v1"}], "nodeName": "n"},
            "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}]}}));
    }
    create(
        &mut sim,
        json!({"replicas": 1, "updateStrategy": {"type": "OnDelete"}}),
    );
    let meta = |name: &str| sim.get::<Pod>(&pod(name)).unwrap()["metadata"].clone();
    assert_eq!(meta("web-0")["ownerReferences"][0]["name"], "web");
    let label = "statefulset.kubernetes.io/pod-name";
    assert_eq!(
        meta("web-0")["labels"][label],
        "web-0",
        "and gets its label"
    );
    assert!(meta("other")["ownerReferences"].is_null());
}
