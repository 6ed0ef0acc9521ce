//! What scheduling constraints must hold: affinity, spreading, tolerations.
//!
//! Port of that part of `pkg/apis/core/validation/validation.go`.

use crate::doc::Value;
use crate::validate::meta::label_selector;
use crate::validate::names::{dns_label, label_key, label_value};
use crate::validate::path::{Errors, Path};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Affinity to nodes and to pods.
pub(super) fn affinity(value: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    let Some(affinity) = value else { return };
    if let Some(node) = affinity.get("nodeAffinity") {
        let at = path.child("nodeAffinity");
        if let Some(required) = node.get(REQUIRED) {
            node_selector(required, &at.child(REQUIRED), errors);
        }
        let preferred = at.child(PREFERRED);
        for (i, term) in node.list_of(PREFERRED).iter().enumerate() {
            let at = preferred.index(i);
            weight(term, &at, errors);
            if let Some(preference) = term.get("preference") {
                node_term(preference, &at.child("preference"), false, errors);
            }
        }
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = affinity.get(name) else {
            continue;
        };
        let at = path.child(name);
        let required = at.child(REQUIRED);
        for (i, term) in pods.list_of(REQUIRED).iter().enumerate() {
            pod_term(term, &required.index(i), errors);
        }
        let preferred = at.child(PREFERRED);
        for (i, term) in pods.list_of(PREFERRED).iter().enumerate() {
            let at = preferred.index(i);
            weight(term, &at, errors);
            if let Some(term) = term.get("podAffinityTerm") {
                pod_term(term, &at.child("podAffinityTerm"), errors);
            }
        }
    }
}

fn weight(term: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let weight = term.int_of("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid_number(&at.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A node selector: terms of which one must hold.
pub(crate) fn node_selector(selector: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("nodeSelectorTerms");
    let terms = selector.list_of("nodeSelectorTerms");
    if terms.is_empty() {
        return errors.required(&at, "must have at least one node selector term");
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(term, &at.index(i), true, errors);
    }
}

fn node_term(term: &Value<'_>, path: &Path<'_>, check_values: bool, errors: &mut Errors) {
    let list = path.child("matchExpressions");
    for (i, requirement) in term.list_of("matchExpressions").iter().enumerate() {
        let at = list.index(i);
        let values = requirement.list_of("values");
        let operator = requirement.str_of("operator").unwrap_or_default();
        let values_at = at.child("values");
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.required(
                &values_at,
                "must be specified when `operator` is 'In' or 'NotIn'",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
                &values_at,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "Gt" | "Lt" if values.len() != 1 => errors.required(
                &values_at,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid(
                &at.child("operator"),
                other,
                "not a valid selector operator",
            ),
        }
        let key = requirement.str_of("key").unwrap_or_default();
        errors.each(&at.child("key"), key, label_key(key));
        for (v, value) in values.iter().filter_map(Value::as_str).enumerate() {
            if check_values {
                errors.each(&values_at.index(v), value, label_value(value));
            }
        }
    }
    let fields = path.child("matchFields");
    for (i, requirement) in term.list_of("matchFields").iter().enumerate() {
        let at = fields.index(i);
        let operator = requirement.str_of("operator").unwrap_or_default();
        if !matches!(operator, "In" | "NotIn") {
            errors.invalid(
                &at.child("operator"),
                operator,
                "not a valid selector operator",
            );
        } else if requirement.list_of("values").len() != 1 {
            let detail =
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(&at.child("values"), detail);
        }
        let key = requirement.str_of("key").unwrap_or_default();
        if key != "metadata.name" {
            errors.invalid(&at.child("key"), key, "not a valid field selector key");
        }
    }
}

fn pod_term(term: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    label_selector(
        term.get("labelSelector"),
        &path.child("labelSelector"),
        errors,
    );
    label_selector(
        term.get("namespaceSelector"),
        &path.child("namespaceSelector"),
        errors,
    );
    for name in term.list_of("namespaces").iter().filter_map(Value::as_str) {
        errors.each(&path.child("namespace"), name, dns_label(name));
    }
    let key = term.str_of("topologyKey").unwrap_or_default();
    let at = path.child("topologyKey");
    if key.is_empty() {
        errors.required(&at, "can not be empty");
    }
    errors.each(&at, key, label_key(key));
}

/// Topology spread constraints.
pub(super) fn spread(list: &[Value<'_>], path: &Path<'_>, errors: &mut Errors) {
    let actions = ["DoNotSchedule", "ScheduleAnyway"];
    for (i, constraint) in list.iter().enumerate() {
        let at = path.index(i);
        let text = |field| constraint.str_of(field).unwrap_or_default();
        let skew = constraint.int_of("maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.invalid_number(&at.child("maxSkew"), skew, "must be greater than zero");
        }
        if text("topologyKey").is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        }
        let action = text("whenUnsatisfiable");
        if !actions.contains(&action) {
            errors.not_supported(&at.child("whenUnsatisfiable"), action, &actions);
        }
        let key = |c: &Value<'_>| {
            (
                c.str_of("topologyKey").unwrap_or_default().to_owned(),
                c.str_of("whenUnsatisfiable").unwrap_or_default().to_owned(),
            )
        };
        if list[i + 1..]
            .iter()
            .any(|other| key(other) == key(constraint))
        {
            let shown = format!("{{{}, {action}}}", text("topologyKey"));
            errors.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), &shown);
        }
        if let Some(domains) = constraint.int_of("minDomains") {
            let at = at.child("minDomains");
            if domains <= 0 {
                errors.invalid_number(&at, domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                errors.invalid_number(
                    &at,
                    domains,
                    format!(
                        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                    ),
                );
            }
        }
        label_selector(
            constraint.get("labelSelector"),
            &at.child("labelSelector"),
            errors,
        );
    }
}

/// Tolerations.
pub(crate) fn tolerations(list: &[Value<'_>], path: &Path<'_>, errors: &mut Errors) {
    for (i, toleration) in list.iter().enumerate() {
        let at = path.index(i);
        let text = |field| toleration.str_of(field).unwrap_or_default();
        let (key, operator, value) = (text("key"), text("operator"), text("value"));
        let operator_at = at.child("operator");
        if !key.is_empty() {
            errors.each(&at.child("key"), key, label_key(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all \
                          values and all keys\"";
            errors.invalid(&operator_at, operator, detail);
        }
        if toleration.get("tolerationSeconds").is_some() && text("effect") != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&at.child("effect"), text("effect"), detail);
        }
        match operator {
            "" | "Equal" => {
                let problems = label_value(value);
                if !problems.is_empty() {
                    errors.invalid(&operator_at, value, problems.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.invalid(&operator_at, value, detail);
            }
            "Exists" => {}
            "Lt" | "Gt" => {
                let valid = ["Equal", "Exists", "Lt", "Gt"];
                errors.not_supported(&operator_at, operator, &valid);
            }
            other => errors.not_supported(&operator_at, other, &["Equal", "Exists"]),
        }
        if !text("effect").is_empty() {
            errors.one_of(&at.child("effect"), Some(text("effect")), &EFFECTS, false);
        }
    }
}
