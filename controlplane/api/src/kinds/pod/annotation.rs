//! Annotations of pods and templates that have rules, most of them older forms of fields.
//!
//! Port of `ValidatePodSpecificAnnotations` and its neighbours in
//! `pkg/apis/core/validation/validation.go`.

use super::options::{DELETION_COST, Options, containers, is_deletion_cost};
use super::{scheduling, volume};
use crate::codec::{self, Format};
use crate::doc::{Doc, Object, Value};
use crate::status::quote;
use crate::validate::path::{Errors, Path};

/// A pod that mirrors a static one.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// The prefix of a container's AppArmor profile.
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const LOCALHOST: &str = "localhost/";
const RUNTIME_DEFAULT: &str = "runtime/default";
const DOCKER_DEFAULT: &str = "docker/default";
const UNCONFINED: &str = "unconfined";

fn map<'v, 'a>(object: &'v Value<'a>) -> Option<&'v Object<'a>> {
    object.at(&["metadata", "annotations"])?.as_object()
}

/// The annotation of an object, if it is there.
pub(super) fn of<'a>(object: &Value<'a>, key: &str) -> Option<&'a str> {
    map(object)?.get(key)?.as_str()
}

/// The annotations of a pod or template.
pub(super) fn annotations(
    object: &Value<'_>,
    options: &Options,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let bound = spec.str_of("nodeName").is_some_and(|n| !n.is_empty());
    if let Some(value) = of(object, MIRROR).filter(|_| !bound) {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&path.key(MIRROR), value, detail);
    }
    tolerations(object, options, path, errors);
    if let Some(cost) = of(object, DELETION_COST).filter(|c| !is_deletion_cost(c))
        && !options.deletion_cost
    {
        errors.invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer");
    }
    for (key, value) in map(object).into_iter().flat_map(Object::iter) {
        let value = value.as_str().unwrap_or_default();
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            seccomp_profile(value, &path.child(key), errors);
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            app_armor(spec, container, value, &path.key(key), errors);
        }
    }
}

fn tolerations(object: &Value<'_>, options: &Options, path: &Path<'_>, errors: &mut Errors) {
    let Some(text) = of(object, TOLERATIONS).filter(|t| !t.is_empty()) else {
        return;
    };
    let arena = bumpalo::Bump::new();
    let bytes = arena.alloc_slice_copy(text.as_bytes());
    match codec::parse(Format::Json, bytes, &arena) {
        Ok(Value::List(list)) => {
            scheduling::tolerations(&list, options, &path.child(TOLERATIONS), errors);
        }
        Ok(Value::Null) => {}
        Ok(other) => {
            let kind = codec::json_kind(&other);
            let detail =
                format!("json: cannot unmarshal {kind} into Go value of type []core.Toleration");
            errors.invalid(path, TOLERATIONS, detail);
        }
        Err(error) => errors.invalid(path, TOLERATIONS, error.to_string()),
    }
}

fn seccomp_profile(value: &str, path: &Path<'_>, errors: &mut Errors) {
    match value.strip_prefix(LOCALHOST) {
        Some(file) => volume::descending(file, path, errors),
        None if matches!(value, RUNTIME_DEFAULT | DOCKER_DEFAULT | UNCONFINED) => {}
        None => errors.invalid(path, value, "must be a valid seccomp profile"),
    }
}

fn app_armor(spec: &Value<'_>, container: &str, value: &str, path: &Path<'_>, errors: &mut Errors) {
    let named = |c: &Value<'_>| c.str_of("name").unwrap_or_default() == container;
    if !containers(spec).any(|(_, _, c)| named(c)) {
        errors.invalid(path, container, "container not found");
    }
    let valid = matches!(value, "" | RUNTIME_DEFAULT | UNCONFINED) || value.starts_with(LOCALHOST);
    if !valid {
        let detail = format!("invalid AppArmor profile name: {}", quote(value));
        errors.invalid(path, value, detail);
    }
}

/// What an update may not do to annotations.
pub(super) fn update(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("metadata");
    let path = path.child("annotations");
    let (now, before) = (new.root(), old.root());
    for (key, _) in map(before).into_iter().flat_map(Object::iter) {
        if of(now, key) == of(before, key) {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(
                &path.key(key),
                "may not remove or update AppArmor annotations",
            );
        }
        if key == MIRROR {
            errors.forbidden(
                &path.key(key),
                "may not remove or update mirror pod annotation",
            );
        }
    }
    for (key, _) in map(now).into_iter().flat_map(Object::iter) {
        if of(before, key).is_some() {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(&path.key(key), "may not add AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(&path.key(key), "may not add mirror pod annotation");
        }
    }
}

/// Annotation and field that say the same must say the same.
pub(super) fn matching_profiles(object: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    if let (Some(text), Some(profile)) = (
        of(object, SECCOMP_POD),
        spec.at(&["securityContext", "seccompProfile"]),
    ) {
        let at = path.child("securityContext");
        matching(
            text,
            profile,
            "seccomp",
            &at.child("seccompProfile"),
            errors,
        );
    }
    for (list, i, container) in containers(spec) {
        let list_at = path.child(list);
        let at = list_at.index(i);
        let at = at.child("securityContext");
        let name = container.str_of("name").unwrap_or_default();
        if let (Some(text), Some(profile)) = (
            of(object, &format!("{SECCOMP_CONTAINER}{name}")),
            container.at(&["securityContext", "seccompProfile"]),
        ) {
            matching(
                text,
                profile,
                "seccomp",
                &at.child("seccompProfile"),
                errors,
            );
        }
        let own = container.at(&["securityContext", "appArmorProfile"]);
        let profile = own.or_else(|| spec.at(&["securityContext", "appArmorProfile"]));
        if let (Some(text), Some(profile)) = (of(object, &format!("{APP_ARMOR}{name}")), profile)
            && spec.at(&["os", "name"]).and_then(Value::as_str) != Some("windows")
        {
            matching(
                text,
                profile,
                "apparmor",
                &at.child("appArmorProfile"),
                errors,
            );
        }
    }
}

fn matching(text: &str, profile: &Value<'_>, what: &str, path: &Path<'_>, errors: &mut Errors) {
    let same_type = match profile.str_of("type").unwrap_or_default() {
        "Unconfined" => text == UNCONFINED,
        "RuntimeDefault" => {
            text == RUNTIME_DEFAULT || (what == "seccomp" && text == DOCKER_DEFAULT)
        }
        "Localhost" => text.starts_with(LOCALHOST),
        _ => return,
    };
    let file = profile.str_of("localhostProfile");
    if !same_type {
        let detail = format!("{what} type in annotation and field must match");
        errors.forbidden(&path.child("type"), detail);
    } else if text
        .strip_prefix(LOCALHOST)
        .is_some_and(|f| Some(f) != file)
    {
        let detail = format!("{what} profile in annotation and field must match");
        errors.forbidden(&path.child("localhostProfile"), detail);
    }
}
