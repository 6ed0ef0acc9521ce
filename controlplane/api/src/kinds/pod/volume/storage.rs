//! What volumes of storage systems must hold: mostly that something is named.
//!
//! Port of their part of `pkg/apis/core/validation/validation.go`. No agent of this project mounts them;
//! stock nodes may.

use super::{descending, require};
use crate::doc::{Object, Value};
use crate::validate::names::{dns_label, dns_subdomain, in_range};
use crate::validate::path::{Errors, Path};

const PARTITION_DETAIL: &str = "must be between 1 and 255, inclusive";
const MAX_LUN: i64 = 255;
/// Upstream's limit of `volume:portal` where an initiator is named.
const MAX_ISCSI_NAME: usize = 64;
const MAX_CSI_DRIVER: usize = 63;
const MAX_TENANT: usize = 64;
const CACHING_MODES: [&str; 3] = ["None", "ReadOnly", "ReadWrite"];
const DISK_KINDS: [&str; 3] = ["Dedicated", "Managed", "Shared"];
const MANAGED_DISK: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/\
                            microsoft.compute/disks/{disk-id}";
const BLOB_DISK: &str =
    "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
const HOST_PORTS: &str = "must be a host:port pair or multiple pairs separated by commas";

/// A source by its kind.
pub(super) fn source(kind: &str, source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let required: &[&str] = match kind {
        "gitRepo" => &["repository"],
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" => &["volumeID"],
        "glusterfs" => &["endpoints", "path"],
        "azureFile" => &["secretName", "shareName"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "portworxVolume" | "cinder" => &["volumeID"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "nfs" => &["server", "path"],
        "rbd" => &["image"],
        "iscsi" => &["targetPortal", "iqn"],
        "flexVolume" => &["driver"],
        "azureDisk" => &["diskName", "diskURI"],
        _ => &[],
    };
    // One path is not that of the field.
    let disk = path.sibling("persistentDisk");
    let path = if kind == "gcePersistentDisk" {
        &disk
    } else {
        path
    };
    for field in required {
        require(source, field, path, errors);
    }
    match kind {
        "gitRepo" => {
            let directory = source.str_of("directory").unwrap_or_default();
            descending(directory, &path.child("directory"), errors);
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => partition(source, path, errors),
        "nfs" => absolute(source, path, errors),
        "iscsi" => iscsi(source, path, errors),
        "flocker" => flocker(source, path, errors),
        "rbd" | "cephfs" if source.list_of("monitors").is_empty() => {
            errors.required(&path.child("monitors"), "");
        }
        "cinder" => named_secret(source, path, errors),
        "quobyte" => quobyte(source, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "flexVolume" => flex_options(source, path, errors),
        "azureDisk" => azure_disk(source, path, errors),
        "storageos" => storage_os(source, path, errors),
        "csi" => csi(source, path, errors),
        _ => {}
    }
}

fn partition(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(number) = source
        .int_of("partition")
        .filter(|n| !(0..=255).contains(n))
    {
        errors.invalid_number(&path.child("partition"), number, PARTITION_DETAIL);
    }
}

fn absolute(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let target = source.str_of("path").unwrap_or_default();
    if !target.starts_with('/') {
        errors.invalid(&path.child("path"), target, "must be an absolute path");
    }
}

fn named_secret(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(secret) = source.get("secretRef") {
        require(secret, "name", &path.child("secretRef"), errors);
    }
}

fn iscsi(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let text = |field| source.str_of(field).unwrap_or_default();
    if !text("iqn").is_empty() {
        iscsi_qualified(text("iqn"), &path.child("iqn"), errors);
    }
    let lun = source.int_of("lun").unwrap_or(0);
    errors.each_number(&path.child("lun"), lun, in_range(lun, 0, MAX_LUN));
    let chap = ["chapAuthDiscovery", "chapAuthSession"];
    if chap.iter().any(|f| source.bool_of(f) == Some(true)) && source.get("secretRef").is_none() {
        errors.required(&path.child("secretRef"), "");
    }
    if let Some(initiator) = source.str_of("initiatorName") {
        iscsi_qualified(initiator, &path.child("initiatorname"), errors);
    }
}

/// Names by RFC 3721: `iqn.2024-01.com.example:x`, `eui.` or `naa.` and digits.
fn iscsi_qualified(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let alphanumeric = |text: &str, count: usize| {
        text.len() == count && text.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let digits = |name: &str, count: usize| {
        let rest = name.char_indices().nth(4).map_or("", |(at, _)| &name[at..]);
        name.chars().count() > 3 && alphanumeric(rest, count)
    };
    let good = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => digits(name, 16),
        Some("naa") => digits(name, 32),
        _ => {
            let detail = "must be valid format starting with iqn, eui, or naa";
            return errors.invalid(path, name, detail);
        }
    };
    if !good {
        errors.invalid(path, name, "must be valid format");
    }
}

fn is_iqn(name: &str) -> bool {
    // The expression is anchored at its end only; the name begins with it all the same.
    let Some(rest) = name.strip_prefix("iqn.") else {
        return false;
    };
    let bytes = rest.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let date = (0..4).all(digit)
        && bytes.get(4) == Some(&b'-')
        && digit(5)
        && digit(6)
        && bytes.get(7) == Some(&b'.');
    let Some((authority, own)) = rest.get(8..).and_then(|r| r.split_once(':')) else {
        return false;
    };
    date && !authority.is_empty()
        && authority
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
        && !own.is_empty()
        && !own.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n', '\r', '\u{c}'])
}

/// With an initiator, the name of the volume and the portal have to fit into one name.
pub(super) fn iscsi_name(
    volume: &Value<'_>,
    source: &Value<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let name = volume.str_of("name").unwrap_or_default();
    let portal = source.str_of("targetPortal").unwrap_or_default();
    let too_long = name.len() + 1 + portal.len() > MAX_ISCSI_NAME;
    if source.get("initiatorName").is_some() && too_long {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 \
                      characters if iscsi.initiatorName is specified.";
        errors.invalid(&at.child("name"), name, detail);
    }
}

fn flocker(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let text = |field| source.str_of(field).unwrap_or_default();
    match (text("datasetName"), text("datasetUUID")) {
        ("", "") => errors.required(path, "one of datasetName and datasetUUID is required"),
        ("", _) | (_, "") => {}
        (_, _) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            errors.invalid(path, "resource", detail);
        }
    }
    if text("datasetName").contains('/') {
        errors.invalid(
            &path.child("datasetName"),
            text("datasetName"),
            "must not contain '/'",
        );
    }
}

fn quobyte(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let text = |field| source.str_of(field).unwrap_or_default();
    let registry = text("registry");
    if registry.is_empty() {
        errors.required(&path.child("registry"), HOST_PORTS);
    } else if text("tenant").len() > MAX_TENANT {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.child("tenant"), detail);
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_port(pair)) {
            errors.invalid(&path.child("registry"), registry, HOST_PORTS);
        }
    }
    require(source, "volume", path, errors);
}

/// As Go's `net.SplitHostPort` accepts.
fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let plain = |t: &str| !t.contains(['[', ']']);
    match bracketed {
        Some(inner) => plain(inner) && plain(port),
        None => !host.contains(':') && plain(host) && plain(port),
    }
}

fn fibre_channel(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let names = source.list_of("targetWWNs");
    let at = path.child("targetWWNs");
    match (names.is_empty(), source.list_of("wwids").is_empty()) {
        (true, true) => {
            errors.required(&at, "must specify either targetWWNs or wwids, but not both");
        }
        (false, false) => {
            let detail = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid_value(&at, source.get("targetWWNs"), detail);
        }
        _ => {}
    }
    if names.is_empty() {
        return;
    }
    match source.int_of("lun") {
        None => {
            errors.required(
                &path.child("lun"),
                "lun is required if targetWWNs is specified",
            );
        }
        Some(lun) => errors.each_number(&path.child("lun"), lun, in_range(lun, 0, MAX_LUN)),
    }
}

fn flex_options(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let options = source.get("options").and_then(Value::as_object);
    let at = path.child("options");
    for (key, _) in options.into_iter().flat_map(Object::iter) {
        let namespace = key.split('/').next().unwrap_or_default();
        let normalized = format!(".{}", namespace.to_lowercase());
        if normalized.ends_with(".kubernetes.io") || normalized.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid(&at.key(key), key, detail);
        }
    }
}

fn azure_disk(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let uri = source.str_of("diskURI").unwrap_or_default();
    let caching = source.str_of("cachingMode");
    errors.one_of(&path.child("cachingMode"), caching, &CACHING_MODES, false);
    let kind = source.str_of("kind");
    errors.one_of(&path.child("kind"), kind, &DISK_KINDS, false);
    let uri_at = path.child("diskURI");
    match kind {
        Some("Managed") if !uri.starts_with("/subscriptions/") => {
            errors.not_supported(&uri_at, uri, &[MANAGED_DISK]);
        }
        Some(kind) if kind != "Managed" && !uri.starts_with("https://") => {
            errors.not_supported(&uri_at, uri, &[BLOB_DISK]);
        }
        Some(_) | None => {}
    }
}

fn storage_os(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    errors.named(
        &path.child("volumeName"),
        source.str_of("volumeName"),
        dns_label,
    );
    let namespace = source.str_of("volumeNamespace").filter(|n| !n.is_empty());
    if let Some(namespace) = namespace {
        errors.each(
            &path.child("volumeNamespace"),
            namespace,
            dns_label(namespace),
        );
    }
    named_secret(source, path, errors);
}

fn csi(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let driver = source.str_of("driver").unwrap_or_default();
    let at = path.child("driver");
    if driver.is_empty() {
        errors.required(&at, "");
    } else {
        if driver.len() > MAX_CSI_DRIVER {
            errors.too_long(&at, MAX_CSI_DRIVER);
        }
        errors.each(&at, driver, dns_subdomain(&driver.to_lowercase()));
    }
    let Some(secret) = source.get("nodePublishSecretRef") else {
        return;
    };
    match secret.str_of("name").unwrap_or_default() {
        "" => require(secret, "name", &path.child("nodePublishSecretRef"), errors),
        name => errors.each(&path.child("name"), name, dns_subdomain(name)),
    }
}
