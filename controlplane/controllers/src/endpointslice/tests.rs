//! Slices over a simulated API, and the laws of their distribution.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::distribute::MAX_ENDPOINTS;
use super::*;
use crate::endpoints::EndpointsController;
use crate::kinds::Endpoints;
use crate::sim::{Sim, condition};

fn sim() -> Sim {
    Sim::new(vec![
        Box::new(EndpointSliceController),
        Box::new(EndpointsController),
    ])
}

fn service(families: Value) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": "web", "labels": {"team": "x"}},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": families,
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}]},
    })
}

fn pod(sim: &mut Sim, number: usize, port: i32, ready: bool) -> Key {
    let ready = condition("Ready", if ready { "True" } else { "False" }, sim.now);
    let ip = format!("10.1.{}.{}", number / 250, number % 250 + 1);
    sim.create::<Pod>(json!({
        "metadata": {"namespace": "ns", "name": format!("p{number}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "n", "containers": [{"ports":
            [{"name": "http", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": ip,
            "podIPs": [{"ip": ip}, {"ip": format!("fd00::{number:x}")}],
            "conditions": [ready]},
    }))
}

fn slices(sim: &Sim) -> Vec<Value> {
    sim.all::<EndpointSlice>()
        .into_iter()
        .map(|(_, slice)| slice)
        .collect()
}

#[test]
fn a_service_without_pods_has_one_empty_slice_per_family() {
    let mut sim = sim();
    sim.create::<Service>(service(json!(["IPv4", "IPv6"])));
    sim.settle();
    let slices = slices(&sim);
    let mut families: Vec<_> = slices.iter().map(|s| s["addressType"].clone()).collect();
    families.sort_by_key(Value::to_string);
    assert_eq!(families, ["IPv4", "IPv6"]);
    assert!(slices.iter().all(|s| s["endpoints"] == json!([])));
    assert_eq!(slices[0]["metadata"]["labels"]["team"], "x");
    assert_eq!(
        slices[0]["metadata"]["ownerReferences"][0]["kind"],
        "Service"
    );
}

#[test]
fn terminating_pods_serve_but_are_not_ready() {
    let mut sim = sim();
    sim.create::<Service>(service(json!(["IPv4"])));
    let key = pod(&mut sim, 1, 8080, true);
    let now = sim.now.to_string();
    sim.edit::<Pod>(&key, |pod| {
        pod["metadata"]["deletionTimestamp"] = now.into()
    });
    sim.settle();
    let conditions = &slices(&sim)[0]["endpoints"][0]["conditions"];
    assert_eq!(
        *conditions,
        json!({"ready": false, "serving": true, "terminating": true})
    );
    let endpoints = sim.all::<Endpoints>();
    assert!(endpoints.is_empty() || endpoints[0].1["subsets"] == json!([]));
}

#[test]
fn pods_with_another_number_for_the_named_port_get_a_slice_of_their_own() {
    let mut sim = sim();
    sim.create::<Service>(service(json!(["IPv4"])));
    pod(&mut sim, 1, 8080, true);
    pod(&mut sim, 2, 9090, true);
    sim.settle();
    let ports: BTreeSet<i64> = slices(&sim)
        .iter()
        .map(|s| s["ports"][0]["port"].as_i64().unwrap())
        .collect();
    assert_eq!(ports, BTreeSet::from([8080, 9090]));
    assert_eq!(
        sim.all::<Endpoints>()[0].1["subsets"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn a_changed_pod_changes_only_its_own_slice() {
    let mut sim = sim();
    sim.create::<Service>(service(json!(["IPv4"])));
    let keys: Vec<Key> = (0..250).map(|i| pod(&mut sim, i, 8080, true)).collect();
    sim.settle();
    assert_eq!(slices(&sim).len(), 3);
    let before = sim.all::<EndpointSlice>();
    sim.remove::<Pod>(&keys[7]);
    sim.settle();
    let after = sim.all::<EndpointSlice>();
    let changed = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| old != new)
        .count();
    assert_eq!(changed, 1);
}

#[test]
fn without_its_service_the_endpoints_object_goes() {
    let mut sim = sim();
    let key = sim.create::<Service>(service(json!(["IPv4"])));
    pod(&mut sim, 1, 8080, true);
    sim.settle();
    let subset = &sim.all::<Endpoints>()[0].1["subsets"][0];
    assert_eq!(subset["addresses"][0]["ip"], "10.1.0.2");
    assert_eq!(subset["ports"][0]["port"], 8080);
    sim.remove::<Service>(&key);
    sim.settle();
    assert!(sim.all::<Endpoints>().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever comes and goes: each pod stands in exactly one slice, no slice is too large, and
    /// at rest there is nothing to do.
    #[test]
    fn every_pod_stands_in_exactly_one_slice(
        changes in proptest::collection::vec((any::<bool>(), 1..120_usize), 1..6)
    ) {
        let mut sim = sim();
        let key = sim.create::<Service>(service(json!(["IPv4"])));
        let mut next = 0;
        for (add, count) in changes {
            let pods = sim.all::<Pod>();
            if add {
                (0..count).for_each(|i| drop(pod(&mut sim, next + i, 8080, i % 3 > 0)));
                next += count;
            } else {
                pods.iter().step_by(2).take(count).for_each(|(key, _)| sim.remove::<Pod>(key));
            }
            sim.settle();
            let mut seen = BTreeSet::new();
            for slice in slices(&sim) {
                let endpoints = slice["endpoints"].as_array().unwrap();
                prop_assert!(endpoints.len() <= MAX_ENDPOINTS);
                for endpoint in endpoints {
                    let name = endpoint["targetRef"]["name"].as_str().unwrap().to_owned();
                    prop_assert!(seen.insert(name));
                }
            }
            let pods: BTreeSet<String> =
                sim.all::<Pod>().iter().map(|(key, _)| key.name.to_string()).collect();
            prop_assert_eq!(seen, pods);
            prop_assert!(sim.plan(0, &key).is_empty());
            prop_assert!(sim.plan(1, &key).is_empty());
        }
    }
}
