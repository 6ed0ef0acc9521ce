//! Where a Service is served: an address of one of its ready endpoints.
//!
//! Port of `ResolveEndpoint` and `RandomEndpoint` in `k8s.io/apiserver/pkg/util/proxy/proxy.go`.

use std::net::IpAddr;

use api::Status;
use serde_json::Value;

use crate::{
    ResourceId,
    cache::{Cache, Object},
    clock,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service and one of its ports.
#[derive(Clone, Copy, Debug)]
pub struct ServicePort<'s> {
    pub namespace: &'s str,
    pub name: &'s str,
    /// A number, or a name.
    pub port: &'s str,
}

/// A random ready endpoint that `accepts` (given the endpoint's JSON) does not turn down.
pub fn random(
    cache: &Cache,
    of: ServicePort<'_>,
    accepts: impl Fn(&Value) -> bool,
) -> Result<(IpAddr, u16), Status> {
    let services = ResourceId::named("", "services");
    let service = cache
        .get(services, of.namespace, of.name)
        .ok_or_else(|| Status::not_found("", "services", of.name))?;
    let port = port_name(&service, of)?;
    let mut found = Vec::new();
    let slices = cache.snapshot(ResourceId::named("discovery.k8s.io", "endpointslices"));
    let mut of_service = slices
        .iter(of.namespace)
        .filter(|slice| slice.label(SERVICE_NAME) == Some(of.name));
    while found.is_empty()
        && let Some(slice) = of_service.next()
    {
        found = ready(slice, &port, &accepts);
    }
    let chosen = clock::random_index(found.len() as u64) as usize;
    found.get(chosen).copied().ok_or_else(|| {
        let text = format!("no endpoints available for service {:?}", of.name);
        Status::unavailable(text)
    })
}

/// The name of the port in the slices.
fn port_name(service: &Object, of: ServicePort<'_>) -> Result<String, Status> {
    let Ok(number) = of.port.parse::<u64>() else {
        return Ok(of.port.to_owned());
    };
    let ports = json(service, "spec.ports");
    let mut ports = ports.as_array().into_iter().flatten();
    let Some(port) = ports.find(|port| port["port"] == number) else {
        let text = format!("no service port {number} found for service {:?}", of.name);
        return Err(Status::unavailable(text));
    };
    Ok(port["name"].as_str().unwrap_or_default().to_owned())
}

/// The ready endpoints of a slice.
fn ready(slice: &Object, named: &str, accepts: impl Fn(&Value) -> bool) -> Vec<(IpAddr, u16)> {
    let ports = json(slice, "ports");
    let mut ports = ports.as_array().into_iter().flatten();
    let port = ports.find(|port| port["name"].as_str().unwrap_or_default() == named);
    let Some(port) = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok()) else {
        return Vec::new();
    };
    let endpoints = json(slice, "endpoints");
    let endpoints = endpoints.as_array().into_iter().flatten();
    let ready = endpoints.filter_map(|endpoint| {
        let ip: IpAddr = endpoint["addresses"][0].as_str()?.parse().ok()?;
        let ready = endpoint["conditions"]["ready"] != false;
        (ready && accepts(endpoint)).then_some((ip, port))
    });
    ready.collect()
}

fn json(object: &Object, path: &str) -> Value {
    let raw = object.field(path).unwrap_or("null");
    serde_json::from_str(raw).unwrap_or_default()
}
