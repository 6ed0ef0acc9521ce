//! What an update of a pod may change.
//!
//! Port of `ValidatePodUpdate` and `ValidatePodStatusUpdate` in
//! `pkg/apis/core/validation/validation.go`. The binding endpoint sets the node itself.

use super::validate;
use crate::doc::{Doc, Value};
use crate::strategy::same;
use crate::validate::ip;
use crate::validate::meta::immutable;
use crate::validate::path::{Errors, Path};

const FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                         `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                         previously negative)";
/// The largest deadline, in seconds.
const MAX_DEADLINE: i64 = i32::MAX as i64;

/// An update of the pod itself.
pub(crate) fn update(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let empty = Value::Null;
    validate::pod(new.get(&["spec"]).unwrap_or(&empty), &path, errors);
    for list in ["containers", "initContainers"] {
        if new.list_at(&["spec", list]).len() != old.list_at(&["spec", list]).len() {
            errors.forbidden(
                &path.child(list),
                "pod updates may not add or remove containers",
            );
            return;
        }
    }
    deadline(new, old, &path, errors);
    if errors
        .0
        .iter()
        .any(|e| e.field == "spec.activeDeadlineSeconds")
    {
        return;
    }
    tolerations(new, old, &path, errors);
    gates(new, old, &path, errors);
    fixed_fields(new, old, &path, errors);
}

fn deadline(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("activeDeadlineSeconds");
    let before = old.int_at(&["spec", "activeDeadlineSeconds"]);
    match new.int_at(&["spec", "activeDeadlineSeconds"]) {
        Some(s) if !(0..=MAX_DEADLINE).contains(&s) => {
            let detail = format!("must be between 0 and {MAX_DEADLINE}, inclusive");
            errors.invalid_number(&at, s, detail);
        }
        Some(s) if before.is_some_and(|b| b < s) => {
            errors.invalid_number(&at, s, "must be less than or equal to previous value");
        }
        None if before.is_some() => {
            let detail = "must not update from a positive integer to nil value";
            errors.invalid_value(&at, None, detail);
        }
        Some(_) | None => {}
    }
}

/// Tolerations may be added, and their seconds changed.
fn tolerations(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let without_seconds = |t: &Value<'_>| {
        ["key", "operator", "value", "effect"].map(|f| t.str_of(f).unwrap_or_default().to_owned())
    };
    let now: Vec<_> = new
        .list_at(&["spec", "tolerations"])
        .iter()
        .map(without_seconds)
        .collect();
    let kept = old
        .list_at(&["spec", "tolerations"])
        .iter()
        .all(|t| now.contains(&without_seconds(t)));
    if !kept {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&path.child("tolerations"), detail);
    }
}

fn gates(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let before = old.list_at(&["spec", "schedulingGates"]);
    let at = path.child("schedulingGates");
    for (i, gate) in new.list_at(&["spec", "schedulingGates"]).iter().enumerate() {
        if !before
            .iter()
            .any(|g| g.str_of("name") == gate.str_of("name"))
        {
            let detail = "only deletion is allowed, but found new scheduling gate '".to_owned()
                + gate.str_of("name").unwrap_or_default()
                + "'";
            errors.forbidden(&at.index(i).child("name"), detail);
        }
    }
}

/// Everything else must be as it was.
fn fixed_fields(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut expected = new.clone();
    for list in ["containers", "initContainers"] {
        let images: Vec<Option<Value<'_>>> = old
            .list_at(&["spec", list])
            .iter()
            .map(|c| c.get("image").cloned())
            .collect();
        let containers = expected
            .get_mut(&["spec", list])
            .and_then(Value::as_list_mut);
        for (container, image) in containers.into_iter().flatten().zip(images) {
            if let (Some(container), Some(image)) = (container.as_object_mut(), image) {
                container.set("image", image.copy_in(container.arena()));
            }
        }
    }
    let gated = !old.list_at(&["spec", "schedulingGates"]).is_empty();
    let mut free = vec!["activeDeadlineSeconds", "schedulingGates", "tolerations"];
    let negative = old
        .int_at(&["spec", "terminationGracePeriodSeconds"])
        .is_some_and(|s| s < 0);
    if negative && new.int_at(&["spec", "terminationGracePeriodSeconds"]) == Some(1) {
        free.push("terminationGracePeriodSeconds");
    }
    if gated {
        free.extend(["nodeSelector", "affinity"]);
    }
    for field in free {
        let arena = expected.arena();
        match old.get(&["spec", field]) {
            Some(value) => expected.set(&["spec", field], value.copy_in(arena)),
            None => {
                expected.remove(&["spec", field]);
            }
        }
    }
    if !same(&expected, old, &["spec"]) {
        errors.forbidden(path, FORBIDDEN);
    }
}

/// An update of the status.
pub(crate) fn status(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    immutable(new, old, &["status", "qosClass"], errors);
    ips(new, errors);
    let path = Path::new("status");
    for list in ["containerStatuses", "initContainerStatuses"] {
        let at = path.child(list);
        let policy = new.str_at(&["spec", "restartPolicy"]).unwrap_or("Always");
        for (i, before) in old.list_at(&["status", list]).iter().enumerate() {
            let Some(ended) = before.at(&["state", "terminated"]) else {
                continue;
            };
            let code = ended.int_of("exitCode").unwrap_or(0);
            let restarts = policy == "Always"
                || (policy == "OnFailure" && code != 0)
                || own_policy(new, before.str_of("name")).is_some_and(|p| p != "Never");
            if restarts {
                continue;
            }
            let revived = new.list_at(&["status", list]).iter().any(|now| {
                now.str_of("name") == before.str_of("name")
                    && now.at(&["state", "terminated"]).is_none()
            });
            if revived {
                let detail = "may not be transitioned to non-terminated state";
                errors.forbidden(&at.index(i).child("state"), detail);
            }
        }
    }
}

/// Addresses of the pod: one of each family, the first one also alone.
fn ips(pod: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("status");
    let list = path.child("podIPs");
    let value = pod.get(&["status", "podIPs"]);
    let items = pod.list_at(&["status", "podIPs"]);
    let mut families = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let text = item.str_of("ip").unwrap_or_default();
        families.extend(ip::ip(text, &list.index(i), errors).map(|a| a.is_ipv4()));
    }
    let both = families.len() == 2 && families[0] != families[1];
    if items.len() > 1 && !both {
        let detail = "may specify no more than one IP for each IP family";
        errors.invalid_value(&list, value, detail);
    }
    if items.is_empty() != pod.get(&["status", "podIP"]).is_none() {
        let detail = "podIP and podIPs must either both be set or both be unset";
        errors.invalid_value(&list, value, detail);
    }
}

/// The restart policy of a single container.
fn own_policy<'a>(pod: &Doc<'a>, name: Option<&str>) -> Option<&'a str> {
    ["containers", "initContainers"].iter().find_map(|list| {
        let container = pod
            .list_at(&["spec", list])
            .iter()
            .find(|c| c.str_of("name") == name)?;
        container.str_of("restartPolicy")
    })
}
