//! What a pod's spec (alone or in a template) must hold.
//!
//! Port of `ValidatePodSpec` and `ValidatePodTemplateSpec` in `pkg/apis/core/validation/validation.go`.

use super::{container, scheduling, volume};
use crate::doc::{Doc, Value};
use crate::validate::meta::{annotations, labels};
use crate::validate::names::{dns_label, dns_subdomain, in_range, label_key};
use crate::validate::path::{Errors, Path};

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const MAX_ID: i64 = i32::MAX as i64;
/// `options` of resolv.conf and search paths, as the resolver takes them.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// A new pod.
pub(crate) fn create(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let empty = Value::Null;
    let spec = doc.get(&["spec"]).unwrap_or(&empty);
    pod(spec, &path, errors);
    if !spec.list_of("ephemeralContainers").is_empty() {
        errors.forbidden(
            &path.child("ephemeralContainers"),
            "cannot be set on create",
        );
    }
    if spec.str_of("nodeName").is_some() && !spec.list_of("schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), detail);
    }
}

/// What holds for pods, new and updated, but not for templates.
pub(crate) fn pod(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    self::spec(spec, path, true, errors);
    if spec
        .str_of("serviceAccountName")
        .unwrap_or_default()
        .is_empty()
    {
        volume::no_tokens(spec, path, errors);
    }
    let grace = path.child("terminationGracePeriodSeconds");
    errors.non_negative(&grace, spec.int_of("terminationGracePeriodSeconds"));
    for list in ["containers", "initContainers"] {
        let at = path.child(list);
        for (i, container) in spec.list_of(list).iter().enumerate() {
            let image = container.str_of("image").unwrap_or_default();
            if image.trim() != image {
                let detail = "must not have leading or trailing whitespace";
                errors.invalid(&at.index(i).child("image"), image, detail);
            }
        }
    }
}

/// A pod template.
pub(crate) fn template(template: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    let empty = Value::Null;
    let template = template.unwrap_or(&empty);
    labels(
        template.at(&["metadata", "labels"]),
        &path.child("labels"),
        errors,
    );
    annotations(
        template.at(&["metadata", "annotations"]),
        &path.child("annotations"),
        errors,
    );
    let at = path.child("spec");
    let spec = template.get("spec").unwrap_or(&empty);
    self::spec(spec, &at, false, errors);
    if !spec.list_of("ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&at.child("ephemeralContainers"), detail);
    }
}

/// A pod's spec.
pub(crate) fn spec(spec: &Value<'_>, path: &Path<'_>, is_pod: bool, errors: &mut Errors) {
    if spec.get("terminationGracePeriodSeconds").is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volume::volumes(spec.list_of("volumes"), &path.child("volumes"), errors);
    container::containers(spec, &volumes, path, errors);
    host_network_ports(spec, path, is_pod, errors);
    let policy = path.child("restartPolicy");
    errors.one_of(
        &policy,
        spec.str_of("restartPolicy"),
        &RESTART_POLICIES,
        true,
    );
    errors.one_of(
        &path.child("dnsPolicy"),
        spec.str_of("dnsPolicy"),
        &DNS_POLICIES,
        true,
    );
    labels(
        spec.get("nodeSelector"),
        &path.child("nodeSelector"),
        errors,
    );
    security_context(spec, path, errors);
    scheduling::affinity(spec.get("affinity"), &path.child("affinity"), errors);
    dns_config(spec, path, errors);
    gates(spec, path, errors);
    scheduling::spread(
        spec.list_of("topologySpreadConstraints"),
        &path.child("topologySpreadConstraints"),
        errors,
    );
    names(spec, path, errors);
    scheduling::tolerations(
        spec.list_of("tolerations"),
        &path.child("tolerations"),
        errors,
    );
    let aliases = path.child("hostAliases");
    for (i, alias) in spec.list_of("hostAliases").iter().enumerate() {
        let at = aliases.index(i);
        let ip = alias.str_of("ip").unwrap_or_default();
        if ip.parse::<std::net::IpAddr>().is_err() {
            errors.invalid(
                &at.child("ip"),
                ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
        }
        let names = at.child("hostnames");
        for (j, name) in alias
            .list_of("hostnames")
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
        {
            errors.each(&names.index(j), name, dns_subdomain(name));
        }
    }
    let preemption = path.child("preemptionPolicy");
    let policies = ["PreemptLowerPriority", "Never"];
    errors.one_of(
        &preemption,
        spec.str_of("preemptionPolicy"),
        &policies,
        false,
    );
}

fn names(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    for field in [
        "serviceAccountName",
        "nodeName",
        "priorityClassName",
        "runtimeClassName",
    ] {
        if let Some(name) = spec.str_of(field).filter(|n| !n.is_empty()) {
            errors.each(&path.child(field), name, dns_subdomain(name));
        }
    }
    for field in ["hostname", "subdomain"] {
        if let Some(name) = spec.str_of(field).filter(|n| !n.is_empty()) {
            errors.each(&path.child(field), name, dns_label(name));
        }
    }
    if let Some(seconds) = spec.int_of("activeDeadlineSeconds") {
        let at = path.child("activeDeadlineSeconds");
        errors.each_number(&at, seconds, in_range(seconds, 1, MAX_ID));
    }
}

/// On the host's network, ports of containers are ports of the host.
fn host_network_ports(spec: &Value<'_>, path: &Path<'_>, is_pod: bool, errors: &mut Errors) {
    if spec.bool_of("hostNetwork") != Some(true) {
        return;
    }
    let containers = path.child("containers");
    for (i, container) in spec.list_of("containers").iter().enumerate() {
        let at = containers.index(i);
        let ports = at.child("ports");
        for (p, port) in container.list_of("ports").iter().enumerate() {
            let host = port.int_of("hostPort").unwrap_or(0);
            if (is_pod || host != 0) && host != port.int_of("containerPort").unwrap_or(0) {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid_number(&ports.index(p).child("hostPort"), host, detail);
            }
        }
    }
}

fn security_context(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let Some(context) = spec.get("securityContext") else {
        return;
    };
    let at = path.child("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = context.int_of(field) {
            errors.each_number(&at.child(field), id, in_range(id, 0, MAX_ID));
        }
    }
    let groups = at.child("supplementalGroups");
    for (i, group) in context.list_of("supplementalGroups").iter().enumerate() {
        let id = group.as_int().unwrap_or(0);
        errors.each_number(&groups.index(i), id, in_range(id, 0, MAX_ID));
    }
    if spec.bool_of("shareProcessNamespace") == Some(true) && spec.bool_of("hostPID") == Some(true)
    {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid_value(
            &path.child("shareProcessNamespace"),
            Some(&Value::Bool(true)),
            detail,
        );
    }
}

fn dns_config(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("dnsConfig");
    let servers = spec
        .get("dnsConfig")
        .map(|c| c.list_of("nameservers"))
        .unwrap_or_default();
    if spec.str_of("dnsPolicy") == Some("None") {
        if spec.get("dnsConfig").is_none() {
            errors.required(&at, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(&at.child("nameservers"), detail);
            return;
        }
    }
    let Some(config) = spec.get("dnsConfig") else {
        return;
    };
    let list = at.child("nameservers");
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.invalid_value(&list, config.get("nameservers"), detail);
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        if server.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(&list.index(i), server, detail);
        }
    }
    let searches = config.list_of("searches");
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.invalid_value(&at.child("searches"), config.get("searches"), detail);
    }
    let options = at.child("options");
    for (i, option) in config.list_of("options").iter().enumerate() {
        if option.str_of("name").unwrap_or_default().is_empty() {
            errors.required(&options.index(i), "must not be empty");
        }
    }
}

fn gates(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let readiness = path.child("readinessGates");
    for (i, gate) in spec.list_of("readinessGates").iter().enumerate() {
        let ty = gate.str_of("conditionType").unwrap_or_default();
        errors.each(
            &readiness.index(i).child("conditionType"),
            ty,
            label_key(ty),
        );
    }
    let scheduling = path.child("schedulingGates");
    let gates = spec.list_of("schedulingGates");
    for (i, gate) in gates.iter().enumerate() {
        let name = gate.str_of("name").unwrap_or_default();
        errors.each(&scheduling.index(i), name, label_key(name));
        if gates[..i]
            .iter()
            .any(|g| g.str_of("name").unwrap_or_default() == name)
        {
            errors.duplicate(&scheduling.index(i), name);
        }
    }
}
