//! What volumes must hold.
//!
//! Port of the volume part of `pkg/apis/core/validation/validation.go`: here the list, the sources that
//! pods use most and paths; the sources of storage systems are in [`storage`], projections in
//! [`projected`].

use std::collections::HashMap;

use super::claims;
use super::container::PULL_POLICIES;
use super::environment::{field_ref, resource_ref};
use super::options::{Options, Spec, fails};
use crate::doc::Value;
use crate::quantity::Quantity;
use crate::validate::names::{dns_label, dns_subdomain, in_range};
use crate::validate::path::{Errors, Path};

mod projected;
mod storage;

pub(super) use projected::{has_foreign_token_paths, no_tokens};

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
const STICKY_MODE_DETAIL: &str = "must be a number between 0 and 01777 (octal), both inclusive";
/// The largest id of a user.
const MAX_ID: i64 = i32::MAX as i64;

/// The sources in upstream's order, with the name upstream uses when a second one is refused.
const SOURCES: [(&str, &str); 30] = [
    ("emptyDir", "emptyDir"),
    ("hostPath", "hostPath"),
    ("gitRepo", "gitRepo"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", "secret"),
    ("nfs", "nfs"),
    ("iscsi", "iscsi"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd"),
    ("cinder", "cinder"),
    ("cephfs", "cephFS"),
    ("quobyte", "quobyte"),
    ("downwardAPI", "downwarAPI"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("configMap", "configMap"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("storageos", "storageos"),
    ("projected", "projected"),
    ("scaleIO", "scaleIO"),
    ("csi", "csi"),
    ("ephemeral", "ephemeral"),
    ("image", "image"),
];

/// Validates volumes; what comes back are the valid ones: mounts may refer to those.
pub(super) fn volumes<'s, 'a>(
    known: &Spec<'s, 'a>,
    path: &Path<'_>,
    errors: &mut Errors,
) -> HashMap<&'s str, &'s Value<'a>> {
    let list = known.spec.list_of("volumes");
    let name = |volume: &Value<'a>| volume.str_of("name").unwrap_or_default();
    let created = |claim: &str| {
        !known.pod_name.is_empty()
            && list.iter().any(|v| {
                v.get("ephemeral").is_some() && format!("{}-{}", known.pod_name, name(v)) == claim
            })
    };
    let mut valid = HashMap::new();
    for (i, volume) in list.iter().enumerate() {
        let at = path.index(i);
        let before = errors.0.len();
        source(known, volume, &at, errors);
        errors.named(&at.child("name"), Some(name(volume)), dns_label);
        if valid.contains_key(name(volume)) {
            errors.duplicate(&at.child("name"), name(volume));
        }
        if errors.0.len() == before {
            valid.insert(name(volume), volume);
        }
        let claim = volume
            .at(&["persistentVolumeClaim", "claimName"])
            .and_then(Value::as_str);
        if let Some(claim) = claim.filter(|claim| created(claim)) {
            let at = at.child("persistentVolumeClaim");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(&at.child("claimName"), claim, detail);
        }
    }
    valid
}

fn source(known: &Spec<'_, '_>, volume: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let mut found = false;
    for (kind, refused_as) in SOURCES {
        let Some(source) = volume.get(kind) else {
            continue;
        };
        if found {
            errors.forbidden(
                &at.child(refused_as),
                "may not specify more than 1 volume type",
            );
        } else {
            found = true;
            one_source(known, kind, source, &at.child(kind), errors);
            if kind == "ephemeral" {
                claim_name(known, volume, at, errors);
            }
        }
        if kind == "iscsi" {
            storage::iscsi_name(volume, source, at, errors);
        }
    }
    if !found {
        errors.required(at, "must specify a volume type");
    }
}

fn one_source(
    known: &Spec<'_, '_>,
    kind: &str,
    source: &Value<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    match kind {
        "emptyDir" => empty_dir(source, path, errors),
        "hostPath" => host_path(source, path, errors),
        "secret" => keyed(source, "secretName", path, errors),
        "configMap" => keyed(source, "name", path, errors),
        "downwardAPI" => {
            mode(source, "defaultMode", path, errors);
            user(source, "defaultUser", path, errors);
            for file in source.list_of("items") {
                downward_file(file, path, errors);
            }
        }
        "projected" => {
            mode(source, "defaultMode", path, errors);
            user(source, "defaultUser", path, errors);
            projected::sources(known, source, path, errors);
        }
        "persistentVolumeClaim" => require(source, "claimName", path, errors),
        "ephemeral" => match source.get("volumeClaimTemplate") {
            None => errors.required(&path.child("volumeClaimTemplate"), ""),
            Some(template) => {
                claims::template(template, &path.child("volumeClaimTemplate"), errors);
            }
        },
        "image" => image(source, known.options, path, errors),
        _ => storage::source(kind, source, path, errors),
    }
}

/// The claim made for an ephemeral volume is named after the pod and the volume.
fn claim_name(known: &Spec<'_, '_>, volume: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let name = volume.str_of("name").unwrap_or_default();
    if known.pod_name.is_empty() || name.is_empty() {
        return;
    }
    let claim = format!("{}-{name}", known.pod_name);
    for problem in dns_subdomain(&claim) {
        let shown = crate::status::quote(&claim);
        errors.invalid(
            &at.child("name"),
            name,
            format!("PVC name {shown}: {problem}"),
        );
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

fn user(source: &Value<'_>, field: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(id) = source.int_of(field) {
        errors.each_number(&path.child(field), id, in_range(id, 0, MAX_ID));
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
    if let Some(mode) = source.int_of("mode").filter(|m| !(0..=0o1777).contains(m)) {
        errors.invalid_number(&path.child("mode"), mode, STICKY_MODE_DETAIL);
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

fn image(source: &Value<'_>, options: &Options, path: &Path<'_>, errors: &mut Errors) {
    if !options.empty_image_references {
        require(source, "reference", path, errors);
    }
    let policy = source.str_of("pullPolicy");
    errors.one_of(&path.child("pullPolicy"), policy, &PULL_POLICIES, true);
}

/// A secret or config map.
fn keyed(source: &Value<'_>, name: &str, path: &Path<'_>, errors: &mut Errors) {
    require(source, name, path, errors);
    mode(source, "defaultMode", path, errors);
    user(source, "defaultUser", path, errors);
    items(source, path, errors, |_, _| {});
}

/// Keys and the paths they are written to; `visit` sees each path after its own checks.
fn items<'v>(
    source: &'v Value<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
    mut visit: impl FnMut(&'v str, &mut Errors),
) {
    let list = path.child("items");
    for (i, item) in source.list_of("items").iter().enumerate() {
        let at = list.index(i);
        require(item, "key", &at, errors);
        require(item, "path", &at, errors);
        let target = item.str_of("path").unwrap_or_default();
        non_reserved(target, &at.child("path"), errors);
        mode(item, "mode", &at, errors);
        user(item, "user", &at, errors);
        visit(target, errors);
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
    user(file, "user", path, errors);
}

/// A path that does not go up.
pub(super) fn no_backsteps(target: &str, path: &Path<'_>, errors: &mut Errors) {
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

/// Whether a path breaks the rule for files in volumes.
fn is_reserved(target: &str) -> bool {
    fails(|path, errors| non_reserved(target, path, errors))
}
