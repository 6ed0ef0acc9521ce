//! What volumes must hold.
//!
//! Port of the volume part of `pkg/apis/core/validation/validation.go`. Sources of clouds and of storage
//! systems are only counted: at most one source per volume.

use std::collections::HashSet;

use super::container::{field_ref, resource_ref};
use crate::doc::Value;
use crate::quantity::Quantity;
use crate::validate::names::dns_label;
use crate::validate::path::{Errors, Path};

/// The names of the valid volumes.
pub(super) type VolumeNames<'v> = HashSet<&'v str>;

const VOLUME_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
const MODE_DETAIL: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// A token's life, in seconds.
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;

/// Validates volumes; the names of the valid ones are what mounts may refer to.
pub(super) fn volumes<'v>(
    list: &'v [Value<'_>],
    path: &Path<'_>,
    errors: &mut Errors,
) -> VolumeNames<'v> {
    let mut names = HashSet::new();
    for (i, volume) in list.iter().enumerate() {
        let at = path.index(i);
        let before = errors.0.len();
        source(volume, &at, errors);
        let name = volume.str_of("name").unwrap_or_default();
        errors.named(&at.child("name"), Some(name), dns_label);
        if names.contains(name) {
            errors.duplicate(&at.child("name"), name);
        }
        if errors.0.len() == before {
            names.insert(name);
        }
    }
    names
}

fn source(volume: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let Some(object) = volume.as_object() else {
        return;
    };
    let mut found = false;
    for (kind, source) in object.iter().filter(|(key, _)| *key != "name") {
        let path = at.child(kind);
        if found {
            errors.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        match kind {
            "emptyDir" => empty_dir(source, &path, errors),
            "hostPath" => host_path(source, &path, errors),
            "secret" => keyed(source, "secretName", &path, errors),
            "configMap" => keyed(source, "name", &path, errors),
            "downwardAPI" => {
                mode(source, "defaultMode", &path, errors);
                for file in source.list_of("items") {
                    downward_file(file, &path, errors);
                }
            }
            "projected" => projected(source, &path, errors),
            "persistentVolumeClaim" => require(source, "claimName", &path, errors),
            _ => {}
        }
    }
    if !found {
        errors.required(at, "must specify a volume type");
    }
}

fn require(source: &Value<'_>, field: &str, path: &Path<'_>, errors: &mut Errors) {
    if source.str_of(field).unwrap_or_default().is_empty() {
        errors.required(&path.child(field), "");
    }
}

fn mode(source: &Value<'_>, field: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = source.int_of(field).filter(|m| !(0..=0o777).contains(m)) {
        errors.invalid_number(&path.child(field), mode, MODE_DETAIL);
    }
}

fn empty_dir(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let limit = source
        .str_of("sizeLimit")
        .and_then(|t| Quantity::parse(t).ok());
    if limit.is_some_and(|q| q.sign() < 0) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.forbidden(&path.child("sizeLimit"), detail);
    }
}

fn host_path(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let target = source.str_of("path").unwrap_or_default();
    if target.is_empty() {
        return errors.required(&path.child("path"), "");
    }
    no_backsteps(target, &path.child("path"), errors);
    errors.one_of(
        &path.child("type"),
        source.str_of("type"),
        &HOST_PATH_TYPES,
        false,
    );
}

/// A secret or config map.
fn keyed(source: &Value<'_>, name: &str, path: &Path<'_>, errors: &mut Errors) {
    require(source, name, path, errors);
    mode(source, "defaultMode", path, errors);
    items(source, path, errors);
}

fn items(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("items");
    for (i, item) in source.list_of("items").iter().enumerate() {
        let at = list.index(i);
        require(item, "key", &at, errors);
        require(item, "path", &at, errors);
        non_reserved(
            item.str_of("path").unwrap_or_default(),
            &at.child("path"),
            errors,
        );
        mode(item, "mode", &at, errors);
    }
}

fn downward_file(file: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    require(file, "path", path, errors);
    non_reserved(
        file.str_of("path").unwrap_or_default(),
        &path.child("path"),
        errors,
    );
    match (file.get("fieldRef"), file.get("resourceFieldRef")) {
        (Some(field), resource) => {
            field_ref(field, &VOLUME_FIELDS, &path.child("fieldRef"), errors);
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", detail);
            }
        }
        (None, Some(resource)) => {
            resource_ref(resource, true, &path.child("resourceFieldRef"), errors);
        }
        (None, None) => {
            errors.required(path, "one of fieldRef and resourceFieldRef is required");
        }
    }
    mode(file, "mode", path, errors);
}

fn projected(source: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    mode(source, "defaultMode", path, errors);
    let list = path.child("sources");
    for (i, source) in source.list_of("sources").iter().enumerate() {
        let at = list.index(i);
        for kind in ["secret", "configMap"] {
            let Some(keyed) = source.get(kind) else {
                continue;
            };
            let at = at.child(kind);
            require(keyed, "name", &at, errors);
            items(keyed, &at, errors);
        }
        if let Some(downward) = source.get("downwardAPI") {
            let at = at.child("downwardAPI");
            for file in downward.list_of("items") {
                downward_file(file, &at, errors);
            }
        }
        if let Some(token) = source.get("serviceAccountToken") {
            let seconds_at = at.child("serviceAccountToken");
            let seconds_at = seconds_at.child("expirationSeconds");
            match token.int_of("expirationSeconds") {
                None => errors.required(&seconds_at, ""),
                Some(s) if s < MIN_TOKEN_SECONDS => {
                    let detail = "may not specify a duration less than 10 minutes";
                    errors.invalid_number(&seconds_at, s, detail);
                }
                Some(s) if s > MAX_TOKEN_SECONDS => {
                    let detail = "may not specify a duration larger than 2^32 seconds";
                    errors.invalid_number(&seconds_at, s, detail);
                }
                Some(_) => {}
            }
            match token.str_of("path").unwrap_or_default() {
                "" => errors.required(&path.child("path"), ""),
                text => non_reserved(text, &path.child("path"), errors),
            }
        }
        if source.as_object().is_some_and(|o| o.len() > 1) {
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

/// Tokens need a service account.
pub(super) fn no_tokens(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let volumes = path.child("volumes");
    for (v, volume) in spec.list_of("volumes").iter().enumerate() {
        let Some(projected) = volume.get("projected") else {
            continue;
        };
        for (s, source) in projected.list_of("sources").iter().enumerate() {
            if source.get("serviceAccountToken").is_some() {
                let at = volumes.index(v);
                let at = at.child("projected");
                let at = at.child("sources");
                let at = at.index(s);
                let detail = "must not be specified when serviceAccountName is not set";
                errors.forbidden(&at.child("serviceAccountToken"), detail);
            }
        }
    }
}

fn no_backsteps(target: &str, path: &Path<'_>, errors: &mut Errors) {
    if target.split('/').any(|part| part == "..") {
        errors.invalid(path, target, "must not contain '..'");
    }
}

/// A relative path that does not go up.
pub(super) fn descending(target: &str, path: &Path<'_>, errors: &mut Errors) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    no_backsteps(target, path, errors);
}

/// A descending path that does not begin with `..`.
fn non_reserved(target: &str, path: &Path<'_>, errors: &mut Errors) {
    descending(target, path, errors);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(path, target, "must not start with '..'");
    }
}
