//! What an update of a pod may change.
//!
//! Port of `ValidatePodUpdate` in `pkg/apis/core/validation/validation.go`. The binding endpoint sets the
//! node itself; updates of the status are in [`super::status`].

use super::options::Options;
use super::{annotation, container, scheduling, validate};
use crate::doc::{Doc, Value};
use crate::strategy::same;
use crate::validate::path::{Errors, Path};

const FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                         `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                         previously negative)";
/// The largest deadline, in seconds.
const MAX_DEADLINE: i64 = i32::MAX as i64;
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// An update of the pod itself.
pub(crate) fn update(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let options = Options::new(old.root(), true);
    validate::pod(new, &options, errors);
    annotation::update(new, old, errors);
    let meta = Path::new("metadata");
    annotation::annotations(new.root(), &options, &meta.child("annotations"), errors);
    for list in ["containers", "initContainers"] {
        let now = new.list_at(&["spec", list]);
        let at = path.child(list);
        if now.len() != old.list_at(&["spec", list]).len() {
            return errors.forbidden(&at, "pod updates may not add or remove containers");
        }
        for (i, item) in now.iter().enumerate() {
            if item.str_of("image").unwrap_or_default().is_empty() {
                errors.required(&at.index(i).child("image"), "");
            }
            container::padded_image(item, &at.index(i), errors);
        }
    }
    if !deadline(new, old, &path, errors) {
        return;
    }
    tolerations(new, old, &options, &path, errors);
    gates(new, old, &path, errors);
    fixed_fields(new, old, &path, errors);
}

/// False when nothing else is to be looked at.
fn deadline(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) -> bool {
    let at = path.child("activeDeadlineSeconds");
    let before = old.int_at(&["spec", "activeDeadlineSeconds"]);
    match new.int_at(&["spec", "activeDeadlineSeconds"]) {
        Some(s) if !(0..=MAX_DEADLINE).contains(&s) => {
            let detail = format!("must be between 0 and {MAX_DEADLINE}, inclusive");
            errors.invalid_number(&at, s, detail);
            return false;
        }
        Some(s) if before.is_some_and(|b| b < s) => {
            errors.invalid_number(&at, s, "must be less than or equal to previous value");
            return false;
        }
        None if before.is_some() => {
            let detail = "must not update from a positive integer to nil value";
            errors.invalid_value(&at, None, detail);
        }
        Some(_) | None => {}
    }
    true
}

/// Tolerations may be added, and their seconds changed.
fn tolerations(
    new: &Doc<'_>,
    old: &Doc<'_>,
    options: &Options,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let without_seconds = |t: &Value<'_>| {
        ["key", "operator", "value", "effect"].map(|f| t.str_of(f).unwrap_or_default().to_owned())
    };
    let list = new.list_at(&["spec", "tolerations"]);
    let now: Vec<_> = list.iter().map(without_seconds).collect();
    let before = old.list_at(&["spec", "tolerations"]);
    let at = path.child("tolerations");
    if !before.iter().all(|t| now.contains(&without_seconds(t))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        return errors.forbidden(&at, detail);
    }
    scheduling::tolerations(list, options, &at, errors);
}

fn gates(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let name = |gate: &Value<'_>| gate.str_of("name").unwrap_or_default().to_owned();
    let before: Vec<String> = old
        .list_at(&["spec", "schedulingGates"])
        .iter()
        .map(name)
        .collect();
    let now: Vec<String> = new
        .list_at(&["spec", "schedulingGates"])
        .iter()
        .map(name)
        .collect();
    let at = path.child("schedulingGates");
    for (i, gate) in now.iter().enumerate() {
        // Upstream counts a name once, at its last place.
        if !before.contains(gate) && !now[i + 1..].contains(gate) {
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{gate}'");
            errors.forbidden(&at.index(i).child("name"), detail);
        }
    }
}

/// Everything else must be as it was.
fn fixed_fields(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    if same(new, old, &["spec"]) {
        return;
    }
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
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            match image {
                Some(image) => container.set("image", image.copy_in(container.arena())),
                None => drop(container.remove("image")),
            }
        }
    }
    let mut free = vec!["activeDeadlineSeconds", "schedulingGates", "tolerations"];
    let negative = old
        .int_at(&["spec", "terminationGracePeriodSeconds"])
        .is_some_and(|s| s < 0);
    if negative && new.int_at(&["spec", "terminationGracePeriodSeconds"]) == Some(1) {
        free.push("terminationGracePeriodSeconds");
    }
    for field in free {
        restore(&mut expected, old, &["spec", field]);
    }
    if !old.list_at(&["spec", "schedulingGates"]).is_empty() {
        gated(&mut expected, old, path, errors);
    }
    if !same(&expected, old, &["spec"]) {
        errors.forbidden(path, FORBIDDEN);
    }
}

fn restore(doc: &mut Doc<'_>, old: &Doc<'_>, path: &[&str]) {
    match old.get(path) {
        Some(value) => {
            let value = value.copy_in(doc.arena());
            doc.set(path, value);
        }
        None => drop(doc.remove(path)),
    }
}

/// A pod that is not scheduled yet may become choosier about its node.
fn gated(expected: &mut Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let selector = ["spec", "nodeSelector"];
    if !same(expected, old, &selector) {
        let before = old.get(&selector).and_then(Value::as_object);
        let kept = before
            .into_iter()
            .flat_map(|o| o.iter())
            .all(|(key, value)| expected.get(&["spec", "nodeSelector", key]) == Some(value));
        if !kept {
            let detail =
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid_value(&path.child("nodeSelector"), expected.get(&selector), detail);
        }
        restore(expected, old, &selector);
    }
    let affinity = ["spec", "affinity", "nodeAffinity"];
    if expected.get(&affinity) == old.get(&affinity) {
        return;
    }
    let at = path.child("affinity");
    node_affinity(expected, old, &at.child("nodeAffinity"), errors);
    restore(expected, old, &affinity);
    let nothing = expected
        .get(&["spec", "affinity"])
        .and_then(Value::as_object);
    if old.get(&["spec", "affinity"]).is_none() && nothing.is_some_and(|o| o.is_empty()) {
        expected.remove(&["spec", "affinity"]);
    }
}

fn node_affinity(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let terms = [
        "spec",
        "affinity",
        "nodeAffinity",
        REQUIRED,
        "nodeSelectorTerms",
    ];
    if old.get(&terms[..4]).is_none() {
        return;
    }
    let (before, now) = (old.list_at(&terms), new.list_at(&terms));
    let at = path.child(REQUIRED);
    let at = at.child("nodeSelectorTerms");
    if !before.is_empty() && before.len() != now.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid_value(&at, new.get(&terms), detail);
    }
    for (i, (now, before)) in now.iter().zip(before).enumerate() {
        let lists = ["matchExpressions", "matchFields"];
        let empty = |t: &Value<'_>| lists.iter().all(|l| t.list_of(l).is_empty());
        let kept = lists
            .iter()
            .all(|list| now.list_of(list).starts_with(before.list_of(list)));
        if !kept || (empty(before) && !empty(now)) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.invalid_value(&at.index(i), Some(now), detail);
        }
    }
}
