//! What a Job's spec must hold.
//!
//! Port of `pkg/apis/batch/validation/validation.go`.

use super::{NAME_LABELS, UID_LABELS};
use crate::doc::{Doc, Value};
use crate::kinds::pod;
use crate::kinds::workload::validate::old_template;
use crate::selector::LabelSelector;
use crate::strategy::same;
use crate::validate::meta::{immutable, label_selector};
use crate::validate::names::{dns_label, label_key};
use crate::validate::path::{Errors, Path};

/// Bounds that keep the lists of indexes in the status short.
const MAX_INDEXED_PARALLELISM: i64 = 100_000;
const MAX_FAILED_INDEXES: i64 = 100_000;
/// From so many completions on the bounds are stricter.
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_OF_MANY: i64 = 10_000;
const MAX_RULES: usize = 20;
const MAX_PATTERNS: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_MANAGED_BY: usize = 63;
const MAX_INDEXES_TEXT: usize = 64 * 1024;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
const INDEXED: &str = "Indexed";

/// A new Job.
pub(crate) fn create(doc: &Doc<'_>, errors: &mut Errors) {
    generated_selector(doc, errors);
    with_selector(doc, None, errors);
    name_fits(doc, errors);
}

/// A changed Job.
pub(crate) fn update(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    with_selector(new, Some(old), errors);
    completions_change(new, old, errors);
    immutable(new, old, &["spec", "selector"], errors);
    template_change(new, old, errors);
    for field in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        immutable(new, old, &["spec", field], errors);
    }
    name_fits(new, errors);
}

/// `validateGeneratedSelector`.
fn generated_selector(doc: &Doc<'_>, errors: &mut Errors) {
    let selector = doc.get(&["spec", "selector"]);
    if doc.bool_at(&["spec", "manualSelector"]) == Some(true) || selector.is_none() {
        return;
    }
    let spec = Path::new("spec");
    let (template, labels) = (
        spec.child("template"),
        ["spec", "template", "metadata", "labels"],
    );
    let (metadata, uid, name) = (template.child("metadata"), doc.meta("uid"), doc.name());
    let expected = [
        (UID_LABELS[0], uid),
        (NAME_LABELS[0], name),
        (UID_LABELS[1], uid),
        (NAME_LABELS[1], name),
    ];
    for (key, value) in expected {
        let at = metadata.child("labels");
        match doc.map_value(&labels, key) {
            None => errors.required(&at.key(key), &format!("must be '{value}'")),
            Some(found) if found != value => {
                errors.invalid_value(&at.key(key), doc.get(&labels), format!("must be '{value}'"));
            }
            Some(_) => {}
        }
    }
    let get = |wanted: &str| {
        let found = expected.iter().find(|(key, _)| *key == wanted);
        found.map(|(_, value)| *value)
    };
    if LabelSelector::from_value(selector).is_ok_and(|selector| !selector.matches(get)) {
        let at = spec.child("selector");
        errors.invalid_value(&at, selector, "`selector` not auto-generated");
    }
}

fn with_selector(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let value = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let old = old_template(old);
    let path = Path::new("spec");
    spec(value, old, &path, errors);
    let at = path.child("selector");
    let selector = value.get("selector");
    match selector {
        None => errors.required(&at, ""),
        Some(_) => label_selector(selector, pod::options::selectors(old), &at, errors),
    }
    let labels = value.at(&["template", "metadata", "labels"]);
    let get = |key: &str| labels.and_then(|l| l.str_of(key));
    if LabelSelector::from_value(selector).is_ok_and(|selector| !selector.matches(get)) {
        let (template, detail) = (
            path.child("template"),
            "`selector` does not match template `labels`",
        );
        let at = template.child("metadata");
        errors.invalid_value(&at.child("labels"), labels, detail);
    }
}

/// The spec of a Job, or of those a CronJob makes; `old` is the stored template, or null.
pub(crate) fn spec(spec: &Value<'_>, old: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.non_negative(&path.child(field), spec.int_of(field));
    }
    let per_index = spec.get("backoffLimitPerIndex");
    if spec.get("maxFailedIndexes").is_some() && per_index.is_none() {
        let at = path.child("backoffLimitPerIndex");
        errors.required(&at, "when maxFailedIndexes is specified");
    }
    managed_by(spec, path, errors);
    completion_mode(spec, path, errors);
    if let Some(policy) = spec.get("podFailurePolicy") {
        failure_policy(policy, spec, &path.child("podFailurePolicy"), errors);
    }
    if let Some(policy) = spec.get("successPolicy") {
        let at = path.child("successPolicy");
        if is_indexed(spec) {
            success_policy(policy, spec, &at, errors);
        } else {
            errors.invalid_value(&at, Some(policy), "requires indexed completion mode");
        }
    }
    replacement_policy(spec, path, errors);
    let template = path.child("template");
    pod::validate::template(spec.get("template"), old, &template, errors);
    restart_policy(spec, &template, errors);
}

fn is_indexed(spec: &Value<'_>) -> bool {
    spec.str_of("completionMode") == Some(INDEXED)
}

fn managed_by(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let Some(value) = spec.str_of("managedBy") else {
        return;
    };
    let at = path.child("managedBy");
    if value.is_empty() {
        errors.required(&at, "");
    } else if !value.contains('/') {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.invalid(&at, value, detail);
    }
    if value.len() > MAX_MANAGED_BY {
        errors.too_long(&at, MAX_MANAGED_BY);
    }
}

fn completion_mode(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let number = |field: &str| spec.int_of(field);
    let mode = spec.str_of("completionMode");
    let at = path.child("completionMode");
    errors.one_of(&at, mode, &["NonIndexed", INDEXED], false);
    if !is_indexed(spec) {
        if matches!(mode, None | Some("NonIndexed")) {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(value) = number(field) {
                    let detail = "requires indexed completion mode";
                    errors.invalid_number(&path.child(field), value, detail);
                }
            }
        }
        return;
    }
    let (parallelism, completions) = (number("parallelism"), number("completions"));
    let at_most = |errors: &mut Errors, field: &str, value: Option<i64>, max: i64, when: &str| {
        if let Some(value) = value.filter(|value| *value > max) {
            let detail = format!("must be less than or equal to {max}{when}");
            errors.invalid_number(&path.child(field), value, detail);
        }
    };
    if completions.is_none() {
        let detail = "when completion mode is Indexed";
        errors.required(&path.child("completions"), detail);
    }
    let when = " when completion mode is Indexed";
    at_most(
        errors,
        "parallelism",
        parallelism,
        MAX_INDEXED_PARALLELISM,
        when,
    );
    let failed = number("maxFailedIndexes");
    if let (Some(failed), Some(completions)) = (failed, completions)
        && failed > completions
    {
        let detail = "must be less than or equal to completions";
        errors.invalid_number(&path.child("maxFailedIndexes"), failed, detail);
    }
    at_most(errors, "maxFailedIndexes", failed, MAX_FAILED_INDEXES, "");
    let is_many = completions.is_some_and(|n| n > MANY_COMPLETIONS);
    if is_many && spec.get("backoffLimitPerIndex").is_some() {
        if failed.is_none() {
            let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
            errors.required(&path.child("maxFailedIndexes"), &detail);
        }
        let when = format!(
            " when completions are above {MANY_COMPLETIONS} and used with backoff limit per index"
        );
        at_most(errors, "parallelism", parallelism, MAX_OF_MANY, &when);
        at_most(errors, "maxFailedIndexes", failed, MAX_OF_MANY, &when);
    }
}

fn failure_policy(policy: &Value<'_>, spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let rules = policy.list_of("rules");
    let at = path.child("rules");
    if rules.len() > MAX_RULES {
        errors.too_many(&at, rules.len(), MAX_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        failure_rule(rule, spec, &at.index(i), errors);
    }
}

fn failure_rule(rule: &Value<'_>, spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("action");
    match rule.str_of("action").unwrap_or_default() {
        "" => errors.required(&at, &valid_values(&ACTIONS)),
        "FailIndex" if spec.get("backoffLimitPerIndex").is_none() => {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.invalid(&at, "FailIndex", detail);
        }
        action if !ACTIONS.contains(&action) => errors.not_supported(&at, action, &ACTIONS),
        _ => {}
    }
    let codes = rule.get("onExitCodes");
    let patterns = rule.list_of("onPodConditions");
    if let Some(codes) = codes {
        exit_codes(codes, spec, &path.child("onExitCodes"), errors);
    }
    pod_conditions(patterns, &path.child("onPodConditions"), errors);
    let detail = match (codes.is_some(), !patterns.is_empty()) {
        (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    errors.invalid_omitted(path, detail);
}

fn valid_values(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn exit_codes(codes: &Value<'_>, spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let operators = ["In", "NotIn"];
    let operator = codes.str_of("operator").unwrap_or_default();
    let at = path.child("operator");
    if operator.is_empty() {
        errors.required(&at, &valid_values(&operators));
    } else if !operators.contains(&operator) {
        errors.not_supported(&at, operator, &operators);
    }
    if let Some(name) = codes.str_of("containerName") {
        let lists = ["containers", "initContainers"];
        let of = |list: &&str| {
            spec.at(&["template", "spec", list])
                .and_then(Value::as_list)
        };
        let mut containers = lists.iter().filter_map(of).flatten();
        if !containers.any(|container| container.str_of("name") == Some(name)) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.invalid(&path.child("containerName"), name, detail);
        }
    }
    let list = codes.get("values");
    let values: Vec<i64> = codes
        .list_of("values")
        .iter()
        .filter_map(Value::as_int)
        .collect();
    let at = path.child("values");
    if values.is_empty() {
        errors.invalid_value(&at, list, "at least one value is required");
    } else if values.len() > MAX_EXIT_CODES {
        errors.too_many(&at, values.len(), MAX_EXIT_CODES);
    }
    for (i, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            let detail = "must not be 0 for the In operator";
            errors.invalid_number(&at.index(i), *value, detail);
        }
        if values[..i].contains(value) {
            errors.duplicate_raw(&at.index(i), value);
        }
    }
    if !values.is_sorted() {
        errors.invalid_value(&at, list, "must be ordered");
    }
}

fn pod_conditions(patterns: &[Value<'_>], path: &Path<'_>, errors: &mut Errors) {
    if patterns.len() > MAX_PATTERNS {
        errors.too_many(path, patterns.len(), MAX_PATTERNS);
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let item = path.index(i);
        let type_ = pattern.str_of("type").unwrap_or_default();
        errors.each(&item.child("type"), type_, label_key(type_));
        let at = item.child("status");
        match pattern.str_of("status").unwrap_or_default() {
            "" => errors.required(&at, &valid_values(&STATUSES)),
            status if !STATUSES.contains(&status) => errors.not_supported(&at, status, &STATUSES),
            _ => {}
        }
    }
}

fn success_policy(policy: &Value<'_>, spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let rules = policy.list_of("rules");
    let at = path.child("rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.required(&at, detail);
    }
    if rules.len() > MAX_RULES {
        errors.too_many(&at, rules.len(), MAX_RULES);
    }
    let completions = spec.int_of("completions").unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        success_rule(rule, completions, &at.index(i), errors);
    }
}

fn success_rule(rule: &Value<'_>, completions: i64, path: &Path<'_>, errors: &mut Errors) {
    let (count, indexes) = (
        rule.int_of("succeededCount"),
        rule.str_of("succeededIndexes"),
    );
    if count.is_none() && indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.required(path, detail);
    }
    let mut total = None;
    if let Some(text) = indexes {
        let at = path.child("succeededIndexes");
        if text.len() > MAX_INDEXES_TEXT {
            errors.too_long(&at, MAX_INDEXES_TEXT);
        }
        match super::status::indexes(text, completions) {
            Ok(intervals) => total = Some(intervals.iter().map(|(a, b)| b - a + 1).sum()),
            Err(why) => {
                total = Some(0);
                errors.invalid(&at, text, format!("error parsing succeededIndexes: {why}"));
            }
        }
    }
    let Some(count) = count else { return };
    let at = path.child("succeededCount");
    errors.non_negative(&at, Some(count));
    let bounds: [(Option<i64>, &str); 2] = [
        (Some(completions), "the number of specified completions"),
        (
            total,
            "the number of indexes in the specified succeededIndexes field",
        ),
    ];
    for (max, what) in bounds {
        if let Some(max) = max.filter(|max| count > *max) {
            let detail = format!("must be less than or equal to {max} ({what})");
            errors.invalid_number(&at, count, detail);
        }
    }
}

fn replacement_policy(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let supported: &[&str] = if spec.get("podFailurePolicy").is_some() {
        &["Failed"]
    } else {
        &["Failed", "TerminatingOrFailed"]
    };
    let policy = spec.str_of("podReplacementPolicy");
    errors.one_of(
        &path.child("podReplacementPolicy"),
        policy,
        supported,
        false,
    );
}

fn restart_policy(spec: &Value<'_>, template: &Path<'_>, errors: &mut Errors) {
    const POLICIES: [&str; 2] = ["OnFailure", "Never"];
    let of_pod = spec.at(&["template", "spec"]);
    let policy = of_pod
        .and_then(|s| s.str_of("restartPolicy"))
        .unwrap_or_default();
    let pod = template.child("spec");
    let at = pod.child("restartPolicy");
    if matches!(policy, "" | "Always") {
        let detail = format!("valid values: {:?}, {:?}", POLICIES[0], POLICIES[1]);
        errors.required(&at, &detail);
    } else if !POLICIES.contains(&policy) {
        errors.not_supported(&at, policy, &POLICIES);
    } else if spec.get("podFailurePolicy").is_some() && policy != "Never" {
        let detail = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.invalid(&at, policy, detail);
    }
}

/// Pods of an indexed Job have the Job's name and their index as hostname.
fn name_fits(doc: &Doc<'_>, errors: &mut Errors) {
    let completions = doc.int_at(&["spec", "completions"]).unwrap_or(0);
    if doc.str_at(&["spec", "completionMode"]) != Some(INDEXED) || completions <= 0 {
        return;
    }
    let longest = format!("{}-{}", doc.name(), completions - 1);
    if !dns_label(&longest).is_empty() {
        let detail = format!("will not able to create pod with invalid DNS label: {longest}");
        let metadata = Path::new("metadata");
        errors.invalid(&metadata.child("name"), doc.name(), detail);
    }
}

/// An indexed Job may change its completions together with its parallelism.
fn completions_change(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let path = ["spec", "completions"];
    if new.str_at(&["spec", "completionMode"]) != Some(INDEXED) {
        return immutable(new, old, &path, errors);
    }
    let completions = new.int_at(&path);
    if completions != old.int_at(&path)
        && let Some(completions) = completions
        && Some(completions) != new.int_at(&["spec", "parallelism"])
    {
        let spec = Path::new("spec");
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.invalid_number(&spec.child("completions"), completions, detail);
    }
}

/// What of the template a suspended Job without pods may change.
const MUTABLE_WHEN_SUSPENDED: [&[&str]; 6] = [
    &["metadata", "annotations"],
    &["metadata", "labels"],
    &["spec", "affinity", "nodeAffinity"],
    &["spec", "nodeSelector"],
    &["spec", "tolerations"],
    &["spec", "schedulingGates"],
];

/// `validatePodTemplateUpdate`.
fn template_change(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let path = ["spec", "template"];
    if same(new, old, &path) {
        return;
    }
    let is_suspended = old.bool_at(&["spec", "suspend"]) == Some(true);
    let has_begun = old.get(&["status", "startTime"]).is_some();
    let conditions = old.list_at(&["status", "conditions"]);
    let is_said = conditions
        .iter()
        .any(|c| c.str_of("type") == Some("Suspended") && c.str_of("status") == Some("True"));
    let is_idle = old.int_at(&["status", "active"]).unwrap_or(0) == 0;
    if !(is_suspended && (!has_begun || is_said) && is_idle) {
        return immutable(new, old, &path, errors);
    }
    let mut like_new = old.clone();
    for field in MUTABLE_WHEN_SUSPENDED {
        let path = [&path, field].concat();
        crate::strategy::copy(&mut like_new, new, &path);
    }
    without_empty_affinity(&mut like_new, new);
    resources_of(&mut like_new, new);
    immutable(new, &like_new, &["spec", "template", "spec"], errors);
}

/// An affinity that held nothing but what was taken away is none.
fn without_empty_affinity(like_new: &mut Doc<'_>, new: &Doc<'_>) {
    let path = ["spec", "template", "spec", "affinity"];
    let is_empty = like_new
        .get(&path)
        .and_then(Value::as_object)
        .is_some_and(|a| a.is_empty());
    if is_empty && new.get(&path).is_none() {
        like_new.remove(&path);
    }
}

/// Containers of the same name may ask for other resources.
fn resources_of<'a>(like_new: &mut Doc<'a>, new: &Doc<'a>) {
    for list in ["containers", "initContainers"] {
        let path = ["spec", "template", "spec", list];
        let wanted = new.list_at(&path);
        let Some(present) = like_new.get_mut(&path).and_then(Value::as_list_mut) else {
            continue;
        };
        if present.len() != wanted.len() {
            continue;
        }
        for (container, wanted) in present.iter_mut().zip(wanted) {
            let is_same = container.str_of("name") == wanted.str_of("name");
            let Some(container) = container.as_object_mut().filter(|_| is_same) else {
                continue;
            };
            match wanted.get("resources") {
                Some(resources) => container.set("resources", resources.clone()),
                None => drop(container.remove("resources")),
            }
        }
    }
}
