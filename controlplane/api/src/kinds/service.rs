//! Services: defaults and strategy. Addresses and ports are allocated elsewhere.
//!
//! Ported from `pkg/apis/core/v1/defaults.go` and `pkg/registry/core/service/strategy.go`.

use bumpalo::Bump;

use crate::default::Literal::{Bool, Int, Str};
use crate::default::set_absent;
use crate::doc::{Doc, Object, Value};
use crate::strategy::same;
use crate::validate::ip;
use crate::validate::path::Path;

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

/// What is odd about a valid Service. Port of `pkg/api/service/warnings.go`.
pub(crate) fn warnings(doc: &Doc<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let hints = "service.kubernetes.io/topology-aware-hints";
    if doc.map_value(&["metadata", "annotations"], hints).is_some() {
        out.push(format!(
            "annotation {hints} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    let kind = spec.str_of("type").unwrap_or_default();
    let texts = |field: &str| {
        spec.list_of(field)
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
    };
    let cluster_ip = spec.str_of("clusterIP").unwrap_or_default();
    if !matches!(cluster_ip, "" | "None") {
        for (i, address) in texts("clusterIPs") {
            out.extend(ip::ip_warning(address, &format!("spec.clusterIPs[{i}]")));
        }
    }
    let external_ips = !spec.list_of("externalIPs").is_empty();
    let balancer_ip = spec.str_of("loadBalancerIP").unwrap_or_default();
    let headless = kind == "ClusterIP" && cluster_ip == "None";
    if headless {
        let mut ignored = |is: bool, field: &str| {
            if is {
                out.push(format!("spec.{field} is ignored for headless services"));
            }
        };
        ignored(!balancer_ip.is_empty(), "loadBalancerIP");
        ignored(external_ips, "externalIPs");
        ignored(
            spec.str_of("sessionAffinity") != Some("None"),
            "SessionAffinity",
        );
    }
    for (i, address) in texts("externalIPs") {
        out.extend(ip::ip_warning(address, &format!("spec.externalIPs[{i}]")));
    }
    if external_ips && !headless && kind != "ExternalName" {
        let text =
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
        out.push(text.to_owned());
    }
    if !balancer_ip.is_empty() {
        out.extend(ip::ip_warning(balancer_ip, "spec.loadBalancerIP"));
    }
    let path = Path::new("spec");
    let path = path.child("loadBalancerSourceRanges");
    for (i, range) in texts("loadBalancerSourceRanges") {
        ip::cidr_warnings(range, &path.index(i), &mut out);
    }
    if kind == "ExternalName" && external_ips {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !spec.str_of("externalName").unwrap_or_default().is_empty() {
        let text = "spec.externalName is ignored when spec.type is not \"ExternalName\"";
        out.push(text.to_owned());
    }
    if spec.str_of("trafficDistribution") == Some("PreferClose") {
        let text =
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"";
        out.push(text.to_owned());
    }
    out
}

/// Warnings about an updated status.
pub(crate) fn status_warnings(doc: &Doc<'_>) -> Vec<String> {
    let ingress = doc
        .list_at(&["status", "loadBalancer", "ingress"])
        .iter()
        .enumerate();
    let warning = |(i, entry): (usize, &Value<'_>)| {
        let address = entry.str_of("ip").filter(|a| !a.is_empty())?;
        ip::ip_warning(address, &format!("status.loadBalancer.ingress[{i}]"))
    };
    ingress.filter_map(warning).collect()
}
