//! What StatefulSets must hold.
//!
//! Port of `pkg/apis/apps/validation/validation.go`.

use bumpalo::Bump;

use super::validate::{
    always_running, at_most_all, int_or_percent, matches_template, old_template, required_selector,
};
use crate::doc::{Doc, List, Object, Value};
use crate::kinds::pod;
use crate::selector::LabelSelector;
use crate::validate::meta::immutable;
use crate::validate::names::{dns_label, percent};
use crate::validate::path::{Errors, Path};

/// A StatefulSet's spec.
pub(crate) fn stateful_set(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let path = Path::new("spec");
    management_policy(spec, &path, errors);
    update_strategy(spec, &path, errors);
    let at = path.child("persistentVolumeClaimRetentionPolicy");
    if let Some(policy) = spec.get("persistentVolumeClaimRetentionPolicy") {
        for field in ["whenDeleted", "whenScaled"] {
            let value = policy.str_of(field).unwrap_or_default();
            if !matches!(value, "Retain" | "Delete") {
                errors.not_supported(&at.child(field), value, &["Retain", "Delete"]);
            }
        }
    }
    for field in ["replicas", "minReadySeconds"] {
        errors.non_negative(&path.child(field), spec.int_of(field));
    }
    let start = spec.at(&["ordinals", "start"]).and_then(Value::as_int);
    errors.non_negative(&path.child("ordinals.start"), start);
    let service = spec.str_of("serviceName").unwrap_or_default();
    if !service.is_empty() {
        errors.each(&path.child("serviceName"), service, dns_label(service));
    }
    let empty = "empty selector is invalid for statefulset";
    required_selector(spec.get("selector"), &path.child("selector"), empty, errors);
    template(doc, old_template(old), &path, errors);
}

fn management_policy(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("podManagementPolicy");
    match spec.str_of("podManagementPolicy").unwrap_or_default() {
        "" => errors.required(&at, ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&at, other, "must be 'OrderedReady' or 'Parallel'"),
    }
}

fn update_strategy(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("updateStrategy");
    let strategy = spec.get("updateStrategy");
    let rolling = strategy.and_then(|s| s.get("rollingUpdate"));
    let in_rolling = at.child("rollingUpdate");
    match strategy.and_then(|s| s.str_of("type")).unwrap_or_default() {
        "" => errors.required(&at, ""),
        "OnDelete" if rolling.is_some() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.invalid_value(&in_rolling, rolling, detail);
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            let Some(rolling) = rolling else { return };
            errors.non_negative(&in_rolling.child("partition"), rolling.int_of("partition"));
            let most = rolling.get("maxUnavailable");
            if most.is_some() {
                max_unavailable(most, &in_rolling.child("maxUnavailable"), errors);
            }
        }
        _ => errors.invalid_value(&at, strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn max_unavailable(most: Option<&Value<'_>>, at: &Path<'_>, errors: &mut Errors) {
    int_or_percent(most, at, errors);
    let is_zero = match most {
        Some(Value::String(text)) => percent(text).is_empty() && *text == "0%",
        value => value.and_then(Value::as_int) == Some(0),
    };
    if is_zero {
        errors.invalid_value(at, most, "cannot be 0");
    }
    at_most_all(most, at, errors);
}

/// The template, as the controller will use it: hostname and subdomain are its own, and the claims are
/// volumes too.
fn template(doc: &Doc<'_>, old: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let arena = Bump::new();
    let at = path.child("template");
    let mut template = spec
        .get("template")
        .map(|template| template.copy_in(&arena));
    if let Some(pod) = template
        .as_mut()
        .and_then(|template| template.at_mut(&["spec"]))
        .and_then(Value::as_object_mut)
    {
        pod.remove("subdomain");
        pod.remove("hostname");
        add_claims(doc, pod, &arena);
    }
    let template = template.as_ref();
    match LabelSelector::from_value(spec.get("selector")) {
        Err(_) => {
            errors.invalid_value(&path.child("selector"), spec.get("selector"), "");
        }
        Ok(selector) => {
            matches_template(&selector, template, &at, errors);
            pod::validate::template(template, old, &at, errors);
        }
    }
    always_running(template, &at, "StatefulSet", errors);
}

fn add_claims<'b>(doc: &Doc<'_>, pod: &mut Object<'b>, arena: &'b Bump) {
    let claims = doc.list_at(&["spec", "volumeClaimTemplates"]);
    let names: Vec<&str> = claims
        .iter()
        .filter_map(|claim| claim.at(&["metadata", "name"])?.as_str())
        .collect();
    if names.is_empty() {
        return;
    }
    let mut volumes = List::new_in(arena);
    for name in &names {
        let mut claim = Object::new_in(arena);
        claim.push("claimName", Value::string_in(name, arena));
        let mut volume = Object::new_in(arena);
        volume.push("name", Value::string_in(name, arena));
        volume.push("persistentVolumeClaim", Value::Object(claim));
        volumes.push(Value::Object(volume));
    }
    let others = pod.get("volumes").and_then(Value::as_list).unwrap_or(&[]);
    let is_other = |volume: &&Value<'_>| !names.contains(&volume.str_of("name").unwrap_or(""));
    for volume in others.iter().filter(is_other) {
        volumes.push(volume.copy_in(arena));
    }
    pod.set("volumes", Value::List(volumes));
}

/// What of a StatefulSet is fixed.
pub(crate) fn fixed(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    for field in [
        "selector",
        "volumeClaimTemplates",
        "serviceName",
        "podManagementPolicy",
    ] {
        immutable(new, old, &["spec", field], errors);
    }
}
