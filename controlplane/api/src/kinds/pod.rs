//! Pods and everything that holds a pod template: defaults and strategy.
//!
//! Ported from `pkg/apis/core/v1/defaults.go`, `pkg/registry/core/pod/strategy.go` and
//! `pkg/apis/core/helper/qos/qos.go`.

use bumpalo::Bump;

use crate::default::Literal::{Bool, Empty, Str};
use crate::default::set_absent;
use crate::doc::{Doc, List, Object, Value};
use crate::quantity::Quantity;
use crate::strategy::{SystemFields, copy};

pub(crate) mod gated;
mod level;

pub(crate) mod options;
pub(crate) mod validate;

mod annotation;
mod claims;
mod container;
mod environment;
mod mount;
pub(crate) mod probe;
mod profile;
mod resources;
pub(crate) mod scheduling;
mod volume;
mod windows;

pub(crate) mod status;
pub(crate) mod update;

pub(crate) mod warn;

/// The longest path of an image's repository, in bytes (`RepositoryNameTotalLengthMax` of
/// distribution's reference).
const MAX_REPOSITORY: usize = 255;

/// `SetDefaults_Pod`: what holds for pods but not for templates.
pub(crate) fn default_pod<'a>(pod: &mut Object<'a>, arena: &'a Bump) {
    let spec = pod.entry_or_object("spec").make_object(arena);
    if spec
        .get("terminationGracePeriodSeconds")
        .and_then(Value::as_int)
        .is_some_and(|s| s < 0)
    {
        spec.set("terminationGracePeriodSeconds", Value::Int(1));
    }
    set_absent(spec, "enableServiceLinks", Bool(true));
    let host_network = spec
        .get("hostNetwork")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    for list in ["containers", "initContainers"] {
        let Some(containers) = spec.get_mut(list).and_then(Value::as_list_mut) else {
            continue;
        };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            requests_from_limits(container, arena);
            if host_network {
                host_ports(container);
            }
        }
    }
}

/// What is limited is requested in the same amount, unless something else is requested.
fn requests_from_limits<'a>(container: &mut Object<'a>, arena: &'a Bump) {
    let Some(resources) = container
        .get_mut("resources")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else {
        return;
    };
    let requests = resources.entry_or_object("requests").make_object(arena);
    for (name, limit) in limits.into_entries() {
        if !requests.contains(name) {
            requests.push(name, limit);
        }
    }
}

/// On the host's network a port of a container is a port of the host.
fn host_ports(container: &mut Object<'_>) {
    let Some(ports) = container.get_mut("ports").and_then(Value::as_list_mut) else {
        return;
    };
    for port in ports.iter_mut().filter_map(Value::as_object_mut) {
        if let (false, Some(Value::Int(number))) =
            (port.contains("hostPort"), port.get("containerPort"))
        {
            let number = *number;
            port.set("hostPort", Value::Int(number));
        }
    }
}

/// The rest of `SetDefaults_PodSpec`: the old name of serviceAccountName is kept equal.
pub(crate) fn default_pod_spec<'a>(spec: &mut Object<'a>, _: &'a Bump) {
    let text = |o: &Object<'a>, name| o.get(name).and_then(Value::as_str);
    if let Some(old) = text(spec, "serviceAccount")
        && !spec.contains("serviceAccountName")
    {
        spec.set("serviceAccountName", Value::String(old));
    }
    if let Some(name) = text(spec, "serviceAccountName") {
        spec.set("serviceAccount", Value::String(name));
    }
}

/// `SetDefaults_PodStatus`: podIP and podIPs say the same; the single one wins.
pub(crate) fn default_pod_status<'a>(status: &mut Object<'a>, arena: &'a Bump) {
    let single = status.get("podIP").and_then(Value::as_str);
    let first = status
        .get("podIPs")
        .and_then(|v| v.as_list()?.first()?.str_of("ip"));
    match (single, first) {
        (None, Some(first)) => status.set("podIP", Value::String(first)),
        (Some(single), first) if first != Some(single) => {
            let mut ip = Object::new_in(arena);
            ip.push("ip", Value::String(single));
            let list = List::from_iter_in([Value::Object(ip)], arena);
            status.set("podIPs", Value::List(list));
        }
        _ => {}
    }
}

/// Images tagged `latest` are always pulled.
pub(crate) fn default_pull_policy<'a>(container: &mut Object<'a>, _: &'a Bump) {
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default();
    set_absent(container, "imagePullPolicy", Str(pull_policy(image)));
}

fn pull_policy(image: &str) -> &'static str {
    if tag(image) == Some("latest") {
        "Always"
    } else {
        "IfNotPresent"
    }
}

/// The tag of an image reference; `latest` when it has neither tag nor digest, `None` when it has only
/// a digest or is malformed.
fn tag(image: &str) -> Option<&str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let (repository, tag) = match name[last..].rfind(':') {
        Some(colon) => (&name[..last + colon], Some(&name[last + colon + 1..])),
        None => (name, None),
    };
    let digest_fits =
        digest.is_none_or(|d| d.split_once(':').is_some_and(|(_, hex)| hex.len() >= 32));
    if !is_repository(repository) || !tag.is_none_or(is_tag) || !digest_fits {
        return None;
    }
    match (tag, digest) {
        (Some(tag), _) => Some(tag),
        (None, None) => Some("latest"),
        (None, Some(_)) => None,
    }
}

fn is_tag(tag: &str) -> bool {
    const MAX_TAG: usize = 128;
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// A repository with or without a host, as the reference grammar of the distribution project has it.
fn is_repository(text: &str) -> bool {
    let path = match text.split_once('/') {
        Some((host, path))
            if host.contains(['.', ':'])
                || host == "localhost"
                || host.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            if !is_host(host) {
                return false;
            }
            path
        }
        _ => text,
    };
    // Names without a folder are in that of the official images.
    let folder = if path.contains('/') {
        0
    } else {
        "library/".len()
    };
    if path.len() + folder > MAX_REPOSITORY {
        return false;
    }
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !path.is_empty()
        && path.split('/').all(|component| {
            let bytes = component.as_bytes();
            let separators = component
                .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
            bytes.first().is_some_and(alphanumeric)
                && bytes.last().is_some_and(alphanumeric)
                && separators
        })
}

/// A DNS name, an IPv4 address or an IPv6 address in brackets, with or without a port.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !text.ends_with(']') => (name, Some(port)),
        Some(_) | None => (text, None),
    };
    let number = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let label = |label: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        edge(label.bytes().next()) && edge(label.bytes().last()) && label.bytes().all(inner)
    };
    let bracketed = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let named = match bracketed {
        Some(v6) => !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => name.split('.').all(label),
    };
    named && port.is_none_or(number)
}

/// `SetDefaults_Volume`: a volume without a source is an emptyDir.
pub(crate) fn default_volume<'a>(volume: &mut Object<'a>, _: &'a Bump) {
    if volume.iter().all(|(key, _)| key == "name") {
        set_absent(volume, "emptyDir", Empty);
    }
    if let Some(image) = volume.get_mut("image").and_then(Value::as_object_mut) {
        let reference = image
            .get("reference")
            .and_then(Value::as_str)
            .unwrap_or_default();
        set_absent(image, "pullPolicy", Str(pull_policy(reference)));
    }
}

/// A new pod is pending, has its class of service, and says so when gates hold it back. What comes back
/// are warnings.
pub(crate) fn prepare_create(doc: &mut Doc<'_>, system: SystemFields<'_>) -> Vec<String> {
    gated::drop_disabled(doc, None, &[]);
    merge_label_keys(doc);
    let warnings = profile::fields_from_annotations(doc);
    level::default_resources(doc);
    let class = class_of_service(doc);
    doc.set_str(&["status", "phase"], "Pending");
    doc.set_str(&["status", "qosClass"], class);
    if doc.list_at(&["spec", "schedulingGates"]).is_empty() {
        return warnings;
    }
    let arena = doc.arena();
    let mut condition = Object::new_in(arena);
    for (key, text) in [
        ("type", "PodScheduled"),
        ("status", "False"),
        ("lastTransitionTime", system.now),
        ("reason", "SchedulingGated"),
        (
            "message",
            "Scheduling is blocked due to non-empty scheduling gates",
        ),
    ] {
        condition.push(key, Value::string_in(text, arena));
    }
    let conditions = List::from_iter_in([Value::Object(condition)], arena);
    doc.set(&["status", "conditions"], Value::List(conditions));
    warnings
}

/// Keys of labels that terms and constraints match by become expressions of their selectors.
fn merge_label_keys(doc: &mut Doc<'_>) {
    let labels = doc
        .get(&["metadata", "labels"])
        .cloned()
        .unwrap_or(Value::Null);
    let merge = |term: &mut Value<'_>| {
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let keys: Vec<String> = term
                .list_of(field)
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            for key in keys {
                if let Some(value) = labels.str_of(&key) {
                    match_label(term, &key, operator, value);
                }
            }
        }
    };
    let Some(spec) = doc.get_mut(&["spec"]) else {
        return;
    };
    for affinity in ["podAffinity", "podAntiAffinity"] {
        for list in [
            "preferredDuringSchedulingIgnoredDuringExecution",
            "requiredDuringSchedulingIgnoredDuringExecution",
        ] {
            let terms = spec
                .at_mut(&["affinity", affinity, list])
                .and_then(Value::as_list_mut);
            for term in terms.into_iter().flatten() {
                match term.at_mut(&["podAffinityTerm"]) {
                    Some(term) => merge(term),
                    None => merge(term),
                }
            }
        }
    }
    let constraints = spec
        .at_mut(&["topologySpreadConstraints"])
        .and_then(Value::as_list_mut);
    constraints.into_iter().flatten().for_each(merge);
}

/// Adds an expression to a selector; without a selector nothing matches anyway.
fn match_label<'a>(term: &mut Value<'a>, key: &str, operator: &'static str, value: &str) {
    let Some(selector) = term
        .at_mut(&["labelSelector"])
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let arena = selector.arena();
    let mut expression = Object::new_in(arena);
    expression.push("key", Value::string_in(key, arena));
    expression.push("operator", Value::String(operator));
    let values = List::from_iter_in([Value::string_in(value, arena)], arena);
    expression.push("values", Value::List(values));
    match selector
        .get_mut("matchExpressions")
        .and_then(Value::as_list_mut)
    {
        Some(list) => list.push(Value::Object(expression)),
        None => {
            let list = List::from_iter_in([Value::Object(expression)], arena);
            selector.set("matchExpressions", Value::List(list));
        }
    }
}

/// Clients that do not know the pod's own resources must not remove them.
pub(crate) fn prepare_update<'a>(new: &mut Doc<'a>, old: &Doc<'a>) {
    if new.get(&["spec", "resources"]).is_none() && old.get(&["spec", "resources"]).is_some() {
        copy(new, old, &["spec", "resources"]);
    }
    gated::drop_disabled(new, Some(old), &[]);
}

/// Agents that do not know a field of the status must not remove it.
pub(crate) fn prepare_status_update<'a>(new: &mut Doc<'a>, old: &Doc<'a>) {
    for field in [
        "qosClass",
        "resourceClaimStatuses",
        "extendedResourceClaimStatus",
        "nodeAllocatableResourceClaimStatuses",
        "observedGeneration",
    ] {
        if new.get(&["status", field]).is_none() && old.get(&["status", field]).is_some() {
            copy(new, old, &["status", field]);
        }
    }
    keep_condition_generations(new, old);
    gated::drop_disabled_status(new, old);
}

/// A condition without a generation keeps that of the old condition of its type; several of one type keep
/// them in their order.
fn keep_condition_generations<'a>(new: &mut Doc<'a>, old: &Doc<'a>) {
    let mut before: Vec<(&str, i64)> = old
        .list_at(&["status", "conditions"])
        .iter()
        .map(|c| {
            let ty = c.str_of("type").unwrap_or_default();
            (ty, c.int_of("observedGeneration").unwrap_or(0))
        })
        .collect();
    let conditions = new
        .get_mut(&["status", "conditions"])
        .and_then(Value::as_list_mut);
    for condition in conditions
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        let ty = condition
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let Some(at) = before.iter().position(|(known, _)| *known == ty) else {
            continue;
        };
        let (_, generation) = before.remove(at);
        if generation != 0 && !condition.contains("observedGeneration") {
            condition.set("observedGeneration", Value::Int(generation));
        }
    }
}

/// Guaranteed, Burstable or BestEffort, by what the containers request and are limited to.
fn class_of_service(pod: &Doc<'_>) -> &'static str {
    if let Some(resources) = pod.get(&["spec", "resources"]) {
        return class_of(Some(resources));
    }
    let mut class = "";
    for list in ["initContainers", "containers"] {
        for container in pod.list_at(&["spec", list]) {
            let own = class_of(container.get("resources"));
            if own == "Burstable" || (!class.is_empty() && class != own) {
                return "Burstable";
            }
            class = own;
        }
    }
    if class.is_empty() {
        "BestEffort"
    } else {
        class
    }
}

/// The class of one set of requirements; only cpu and memory count.
fn class_of(resources: Option<&Value<'_>>) -> &'static str {
    let amount = |list: &str, name: &str| {
        resources
            .and_then(|r| r.at(&[list, name]))
            .and_then(Value::as_str)
            .and_then(|text| Quantity::parse(text).ok())
            .filter(|q| q.sign() > 0)
    };
    let names = ["cpu", "memory"];
    let any = |list: &str| names.iter().any(|name| amount(list, name).is_some());
    if !any("requests") && !any("limits") {
        return "BestEffort";
    }
    let guaranteed = names.iter().all(|name| {
        let limit = amount("limits", name);
        limit.is_some() && limit == amount("requests", name)
    });
    if guaranteed {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_when_an_image_is_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.25", "IfNotPresent"),
            ("host:5000/a/b", "Always"),
            ("host:5000/a/b:v1", "IfNotPresent"),
            ("a@sha256:00", "IfNotPresent"),
            ("A/b", "Always"),
            ("a/B", "IfNotPresent"),
            ("100%", "IfNotPresent"),
            ("-5", "IfNotPresent"),
            ("a..b", "IfNotPresent"),
            ("a__b.c--d", "Always"),
            ("fd00::/8", "IfNotPresent"),
            ("[fd00::1]:5000/a", "Always"),
            (&"x".repeat(253), "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
