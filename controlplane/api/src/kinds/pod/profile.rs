//! What security contexts must hold: ids, sysctls, seccomp and AppArmor profiles.
//!
//! Port of `validatePodSpecSecurityContext` and `ValidateSecurityContext` in
//! `pkg/apis/core/validation/validation.go`. Privileged containers are allowed, as upstream's server allows
//! them with `--allow-privileged`.

use std::collections::HashSet;

use bumpalo::Bump;

use super::annotation::{APP_ARMOR, of};
use super::options::{CONTAINER_LISTS, Spec, fails};
use super::{volume, warn, windows};
use crate::doc::{Doc, Object, Value};
use crate::validate::names::in_range;
use crate::validate::path::{Errors, Path};

const MAX_ID: i64 = i32::MAX as i64;
const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
/// PATH_MAX less its end.
const MAX_PROFILE: usize = 4095;
const MAX_SYSCTL: usize = 253;

/// The security context of a pod, and its shared process namespace.
pub(super) fn pod_context(known: &Spec<'_, '_>, path: &Path<'_>, errors: &mut Errors) {
    let spec = known.spec;
    let on = |field| spec.bool_of(field) == Some(true);
    if on("shareProcessNamespace") && on("hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        let at = path.child("shareProcessNamespace");
        errors.invalid_value(&at, Some(&Value::Bool(true)), detail);
    }
    let Some(context) = spec.get("securityContext") else {
        return;
    };
    let at = path.child("securityContext");
    ids(
        context,
        &["fsGroup", "runAsUser", "runAsGroup"],
        &at,
        errors,
    );
    let groups = at.child("supplementalGroups");
    for (i, group) in context.list_of("supplementalGroups").iter().enumerate() {
        let id = group.as_int().unwrap_or(0);
        errors.each_number(&groups.index(i), id, in_range(id, 0, MAX_ID));
    }
    sysctls(known, context, &at.child("sysctls"), errors);
    for (field, valid) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        errors.one_of(&at.child(field), context.str_of(field), &valid, false);
    }
    profiles(context, &at, errors);
}

/// The security context of a container.
pub(super) fn container_context(
    known: &Spec<'_, '_>,
    container: &Value<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(context) = container.get("securityContext") else {
        return;
    };
    ids(context, &["runAsUser", "runAsGroup"], at, errors);
    let proc_at = at.child("procMount");
    let proc = context.str_of("procMount");
    errors.one_of(&proc_at, proc, &["Default", "Unmasked"], false);
    if proc == Some("Unmasked") && known.host_users() {
        errors.invalid(
            &proc_at,
            "Unmasked",
            "`hostUsers` must be false to use `Unmasked`",
        );
    }
    profiles(context, at, errors);
    if context.bool_of("allowPrivilegeEscalation") != Some(false) {
        return;
    }
    if context.bool_of("privileged") == Some(true) {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid_value(at, Some(context), detail);
    }
    if !known.options.admin_without_escalation {
        for _ in added(context).filter(|c| *c == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` \
                          CAP_SYS_ADMIN";
            errors.invalid_value(at, Some(context), detail);
        }
    }
}

fn added<'a>(context: &Value<'a>) -> impl Iterator<Item = &'a str> {
    let list = context
        .get("capabilities")
        .map(|c| c.list_of("add"))
        .unwrap_or_default();
    list.iter().filter_map(Value::as_str)
}

/// Whether a container's context adds CAP_SYS_ADMIN.
pub(super) fn adds_sys_admin(context: &Value<'_>) -> bool {
    added(context).any(|capability| capability == "CAP_SYS_ADMIN")
}

fn ids(context: &Value<'_>, fields: &[&str], at: &Path<'_>, errors: &mut Errors) {
    for field in fields {
        if let Some(id) = context.int_of(field) {
            errors.each_number(&at.child(field), id, in_range(id, 0, MAX_ID));
        }
    }
}

fn profiles(context: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    seccomp(
        context.get("seccompProfile"),
        &at.child("seccompProfile"),
        errors,
    );
    windows::options(
        context.get("windowsOptions"),
        &at.child("windowsOptions"),
        errors,
    );
    if let Some(profile) = context.get("appArmorProfile") {
        app_armor(profile, &at.child("appArmorProfile"), errors);
    }
}

fn seccomp(profile: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let ty = profile.str_of("type").unwrap_or_default();
    let type_at = path.child("type");
    if ty.is_empty() {
        errors.required(&type_at, "type is required when seccompProfile is set");
    } else {
        errors.one_of(&type_at, Some(ty), &PROFILE_TYPES, false);
    }
    let at = path.child("localhostProfile");
    match profile.str_of("localhostProfile") {
        None if ty == "Localhost" => {
            errors.required(&at, "must be set when seccomp type is Localhost");
        }
        Some(file) if ty == "Localhost" => volume::descending(file, &at, errors),
        Some(_) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.invalid_value(&at, Some(profile), detail);
        }
        None => {}
    }
}

/// An AppArmor profile.
pub(super) fn app_armor(profile: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    const MISSING: &str = "must be set when AppArmor type is Localhost";
    let at = path.child("localhostProfile");
    let file = profile.str_of("localhostProfile");
    match profile.str_of("type").unwrap_or_default() {
        "Localhost" => match file {
            None => errors.required(&at, MISSING),
            Some(file) => {
                if file.trim() != file {
                    errors.invalid(&at, file, "must not be padded with whitespace");
                } else if file.is_empty() {
                    errors.required(&at, MISSING);
                }
                if file.len() > MAX_PROFILE {
                    errors.too_long(&at, MAX_PROFILE);
                }
            }
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(file) = file {
                errors.invalid(&at, file, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => {
            errors.required(
                &path.child("type"),
                "type is required when appArmorProfile is set",
            );
        }
        other => errors.not_supported(&path.child("type"), other, &PROFILE_TYPES),
    }
}

/// The AppArmor profile an annotation stands for; none if it is not one.
pub(super) fn meaning<'a>(text: &str, arena: &'a Bump) -> Option<Value<'a>> {
    let file = text
        .strip_prefix("localhost/")
        .filter(|file| !file.is_empty());
    let ty = match (text, file) {
        ("unconfined", _) => "Unconfined",
        ("runtime/default", _) => "RuntimeDefault",
        (_, Some(_)) => "Localhost",
        (_, None) => return None,
    };
    let mut profile = Object::new_in(arena);
    profile.push("type", Value::String(ty));
    if let Some(file) = file {
        profile.push("localhostProfile", Value::string_in(file, arena));
    }
    Some(Value::Object(profile))
}

/// New pods get the field of an AppArmor annotation (`applyAppArmorVersionSkew`), and a warning.
pub(super) fn fields_from_annotations(pod: &mut Doc<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let arena = pod.arena();
    if pod.str_at(&["spec", "os", "name"]) == Some("windows") {
        return warnings;
    }
    let of_pod = pod
        .get(&["spec", "securityContext", "appArmorProfile"])
        .cloned();
    for list in CONTAINER_LISTS {
        for i in 0..pod.list_at(&["spec", list]).len() {
            let container = &pod.list_at(&["spec", list])[i];
            let name = container.str_of("name").unwrap_or_default();
            let annotation = of(pod.root(), &format!("{APP_ARMOR}{name}"));
            let own = container.at(&["securityContext", "appArmorProfile"]);
            let (Some(text), None) = (annotation, own) else {
                continue;
            };
            let valid = |p: &Value<'_>| !fails(|path, errors| app_armor(p, path, errors));
            let stands_for = meaning(text, arena).filter(valid);
            let unknown = stands_for.is_none();
            let profile = stands_for.filter(|p| Some(p) != of_pod.as_ref());
            if unknown || profile.is_some() {
                warnings.push(warn::app_armor_warning(&format!("{APP_ARMOR}{name}")));
            }
            let items = pod.get_mut(&["spec", list]).and_then(Value::as_list_mut);
            let item = items
                .and_then(|items| items.get_mut(i))
                .and_then(Value::as_object_mut);
            if let (Some(profile), Some(item)) = (profile, item) {
                let context = item.entry_or_object("securityContext").make_object(arena);
                context.set("appArmorProfile", profile);
            }
        }
    }
    warnings
}

fn sysctls(known: &Spec<'_, '_>, context: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (i, sysctl) in context.list_of("sysctls").iter().enumerate() {
        let at = path.index(i);
        let at = at.child("name");
        let name = sysctl.str_of("name").unwrap_or_default();
        if name.is_empty() {
            errors.required(&at, "");
        } else if !is_sysctl(name) {
            let detail = format!(
                "must have at most {MAX_SYSCTL} characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            errors.invalid(&at, name, detail);
        } else if names.contains(name) {
            errors.duplicate(&at, name);
        }
        if !known.options.host_sysctls
            && let Some(field) = shared_namespace(known.spec, name)
        {
            errors.invalid(
                &at,
                name,
                format!("may not be specified when '{field}' is true"),
            );
        }
        names.insert(name);
    }
}

/// Whether a spec has sysctls of namespaces it shares with the host.
pub(super) fn has_host_sysctls(spec: &Value<'_>) -> bool {
    let list = spec
        .get("securityContext")
        .map(|c| c.list_of("sysctls"))
        .unwrap_or_default();
    list.iter()
        .any(|s| shared_namespace(spec, s.str_of("name").unwrap_or_default()).is_some())
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    name.len() <= MAX_SYSCTL
        && name.split(['.', '/']).all(|segment| {
            let bytes = segment.as_bytes();
            edge(bytes.first()) && edge(bytes.last()) && segment.bytes().all(inner)
        })
}

/// The field by which the pod shares the sysctl's namespace with the host.
fn shared_namespace(spec: &Value<'_>, sysctl: &str) -> Option<&'static str> {
    // With a slash first, dots and slashes have each other's meaning (sysctl.d(5)).
    let slashed = sysctl
        .find(['.', '/'])
        .is_some_and(|at| sysctl.as_bytes()[at] == b'/');
    let swapped: String = sysctl
        .chars()
        .map(|c| match c {
            '.' if slashed => '/',
            '/' if slashed => '.',
            c => c,
        })
        .collect();
    let on = |field| spec.bool_of(field) == Some(true);
    let ipc = swapped == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|p| swapped.starts_with(p));
    match swapped.starts_with("net.") {
        true if on("hostNetwork") => Some("hostNetwork"),
        false if ipc && on("hostIPC") => Some("hostIPC"),
        true | false => None,
    }
}
