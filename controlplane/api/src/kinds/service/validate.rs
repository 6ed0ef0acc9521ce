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
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const FIXED: &str = "may not change once set";
/// The longest affinity, one day in seconds.
const MAX_AFFINITY: i64 = 86_400;

fn is_headless(doc: &Doc<'_>) -> bool {
    let ips = doc.list_at(&["spec", "clusterIPs"]);
    ips.len() == 1 && ips[0].as_str() == Some("None")
}

/// Texts of a list, none for new Services.
fn texts<'a>(doc: Option<&Doc<'a>>, field: &str) -> Vec<&'a str> {
    let list = doc
        .map(|doc| doc.list_at(&["spec", field]))
        .unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect()
}

/// Rules for new and updated Services. Addresses the old one had are not looked at again.
pub(crate) fn validate(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    topology_annotations(doc, errors);
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
    cluster_ips(doc, old, &path, errors);
    let external = path.child("externalIPs");
    let kept = texts(old, "externalIPs");
    for (i, value) in texts(Some(doc), "externalIPs").into_iter().enumerate() {
        let at = external.index(i);
        if ip::ip(value, &kept, &at, errors) {
            ip::endpoint(value, &at, errors);
        }
    }
    errors.one_of(&path.child("type"), spec.str_of("type"), &TYPES, true);
    source_ranges(doc, old, errors);
    load_balancer(spec, kind, &path, errors);
    traffic(doc, spec, kind, &path, errors);
}

/// The old and the new name of one annotation have one value.
fn topology_annotations(doc: &Doc<'_>, errors: &mut Errors) {
    let annotation = |key| doc.map_value(&["metadata", "annotations"], key);
    if let (Some(old), Some(mode)) = (annotation(TOPOLOGY_HINTS), annotation(TOPOLOGY_MODE))
        && old != mode
    {
        let at = Path::new("metadata");
        let at = at.child("annotations");
        let detail = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        errors.invalid(&at.key(TOPOLOGY_MODE), mode, detail);
    }
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
            let seconds = config.and_then(|c| c.at(&["clientIP", "timeoutSeconds"]));
            let seconds = seconds.and_then(Value::as_int);
            let at = at.child("clientIP");
            let at = at.child("timeoutSeconds");
            match seconds {
                None => errors.required(&at, "when session affinity type is ClientIP"),
                Some(seconds) if !(1..=MAX_AFFINITY).contains(&seconds) => {
                    let detail = format!("must be greater than 0 and less than {MAX_AFFINITY}");
                    errors.invalid_number(&at, seconds, detail);
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
}

fn cluster_ips(doc: &Doc<'_>, old: Option<&Doc<'_>>, path: &Path<'_>, errors: &mut Errors) {
    if kind_of(doc) == "ExternalName" {
        return;
    }
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let at = path.child("clusterIPs");
    let ips = texts(Some(doc), "clusterIPs");
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
    let kept = texts(old, "clusterIPs");
    for (i, value) in ips.iter().enumerate() {
        match *value {
            "None" if i == 0 && ips.len() > 1 => {
                errors.invalid_value(&at, list, "'None' must be the first and only value");
            }
            "None" if i == 0 => {}
            value => drop(ip::ip(value, &kept, &at.index(i), errors)),
        }
    }
    let malformed = errors.0.len() > before;
    if ips.len() > 2 {
        errors.invalid_value(&at, list, "may only hold up to 2 values");
    }
    if malformed {
        return;
    }
    if ips.len() > 1 {
        dual_stack(&ips, list, &at, errors);
    }
    if is_headless(doc) {
        return;
    }
    let families = spec.list_of("ipFamilies").iter().filter_map(Value::as_str);
    for (i, (value, family)) in ips.iter().zip(families).enumerate() {
        if FAMILIES.contains(&family) && ip::is_v6(value) != (family == "IPv6") {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.invalid(&at.index(i), value, detail);
        }
    }
}

fn dual_stack(ips: &[&str], list: Option<&Value<'_>>, at: &Path<'_>, errors: &mut Errors) {
    let dual = ip::is_dual(ips.iter().copied());
    if dual.is_none() {
        let bad = ips
            .iter()
            .enumerate()
            .find(|(_, ip)| ip::Address::parse(ip).is_none());
        let (i, text) = bad.map_or((0, ""), |(i, text)| (i, *text));
        errors.internal(
            at,
            &format!("failed to check for dual stack with error:invalid IP[{i}]: {text}"),
        );
    }
    if dual != Some(true) {
        let detail = "may specify no more than one IP for each IP family";
        errors.invalid_value(at, list, detail);
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

const ONLY_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";

/// Whose traffic a load balancer takes, in the field or in the annotation it had before.
fn source_ranges(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let balancer = kind_of(doc) == "LoadBalancer";
    let annotation = |doc: &Doc<'_>| {
        doc.map_value(&["metadata", "annotations"], SOURCE_RANGES)
            .map(str::to_owned)
    };
    let ranges = texts(Some(doc), "loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let at = Path::new("spec");
        let at = at.child("LoadBalancerSourceRanges");
        if !balancer {
            errors.forbidden(&at, ONLY_BALANCERS);
        }
        let kept = texts(old, "loadBalancerSourceRanges");
        let kept: Vec<&str> = kept.into_iter().map(str::trim).collect();
        for (i, range) in ranges.into_iter().enumerate() {
            ip::cidr(range.trim(), &kept, &at.index(i), errors);
        }
    } else if let Some(text) = annotation(doc) {
        let at = Path::new("metadata");
        let at = at.child("annotations");
        let at = at.key(SOURCE_RANGES);
        if !balancer {
            errors.forbidden(&at, ONLY_BALANCERS);
        }
        let unchanged = old
            .and_then(annotation)
            .is_some_and(|before| before == text);
        if !unchanged && !text.trim().is_empty() {
            for range in text.trim().split(',') {
                ip::cidr(range.trim(), &[], &at, errors);
            }
        }
    }
}

fn load_balancer(spec: &Value<'_>, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let allocate = spec.get("allocateLoadBalancerNodePorts").is_some();
    if kind == "LoadBalancer" {
        if !allocate {
            errors.required(&Path::new("allocateLoadBalancerNodePorts"), "");
        }
    } else if allocate {
        errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_BALANCERS);
    }
    balancer_class(spec, kind, path, errors);
}

fn balancer_class(spec: &Value<'_>, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("loadBalancerClass");
    match spec.str_of("loadBalancerClass") {
        Some(class) if kind == "LoadBalancer" => errors.each(&at, class, label_key(class)),
        Some(_) => errors.forbidden(&at, ONLY_BALANCERS),
        None => {}
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

/// Rules for updates: what was allocated stays.
pub(crate) fn update(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let either_external = kind_of(new) == "ExternalName" || kind_of(old) == "ExternalName";
    let (headless, was_headless) = (is_headless(new), is_headless(old));
    if !(either_external || headless && was_headless) {
        fixed_ips(new, old, &path, errors);
    }
    if !either_external && !headless && !was_headless {
        fixed_families(new, old, &path, errors);
    }
    let class = ["spec", "loadBalancerClass"];
    let balancers = kind_of(new) == "LoadBalancer" && kind_of(old) == "LoadBalancer";
    if balancers && new.str_at(&class) != old.str_at(&class) {
        let at = path.child("loadBalancerClass");
        match new.str_at(&class) {
            Some(class) => errors.invalid(&at, class, FIXED),
            None => errors.invalid_value(&at, None, FIXED),
        }
    }
    // Upstream looks at the class both here and with the other rules.
    let spec = new.get(&["spec"]).unwrap_or(&Value::Null);
    balancer_class(spec, kind_of(new), &path, errors);
    let port = |doc: &Doc<'_>| doc.int_at(&["spec", "healthCheckNodePort"]).unwrap_or(0);
    if needs_health_port(new) && needs_health_port(old) && port(new) != port(old) {
        errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
    validate(new, Some(old), errors);
}

fn fixed_ips(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let (now, before) = (
        texts(Some(new), "clusterIPs"),
        texts(Some(old), "clusterIPs"),
    );
    let value = new.get(&["spec", "clusterIPs"]);
    let at = path.child("clusterIPs");
    let first = at.index(0);
    if now.len() == before.len() {
        for (i, _) in now
            .iter()
            .zip(&before)
            .enumerate()
            .filter(|(_, (a, b))| a != b)
        {
            errors.invalid_value(&at.index(i), value, FIXED);
        }
        return;
    }
    if now.is_empty() {
        errors.invalid_value(&first, value, "primary clusterIP can not be unset");
    } else if before.first().is_some_and(|b| *b != now[0]) {
        errors.invalid_value(&first, value, FIXED);
    }
    if now.len() < before.len() && now.len() == 1 {
        released(new, "clusterIP", path, errors);
    }
}

fn fixed_families(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let (now, before) = (
        texts(Some(new), "ipFamilies"),
        texts(Some(old), "ipFamilies"),
    );
    let value = new.get(&["spec", "ipFamilies"]);
    let at = path.child("ipFamilies");
    let first = at.index(0);
    if now.len() == before.len() {
        for _ in now.iter().zip(&before).filter(|(a, b)| a != b) {
            errors.invalid_value(&first, value, FIXED);
        }
        return;
    }
    if now.len() < before.len() && new.list_at(&["spec", "clusterIPs"]).is_empty() {
        errors.invalid_value(&first, value, "primary ipFamily can not be unset");
    }
    if let (Some(a), Some(b)) = (now.first(), before.first())
        && a != b
    {
        // Upstream prints the addresses here.
        errors.invalid_value(&first, new.get(&["spec", "clusterIPs"]), FIXED);
    }
    if now.len() < before.len() && now.len() == 1 {
        released(new, "ipFamily", path, errors);
    }
}

/// Giving up the second address or family is said by the policy.
fn released(new: &Doc<'_>, what: &str, path: &Path<'_>, errors: &mut Errors) {
    let policy = new.str_at(&["spec", "ipFamilyPolicy"]);
    let at = path.child("ipFamilyPolicy");
    let detail = format!("must be set to 'SingleStack' when releasing the secondary {what}");
    match policy {
        Some("SingleStack") => {}
        Some(policy) => errors.invalid(&at, policy, detail),
        None => errors.invalid_value(&at, None, detail),
    }
}

/// The status: what a load balancer gave the Service.
pub(crate) fn status(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let list = ["status", "loadBalancer", "ingress"];
    let path = Path::new("status");
    let path = path.child("loadBalancer");
    let path = path.child("ingress");
    let ingress = new.list_at(&list);
    if kind_of(new) != "LoadBalancer" && !ingress.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        return errors.forbidden(&path, detail);
    }
    let kept: Vec<&str> = old
        .list_at(&list)
        .iter()
        .filter_map(|i| i.str_of("ip"))
        .collect();
    for (i, entry) in ingress.iter().enumerate() {
        let at = path.index(i);
        let text = |field| entry.str_of(field).unwrap_or_default();
        let (address, host) = (text("ip"), text("hostname"));
        if !address.is_empty() {
            ip::ip(address, &kept, &at.child("ip"), errors);
        }
        let mode_at = at.child("ipMode");
        match entry.str_of("ipMode") {
            None if !address.is_empty() => {
                errors.required(&mode_at, "must be specified when `ip` is set");
            }
            None => {}
            Some(_) if address.is_empty() => {
                errors.forbidden(&mode_at, "may not be specified when `ip` is not set");
            }
            Some(mode) => errors.one_of(&mode_at, Some(mode), &["Proxy", "VIP"], false),
        }
        if !host.is_empty() {
            errors.each(&at.child("hostname"), host, dns_subdomain(host));
            if ip::Address::parse(host).is_some() {
                let detail = "must be a DNS name, not an IP address";
                errors.invalid(&at.child("hostname"), host, detail);
            }
        }
    }
}
