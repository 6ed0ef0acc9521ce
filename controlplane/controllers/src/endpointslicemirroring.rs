//! EndpointSlice mirroring: Endpoints that somebody keeps for a Service without selector, as the
//! EndpointSlices that are read in their place.
//!
//! Mechanism of pkg/controller/endpointslicemirroring: one slice per address family and set of ports;
//! a slice nothing needs any more is used for one that is missing, or goes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{self as core, EndpointSubset};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use serde_json::{Value, json};

use crate::endpoint;
use crate::endpointslice::{
    MANAGED_BY_LABEL, SERVICE_NAME_LABEL, body, delete_slice, replace_slice, same_ports,
};
use crate::kinds::{EndpointSlice, Endpoints, Projection};
use crate::object::{Key, MetaExt, controller_ref};
use crate::plan::{Controller, Cx, Note, Plan};
use crate::view::{Change, World};
use crate::write::Write;

const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Of leader elections that used Endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations a slice does not get.
const UNMIRRORED: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];
/// Addresses of one set of ports (upstream's default for --mirroring-max-endpoints-per-subset).
const MAX_ENDPOINTS: usize = 1000;

#[derive(Debug, Default)]
pub struct EndpointSliceMirroring;

impl Controller for EndpointSliceMirroring {
    fn name(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }

    fn react(&mut self, _: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::Service(delta) => keys.push(delta.key()),
            Change::Endpoints(delta) => keys.push(delta.key()),
            Change::EndpointSlice(delta) => {
                let meta = &delta.latest().metadata;
                let is_mirror = meta.label(MANAGED_BY_LABEL) == Some(MANAGED_BY);
                if let (true, Some(name)) = (is_mirror, meta.label(SERVICE_NAME_LABEL)) {
                    keys.push(Key::new(meta.namespace.as_deref().unwrap_or(""), name));
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, _: &Cx<'_>) -> Plan {
        let ours = BTreeMap::from([
            (SERVICE_NAME_LABEL.to_owned(), key.name.to_string()),
            (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
        ]);
        let mut existing: Vec<&Arc<EndpointSlice>> = world.slices.labelled(&key.namespace, &ours);
        existing.retain(|slice| !slice.metadata.is_deleting());
        let service = world.services.get(key);
        match world.endpoints.get(key) {
            Some(endpoints)
                if is_mirrored(endpoints)
                    && service.is_some_and(|s| !endpoint::selects_pods(s)) =>
            {
                mirror(endpoints, existing)
            }
            _ => Plan::of(existing.into_iter().map(|s| delete_slice(s)).collect()),
        }
    }
}

/// `shouldMirror`.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let annotations = meta.annotations.as_ref();
    meta.label(SKIP_LABEL) != Some("true") && !annotations.is_some_and(|a| a.contains_key(LEADER))
}

/// A slice as it should be.
#[derive(Debug)]
struct Mirror {
    family: &'static str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

fn mirror(endpoints: &Endpoints, mut existing: Vec<&Arc<EndpointSlice>>) -> Plan {
    let Mirrors {
        slices,
        invalid,
        skipped,
    } = mirrors(&endpoints.subsets);
    let mut writes = Vec::new();
    let mut missing = Vec::new();
    for slice in slices {
        let same = |old: &&Arc<EndpointSlice>| {
            old.address_type == slice.family && same_ports(&old.ports, &slice.ports)
        };
        match existing.iter().position(same) {
            Some(at) => writes.extend(update(endpoints, existing.swap_remove(at), slice)),
            None => missing.push(slice),
        }
    }
    for slice in missing {
        let reusable = |old: &&Arc<EndpointSlice>| old.address_type == slice.family;
        match existing.iter().position(reusable) {
            Some(at) => writes.extend(update(endpoints, existing.swap_remove(at), slice)),
            None if endpoints.metadata.is_deleting() => {}
            None => writes.push(create(endpoints, slice)),
        }
    }
    writes.extend(existing.into_iter().map(|slice| delete_slice(slice)));
    Plan {
        writes,
        events: notes(endpoints, invalid, skipped),
        ..Plan::default()
    }
}

fn notes(endpoints: &Endpoints, invalid: usize, skipped: usize) -> Vec<Note> {
    let mut notes = Vec::new();
    if invalid > 0 {
        let text =
            format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        notes.push(Note::warning(endpoints, "InvalidIPAddress", text));
    }
    if skipped > 0 {
        let text = format!(
            "A max of {MAX_ENDPOINTS} addresses can be mirrored to EndpointSlices per Endpoints \
             subset. {skipped} addresses were skipped"
        );
        notes.push(Note::warning(endpoints, "TooManyAddressesToMirror", text));
    }
    notes
}

/// Slices, and the addresses that stand in none.
struct Mirrors {
    slices: Vec<Mirror>,
    invalid: usize,
    skipped: usize,
}

/// Name, protocol and number order ports.
type Ports = Vec<(String, String, i32, Option<String>)>;
/// An address with its pod; one that is ready in one subset and not in another is not ready
/// (`RepackSubsets`).
type Addresses<'a> = BTreeMap<(IpAddr, Option<&'a str>), (&'a core::EndpointAddress, bool)>;

fn mirrors(subsets: &[EndpointSubset]) -> Mirrors {
    let mut packed: BTreeMap<Ports, Addresses<'_>> = BTreeMap::new();
    let mut invalid = 0;
    for subset in subsets {
        let addresses = packed.entry(ports(subset)).or_default();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset
            .not_ready_addresses
            .iter()
            .flatten()
            .map(|a| (a, false));
        for (address, ready) in ready.chain(not_ready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            let pod = address.target_ref.as_ref().and_then(|r| r.uid.as_deref());
            let entry = addresses.entry((ip, pod)).or_insert((address, ready));
            entry.1 &= ready;
        }
    }
    let mut slices = Vec::new();
    let mut skipped = 0;
    for (ports, addresses) in packed {
        skipped += addresses.len().saturating_sub(MAX_ENDPOINTS);
        let kept: Vec<_> = addresses.into_iter().take(MAX_ENDPOINTS).collect();
        for family in ["IPv4", "IPv6"] {
            let of_family = kept
                .iter()
                .filter(|((ip, _), _)| ip.is_ipv6() == (family == "IPv6"));
            let endpoints: Vec<Endpoint> = of_family
                .map(|((ip, _), (address, ready))| endpoint_of(*ip, address, *ready))
                .collect();
            if !endpoints.is_empty() {
                slices.push(Mirror {
                    family,
                    ports: ports.iter().map(port).collect(),
                    endpoints,
                });
            }
        }
    }
    Mirrors {
        slices,
        invalid,
        skipped,
    }
}

fn ports(subset: &EndpointSubset) -> Ports {
    let port = |port: &core::EndpointPort| {
        (
            port.name.clone().unwrap_or_default(),
            endpoint::protocol(port.protocol.as_deref()).to_owned(),
            port.port,
            port.app_protocol.clone(),
        )
    };
    let mut ports: Ports = subset.ports.iter().flatten().map(port).collect();
    ports.sort();
    ports
}

fn port(
    (name, protocol, number, app_protocol): &(String, String, i32, Option<String>),
) -> EndpointPort {
    EndpointPort {
        name: Some(name.clone()),
        port: Some(*number),
        protocol: Some(protocol.clone()),
        app_protocol: app_protocol.clone(),
    }
}

/// `addressToEndpoint`.
fn endpoint_of(ip: IpAddr, address: &core::EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn update(endpoints: &Endpoints, old: &EndpointSlice, slice: Mirror) -> Option<Write> {
    let (labels, annotations) = (labels(endpoints), annotations(endpoints));
    let meta = &old.metadata;
    let is_same = old.endpoints == slice.endpoints
        && same_ports(&old.ports, &slice.ports)
        && meta.labels.as_ref() == Some(&labels)
        && meta.annotations.clone().unwrap_or_default() == annotations;
    if is_same {
        return None;
    }
    let mut metadata = serde_json::to_value(meta).expect("metadata is plain data");
    describe(&mut metadata, endpoints, labels, annotations);
    let body = body(metadata, slice.family, &slice.ports, &slice.endpoints);
    Some(replace_slice(old, body))
}

fn create(endpoints: &Endpoints, slice: Mirror) -> Write {
    let meta = &endpoints.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let mut metadata = json!({"generateName": format!("{name}-"), "namespace": meta.namespace});
    describe(
        &mut metadata,
        endpoints,
        labels(endpoints),
        annotations(endpoints),
    );
    let key = Key::new(meta.namespace.as_deref().unwrap_or(""), "");
    let body = body(metadata, slice.family, &slice.ports, &slice.endpoints);
    Write::create(&EndpointSlice::RESOURCE, key, body)
}

fn describe(
    metadata: &mut Value,
    endpoints: &Endpoints,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
) {
    metadata["labels"] = json!(labels);
    metadata["annotations"] = json!(annotations);
    metadata["ownerReferences"] = json!([controller_ref("v1", "Endpoints", &endpoints.metadata)]);
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), name);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels
}

fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    for key in UNMIRRORED {
        annotations.remove(key);
    }
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Service;
    use crate::sim::Sim;

    fn sim(selector: Value) -> Sim {
        let mut sim = Sim::new(vec![Box::new(EndpointSliceMirroring)]);
        sim.create::<Service>(json!({
            "metadata": {"namespace": "ns", "name": "db"},
            "spec": {"selector": selector, "ports": [{"port": 5432}]},
        }));
        sim
    }

    fn endpoints(sim: &mut Sim, subsets: Value) -> Key {
        sim.create::<Endpoints>(json!({
            "metadata": {"namespace": "ns", "name": "db", "labels": {"team": "x"},
                "annotations": {"note": "n", UNMIRRORED[0]: "t"}},
            "subsets": subsets,
        }))
    }

    fn slices(sim: &Sim) -> Vec<Value> {
        let mut slices: Vec<Value> = sim
            .all::<EndpointSlice>()
            .into_iter()
            .map(|(_, slice)| slice)
            .collect();
        slices.sort_by_key(|slice| slice["addressType"].to_string());
        slices
    }

    fn two_families() -> Value {
        json!([{"addresses": [{"ip": "10.0.0.2", "hostname": "a"}, {"ip": "fd00::2"}],
            "notReadyAddresses": [{"ip": "10.0.0.3"}],
            "ports": [{"name": "sql", "port": 5432}]}])
    }

    #[test]
    fn endpoints_of_a_service_without_selector_become_a_slice_per_family() {
        let mut sim = sim(json!({}));
        endpoints(&mut sim, two_families());
        sim.settle();
        let slices = slices(&sim);
        assert_eq!(slices.len(), 2);
        let v4 = &slices[0];
        assert_eq!(
            v4["endpoints"],
            json!([
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}, "hostname": "a"},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
            ])
        );
        assert_eq!(
            v4["ports"],
            json!([{"name": "sql", "port": 5432, "protocol": "TCP"}])
        );
        let labels = json!({"team": "x", SERVICE_NAME_LABEL: "db", MANAGED_BY_LABEL: MANAGED_BY});
        assert_eq!(v4["metadata"]["labels"], labels);
        assert_eq!(v4["metadata"]["annotations"], json!({"note": "n"}));
        assert_eq!(v4["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
        assert_eq!(slices[1]["endpoints"][0]["addresses"], json!(["fd00::2"]));
    }

    #[test]
    fn a_change_is_written_into_the_slice_that_is_there() {
        let mut sim = sim(json!({}));
        let key = endpoints(&mut sim, two_families());
        sim.settle();
        let name = slices(&sim)[0]["metadata"]["name"].clone();
        sim.edit::<Endpoints>(&key, |e| {
            e["subsets"] = json!([{"addresses": [{"ip": "10.0.0.9"}], "ports": [{"port": 1}]}]);
        });
        sim.settle();
        let slices = slices(&sim);
        assert_eq!(slices.len(), 1, "the other family's slice is gone");
        assert_eq!(slices[0]["metadata"]["name"], name);
        assert_eq!(slices[0]["endpoints"][0]["addresses"], json!(["10.0.0.9"]));
        assert!(sim.plan(0, &key).is_empty());
    }

    #[test]
    fn nothing_is_mirrored_for_a_selector_a_label_or_a_service_that_is_gone() {
        let mut sim = sim(json!({}));
        let key = endpoints(&mut sim, two_families());
        sim.settle();
        sim.edit::<Endpoints>(&key, |e| {
            e["metadata"]["labels"] = json!({SKIP_LABEL: "true"})
        });
        sim.settle();
        assert!(slices(&sim).is_empty());
        sim.edit::<Endpoints>(&key, |e| e["metadata"]["labels"] = json!({}));
        sim.settle();
        assert_eq!(slices(&sim).len(), 2);
        sim.edit::<Service>(&key, |s| s["spec"]["selector"] = json!({"app": "db"}));
        sim.settle();
        assert!(slices(&sim).is_empty());
        sim.edit::<Service>(&key, |s| s["spec"]["selector"] = json!({}));
        sim.settle();
        assert_eq!(slices(&sim).len(), 2);
        sim.remove::<Service>(&key);
        sim.settle();
        assert!(slices(&sim).is_empty());
    }

    #[test]
    fn an_address_that_is_not_ready_somewhere_is_not_ready() {
        let subsets: Vec<EndpointSubset> = serde_json::from_value(json!([
            {"addresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 1}]},
            {"notReadyAddresses": [{"ip": "10.0.0.2"}, {"ip": "x"}], "ports": [{"port": 1}]}]))
        .unwrap();
        let found = mirrors(&subsets);
        assert_eq!(found.slices.len(), 1);
        let conditions = found.slices[0].endpoints[0].conditions.as_ref();
        assert_eq!(conditions.and_then(|c| c.ready), Some(false));
        assert_eq!((found.invalid, found.skipped), (1, 0));
    }
}
