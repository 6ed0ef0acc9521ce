//! What a container's environment must hold.
//!
//! Port of that part of `pkg/apis/core/validation/validation.go`.

use super::volume;
use crate::doc::Value;
use crate::quantity::Quantity;
use crate::validate::names::{
    config_key, dns_label, dns_subdomain, env_var, label_key, masked_prefix,
};
use crate::validate::path::{Errors, Path};

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
/// Fields of a pod that have a label, whether or not variables may have their values.
const LABELLED_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
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
const CPU_DIVISORS: [&str; 2] = ["1m", "1"];
const BYTE_DIVISORS: [&str; 13] = [
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];
const ONE_SOURCE: &str = "may not have more than one field specified at a time";

/// The `env` of a container.
pub(super) fn variables(list: &[Value<'_>], path: &Path<'_>, errors: &mut Errors) {
    for (i, variable) in list.iter().enumerate() {
        let at = path.index(i);
        errors.named(&at.child("name"), variable.str_of("name"), env_var);
        let Some(source) = variable.get("valueFrom") else {
            continue;
        };
        let from = at.child("valueFrom");
        let sources = value_source(source, &from, errors);
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
            _ => errors.invalid(&from, "", ONE_SOURCE),
        }
    }
}

fn value_source(source: &Value<'_>, from: &Path<'_>, errors: &mut Errors) -> usize {
    let mut sources = 0;
    if let Some(field) = source.get("fieldRef") {
        sources += 1;
        field_ref(field, &ENV_FIELDS, &from.child("fieldRef"), errors);
    }
    if let Some(field) = source.get("resourceFieldRef") {
        sources += 1;
        resource_ref(field, false, &from.child("resourceFieldRef"), errors);
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        let Some(key) = source.get(name) else {
            continue;
        };
        sources += 1;
        let at = from.child(name);
        let object = key.str_of("name").unwrap_or_default();
        errors.each(&at.child("name"), object, dns_subdomain(object));
        errors.named(&at.child("key"), key.str_of("key"), config_key);
    }
    if let Some(file) = source.get("fileKeyRef") {
        sources += 1;
        let at = from.child("fileKeyRef");
        errors.named(&at.child("key"), file.str_of("key"), env_var);
        errors.named(
            &at.child("volumeName"),
            file.str_of("volumeName"),
            dns_label,
        );
        match file.str_of("path").unwrap_or_default() {
            "" => errors.required(&at.child("path"), ""),
            path => volume::no_backsteps(path, &at.child("path"), errors),
        }
    }
    sources
}

/// The path and the key of `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?
        .split_once("['")
        .filter(|(path, _)| !path.is_empty())
}

/// A field of the pod, given to its containers.
pub(super) fn field_ref(field: &Value<'_>, valid: &[&str], at: &Path<'_>, errors: &mut Errors) {
    let path = field.str_of("fieldPath").unwrap_or_default();
    let version = field.str_of("apiVersion").unwrap_or_default();
    if version.is_empty() {
        return errors.required(&at.child("apiVersion"), "");
    }
    if path.is_empty() {
        return errors.required(&at.child("fieldPath"), "");
    }
    let mut unknown = |why: String| {
        let detail = format!("error converting fieldPath: {why}");
        errors.invalid(&at.child("fieldPath"), path, detail);
    };
    if version != "v1" {
        return unknown(format!("unsupported pod version: {version}"));
    }
    match subscript(path) {
        Some(("metadata.labels", key)) => errors.each(at, key, label_key(key)),
        Some(("metadata.annotations", key)) => {
            let lower = key.to_lowercase();
            errors.each(at, &lower, label_key(&lower));
        }
        Some(_) => unknown(format!("field label does not support subscript: {path}")),
        None if path == "spec.host" => check_field("spec.nodeName", valid, at, errors),
        None if !LABELLED_FIELDS.contains(&path) => {
            unknown(format!("field label not supported: {path}"));
        }
        None => check_field(path, valid, at, errors),
    }
}

fn check_field(path: &str, valid: &[&str], at: &Path<'_>, errors: &mut Errors) {
    if !valid.contains(&path) {
        errors.not_supported(&at.child("fieldPath"), path, valid);
    }
}

/// A resource of a container, given to the pod's containers.
pub(super) fn resource_ref(field: &Value<'_>, in_volume: bool, at: &Path<'_>, errors: &mut Errors) {
    let resource = field.str_of("resource").unwrap_or_default();
    let pages = ["requests.hugepages-", "limits.hugepages-"]
        .iter()
        .any(|p| resource.starts_with(p));
    if in_volume && field.str_of("containerName").unwrap_or_default().is_empty() {
        errors.required(&at.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&at.child("resource"), "");
    } else if !RESOURCE_FIELDS.contains(&resource) && !pages {
        errors.not_supported(&at.child("resource"), resource, &RESOURCE_FIELDS);
    }
    let divisor = field.str_of("divisor").unwrap_or("0");
    if Quantity::parse(divisor).is_ok_and(|d| d.sign() == 0) {
        return;
    }
    let (valid, list, what): (&[&str], _, _) = match resource {
        "limits.cpu" | "requests.cpu" => (&CPU_DIVISORS, "1m and 1", "cpu"),
        "limits.memory" | "requests.memory" => (&BYTE_DIVISORS, "", "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            (&BYTE_DIVISORS, "", "local ephemeral storage")
        }
        _ if pages => (&BYTE_DIVISORS, "", "hugepages"),
        _ => return,
    };
    if !valid.contains(&divisor) {
        let all = BYTE_DIVISORS.join(", ");
        let list = if list.is_empty() { &all } else { list };
        let detail = format!("only divisor's values {list} are supported with the {what} resource");
        errors.invalid(&at.child("divisor"), resource, detail);
    }
}

/// The `envFrom` of a container.
pub(super) fn sources(list: &[Value<'_>], path: &Path<'_>, errors: &mut Errors) {
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
            _ => errors.invalid(path, "", ONE_SOURCE),
        }
    }
}
