//! What a pod's spec (alone or in a template) must hold.
//!
//! Port of `ValidatePodSpec` and `ValidatePodTemplateSpec` in `pkg/apis/core/validation/validation.go`; the
//! parts are in the files beside this one.

use super::options::{Options, Spec, containers};
use super::{annotation, claims, container, profile, resources, scheduling, volume, windows};
use crate::doc::{Doc, Value};
use crate::validate::ip;
use crate::validate::meta::{annotations, labels};
use crate::validate::names::{
    dns_label, dns_subdomain, dns_subdomain_with_underscore, in_range, label_key,
};
use crate::validate::path::{Errors, Path};

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const PREEMPTION_POLICIES: [&str; 2] = ["PreemptLowerPriority", "Never"];
const MAX_DEADLINE: i64 = i32::MAX as i64;
/// `options` of resolv.conf and search paths, as the resolver takes them.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 2048;
/// The longest `hostnameOverride` (HOST_NAME_MAX of Linux).
const MAX_HOSTNAME: usize = 64;
const NO_NAMESPACE_SHARING: &str = "when `hostUsers` is false";

/// A new pod.
pub(crate) fn create(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    pod(doc, &Options::new(&Value::Null, true), errors);
    if !spec.list_of("ephemeralContainers").is_empty() {
        errors.forbidden(
            &path.child("ephemeralContainers"),
            "cannot be set on create",
        );
    }
    let bound = spec.str_of("nodeName").is_some_and(|n| !n.is_empty());
    if bound && !spec.list_of("schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), detail);
    }
    annotation::matching_profiles(doc.root(), &path, errors);
}

/// What holds for pods, new and updated, but not for templates.
pub(crate) fn pod(doc: &Doc<'_>, options: &Options, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let meta = Path::new("metadata");
    annotation::annotations(doc.root(), options, &meta.child("annotations"), errors);
    self::spec(spec, doc.root(), options, &path, errors);
    if spec
        .str_of("serviceAccountName")
        .unwrap_or_default()
        .is_empty()
    {
        volume::no_tokens(spec, &path, errors);
    }
    let grace = path.child("terminationGracePeriodSeconds");
    errors.non_negative(&grace, spec.int_of("terminationGracePeriodSeconds"));
    for list in ["containers", "initContainers"] {
        let at = path.child(list);
        for (i, container) in spec.list_of(list).iter().enumerate() {
            container::padded_image(container, &at.index(i), errors);
        }
    }
}

/// A pod template; `old` is the stored one, or null.
pub(crate) fn template(
    template: Option<&Value<'_>>,
    old: &Value<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let template = template.unwrap_or(&Value::Null);
    let options = Options::new(old, false);
    let annotations_at = path.child("annotations");
    labels(
        template.at(&["metadata", "labels"]),
        &path.child("labels"),
        errors,
    );
    annotations(
        template.at(&["metadata", "annotations"]),
        &annotations_at,
        errors,
    );
    annotation::annotations(template, &options, &annotations_at, errors);
    let at = path.child("spec");
    let spec = template.get("spec").unwrap_or(&Value::Null);
    self::spec(spec, &Value::Null, &options, &at, errors);
    annotation::matching_profiles(template, &at, errors);
    if !spec.list_of("ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&at.child("ephemeralContainers"), detail);
    }
}

/// A pod's spec. `pod` is the pod it belongs to, null in templates.
fn spec(
    spec: &Value<'_>,
    pod: &Value<'_>,
    options: &Options,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if spec.get("terminationGracePeriodSeconds").is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let mut known = Spec {
        spec,
        options,
        pod_name: pod
            .at(&["metadata", "name"])
            .and_then(Value::as_str)
            .unwrap_or_default(),
        volumes: Default::default(),
        claims: claims::names(spec),
    };
    known.volumes = volume::volumes(&known, &path.child("volumes"), errors);
    claims::pod_claims(spec, pod, &path.child("resourceClaims"), errors);
    container::containers(&known, path, errors);
    resources::pod_resources(&known, path, errors);
    host_network_ports(&known, path, errors);
    policies(spec, path, errors);
    labels(
        spec.get("nodeSelector"),
        &path.child("nodeSelector"),
        errors,
    );
    profile::pod_context(&known, path, errors);
    scheduling::affinity(
        spec.get("affinity"),
        options,
        &path.child("affinity"),
        errors,
    );
    dns_config(spec, &path.child("dnsConfig"), errors);
    gates(spec, path, errors);
    let spread = path.child("topologySpreadConstraints");
    scheduling::spread(
        spec.list_of("topologySpreadConstraints"),
        options,
        &spread,
        errors,
    );
    windows::host_process(spec, path, errors);
    host_users(&known, path, errors);
    hostname_override(spec, path, errors);
    names(spec, path, errors);
    let tolerations = path.child("tolerations");
    scheduling::tolerations(spec.list_of("tolerations"), options, &tolerations, errors);
    host_aliases(spec, &path.child("hostAliases"), errors);
    if let Some(overhead) = spec.get("overhead") {
        resources::overhead(overhead, options, &path.child("overhead"), errors);
    }
    operating_system(&known, path, errors);
    scheduling_group(spec, &path.child("schedulingGroup"), errors);
    file_volumes(spec, path, errors);
}

/// Fields that are one of a few words.
fn policies(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    for (field, valid, required) in [
        ("restartPolicy", &RESTART_POLICIES[..], true),
        ("dnsPolicy", &DNS_POLICIES[..], true),
        ("preemptionPolicy", &PREEMPTION_POLICIES[..], false),
    ] {
        let value = spec.str_of(field);
        errors.one_of(
            &path.child(field),
            value,
            valid,
            required || value == Some(""),
        );
    }
}

fn names(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    for field in ["serviceAccountName", "nodeName", "priorityClassName"] {
        if let Some(name) = spec.str_of(field).filter(|n| !n.is_empty()) {
            errors.each(&path.child(field), name, dns_subdomain(name));
        }
    }
    if let Some(name) = spec.str_of("runtimeClassName") {
        errors.each(&path.child("runtimeClassName"), name, dns_subdomain(name));
    }
    let text = |field| spec.str_of(field).unwrap_or_default();
    let (account, old) = (text("serviceAccountName"), text("serviceAccount"));
    if account != old {
        let shown = crate::status::quote(account);
        let detail = format!("must be the same as serviceAccountName: {shown}");
        errors.invalid(&path.child("deprecatedServiceAccount"), old, detail);
    }
    for field in ["hostname", "subdomain"] {
        if let Some(name) = spec.str_of(field).filter(|n| !n.is_empty()) {
            errors.each(&path.child(field), name, dns_label(name));
        }
    }
    if let Some(seconds) = spec.int_of("activeDeadlineSeconds") {
        let at = path.child("activeDeadlineSeconds");
        errors.each_number(&at, seconds, in_range(seconds, 1, MAX_DEADLINE));
    }
}

fn hostname_override(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let Some(name) = spec.str_of("hostnameOverride") else {
        return;
    };
    let at = path.child("hostnameOverride");
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec.bool_of(field) == Some(true) {
            errors.forbidden(&at, format!("may not be specified when {field} is true"));
        }
    }
    if name.len() > MAX_HOSTNAME {
        errors.too_long(&at, MAX_HOSTNAME);
    }
    errors.each(&at, name, dns_subdomain(name));
}

fn host_aliases(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    for (i, alias) in spec.list_of("hostAliases").iter().enumerate() {
        let at = path.index(i);
        ip::ip(
            alias.str_of("ip").unwrap_or_default(),
            &[],
            &at.child("ip"),
            errors,
        );
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
}

/// On the host's network, ports of containers are ports of the host.
fn host_network_ports(known: &Spec<'_, '_>, path: &Path<'_>, errors: &mut Errors) {
    if known.spec.bool_of("hostNetwork") != Some(true) {
        return;
    }
    let list = path.child("containers");
    for (i, container) in known.spec.list_of("containers").iter().enumerate() {
        let at = list.index(i);
        let ports = at.child("ports");
        for (p, port) in container.list_of("ports").iter().enumerate() {
            let host = port.int_of("hostPort").unwrap_or(0);
            let own = port.int_of("containerPort").unwrap_or(0);
            if (known.options.is_pod || host != 0) && host != own {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid_number(&ports.index(p).child("hostPort"), host, detail);
            }
        }
    }
}

/// User namespaces of their own exclude other namespaces of the host.
fn host_users(known: &Spec<'_, '_>, path: &Path<'_>, errors: &mut Errors) {
    if known.host_users() {
        return;
    }
    let spec = known.spec;
    let on = |field| spec.bool_of(field) == Some(true);
    if on("hostNetwork") && !known.options.host_network_for_users {
        errors.forbidden(&path.child("hostNetwork"), NO_NAMESPACE_SHARING);
    }
    for (field, shown) in [("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if on(field) {
            errors.forbidden(&path.child(shown), NO_NAMESPACE_SHARING);
        }
    }
    if known.options.devices_for_users {
        return;
    }
    for (list, i, container) in containers(spec) {
        if !container.list_of("volumeDevices").is_empty() {
            let at = path.child(list);
            errors.forbidden(&at.index(i).child("volumeDevices"), NO_NAMESPACE_SHARING);
        }
    }
}

fn dns_config(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let config = spec.get("dnsConfig");
    let servers = config.map(|c| c.list_of("nameservers")).unwrap_or_default();
    let list = path.child("nameservers");
    if spec.str_of("dnsPolicy") == Some("None") {
        if config.is_none() {
            return errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.required(&list, detail);
        }
    }
    let Some(config) = config else { return };
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.invalid_value(&list, config.get("nameservers"), detail);
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        ip::ip(server, &[], &list.index(i), errors);
    }
    searches(config, &path.child("searches"), errors);
    let options = path.child("options");
    for (i, option) in config.list_of("options").iter().enumerate() {
        if option.str_of("name").unwrap_or_default().is_empty() {
            errors.required(&options.index(i), "must not be empty");
        }
    }
}

fn searches(config: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let list = config.list_of("searches");
    if list.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.invalid_value(path, config.get("searches"), detail);
    }
    let bytes: usize = list
        .iter()
        .filter_map(Value::as_str)
        .map(|s| s.len() + 1)
        .sum();
    if bytes > MAX_SEARCH_BYTES + 1 {
        let detail = format!(
            "must not have more than {MAX_SEARCH_BYTES} characters (including spaces) in the search list"
        );
        errors.invalid_value(path, config.get("searches"), detail);
    }
    for (i, search) in list.iter().filter_map(Value::as_str).enumerate() {
        if search != "." {
            let search = search.strip_suffix('.').unwrap_or(search);
            errors.each(
                &path.index(i),
                search,
                dns_subdomain_with_underscore(search),
            );
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

fn operating_system(known: &Spec<'_, '_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("os");
    match known.os() {
        None => {}
        Some("") => errors.required(&at.child("name"), ""),
        Some("linux") => windows::forbidden_on_linux(known.spec, path, errors),
        Some("windows") => windows::forbidden_on_windows(known.spec, path, errors),
        Some(other) => errors.not_supported(&at, other, &["linux", "windows"]),
    }
}

fn scheduling_group(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let Some(group) = spec.get("schedulingGroup") else {
        return;
    };
    let at = path.child("podGroupName");
    match group.str_of("podGroupName") {
        None => errors.invalid_value(&at, None, "must specify one of: `podGroupName`"),
        Some(name) => errors.each(&at, name, dns_subdomain(name)),
    }
}

/// Files with variables are in emptyDirs.
fn file_volumes(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    for (list, i, container) in containers(spec) {
        let list_at = path.child(list);
        let container_at = list_at.index(i);
        let env = container_at.child("env");
        for (e, variable) in container.list_of("env").iter().enumerate() {
            let Some(file) = variable.at(&["valueFrom", "fileKeyRef"]) else {
                continue;
            };
            let at = env.index(e);
            let at = at.child("valueFrom");
            let at = at.child("fileKeyRef");
            let at = at.child("volumeName");
            let name = file.str_of("volumeName").unwrap_or_default();
            let named = |v: &&Value<'_>| v.str_of("name").unwrap_or_default() == name;
            match spec.list_of("volumes").iter().rfind(named) {
                None => errors.not_found(&at, name),
                Some(volume) if volume.get("emptyDir").is_none() => {
                    errors.invalid(&at, name, "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    }
}
