//! What containers must hold: names, images, ports, environment, mounts, probes, resources.
//!
//! Port of the container part of `pkg/apis/core/validation/validation.go`.

use std::collections::HashSet;

use super::volume::VolumeNames;
use crate::doc::Value;
use crate::quantity::Quantity;
use crate::validate::names::{
    config_key, dns_label, dns_subdomain, env_var, in_range, label_key, masked_prefix, port_name,
    port_number,
};
use crate::validate::path::{Errors, Path};

const MESSAGE_POLICIES: [&str; 2] = ["File", "FallbackToLogsOnError"];
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const SCHEMES: [&str; 2] = ["HTTP", "HTTPS"];
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const CONTAINER_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Resources that exist, but not for containers.
const OTHER_RESOURCES: [&str; 3] = ["storage", "pods", "services"];
const MAX_ID: i64 = i32::MAX as i64;

/// All containers of a pod's spec.
pub(super) fn containers(
    spec: &Value<'_>,
    volumes: &VolumeNames<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let grace = spec.int_of("terminationGracePeriodSeconds");
    let list = spec.list_of("containers");
    let at = path.child("containers");
    if list.is_empty() {
        errors.required(&at, "");
    }
    let mut names: HashSet<&str> = HashSet::new();
    for (i, container) in list.iter().enumerate() {
        let at = at.index(i);
        common(container, volumes, &at, errors);
        unique_name(container, &mut names, &at, errors);
        hooks_and_probes(container, grace, &at, errors);
        restart_policy(container, &at, errors);
    }
    host_port_conflicts(list, &at, errors);
    init_containers(spec, volumes, names, path, errors);
}

fn init_containers<'a>(
    spec: &'a Value<'_>,
    volumes: &VolumeNames<'_>,
    mut names: HashSet<&'a str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let grace = spec.int_of("terminationGracePeriodSeconds");
    let at = path.child("initContainers");
    for (i, container) in spec.list_of("initContainers").iter().enumerate() {
        let at = at.index(i);
        common(container, volumes, &at, errors);
        restart_policy(container, &at, errors);
        unique_name(container, &mut names, &at, errors);
        if container.str_of("restartPolicy") == Some("Always") {
            hooks_and_probes(container, grace, &at, errors);
            continue;
        }
        for field in [
            "lifecycle",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
        ] {
            if container.get(field).is_some() {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.forbidden(&at.child(field), detail);
            }
        }
    }
}

fn unique_name<'a>(
    container: &'a Value<'_>,
    names: &mut HashSet<&'a str>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let name = container.str_of("name").unwrap_or_default();
    if !names.insert(name) && !name.is_empty() {
        errors.duplicate(&at.child("name"), name);
    }
}

fn restart_policy(container: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let policies = ["Always", "Never", "OnFailure"];
    let policy = container.str_of("restartPolicy");
    errors.one_of(&at.child("restartPolicy"), policy, &policies, false);
}

fn common(container: &Value<'_>, volumes: &VolumeNames<'_>, at: &Path<'_>, errors: &mut Errors) {
    errors.named(&at.child("name"), container.str_of("name"), dns_label);
    if container.str_of("image").unwrap_or_default().is_empty() {
        errors.required(&at.child("image"), "");
    }
    let policy = container.str_of("terminationMessagePolicy");
    errors.one_of(
        &at.child("terminationMessagePolicy"),
        policy,
        &MESSAGE_POLICIES,
        true,
    );
    ports(container.list_of("ports"), &at.child("ports"), errors);
    env(container.list_of("env"), &at.child("env"), errors);
    env_from(container.list_of("envFrom"), &at.child("envFrom"), errors);
    mounts(container, volumes, at, errors);
    let pull = container.str_of("imagePullPolicy");
    errors.one_of(&at.child("imagePullPolicy"), pull, &PULL_POLICIES, true);
    resources(container.get("resources"), &at.child("resources"), errors);
    security_context(
        container.get("securityContext"),
        &at.child("securityContext"),
        errors,
    );
}

fn ports(list: &[Value<'_>], path: &Path<'_>, errors: &mut Errors) {
    let mut names: HashSet<&str> = HashSet::new();
    for (i, port) in list.iter().enumerate() {
        let at = path.index(i);
        if let Some(name) = port.str_of("name").filter(|n| !n.is_empty()) {
            let problems = port_name(name);
            if !problems.is_empty() {
                errors.each(&at.child("name"), name, problems);
            } else if !names.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        }
        match port.int_of("containerPort").unwrap_or(0) {
            0 => errors.required(&at.child("containerPort"), ""),
            number => errors.each_number(&at.child("containerPort"), number, port_number(number)),
        }
        match port.int_of("hostPort").unwrap_or(0) {
            0 => {}
            number => errors.each_number(&at.child("hostPort"), number, port_number(number)),
        }
        errors.one_of(
            &at.child("protocol"),
            port.str_of("protocol"),
            &PROTOCOLS,
            true,
        );
    }
}

fn host_port_conflicts(containers: &[Value<'_>], path: &Path<'_>, errors: &mut Errors) {
    let mut taken: HashSet<String> = HashSet::new();
    for (c, container) in containers.iter().enumerate() {
        let container_at = path.index(c);
        let ports_at = container_at.child("ports");
        for (p, port) in container.list_of("ports").iter().enumerate() {
            let number = port.int_of("hostPort").unwrap_or(0);
            let text = |field| port.str_of(field).unwrap_or_default();
            let key = format!("{}/{}/{number}", text("protocol"), text("hostIP"));
            if number != 0 && !taken.insert(key.clone()) {
                errors.duplicate(&ports_at.index(p).child("hostPort"), &key);
            }
        }
    }
}

fn env(list: &[Value<'_>], path: &Path<'_>, errors: &mut Errors) {
    for (i, variable) in list.iter().enumerate() {
        let at = path.index(i);
        errors.named(&at.child("name"), variable.str_of("name"), env_var);
        let Some(source) = variable.get("valueFrom") else {
            continue;
        };
        let from = at.child("valueFrom");
        let sources = env_source(source, &from, errors);
        let has_value = !variable.str_of("value").unwrap_or_default().is_empty();
        match sources {
            0 => errors.invalid(
                &from,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                 `secretKeyRef` or `fileKeyRef`",
            ),
            _ if has_value => {
                errors.invalid(&from, "", "may not be specified when `value` is not empty");
            }
            1 => {}
            _ => errors.invalid(
                &from,
                "",
                "may not have more than one field specified at a time",
            ),
        }
    }
}

fn env_source(source: &Value<'_>, from: &Path<'_>, errors: &mut Errors) -> usize {
    if let Some(field) = source.get("fieldRef") {
        field_ref(field, &ENV_FIELDS, &from.child("fieldRef"), errors);
    }
    if let Some(field) = source.get("resourceFieldRef") {
        resource_ref(field, false, &from.child("resourceFieldRef"), errors);
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        let Some(key) = source.get(name) else {
            continue;
        };
        let at = from.child(name);
        let object = key.str_of("name").unwrap_or_default();
        errors.each(&at.child("name"), object, dns_subdomain(object));
        errors.named(&at.child("key"), key.str_of("key"), config_key);
    }
    [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
        "fileKeyRef",
    ]
    .iter()
    .filter(|name| source.get(name).is_some())
    .count()
}

/// A field of the pod, given to its containers.
pub(super) fn field_ref(field: &Value<'_>, valid: &[&str], at: &Path<'_>, errors: &mut Errors) {
    let path = field.str_of("fieldPath").unwrap_or_default();
    if field.str_of("apiVersion").unwrap_or_default().is_empty() {
        return errors.required(&at.child("apiVersion"), "");
    }
    if path.is_empty() {
        return errors.required(&at.child("fieldPath"), "");
    }
    let version = field.str_of("apiVersion").unwrap_or_default();
    if version != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        return errors.invalid(&at.child("fieldPath"), path, detail);
    }
    let known = ENV_FIELDS.contains(&path)
        || [
            "metadata.labels",
            "metadata.annotations",
            "spec.restartPolicy",
            "status.phase",
        ]
        .contains(&path);
    match path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        Some(("metadata.labels", key)) => errors.each(at, key, label_key(key)),
        Some(("metadata.annotations", key)) => {
            let lower = key.to_ascii_lowercase();
            errors.each(at, &lower, label_key(&lower));
        }
        Some(_) | None if !known => errors.invalid(
            &at.child("fieldPath"),
            path,
            format!("error converting fieldPath: field label not supported: {path}"),
        ),
        Some((field, _)) => errors.invalid(at, field, "does not support subscript"),
        None if !valid.contains(&path) => {
            errors.not_supported(&at.child("fieldPath"), path, valid);
        }
        None => {}
    }
}

/// A resource of a container, given to the pod's containers.
pub(super) fn resource_ref(field: &Value<'_>, in_volume: bool, at: &Path<'_>, errors: &mut Errors) {
    let resource = field.str_of("resource").unwrap_or_default();
    let pages = ["requests.hugepages-", "limits.hugepages-"];
    if in_volume && field.str_of("containerName").unwrap_or_default().is_empty() {
        errors.required(&at.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&at.child("resource"), "");
    } else if !RESOURCE_FIELDS.contains(&resource) && !pages.iter().any(|p| resource.starts_with(p))
    {
        errors.not_supported(&at.child("resource"), resource, &RESOURCE_FIELDS);
    }
}

fn env_from(list: &[Value<'_>], path: &Path<'_>, errors: &mut Errors) {
    for (i, source) in list.iter().enumerate() {
        let at = path.index(i);
        if let Some(prefix) = source.str_of("prefix").filter(|p| !p.is_empty()) {
            errors.each(&at.child("prefix"), prefix, env_var(prefix));
        }
        let mut sources = 0;
        for name in ["configMapRef", "secretRef"] {
            let Some(reference) = source.get(name) else {
                continue;
            };
            sources += 1;
            let at = at.child(name);
            errors.named(&at.child("name"), reference.str_of("name"), |n| {
                dns_subdomain(&masked_prefix(n))
            });
        }
        match sources {
            0 => errors.invalid(
                path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            ),
            1 => {}
            _ => errors.invalid(
                path,
                "",
                "may not have more than one field specified at a time",
            ),
        }
    }
}

fn mounts(container: &Value<'_>, volumes: &VolumeNames<'_>, at: &Path<'_>, errors: &mut Errors) {
    let path = at.child("volumeMounts");
    let mut places: HashSet<&str> = HashSet::new();
    for (i, mount) in container.list_of("volumeMounts").iter().enumerate() {
        let at = path.index(i);
        let text = |field| mount.str_of(field).unwrap_or_default();
        if text("name").is_empty() {
            errors.required(&at.child("name"), "");
        }
        if !volumes.contains(text("name")) {
            errors.not_found(&at.child("name"), text("name"));
        }
        if text("mountPath").is_empty() {
            errors.required(&at.child("mountPath"), "");
        }
        if !places.insert(text("mountPath")) {
            errors.invalid(&at.child("mountPath"), text("mountPath"), "must be unique");
        }
        for field in ["subPath", "subPathExpr"] {
            super::volume::descending(text(field), &path.child(field), errors);
        }
        if !text("subPathExpr").is_empty() && !text("subPath").is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&at.child("subPathExpr"), text("subPathExpr"), detail);
        }
        let modes = ["Bidirectional", "HostToContainer", "None"];
        let propagation = mount.str_of("mountPropagation");
        errors.one_of(&path.child("mountPropagation"), propagation, &modes, false);
        let privileged = container
            .at(&["securityContext", "privileged"])
            .and_then(Value::as_bool);
        if propagation == Some("Bidirectional") && privileged != Some(true) {
            let detail =
                "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(&path.child("mountPropagation"), detail);
        }
    }
}

fn hooks_and_probes(container: &Value<'_>, grace: Option<i64>, at: &Path<'_>, errors: &mut Errors) {
    let lifecycle = at.child("lifecycle");
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container.at(&["lifecycle", hook]) {
            self::handler(handler, grace, &lifecycle.child(hook), errors);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(name) else {
            continue;
        };
        let at = at.child(name);
        handler(probe, grace, &at, errors);
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            errors.non_negative(&at.child(field), probe.int_of(field));
        }
        let own_grace = probe.int_of("terminationGracePeriodSeconds");
        if let Some(seconds) = own_grace.filter(|s| *s <= 0) {
            let path = at.child("terminationGracePeriodSeconds");
            errors.invalid_number(&path, seconds, "must be greater than 0");
        }
        let successes = probe.int_of("successThreshold").unwrap_or(0);
        if name == "readinessProbe" {
            if let Some(seconds) = own_grace {
                let path = at.child("terminationGracePeriodSeconds");
                errors.invalid_number(&path, seconds, "must not be set for readinessProbes");
            }
        } else if successes != 1 {
            errors.invalid_number(&at.child("successThreshold"), successes, "must be 1");
        }
    }
}

fn handler(handler: &Value<'_>, grace: Option<i64>, at: &Path<'_>, errors: &mut Errors) {
    let mut found = false;
    for name in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = handler.get(name) else {
            continue;
        };
        let path = at.child(name);
        if found {
            errors.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match name {
            "exec" if action.list_of("command").is_empty() => {
                errors.required(&path.child("command"), "");
            }
            "httpGet" => http_get(action, &path, errors),
            "tcpSocket" | "grpc" => port(action.get("port"), &path.child("port"), errors),
            "sleep" => {
                let seconds = action.int_of("seconds").unwrap_or(0);
                if let Some(grace) = grace.filter(|g| seconds < 0 || seconds > *g) {
                    let detail = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                    );
                    errors.invalid_number(&path, seconds, detail);
                }
            }
            _ => {}
        }
    }
    if !found {
        errors.required(at, "must specify a handler type");
    }
}

fn http_get(action: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    if action.str_of("path").unwrap_or_default().is_empty() {
        errors.required(&path.child("path"), "");
    }
    port(action.get("port"), &path.child("port"), errors);
    let scheme = action.str_of("scheme").unwrap_or_default();
    if !SCHEMES.contains(&scheme) {
        errors.not_supported(&path.child("scheme"), scheme, &SCHEMES);
    }
    for header in action.list_of("httpHeaders") {
        let name = header.str_of("name").unwrap_or_default();
        let valid =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !valid {
            errors.invalid(
                &path.child("httpHeaders"),
                name,
                "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
            );
        }
    }
}

/// A port by number or by name.
fn port(value: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Some(Value::String(name)) => errors.each(path, name, port_name(name)),
        value => {
            let number = value.and_then(Value::as_int).unwrap_or(0);
            errors.each_number(path, number, port_number(number));
        }
    }
}

fn security_context(context: Option<&Value<'_>>, at: &Path<'_>, errors: &mut Errors) {
    let Some(context) = context else { return };
    for field in ["runAsUser", "runAsGroup"] {
        if let Some(id) = context.int_of(field) {
            errors.each_number(&at.child(field), id, in_range(id, 0, MAX_ID));
        }
    }
    if context.bool_of("allowPrivilegeEscalation") != Some(false) {
        return;
    }
    if context.bool_of("privileged") == Some(true) {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid_value(at, Some(context), detail);
    }
}

/// Requests and limits.
fn resources(value: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    let Some(resources) = value else { return };
    let quantity = |list: &str, name: &str| {
        resources
            .at(&[list, name])
            .and_then(Value::as_str)
            .and_then(|t| Quantity::parse(t).ok())
    };
    let limits = path.child("limits");
    let requests = path.child("requests");
    for (list, at) in [("limits", &limits), ("requests", &requests)] {
        let Some(entries) = resources.get(list).and_then(Value::as_object) else {
            continue;
        };
        for (name, text) in entries.iter() {
            let at = at.key(name);
            resource_name(name, &at, errors);
            if quantity(list, name).is_some_and(|q| q.sign() < 0) {
                let text = text.as_str().unwrap_or_default();
                errors.invalid(&at, text, "must be greater than or equal to 0");
            }
        }
    }
    let Some(entries) = resources.get("requests").and_then(Value::as_object) else {
        return;
    };
    for (name, text) in entries.iter() {
        let overcommit = !name.contains('/') && !name.starts_with("hugepages-");
        let (Some(request), text) = (
            quantity("requests", name),
            text.as_str().unwrap_or_default(),
        ) else {
            continue;
        };
        match quantity("limits", name) {
            Some(limit) if request != limit && !overcommit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.invalid(&requests, text, detail);
            }
            Some(limit) if request > limit => {
                let limit = resources.at(&["limits", name]).and_then(Value::as_str);
                let limit = limit.unwrap_or_default();
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&requests, text, detail);
            }
            None if !overcommit => {
                errors.required(
                    &limits,
                    "Limit must be set for non overcommitable resources",
                );
            }
            Some(_) | None => {}
        }
    }
}

fn resource_name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    let problems = label_key(name);
    let malformed = !problems.is_empty();
    errors.each(at, name, problems);
    if name.contains('/') {
        let native = name.starts_with("kubernetes.io/") || name.contains(".kubernetes.io/");
        if native || malformed {
            return;
        }
        if name.starts_with("requests.") {
            errors.invalid(at, name, "doesn't follow extended resource name standard");
        }
        return;
    }
    let known = CONTAINER_RESOURCES.contains(&name) || name.starts_with("hugepages-");
    if !known && !malformed && !OTHER_RESOURCES.contains(&name) {
        errors.invalid(
            at,
            name,
            "must be a standard resource type or fully qualified",
        );
    }
    if !known {
        errors.invalid(at, name, "must be a standard resource for containers");
    }
}
