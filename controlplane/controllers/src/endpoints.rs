//! Endpoints: the older form of EndpointSlice, for the clients that still read it.
//!
//! Mechanism of pkg/controller/endpoint/endpoints_controller.go and pkg/api/v1/endpoints
//! (`RepackSubsets`): addresses with the same ports share a subset; one address family only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, ObjectReference};
use serde_json::{Value, json};

use crate::endpoint;
use crate::kinds::{Endpoints, Pod, Projection, Service};
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Plan};
use crate::view::{Change, World};
use crate::write::{Verb, Write};

const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one Endpoints object.
const MAX_ADDRESSES: usize = 1000;

#[derive(Debug, Default)]
pub struct EndpointsController;

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::Service(delta) => keys.push(delta.key()),
            Change::Endpoints(delta) => keys.push(delta.key()),
            Change::Pod(delta) => endpoint::services_of(world, delta, keys),
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, _: &Cx<'_>) -> Plan {
        let current = world.endpoints.get(key);
        match (world.services.get(key), current) {
            (Some(service), _) if endpoint::selects_pods(service) => Plan {
                writes: sync(world, service, current).into_iter().collect(),
                ..Plan::default()
            },
            (None, Some(current)) if is_ours(current) => {
                let uid = current.metadata.uid();
                Plan::write(Write::delete(&Endpoints::RESOURCE, key.clone(), uid))
            }
            _ => Plan::nothing(),
        }
    }
}

fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.metadata.label(MANAGED_BY_LABEL) == Some(MANAGED_BY)
        && !endpoints.metadata.is_deleting()
}

fn sync(world: &World, service: &Service, current: Option<&Arc<Endpoints>>) -> Option<Write> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or("");
    let pods = world.pods.labelled(namespace, &service.spec.selector);
    let (subsets, truncated) = subsets(service, &pods);
    let labels = labels(service);
    if let Some(current) = current {
        let is_same =
            current.subsets == subsets && current.metadata.labels.as_ref() == Some(&labels);
        if is_same || current.metadata.is_deleting() {
            return None;
        }
    }
    let mut metadata = match current {
        Some(current) => serde_json::to_value(&current.metadata).expect("metadata is plain data"),
        None => json!({"name": service.metadata.name, "namespace": namespace}),
    };
    metadata["labels"] = json!(labels);
    if truncated {
        metadata["annotations"][OVER_CAPACITY] = Value::from("truncated");
    } else if let Some(annotations) = metadata["annotations"].as_object_mut() {
        annotations.remove(OVER_CAPACITY);
    }
    let body =
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets});
    let key = Key::of(&service.metadata);
    let verb = if current.is_some() {
        Verb::Replace {
            subresource: None,
            body,
        }
    } else {
        Verb::Create { body }
    };
    Some(Write {
        resource: &Endpoints::RESOURCE,
        key,
        verb,
        notes: None,
    })
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(endpoint::HEADLESS_LABEL);
    if endpoint::is_headless(service) {
        labels.insert(endpoint::HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels
}

/// Name, protocol and number order ports; addresses are ordered by value.
type Ports = Vec<(String, String, i32, Option<String>)>;
type Addresses = BTreeMap<(IpAddr, Option<String>), EndpointAddress>;

fn subsets(service: &Service, pods: &[&Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let mut subsets: BTreeMap<Ports, (Addresses, Addresses)> = BTreeMap::new();
    let publish = service.spec.publish_not_ready_addresses;
    let mut count = 0;
    let mut truncated = false;
    for pod in pods.iter().filter(|pod| endpoint::belongs(pod, publish)) {
        let Some(ip) = endpoint::addresses(pod).find(|ip| ip.is_ipv6() == is_ipv6(service)) else {
            continue;
        };
        let ports = ports(service, pod);
        if ports.is_empty() && !(service.spec.ports.is_empty() && endpoint::is_headless(service)) {
            continue;
        }
        if count == MAX_ADDRESSES {
            truncated = true;
            break;
        }
        count += 1;
        let (ready, not_ready) = subsets.entry(ports).or_default();
        let side = if publish || pod.is_ready() {
            ready
        } else {
            not_ready
        };
        side.insert((ip, pod.metadata.uid.clone()), address(service, pod, ip));
    }
    (subsets.into_iter().map(subset).collect(), truncated)
}

fn is_ipv6(service: &Service) -> bool {
    match service.spec.ip_families.first() {
        Some(family) => family == "IPv6",
        None => service
            .spec
            .cluster_ip
            .as_deref()
            .is_some_and(|ip| ip.contains(':')),
    }
}

fn ports(service: &Service, pod: &Pod) -> Ports {
    let mut ports: Ports = service
        .spec
        .ports
        .iter()
        .filter_map(|port| {
            let number = endpoint::find_port(pod, port)?;
            let protocol = endpoint::protocol(port.protocol.as_deref()).to_owned();
            let name = port.name.clone().unwrap_or_default();
            Some((name, protocol, number, port.app_protocol.clone()))
        })
        .collect();
    ports.sort();
    ports
}

fn address(service: &Service, pod: &Pod, ip: IpAddr) -> EndpointAddress {
    EndpointAddress {
        ip: ip.to_string(),
        hostname: endpoint::hostname(pod, service).map(str::to_owned),
        node_name: pod.spec.node_name.clone(),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

fn subset((ports, (ready, not_ready)): (Ports, (Addresses, Addresses))) -> EndpointSubset {
    let ports = ports
        .into_iter()
        .map(|(name, protocol, port, app_protocol)| EndpointPort {
            name: (!name.is_empty()).then_some(name),
            port,
            protocol: Some(protocol),
            app_protocol,
        });
    let list = |addresses: Addresses| {
        let addresses: Vec<_> = addresses.into_values().collect();
        (!addresses.is_empty()).then_some(addresses)
    };
    let ports: Vec<_> = ports.collect();
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}
