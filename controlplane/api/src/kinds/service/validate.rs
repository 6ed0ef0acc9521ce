//! What Services must hold.
//!
//! Port of `validateService`, `ValidateServiceClusterIPsRelatedFields` and the update rules in
//! `pkg/apis/core/validation/validation.go`.

use std::collections::HashSet;

use super::{is_exposed, kind_of, needs_health_port};
use crate::doc::{Doc, Value};
use crate::validate::ip;
use crate::validate::meta::labels;
use crate::validate::names::{dns_label, dns_subdomain, label_key, port_name, port_number};
use crate::validate::path::{Errors, Path};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const AFFINITIES: [&str; 2] = ["ClientIP", "None"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
/// The longest affinity, one day in seconds.
const MAX_AFFINITY: i64 = 86_400;

fn is_headless(doc: &Doc<'_>) -> bool {
    let ips = doc.list_at(&["spec", "clusterIPs"]);
    ips.len() == 1 && ips[0].as_str() == Some("None")
}

/// Rules for new and updated Services.
pub(crate) fn validate(doc: &Doc<'_>, errors: &mut Errors) {
    let empty = Value::Null;
    let spec = doc.get(&["spec"]).unwrap_or(&empty);
    let path = Path::new("spec");
    let (kind, headless) = (kind_of(doc), is_headless(doc));
    if spec.list_of("ports").is_empty() && !headless && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&path.child("clusterIPs").index(0), "None", detail);
        }
        "ExternalName" => external_name(spec, &path, errors),
        _ => {}
    }
    ports(spec, kind, &path, errors);
    labels(spec.get("selector"), &path.child("selector"), errors);
    affinity(spec, &path, errors);
    cluster_ips(doc, spec, &path, errors);
    let external = path.child("externalIPs");
    for (i, value) in spec
        .list_of("externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        let at = external.index(i);
        if let Some(address) = ip::ip(value, &at, errors) {
            ip::endpoint(address, value, &at, errors);
        }
    }
    errors.one_of(&path.child("type"), spec.str_of("type"), &TYPES, true);
    load_balancer(spec, kind, &path, errors);
    traffic(doc, spec, kind, &path, errors);
}

fn external_name(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if spec
            .get(field)
            .is_some_and(|v| v.as_list().is_none_or(|l| !l.is_empty()))
        {
            errors.forbidden(
                &path.child(field),
                "may not be set for ExternalName services",
            );
        }
    }
    let name = spec.str_of("externalName").unwrap_or_default();
    errors.named(
        &path.child("externalName"),
        Some(name.strip_suffix('.').unwrap_or(name)),
        dns_subdomain,
    );
}

fn ports(spec: &Value<'_>, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let list = spec.list_of("ports");
    let at = path.child("ports");
    let (mut names, mut seen, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (i, port) in list.iter().enumerate() {
        let at = at.index(i);
        let name = port.str_of("name").unwrap_or_default();
        if name.is_empty() && list.len() > 1 {
            errors.required(&at.child("name"), "");
        } else if !name.is_empty() {
            errors.each(&at.child("name"), name, dns_label(name));
            if !names.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        }
        let number = port.int_of("port").unwrap_or(0);
        errors.each_number(&at.child("port"), number, port_number(number));
        let protocol = port.str_of("protocol");
        errors.one_of(&at.child("protocol"), protocol, &PROTOCOLS, true);
        target(port.get("targetPort"), &at.child("targetPort"), errors);
        if let Some(app) = port.str_of("appProtocol") {
            errors.each(&at.child("appProtocol"), app, label_key(app));
        }
        let node_port = port.int_of("nodePort").unwrap_or(0);
        if node_port != 0 && kind == "ClusterIP" {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.forbidden(&at.child("nodePort"), detail);
        }
        if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            errors.duplicate_raw(&at.child("nodePort"), node_port);
        }
        if !seen.insert((protocol, number)) {
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":\"{}\",\"AppProtocol\":null,\"Port\":{number},\
                 \"TargetPort\":0,\"NodePort\":0}}",
                protocol.unwrap_or_default()
            );
            errors.duplicate_raw(&at, shown);
        }
    }
}

fn target(value: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Some(Value::String(name)) => errors.each(path, name, port_name(name)),
        value => {
            let number = value.and_then(Value::as_int).unwrap_or(0);
            errors.each_number(path, number, port_number(number));
        }
    }
}

fn affinity(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let kind = spec.str_of("sessionAffinity");
    errors.one_of(&path.child("sessionAffinity"), kind, &AFFINITIES, true);
    let at = path.child("sessionAffinityConfig");
    match (kind, spec.get("sessionAffinityConfig")) {
        (Some("None"), Some(_)) => {
            errors.forbidden(&at, "must not be set when session affinity is None");
        }
        (Some("ClientIP"), config) => {
            let seconds = config
                .and_then(|c| c.at(&["clientIP", "timeoutSeconds"]))
                .and_then(Value::as_int)
                .unwrap_or(0);
            if !(1..=MAX_AFFINITY).contains(&seconds) {
                let at = at.child("clientIP");
                let detail = format!("must be greater than 0 and less than {MAX_AFFINITY}");
                errors.invalid_number(&at.child("timeoutSeconds"), seconds, detail);
            }
        }
        _ => {}
    }
}

fn cluster_ips(doc: &Doc<'_>, spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    if kind_of(doc) == "ExternalName" {
        return;
    }
    let at = path.child("clusterIPs");
    let ips: Vec<&str> = spec
        .list_of("clusterIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let list = spec.get("clusterIPs");
    match spec.str_of("clusterIP").filter(|ip| !ip.is_empty()) {
        Some(_) if ips.is_empty() => errors.required(&at, ""),
        Some(ip) if ips[0] != ip => {
            errors.invalid_value(&at, list, "first value must match `clusterIP`");
        }
        None if !ips.is_empty() => {
            errors.invalid_value(&at, list, "must be empty when `clusterIP` is not specified");
        }
        Some(_) | None => {}
    }
    families(spec, path, errors);
    let before = errors.0.len();
    for (i, value) in ips.iter().enumerate() {
        match *value {
            "None" if i == 0 && ips.len() > 1 => {
                errors.invalid_value(&at, list, "'None' must be the first and only value");
            }
            "None" if i == 0 => {}
            value => {
                ip::ip(value, &at.index(i), errors);
            }
        }
    }
    let malformed = errors.0.len() > before;
    if ips.len() > 2 {
        errors.invalid_value(&at, list, "may only hold up to 2 values");
    }
    if malformed || is_headless(doc) {
        return;
    }
    let is_v6 = |ip: &str| ip.contains(':');
    if ips.len() > 1 && ips.iter().all(|ip| is_v6(ip) == is_v6(ips[0])) {
        let detail = "may specify no more than one IP for each IP family";
        errors.invalid_value(&at, list, detail);
    }
    let families = spec.list_of("ipFamilies").iter().filter_map(Value::as_str);
    for (i, (value, family)) in ips.iter().zip(families).enumerate() {
        if FAMILIES.contains(&family) && is_v6(value) != (family == "IPv6") {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.invalid(&at.index(i), value, detail);
        }
    }
}

fn families(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("ipFamilies");
    let mut seen = HashSet::new();
    for (i, family) in spec
        .list_of("ipFamilies")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        errors.one_of(&at.index(i), Some(family), &FAMILIES, false);
        if !seen.insert(family) {
            errors.duplicate(&at.index(i), family);
        }
    }
    let policy = spec.str_of("ipFamilyPolicy");
    errors.one_of(
        &path.child("ipFamilyPolicy"),
        policy,
        &FAMILY_POLICIES,
        false,
    );
}

fn load_balancer(spec: &Value<'_>, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = spec.list_of("loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let at = path.child("LoadBalancerSourceRanges");
        if kind != "LoadBalancer" {
            errors.forbidden(&at, only);
        }
        for (i, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
            ip::cidr(range.trim(), &at.index(i), errors);
        }
    }
    if kind != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec.get(field).is_some() {
                errors.forbidden(&path.child(field), only);
            }
        }
    } else if let Some(class) = spec.str_of("loadBalancerClass") {
        errors.each(&path.child("loadBalancerClass"), class, label_key(class));
    }
}

fn traffic(doc: &Doc<'_>, spec: &Value<'_>, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let policy = spec
        .str_of("externalTrafficPolicy")
        .filter(|p| !p.is_empty());
    let at = path.child("externalTrafficPolicy");
    match policy {
        Some(policy) if !is_exposed(doc) => {
            errors.invalid(
                &at,
                policy,
                "may only be set for externally-accessible services",
            );
        }
        policy if is_exposed(doc) => errors.one_of(&at, policy, &POLICIES, true),
        _ => {}
    }
    let health = spec.int_of("healthCheckNodePort").unwrap_or(0);
    let at = path.child("healthCheckNodePort");
    match (needs_health_port(doc), health) {
        (false, 0) => {}
        (false, port) => errors.invalid_number(
            &at,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
        (true, 0) => errors.required(&at, ""),
        (true, port) => errors.each_number(&at, port, port_number(port)),
    }
    let internal = spec.str_of("internalTrafficPolicy");
    let required = matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer");
    errors.one_of(
        &path.child("internalTrafficPolicy"),
        internal,
        &POLICIES,
        required,
    );
    let distribution = spec.str_of("trafficDistribution");
    errors.one_of(
        &path.child("trafficDistribution"),
        distribution,
        &DISTRIBUTIONS,
        false,
    );
}

/// Rules for updates alone: what was allocated stays.
pub(crate) fn update(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let either_external = kind_of(new) == "ExternalName" || kind_of(old) == "ExternalName";
    let both_headless = is_headless(new) && is_headless(old);
    if !either_external && !both_headless {
        fixed(new, old, "clusterIPs", "clusterIP", &path, errors);
    }
    if !either_external && !is_headless(new) && !is_headless(old) {
        fixed(new, old, "ipFamilies", "ipFamily", &path, errors);
    }
    let class = |doc: &Doc<'_>| {
        doc.str_at(&["spec", "loadBalancerClass"])
            .map(str::to_owned)
    };
    let balancers = kind_of(new) == "LoadBalancer" && kind_of(old) == "LoadBalancer";
    if balancers && class(new) != class(old) {
        let at = path.child("loadBalancerClass");
        errors.invalid_value(
            &at,
            new.get(&["spec", "loadBalancerClass"]),
            "may not change once set",
        );
    }
    let port = |doc: &Doc<'_>| doc.int_at(&["spec", "healthCheckNodePort"]);
    if needs_health_port(new) && needs_health_port(old) && port(new) != port(old) {
        errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
    validate(new, errors);
}

/// The first entry of a list that was allocated may not change; the second may come and go.
fn fixed(
    new: &Doc<'_>,
    old: &Doc<'_>,
    field: &str,
    singular: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (now, before) = (new.list_at(&["spec", field]), old.list_at(&["spec", field]));
    let value = new.get(&["spec", field]);
    let at = path.child(field);
    let first = at.index(0);
    if now.len() == before.len() {
        for (i, (a, b)) in now.iter().zip(before).enumerate() {
            if a != b {
                let at = at.index(if field == "clusterIPs" { i } else { 0 });
                errors.invalid_value(&at, value, "may not change once set");
            }
        }
        return;
    }
    let unset = new.list_at(&["spec", "clusterIPs"]).is_empty() && now.len() < before.len();
    if unset {
        errors.invalid_value(
            &first,
            value,
            format!("primary {singular} can not be unset"),
        );
    } else if !now.is_empty() && !before.is_empty() && now[0] != before[0] {
        errors.invalid_value(&first, value, "may not change once set");
    }
    let policy = new.str_at(&["spec", "ipFamilyPolicy"]);
    if now.len() < before.len() && now.len() == 1 && policy != Some("SingleStack") {
        let detail =
            format!("must be set to 'SingleStack' when releasing the secondary {singular}");
        let at = path.child("ipFamilyPolicy");
        match policy {
            Some(policy) => errors.invalid(&at, policy, detail),
            None => errors.invalid_value(&at, None, detail),
        }
    }
}
