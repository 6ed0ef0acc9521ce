//! Services: defaults and strategy. Addresses and ports are allocated elsewhere.
//!
//! Ported from `pkg/apis/core/v1/defaults.go` and `pkg/registry/core/service/strategy.go`.

use bumpalo::Bump;

use crate::default::Literal::{Bool, Int, Str};
use crate::default::set_absent;
use crate::doc::{Doc, Object, Value};
use crate::strategy::same;

pub(crate) mod validate;

/// How long a client stays with its backend.
const AFFINITY_SECONDS: i64 = 10_800;

/// `SetDefaults_Service`.
pub(crate) fn default_service<'a>(service: &mut Object<'a>, arena: &'a Bump) {
    let spec = service.entry_or_object("spec").make_object(arena);
    set_absent(spec, "sessionAffinity", Str("None"));
    set_absent(spec, "type", Str("ClusterIP"));
    default_affinity(spec, arena);
    if let Some(ports) = spec.get_mut("ports").and_then(Value::as_list_mut) {
        ports
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .for_each(default_port);
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default();
    let external_ips = spec
        .get("externalIPs")
        .and_then(Value::as_list)
        .is_some_and(|l| !l.is_empty());
    let exposed = matches!(kind, "NodePort" | "LoadBalancer");
    if exposed || (kind == "ClusterIP" && external_ips) {
        set_absent(spec, "externalTrafficPolicy", Str("Cluster"));
    }
    if exposed || kind == "ClusterIP" {
        set_absent(spec, "internalTrafficPolicy", Str("Cluster"));
    }
    if kind == "LoadBalancer" {
        set_absent(spec, "allocateLoadBalancerNodePorts", Bool(true));
        default_ingress_mode(service);
    }
}

fn default_affinity<'a>(spec: &mut Object<'a>, arena: &'a Bump) {
    match spec.get("sessionAffinity").and_then(Value::as_str) {
        Some("None") => {
            spec.remove("sessionAffinityConfig");
        }
        Some("ClientIP") => {
            let config = spec
                .entry_or_object("sessionAffinityConfig")
                .make_object(arena);
            let client = config.entry_or_object("clientIP").make_object(arena);
            set_absent(client, "timeoutSeconds", Int(AFFINITY_SECONDS));
        }
        Some(_) | None => {}
    }
}

fn default_port(port: &mut Object<'_>) {
    set_absent(port, "protocol", Str("TCP"));
    let unset = match port.get("targetPort") {
        None | Some(Value::Null | Value::Int(0)) => true,
        Some(Value::String(name)) => name.is_empty(),
        Some(_) => false,
    };
    if unset {
        let number = port.get("port").and_then(Value::as_int).unwrap_or(0);
        port.set("targetPort", Value::Int(number));
    }
}

fn default_ingress_mode(service: &mut Object<'_>) {
    let ingress = service
        .get_mut("status")
        .and_then(|s| s.at_mut(&["loadBalancer", "ingress"]))
        .and_then(Value::as_list_mut);
    for entry in ingress
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        if entry.contains("ip") {
            set_absent(entry, "ipMode", Str("VIP"));
        }
    }
}

fn kind_of<'a>(service: &Doc<'a>) -> &'a str {
    service.str_at(&["spec", "type"]).unwrap_or("ClusterIP")
}

fn needs_node_port(service: &Doc<'_>) -> bool {
    matches!(kind_of(service), "NodePort" | "LoadBalancer")
}

fn needs_health_port(service: &Doc<'_>) -> bool {
    kind_of(service) == "LoadBalancer"
        && service.str_at(&["spec", "externalTrafficPolicy"]) == Some("Local")
}

fn is_exposed(service: &Doc<'_>) -> bool {
    needs_node_port(service)
        || (kind_of(service) == "ClusterIP"
            && !service.list_at(&["spec", "externalIPs"]).is_empty())
}

fn node_ports(service: &Doc<'_>) -> Vec<i64> {
    let mut ports: Vec<i64> = service
        .list_at(&["spec", "ports"])
        .iter()
        .filter_map(|p| p.int_of("nodePort").filter(|n| *n != 0))
        .collect();
    ports.sort_unstable();
    ports
}

/// A change of type wipes what the new type does not have, if the client left it as it was.
pub(crate) fn prepare_update<'a>(new: &mut Doc<'a>, old: &Doc<'a>) {
    let unchanged = |new: &Doc<'a>, field: &str| same(new, old, &["spec", field]);
    if kind_of(old) != "ExternalName" && kind_of(new) == "ExternalName" {
        if unchanged(new, "clusterIP") && unchanged(new, "clusterIPs") {
            new.remove(&["spec", "clusterIP"]);
            new.remove(&["spec", "clusterIPs"]);
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if unchanged(new, field) {
                new.remove(&["spec", field]);
            }
        }
    }
    let before = node_ports(old);
    let no_new_ports = node_ports(new).iter().all(|port| before.contains(port));
    if needs_node_port(old) && !needs_node_port(new) && no_new_ports {
        for port in new
            .get_mut(&["spec", "ports"])
            .and_then(Value::as_list_mut)
            .into_iter()
            .flatten()
        {
            if let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
    }
    if needs_health_port(old) && !needs_health_port(new) && unchanged(new, "healthCheckNodePort") {
        new.remove(&["spec", "healthCheckNodePort"]);
    }
    if kind_of(old) == "LoadBalancer" && kind_of(new) != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if unchanged(new, field) {
                new.remove(&["spec", field]);
            }
        }
    }
    if is_exposed(old) && !is_exposed(new) && unchanged(new, "externalTrafficPolicy") {
        new.remove(&["spec", "externalTrafficPolicy"]);
    }
    if kind_of(new) != "LoadBalancer" {
        new.remove(&["status", "loadBalancer"]);
    }
}
