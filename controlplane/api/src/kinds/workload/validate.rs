//! What Deployments, ReplicaSets, DaemonSets, ControllerRevisions, ReplicationControllers and
//! PodTemplates must hold.
//!
//! Ports of `pkg/apis/apps/validation/validation.go` and, for the last two, of
//! `pkg/apis/core/validation/validation.go`.

use crate::doc::{Doc, Object, Value};
use crate::kinds::pod;
use crate::selector::LabelSelector;
use crate::validate::meta::{Selectors, immutable, label_selector};
use crate::validate::names::percent;
use crate::validate::path::{Errors, Path};

/// The stored template of an update, null for new objects.
pub(crate) fn old_template<'v, 'a>(old: Option<&'v Doc<'a>>) -> &'v Value<'a> {
    old.and_then(|old| old.get(&["spec", "template"]))
        .unwrap_or(&Value::Null)
}

/// A Deployment's spec.
pub(crate) fn deployment(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let path = Path::new("spec");
    replicas_and_template(spec, old_template(old), &path, errors);
    deployment_strategy(spec, &path, errors);
    for field in [
        "minReadySeconds",
        "revisionHistoryLimit",
        "progressDeadlineSeconds",
    ] {
        errors.non_negative(&path.child(field), spec.int_of(field));
    }
    let ready = spec.int_of("minReadySeconds").unwrap_or(0);
    if let Some(deadline) = spec
        .int_of("progressDeadlineSeconds")
        .filter(|d| *d <= ready)
    {
        let at = path.child("progressDeadlineSeconds");
        errors.invalid_number(&at, deadline, "must be greater than minReadySeconds");
    }
}

/// A ReplicaSet's spec.
pub(crate) fn replica_set(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let path = Path::new("spec");
    replicas_and_template(spec, old_template(old), &path, errors);
    errors.non_negative(
        &path.child("minReadySeconds"),
        spec.int_of("minReadySeconds"),
    );
}

/// A ReplicationController's spec. A selector that the template does not match would make pods without
/// end.
pub(crate) fn replication_controller(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let path = Path::new("spec");
    for field in ["minReadySeconds", "replicas"] {
        errors.non_negative(&path.child(field), spec.int_of(field));
    }
    let selector = spec.get("selector").and_then(Value::as_object);
    if selector.is_none_or(Object::is_empty) {
        errors.required(&path.child("selector"), "");
    }
    let at = path.child("template");
    let Some(template) = spec.get("template") else {
        return errors.required(&at, "");
    };
    let labels = template.at(&["metadata", "labels"]);
    let has = |key: &str, value: &Value<'_>| labels.and_then(|l| l.get(key)) == Some(value);
    if !selector
        .into_iter()
        .flat_map(Object::iter)
        .all(|(key, value)| has(key, value))
    {
        let metadata = at.child("metadata");
        let detail = "`selector` does not match template `labels`";
        errors.invalid_value(&metadata.child("labels"), labels, detail);
    }
    pod::validate::template(Some(template), old_template(old), &at, errors);
    always_running(Some(template), &at, "ReplicationController", errors);
}

/// A PodTemplate.
pub(crate) fn pod_template(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let old = old
        .and_then(|old| old.get(&["template"]))
        .unwrap_or(&Value::Null);
    pod::validate::template(doc.get(&["template"]), old, &Path::new("template"), errors);
}

fn replicas_and_template(spec: &Value<'_>, old: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    errors.non_negative(&path.child("replicas"), spec.int_of("replicas"));
    let at = path.child("selector");
    let selector = spec.get("selector");
    let empty = "empty selector is invalid for deployment";
    required_selector(selector, &at, empty, errors);
    let template_at = path.child("template");
    let template = spec.get("template");
    match LabelSelector::from_value(selector) {
        Err(_) => {
            errors.invalid_value(&at, selector, "invalid label selector");
            return;
        }
        Ok(parsed) => matches_template(&parsed, template, &template_at, errors),
    }
    pod::validate::template(template, old, &template_at, errors);
    always_running(template, &template_at, "ReplicaSet", errors);
}

/// A selector that must be there and select something, else `empty`.
pub(crate) fn required_selector(
    selector: Option<&Value<'_>>,
    path: &Path<'_>,
    empty: &str,
    errors: &mut Errors,
) {
    match selector {
        None => errors.required(path, ""),
        Some(value) => {
            label_selector(selector, Selectors::Strict, path, errors);
            if is_empty_selector(value) {
                errors.invalid_value(path, selector, empty);
            }
        }
    }
}

fn is_empty_selector(selector: &Value<'_>) -> bool {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    labels.is_none_or(|l| l.is_empty()) && selector.list_of("matchExpressions").is_empty()
}

pub(crate) fn matches_template(
    selector: &LabelSelector,
    template: Option<&Value<'_>>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let labels = template.and_then(|t| t.at(&["metadata", "labels"]));
    let get = |key: &str| labels.and_then(|l| l.str_of(key));
    if !selector.is_everything() && !selector.matches(get) {
        let at = path.child("metadata");
        let detail = "`selector` does not match template `labels`";
        errors.invalid_value(&at.child("labels"), labels, detail);
    }
}

/// Templates of these kinds describe pods that run for good.
pub(crate) fn always_running(
    template: Option<&Value<'_>>,
    path: &Path<'_>,
    kind: &str,
    errors: &mut Errors,
) {
    let at = path.child("spec");
    let spec = template.and_then(|t| t.get("spec"));
    let policy = spec
        .and_then(|s| s.str_of("restartPolicy"))
        .unwrap_or_default();
    if policy != "Always" {
        errors.not_supported(&at.child("restartPolicy"), policy, &["Always"]);
    }
    if spec.is_some_and(|s| s.get("activeDeadlineSeconds").is_some()) {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&at.child("activeDeadlineSeconds"), detail);
    }
}

fn deployment_strategy(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("strategy");
    let strategy = spec.get("strategy");
    let rolling = strategy.and_then(|s| s.get("rollingUpdate"));
    match strategy.and_then(|s| s.str_of("type")).unwrap_or_default() {
        "Recreate" if rolling.is_some() => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.forbidden(&at.child("rollingUpdate"), detail);
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let at = at.child("rollingUpdate");
            let unavailable = rolling.and_then(|r| r.get("maxUnavailable"));
            let surge = rolling.and_then(|r| r.get("maxSurge"));
            int_or_percent(unavailable, &at.child("maxUnavailable"), errors);
            int_or_percent(surge, &at.child("maxSurge"), errors);
            if amount(unavailable) == 0 && amount(surge) == 0 {
                let at = at.child("maxUnavailable");
                errors.invalid_value(&at, unavailable, "may not be 0 when `maxSurge` is 0");
            }
            at_most_all(unavailable, &at.child("maxUnavailable"), errors);
        }
        _ => unknown_strategy(strategy, &at, &["Recreate", "RollingUpdate"], errors),
    }
}

/// Upstream prints the whole strategy.
fn unknown_strategy(
    strategy: Option<&Value<'_>>,
    path: &Path<'_>,
    valid: &[&str],
    errors: &mut Errors,
) {
    let mut text = Vec::new();
    crate::codec::write_value(strategy.unwrap_or(&Value::Null), &mut text);
    let mut error = crate::status::FieldError::not_supported(path.to_string(), "", valid);
    error.value = String::from_utf8_lossy(&text).into_owned();
    errors.0.push(error);
}

pub(crate) fn int_or_percent(value: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Some(Value::String(text)) => errors.each(path, text, percent(text)),
        value => errors.non_negative(path, value.and_then(Value::as_int)),
    }
}

fn percentage(value: Option<&Value<'_>>) -> Option<i64> {
    value?.as_str()?.strip_suffix('%')?.parse().ok()
}

fn amount(value: Option<&Value<'_>>) -> i64 {
    percentage(value)
        .or_else(|| value.and_then(Value::as_int))
        .unwrap_or(0)
}

pub(crate) fn at_most_all(value: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    if percentage(value).is_some_and(|p| p > 100) {
        errors.invalid_value(path, value, "must not be greater than 100%");
    }
}

/// A DaemonSet's spec.
pub(crate) fn daemon_set(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let old = old_template(old);
    let path = Path::new("spec");
    let at = path.child("selector");
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    label_selector(selector, pod::options::selectors(old), &at, errors);
    let template_at = path.child("template");
    if let Ok(parsed) = LabelSelector::from_value(selector) {
        matches_template(&parsed, template, &template_at, errors);
    }
    if selector.is_some_and(is_empty_selector) {
        errors.invalid_value(&at, selector, "empty selector is invalid for daemonset");
    }
    pod::validate::template(template, old, &template_at, errors);
    always_running(template, &template_at, "DaemonSet", errors);
    for field in ["minReadySeconds", "revisionHistoryLimit"] {
        errors.non_negative(&path.child(field), spec.int_of(field));
    }
    daemon_set_strategy(spec, &path, errors);
}

fn daemon_set_strategy(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("updateStrategy");
    let strategy = spec.get("updateStrategy");
    match strategy.and_then(|s| s.str_of("type")).unwrap_or_default() {
        "OnDelete" => {}
        "RollingUpdate" => {
            let at = at.child("rollingUpdate");
            let rolling = strategy.and_then(|s| s.get("rollingUpdate"));
            let unavailable = rolling.and_then(|r| r.get("maxUnavailable"));
            let surge = rolling.and_then(|r| r.get("maxSurge"));
            for (name, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
                int_or_percent(value, &at.child(name), errors);
                at_most_all(value, &at.child(name), errors);
            }
            match (amount(unavailable) != 0, amount(surge) != 0) {
                (true, true) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.invalid_value(&at.child("maxSurge"), surge, detail);
                }
                (false, false) => errors.required(
                    &at.child("maxUnavailable"),
                    "cannot be 0 when maxSurge is 0",
                ),
                _ => {}
            }
        }
        _ => unknown_strategy(strategy, &at, &["RollingUpdate", "OnDelete"], errors),
    }
}

/// The selector of a workload is fixed.
pub(crate) fn fixed_selector(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    immutable(new, old, &["spec", "selector"], errors);
}

/// A ControllerRevision.
pub(crate) fn revision(doc: &Doc<'_>, is_new: bool, errors: &mut Errors) {
    errors.non_negative(&Path::new("revision"), doc.int_at(&["revision"]));
    if !is_new {
        return;
    }
    match doc.get(&["data"]) {
        None | Some(Value::Null) => errors.required(&Path::new("data"), "data is mandatory"),
        Some(Value::Object(_)) => {}
        Some(_) => errors.required(&Path::new("data"), "data must be a valid JSON object"),
    }
}
