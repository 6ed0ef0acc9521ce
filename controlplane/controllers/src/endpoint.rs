//! Which pods stand behind a Service, and at which ports. Shared by EndpointSlice and Endpoints.
//!
//! Mechanism of k8s.io/endpointslice (utils.go, util/controller_utils.go).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::kinds::{Pod, Projection, Service, ServicePort};
use crate::object::Key;
use crate::view::{Delta, World};

pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Has an address and is not finished; terminating pods only where they are wanted.
pub fn belongs(pod: &Pod, with_terminating: bool) -> bool {
    !pod.is_terminated()
        && has_address(pod)
        && (with_terminating || pod.metadata.deletion_timestamp.is_none())
}

fn has_address(pod: &Pod) -> bool {
    !pod.status.pod_ips.is_empty()
        || pod
            .status
            .pod_ip
            .as_deref()
            .is_some_and(|ip| !ip.is_empty())
}

/// All addresses of a pod.
pub fn addresses(pod: &Pod) -> impl Iterator<Item = std::net::IpAddr> {
    let single = pod
        .status
        .pod_ips
        .is_empty()
        .then_some(pod.status.pod_ip.as_deref())
        .flatten();
    let several = pod.status.pod_ips.iter().map(|p| p.ip.as_str());
    several.chain(single).filter_map(|ip| ip.parse().ok())
}

/// The pod's port a service port leads to; named ports are looked up in the containers.
pub fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = protocol(port.protocol.as_deref());
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let sidecars = pod.spec.init_containers.iter();
            let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports = pod
                .spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|c| &c.ports);
            let mut ports = ports.filter(|p| self::protocol(p.protocol.as_deref()) == protocol);
            ports
                .find(|p| p.name.as_deref() == Some(name))
                .map(|p| p.container_port)
        }
    }
}

pub fn protocol(protocol: Option<&str>) -> &str {
    protocol.filter(|p| !p.is_empty()).unwrap_or("TCP")
}

/// The pod's hostname when the service is the one its subdomain names.
pub fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    let hostname = pod.spec.hostname.as_deref().filter(|h| !h.is_empty())?;
    let is_named = pod.spec.subdomain == service.metadata.name
        && pod.metadata.namespace == service.metadata.namespace;
    is_named.then_some(hostname)
}

pub fn is_headless(service: &Service) -> bool {
    service
        .spec
        .cluster_ip
        .as_deref()
        .is_none_or(|ip| ip.is_empty() || ip == "None")
}

/// The service has endpoints made from pods.
pub fn selects_pods(service: &Service) -> bool {
    service.spec.type_ != "ExternalName" && !service.spec.selector.is_empty()
}

/// Keys of the services whose endpoints this change of a pod may concern.
pub fn services_of(world: &World, delta: &Delta<Pod>, keys: &mut Vec<Key>) {
    if let (Some(old), Some(new)) = (&delta.old, &delta.new)
        && !differs(old, new)
    {
        return;
    }
    let pod = delta.latest();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    for service in world.services.in_namespace(namespace) {
        let selector = &service.spec.selector;
        let selects = |pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            selector
                .iter()
                .all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
        };
        if selects_pods(service) && delta.both().any(|pod| selects(pod)) {
            keys.push(Key::of(service.metadata()));
        }
    }
}

/// Something endpoints depend on has changed (`podEndpointsChanged`).
fn differs(old: &Pod, new: &Pod) -> bool {
    old.metadata.labels != new.metadata.labels
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
        || old.is_ready() != new.is_ready()
        || old.is_terminated() != new.is_terminated()
        || old.spec.node_name != new.spec.node_name
        || addresses(old).ne(addresses(new))
        || old.spec.hostname != new.spec.hostname
        || old.spec.subdomain != new.spec.subdomain
}
