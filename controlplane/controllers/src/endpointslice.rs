//! EndpointSlice: the pods behind each Service, in slices of bounded size.
//!
//! Mechanism of pkg/controller/endpointslice and k8s.io/endpointslice/reconciler.go: an endpoint
//! stays in the slice it is in; freed room is filled before a slice is created.

mod distribute;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use serde_json::{Value, json};

use crate::endpoint;
use crate::kinds::{EndpointSlice, Pod, Projection, Service};
use crate::object::{Key, MetaExt, controller_ref};
use crate::plan::{Controller, Cx, Plan};
use crate::view::{Change, World};
use crate::write::{Verb, Write};
use distribute::{Slice, distribute};

pub use distribute::same_ports;

pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

#[derive(Debug, Default)]
pub struct EndpointSliceController;

impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::Service(delta) => keys.push(delta.key()),
            Change::Pod(delta) => endpoint::services_of(world, delta, keys),
            Change::EndpointSlice(delta) => {
                let meta = &delta.latest().metadata;
                if let Some(service) = meta.label(SERVICE_NAME_LABEL) {
                    keys.push(Key::new(meta.namespace.as_deref().unwrap_or(""), service));
                }
            }
            Change::Node(delta) => {
                let zone = |node: &Arc<crate::kinds::Node>| {
                    node.metadata.label(ZONE_LABEL).map(str::to_owned)
                };
                let mut zones = delta.both().map(zone);
                if zones.next().flatten() != zones.next().flatten() {
                    keys.extend(world.services.iter().map(|(key, _)| key.clone()));
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, _: &Cx<'_>) -> Plan {
        let Some(service) = world.services.get(key) else {
            return Plan::nothing();
        };
        if !endpoint::selects_pods(service) || service.metadata.is_deleting() {
            return Plan::nothing();
        }
        Plan {
            writes: writes(world, service),
            ..Plan::default()
        }
    }
}

fn writes(world: &World, service: &Arc<Service>) -> Vec<Write> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or("");
    let pods = world.pods.labelled(namespace, &service.spec.selector);
    let ours = BTreeMap::from([
        (
            SERVICE_NAME_LABEL.to_owned(),
            service.metadata.name.clone().unwrap_or_default(),
        ),
        (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
    ]);
    let mut existing: Vec<&Arc<EndpointSlice>> = world.slices.labelled(namespace, &ours);
    existing.retain(|slice| !slice.metadata.is_deleting());
    let mut writes = Vec::new();
    for family in families(service) {
        let (of_family, others) = existing
            .into_iter()
            .partition(|slice| slice.address_type == family);
        existing = others;
        let groups = groups(world, service, &pods, family);
        let slices = distribute(of_family, groups);
        let mut spare = slices.iter().all(|slice| slice.endpoints.is_empty());
        for slice in slices {
            match slice.old {
                // One empty slice says that there is nothing; others go.
                Some(old) if slice.endpoints.is_empty() && !std::mem::take(&mut spare) => {
                    writes.push(delete_slice(old));
                }
                _ => writes.extend(write(service, family, slice)),
            }
        }
    }
    // What is left is of a family the service does not have (any more).
    writes.extend(existing.into_iter().map(|slice| delete_slice(slice)));
    writes
}

/// Address types of the service.
fn families(service: &Service) -> Vec<&'static str> {
    let spec = &service.spec;
    if !spec.ip_families.is_empty() {
        let name = |family: &String| if family == "IPv6" { "IPv6" } else { "IPv4" };
        return spec.ip_families.iter().map(name).collect();
    }
    match spec.cluster_ip.as_deref() {
        Some(ip) if ip.contains(':') => vec!["IPv6"],
        Some(ip) if !ip.is_empty() && ip != "None" => vec!["IPv4"],
        _ => vec!["IPv4", "IPv6"],
    }
}

/// Endpoints that share their ports.
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

fn groups(world: &World, service: &Service, pods: &[&Arc<Pod>], family: &str) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for pod in pods.iter().filter(|pod| endpoint::belongs(pod, true)) {
        let Some(endpoint) = endpoint_of(world, service, pod, family) else {
            continue;
        };
        let ports = ports(service, pod);
        match groups.iter_mut().find(|group| group.ports == ports) {
            Some(group) => group.endpoints.push(endpoint),
            None => groups.push(Group {
                ports,
                endpoints: vec![endpoint],
            }),
        }
    }
    groups
}

/// `podToEndpoint`.
fn endpoint_of(world: &World, service: &Service, pod: &Pod, family: &str) -> Option<Endpoint> {
    let addresses: Vec<String> = endpoint::addresses(pod)
        .filter(|ip| ip.is_ipv6() == (family == "IPv6"))
        .map(|ip| ip.to_string())
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let serving = pod.is_ready();
    let terminating = pod.metadata.is_deleting();
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let node_name = pod.spec.node_name.clone().filter(|name| !name.is_empty());
    let node = node_name
        .as_deref()
        .and_then(|name| world.nodes.get(&Key::cluster(name)));
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: endpoint::hostname(pod, service).map(str::to_owned),
        zone: node
            .and_then(|node| node.metadata.label(ZONE_LABEL))
            .map(str::to_owned),
        node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let port = |port: &crate::kinds::ServicePort| {
        let number = endpoint::find_port(pod, port)?;
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(endpoint::protocol(port.protocol.as_deref()).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    };
    let mut ports: Vec<EndpointPort> = service.spec.ports.iter().filter_map(port).collect();
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    ports
}

/// The write one slice needs, if any.
fn write(service: &Service, family: &str, slice: Slice<'_>) -> Option<Write> {
    let Slice {
        old,
        ports,
        endpoints,
    } = slice;
    let labels = labels(service);
    let Some(old) = old else {
        return Some(create(service, family, &labels, &ports, &endpoints));
    };
    let is_same = old.endpoints == endpoints
        && same_ports(&old.ports, &ports)
        && old.metadata.labels.as_ref() == Some(&labels);
    if is_same {
        return None;
    }
    let mut metadata = serde_json::to_value(&old.metadata).expect("metadata is plain data");
    metadata["labels"] = json!(labels);
    Some(replace_slice(
        old,
        body(metadata, family, &ports, &endpoints),
    ))
}

/// Writes `body` in place of a slice.
pub fn replace_slice(old: &EndpointSlice, body: Value) -> Write {
    Write {
        resource: &EndpointSlice::RESOURCE,
        key: Key::of(&old.metadata),
        verb: Verb::Replace {
            subresource: None,
            body,
        },
        notes: None,
    }
}

fn create(
    service: &Service,
    family: &str,
    labels: &BTreeMap<String, String>,
    ports: &[EndpointPort],
    endpoints: &[Endpoint],
) -> Write {
    let meta = &service.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let metadata = json!({
        "generateName": format!("{name}-"),
        "namespace": meta.namespace,
        "labels": labels,
        "ownerReferences": [controller_ref("v1", "Service", meta)],
    });
    let key = Key::new(meta.namespace.as_deref().unwrap_or(""), "");
    Write::create(
        &EndpointSlice::RESOURCE,
        key,
        body(metadata, family, ports, endpoints),
    )
}

/// A slice as it is written.
pub fn body(
    metadata: Value,
    family: &str,
    ports: &[EndpointPort],
    endpoints: &[Endpoint],
) -> Value {
    json!({
        "apiVersion": EndpointSlice::RESOURCE.api_version(),
        "kind": EndpointSlice::RESOURCE.kind,
        "metadata": metadata,
        "addressType": family,
        "ports": ports,
        "endpoints": endpoints,
    })
}

pub fn delete_slice(slice: &EndpointSlice) -> Write {
    Write::delete(
        &EndpointSlice::RESOURCE,
        Key::of(&slice.metadata),
        slice.metadata.uid(),
    )
}

/// The service's labels and the reserved ones (`setEndpointSliceLabels`).
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(endpoint::HEADLESS_LABEL);
    if endpoint::is_headless(service) {
        labels.insert(endpoint::HEADLESS_LABEL.to_owned(), String::new());
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), name);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels
}

#[cfg(test)]
mod tests;
