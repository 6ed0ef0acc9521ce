//! ResourceQuotas and LimitRanges: validation.
//!
//! Port of `ValidateResourceQuota*` and `ValidateLimitRange` in `pkg/apis/core/validation/validation.go`.

use std::collections::{BTreeMap, BTreeSet};

use crate::doc::{Doc, Object, Value};
use crate::quantity::Quantity;
use crate::validate::names::label_key;
use crate::validate::path::{Errors, Path};
use crate::validate::resource_name::{CONTAINER, COUNTED, STORAGE, is_quota_name, resource_name};

const COMPUTE: [&str; 6] = [
    "cpu",
    "memory",
    "limits.cpu",
    "limits.memory",
    "requests.cpu",
    "requests.memory",
];
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
/// Scopes that exclude each other.
const OPPOSITES: [(&str, &str); 2] = [
    ("BestEffort", "NotBestEffort"),
    ("Terminating", "NotTerminating"),
];
/// Field that is not more, its word, field that is not less, its word; where the error is, and which
/// value it shows.
const ORDERED: [(&str, &str, &str, &str, &str, &str); 6] = [
    ("min", "min value", "max", "max value", "min", "min"),
    (
        "min",
        "min value",
        "defaultRequest",
        "default request value",
        "defaultRequest",
        "defaultRequest",
    ),
    (
        "defaultRequest",
        "default request value",
        "max",
        "max value",
        "defaultRequest",
        "defaultRequest",
    ),
    (
        "defaultRequest",
        "default request value",
        "default",
        "default limit value",
        "defaultRequest",
        "defaultRequest",
    ),
    (
        "min",
        "min value",
        "default",
        "default value",
        "default",
        "min",
    ),
    (
        "default",
        "default value",
        "max",
        "max value",
        "default",
        "max",
    ),
];
const LIMIT_TYPES: [&str; 3] = ["Pod", "Container", "PersistentVolumeClaim"];

/// A ResourceQuota.
pub(crate) fn resource_quota(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let hard = doc.get(&["spec", "hard"]).and_then(Value::as_object);
    amounts(hard, &path.child("hard"), errors);
    let names: Vec<&str> = hard
        .into_iter()
        .flat_map(Object::iter)
        .map(|(k, _)| k)
        .collect();
    scopes(doc, &names, errors);
    let Some(selector) = doc.get(&["spec", "scopeSelector"]) else {
        return;
    };
    let at = path.child("scopeSelector");
    let at = at.child("matchExpressions");
    let requirements = selector.list_of("matchExpressions");
    for requirement in requirements {
        scope_requirement(selector, requirement, &names, &at, errors);
    }
    let used: Vec<&str> = requirements
        .iter()
        .filter_map(|r| r.str_of("scopeName"))
        .collect();
    opposites(&used, doc.get(&["spec", "scopes"]), &at, errors);
}

/// What may not change.
pub(crate) fn update_resource_quota(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let scopes = |doc: &Doc<'_>| -> BTreeSet<String> {
        let scopes = doc.list_at(&["spec", "scopes"]).iter();
        scopes
            .filter_map(|s| s.as_str().map(str::to_owned))
            .collect()
    };
    if scopes(new) != scopes(old) {
        let path = Path::new("spec");
        let at = path.child("scopes");
        errors.invalid_value(&at, new.get(&["spec", "scopes"]), "field is immutable");
    }
}

/// The status of a ResourceQuota.
pub(crate) fn resource_quota_status(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("status");
    for field in ["hard", "used"] {
        let list = doc.get(&["status", field]).and_then(Value::as_object);
        amounts(list, &path.child(field), errors);
    }
}

fn amounts(list: Option<&Object<'_>>, path: &Path<'_>, errors: &mut Errors) {
    for (name, value) in list.into_iter().flat_map(Object::iter) {
        let at = path.key(name);
        resource_name(&at, name, errors);
        if !name.contains('/') && !is_quota_name(name) {
            errors.invalid(&at, name, "must be a standard resource for quota");
        }
        let text = value.as_str().unwrap_or_default();
        let Ok(quantity) = Quantity::parse(text) else {
            continue;
        };
        if quantity.sign() < 0 {
            errors.invalid(&at, text, "must be greater than or equal to 0");
        }
        if COUNTED.contains(&name) && !quantity.is_integer() {
            errors.invalid(&at, text, "must be an integer");
        }
    }
}

fn scopes(doc: &Doc<'_>, hard: &[&str], errors: &mut Errors) {
    let path = Path::new("spec");
    let at = path.child("scopes");
    let value = doc.get(&["spec", "scopes"]);
    let scopes = doc.list_at(&["spec", "scopes"]).iter();
    let scopes: Vec<&str> = scopes.filter_map(Value::as_str).collect();
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid_value(&at, value, "unsupported scope");
        }
        for _ in unfit(scope, hard) {
            errors.invalid_value(&at, value, "unsupported scope applied to resource");
        }
    }
    opposites(&scopes, value, &at, errors);
}

fn opposites(scopes: &[&str], value: Option<&Value<'_>>, at: &Path<'_>, errors: &mut Errors) {
    for (one, other) in OPPOSITES {
        if scopes.contains(&one) && scopes.contains(&other) {
            errors.invalid_value(at, value, "conflicting scopes");
        }
    }
}

/// The limited resources the scope says nothing about.
fn unfit<'n>(scope: &str, hard: &'n [&'n str]) -> impl Iterator<Item = &'n str> {
    let scope = scope.to_owned();
    hard.iter().copied().filter(move |name| {
        let fits = match scope.as_str() {
            "BestEffort" => *name == "pods",
            "VolumeAttributesClass" => {
                matches!(*name, "persistentvolumeclaims" | "requests.storage")
            }
            scope if SCOPES.contains(&scope) => *name == "pods" || COMPUTE.contains(name),
            _ => true,
        };
        is_quota_name(name) && !fits
    })
}

fn scope_requirement(
    selector: &Value<'_>,
    requirement: &Value<'_>,
    hard: &[&str],
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let scope = requirement.str_of("scopeName").unwrap_or_default();
    let operator = requirement.str_of("operator").unwrap_or_default();
    if !SCOPES.contains(&scope) {
        errors.invalid(&at.child("scopeName"), scope, "unsupported scope");
    }
    for _ in unfit(scope, hard) {
        let detail = "unsupported scope applied to resource";
        errors.invalid_value(at, Some(selector), detail);
    }
    let by_name = ["PriorityClass", "VolumeAttributesClass"].contains(&scope);
    if SCOPES.contains(&scope) && !by_name && operator != "Exists" {
        let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                      ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                      ResourceQuotaScopeNotBestEffort or \
                      ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.invalid(&at.child("operator"), operator, detail);
    }
    let values = requirement.list_of("values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope \
                          selector";
            errors.required(&at.child("values"), detail);
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope \
                          selector";
            errors.invalid_value(&at.child("values"), requirement.get("values"), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => errors.invalid(
            &at.child("operator"),
            operator,
            "not a valid selector operator",
        ),
    }
}

/// A LimitRange.
pub(crate) fn limit_range(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let list = path.child("limits");
    let mut types = BTreeSet::new();
    for (i, limit) in doc.list_at(&["spec", "limits"]).iter().enumerate() {
        let at = list.index(i);
        let type_ = limit.str_of("type").unwrap_or_default();
        let problems = label_key(type_);
        if !problems.is_empty() {
            errors.each(&at.child("type"), type_, problems);
        } else if !type_.contains('/') && !LIMIT_TYPES.contains(&type_) {
            let detail = "must be a standard limit type or fully qualified";
            errors.invalid(&at.child("type"), type_, detail);
        }
        if !types.insert(type_) {
            errors.duplicate(&at.child("type"), type_);
        }
        limit_item(limit, type_, &at, errors);
    }
}

fn limit_item(limit: &Value<'_>, type_: &str, at: &Path<'_>, errors: &mut Errors) {
    let mut lists: BTreeMap<&str, BTreeMap<&str, Quantity>> = BTreeMap::new();
    for field in [
        "max",
        "min",
        "default",
        "defaultRequest",
        "maxLimitRequestRatio",
    ] {
        let Some(list) = limit
            .get(field)
            .and_then(Value::as_object)
            .filter(|l| !l.is_empty())
        else {
            continue;
        };
        if type_ == "Pod" && field.starts_with("default") {
            let detail = "may not be specified when `type` is 'Pod'";
            errors.forbidden(&at.child(field), detail);
            continue;
        }
        let path = at.child(field);
        for (name, value) in list.iter() {
            limited_name(type_, name, &path.key(name), errors);
            if let Ok(quantity) = Quantity::parse(value.as_str().unwrap_or_default()) {
                lists.entry(field).or_default().insert(name, quantity);
            }
        }
    }
    let has_storage = |field| {
        lists
            .get(field)
            .is_some_and(|list| list.contains_key(STORAGE))
    };
    if type_ == "PersistentVolumeClaim" && !has_storage("min") && !has_storage("max") {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&at.child("limits"), detail);
    }
    let names: BTreeSet<&str> = lists.values().flat_map(BTreeMap::keys).copied().collect();
    for name in names {
        let of = |field: &str| lists.get(field).and_then(|list| list.get(name)).copied();
        in_order(name, of, at, errors);
    }
}

fn limited_name(type_: &str, name: &str, at: &Path<'_>, errors: &mut Errors) {
    if !resource_name(at, name, errors) || !matches!(type_, "Pod" | "Container") {
        return;
    }
    if !name.contains('/') && !CONTAINER.contains(&name) && !name.starts_with("hugepages-") {
        errors.invalid(at, name, "must be a standard resource for containers");
    } else if name.contains('/') && name.contains("kubernetes.io/") {
        let detail = "doesn't follow extended resource name standard";
        errors.invalid(at, name, detail);
    }
}

/// The amounts of one resource agree with each other.
fn in_order(name: &str, of: impl Fn(&str) -> Option<Quantity>, at: &Path<'_>, errors: &mut Errors) {
    for (low, low_word, high, high_word, place, shown) in ORDERED {
        let (Some(low), Some(high)) = (of(low), of(high)) else {
            continue;
        };
        if low > high {
            let detail = format!("{low_word} {low} is greater than {high_word} {high}");
            let value = of(shown).unwrap_or(low).to_string();
            errors.invalid(&at.child(place).key(name), &value, detail);
        }
    }
    let Some(ratio) = of("maxLimitRequestRatio") else {
        return;
    };
    let path = at.child("maxLimitRequestRatio");
    let path = path.key(name);
    if ratio < Quantity::of(1) {
        errors.invalid(
            &path,
            &ratio.to_string(),
            format!("ratio {ratio} is less than 1"),
        );
    }
    if let (Some(min), Some(max)) = (of("min"), of("max")) {
        let most = max.milli_value() as f64 / min.milli_value() as f64;
        if ratio.milli_value() as f64 / 1000.0 > most {
            let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
            errors.invalid(&path, &ratio.to_string(), detail);
        }
    }
}
