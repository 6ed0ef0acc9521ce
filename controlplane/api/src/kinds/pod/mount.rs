//! What a container's mounts and devices must hold.
//!
//! Port of that part of `pkg/apis/core/validation/validation.go`.

use std::collections::HashSet;

use super::options::Spec;
use super::volume;
use crate::doc::Value;
use crate::validate::path::{Errors, Path};

const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const RECURSIVE: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];
const BIND_OPTIONS: [&str; 3] = ["nodev", "noexec", "nosuid"];

fn text<'a>(item: &Value<'a>, field: &str) -> &'a str {
    item.str_of(field).unwrap_or_default()
}

/// The `volumeMounts` of a container.
pub(super) fn mounts(
    known: &Spec<'_, '_>,
    container: &Value<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let path = at.child("volumeMounts");
    let devices = container.list_of("volumeDevices");
    let mut places: HashSet<&str> = HashSet::new();
    for (i, mount) in container.list_of("volumeMounts").iter().enumerate() {
        let at = path.index(i);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        if !known.volumes.contains_key(name) {
            errors.not_found(&at.child("name"), name);
        }
        if target.is_empty() {
            errors.required(&at.child("mountPath"), "");
        }
        if !places.insert(target) {
            errors.invalid(&at.child("mountPath"), target, "must be unique");
        }
        if devices.iter().any(|d| text(d, "name") == name) {
            errors.invalid(
                &at.child("name"),
                name,
                "must not already exist in volumeDevices",
            );
        }
        if devices
            .iter()
            .any(|d| last_of(devices, d, "devicePath") == target)
        {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid(&at.child("mountPath"), target, detail);
        }
        sub_paths(mount, &path, &at, errors);
        propagation(mount, container, &path.child("mountPropagation"), errors);
        recursive(mount, &path.child("recursiveReadOnly"), errors);
        bind_options(known, mount, &at.child("bindMountOptions"), errors);
    }
}

/// Of several items with one name only the last one counts.
fn last_of<'a>(list: &[Value<'a>], item: &Value<'a>, field: &str) -> &'a str {
    let name = text(item, "name");
    let last = list.iter().rfind(|other| text(other, "name") == name);
    text(last.unwrap_or(item), field)
}

fn sub_paths(mount: &Value<'_>, path: &Path<'_>, at: &Path<'_>, errors: &mut Errors) {
    let (plain, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
    volume::descending(plain, &path.child("subPath"), errors);
    if !expression.is_empty() && !plain.is_empty() {
        let detail = "subPathExpr and subPath are mutually exclusive";
        errors.invalid(&at.child("subPathExpr"), expression, detail);
    }
    volume::descending(expression, &path.child("subPathExpr"), errors);
}

fn propagation(mount: &Value<'_>, container: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let propagation = mount.str_of("mountPropagation");
    errors.one_of(path, propagation, &PROPAGATIONS, false);
    let privileged = container
        .at(&["securityContext", "privileged"])
        .and_then(Value::as_bool);
    if propagation == Some("Bidirectional") && privileged != Some(true) {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(path, detail);
    }
}

fn recursive(mount: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    match mount.str_of("recursiveReadOnly") {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.bool_of("readOnly") != Some(true) {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if mount
                .str_of("mountPropagation")
                .is_some_and(|p| p != "None")
            {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.forbidden(path, detail);
            }
        }
        Some(other) => errors.not_supported(path, other, &RECURSIVE),
    }
}

fn bind_options(known: &Spec<'_, '_>, mount: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let options = mount.list_of("bindMountOptions");
    let mut seen = HashSet::new();
    for (i, option) in options.iter().filter_map(Value::as_str).enumerate() {
        if !BIND_OPTIONS.contains(&option) {
            errors.not_supported(&path.index(i), option, &BIND_OPTIONS);
        }
        if !seen.insert(option) {
            errors.duplicate(&path.index(i), option);
        }
    }
    let volume = known.volumes.get(text(mount, "name"));
    if !options.is_empty() && volume.is_some_and(|v| v.get("image").is_some()) {
        let detail = "bindMountOptions may not be used with image volumes";
        errors.invalid_value(path, mount.get("bindMountOptions"), detail);
    }
}

/// The `volumeDevices` of a container.
pub(super) fn devices(
    known: &Spec<'_, '_>,
    container: &Value<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let list = at.child("volumeDevices");
    let mounts = container.list_of("volumeMounts");
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for (i, device) in container.list_of("volumeDevices").iter().enumerate() {
        let at = list.index(i);
        let (name_at, path_at) = (at.child("name"), at.child("devicePath"));
        let (name, path) = (text(device, "name"), text(device, "devicePath"));
        if name.is_empty() {
            errors.required(&name_at, "");
        }
        if names.contains(name) {
            errors.invalid(&name_at, name, "must be unique");
        }
        let is_claim = |v: &Value<'_>| {
            v.get("persistentVolumeClaim")
                .or(v.get("ephemeral"))
                .is_some()
        };
        match known.volumes.get(name) {
            None => errors.not_found(&name_at, name),
            Some(volume) if !is_claim(volume) => errors.invalid(
                &name_at,
                name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block \
                 mode",
            ),
            Some(_) => {}
        }
        if path.is_empty() {
            errors.required(&path_at, "");
        }
        if paths.contains(path) {
            errors.invalid(&path_at, path, "must be unique");
        }
        if path.split('/').any(|part| part == "..") {
            errors.invalid(&path_at, path, "can not contain backsteps ('..')");
        } else {
            paths.insert(path);
        }
        if mounts.iter().any(|m| text(m, "name") == name) {
            errors.invalid(&name_at, name, "must not already exist in volumeMounts");
        }
        if mounts
            .iter()
            .any(|m| last_of(mounts, m, "mountPath") == path)
        {
            let detail = "must not already exist as a path in volumeMounts";
            errors.invalid(&path_at, path, detail);
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}
