//! What scheduling constraints must hold: affinity, spreading, tolerations.
//!
//! Port of that part of `pkg/apis/core/validation/validation.go`.

use super::options::{Options, fails};
use crate::doc::{Object, Value};
use crate::validate::meta::{Selectors, label_selector};
use crate::validate::names::{dns_label, dns_subdomain, label_key, label_value};
use crate::validate::path::{Errors, Path};

/// What a taint does to pods that do not tolerate it.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const SPREAD_ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
const NODE_POLICIES: [&str; 2] = ["Honor", "Ignore"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const POD_AFFINITIES: [&str; 2] = ["podAffinity", "podAntiAffinity"];

/// Affinity to nodes and to pods.
pub(super) fn affinity(
    value: Option<&Value<'_>>,
    options: &Options,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(affinity) = value else { return };
    if let Some(node) = affinity.get("nodeAffinity") {
        let at = path.child("nodeAffinity");
        if let Some(required) = node.get(REQUIRED) {
            let strict = !options.node_affinity_values;
            node_terms(required, strict, &at.child(REQUIRED), errors);
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
    for name in POD_AFFINITIES {
        let Some(pods) = affinity.get(name) else {
            continue;
        };
        let at = path.child(name);
        let required = at.child(REQUIRED);
        let rule = options.affinity_selectors;
        for (i, term) in pods.list_of(REQUIRED).iter().enumerate() {
            pod_term(term, rule, &required.index(i), errors);
        }
        let preferred = at.child(PREFERRED);
        for (i, term) in pods.list_of(PREFERRED).iter().enumerate() {
            let at = preferred.index(i);
            weight(term, &at, errors);
            let term = term.get("podAffinityTerm").unwrap_or(&Value::Null);
            pod_term(term, rule, &at.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let weight = term.int_of("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid_number(&at.child("weight"), weight, "must be in the range 1-100");
    }
}

/// Terms of pod affinity, required and preferred ones.
fn pod_terms<'v, 'a>(spec: &'v Value<'a>) -> impl Iterator<Item = &'v Value<'a>> {
    let affinities = POD_AFFINITIES
        .into_iter()
        .filter_map(|name| spec.at(&["affinity", name]));
    affinities.flat_map(|pods| {
        let preferred = pods
            .list_of(PREFERRED)
            .iter()
            .filter_map(|t| t.get("podAffinityTerm"));
        pods.list_of(REQUIRED).iter().chain(preferred)
    })
}

/// Whether selectors of a spec's pod affinity are malformed.
pub(super) fn has_bad_affinity_selectors(spec: &Value<'_>) -> bool {
    pod_terms(spec).any(|term| {
        fails(|path, errors| {
            for field in ["labelSelector", "namespaceSelector"] {
                label_selector(term.get(field), Selectors::Strict, path, errors);
            }
        })
    })
}

/// Whether values in a spec's required node affinity are malformed.
pub(super) fn has_bad_node_affinity_values(spec: &Value<'_>) -> bool {
    let required = spec.at(&["affinity", "nodeAffinity", REQUIRED]);
    let terms = required
        .map(|r| r.list_of("nodeSelectorTerms"))
        .unwrap_or_default();
    let expressions = terms
        .iter()
        .flat_map(|term| term.list_of("matchExpressions"));
    expressions
        .flat_map(|expression| expression.list_of("values"))
        .filter_map(Value::as_str)
        .any(|value| !label_value(value).is_empty())
}

fn node_terms(selector: &Value<'_>, strict: bool, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("nodeSelectorTerms");
    let terms = selector.list_of("nodeSelectorTerms");
    if terms.is_empty() {
        return errors.required(&at, "must have at least one node selector term");
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(term, &at.index(i), strict, errors);
    }
}

fn node_term(term: &Value<'_>, path: &Path<'_>, check_values: bool, errors: &mut Errors) {
    let list = path.child("matchExpressions");
    for (i, requirement) in term.list_of("matchExpressions").iter().enumerate() {
        let at = list.index(i);
        let values = requirement.list_of("values");
        let values_at = at.child("values");
        match requirement.str_of("operator").unwrap_or_default() {
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
            other => {
                errors.invalid(
                    &at.child("operator"),
                    other,
                    "not a valid selector operator",
                );
            }
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
        field_requirement(requirement, &fields.index(i), errors);
    }
}

fn field_requirement(requirement: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let values = requirement.list_of("values");
    let values_at = at.child("values");
    let operator = requirement.str_of("operator").unwrap_or_default();
    if !matches!(operator, "In" | "NotIn") {
        errors.invalid(
            &at.child("operator"),
            operator,
            "not a valid selector operator",
        );
    } else if values.len() != 1 {
        let detail =
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
        errors.required(&values_at, detail);
    }
    let key = requirement.str_of("key").unwrap_or_default();
    if key != "metadata.name" {
        return errors.invalid(&at.child("key"), key, "not a valid field selector key");
    }
    for (v, value) in values.iter().filter_map(Value::as_str).enumerate() {
        errors.each(&values_at.index(v), value, dns_subdomain(value));
    }
}

fn pod_term(term: &Value<'_>, rule: Selectors, path: &Path<'_>, errors: &mut Errors) {
    for field in ["labelSelector", "namespaceSelector"] {
        label_selector(term.get(field), rule, &path.child(field), errors);
    }
    for name in term.list_of("namespaces").iter().filter_map(Value::as_str) {
        errors.each(&path.child("namespace"), name, dns_label(name));
    }
    label_keys(term, path, errors);
    let key = term.str_of("topologyKey").unwrap_or_default();
    let at = path.child("topologyKey");
    if key.is_empty() {
        errors.required(&at, "can not be empty");
    }
    errors.each(&at, key, label_key(key));
}

/// `matchLabelKeys` and `mismatchLabelKeys`. The selector has what the server made of them already, so a
/// key that is in it twice was also the client's.
fn label_keys(term: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let selector = term.get("labelSelector");
    let keys = |field| term.list_of(field).iter().filter_map(Value::as_str);
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let at = path.child(field);
        if selector.is_none() && keys(field).next().is_some() {
            errors.forbidden(&at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys(field).enumerate() {
            errors.each(&at.index(i), key, label_key(key));
        }
    }
    if let Some(selector) = selector {
        let labels = selector.get("matchLabels").and_then(Value::as_object);
        let mut seen: Vec<&str> = labels
            .into_iter()
            .flat_map(Object::iter)
            .map(|(key, _)| key)
            .collect();
        for expression in selector.list_of("matchExpressions") {
            let key = expression.str_of("key").unwrap_or_default();
            let own = keys("matchLabelKeys")
                .enumerate()
                .filter(|(_, own)| *own == key)
                .last();
            if let Some((i, key)) = own.filter(|_| seen.contains(&key)) {
                let detail = "exists in both matchLabelKeys and labelSelector";
                errors.invalid(&path.index(i), key, detail);
            }
            seen.push(key);
        }
    }
    let at = path.child("matchLabelKeys");
    for (i, key) in keys("matchLabelKeys").enumerate() {
        if keys("mismatchLabelKeys").any(|other| other == key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.invalid(&at.index(i), key, detail);
        }
    }
}

/// The older rule: keys are labels, and not in the selector.
fn distinct_label_keys(constraint: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let keys = constraint.list_of("matchLabelKeys");
    if keys.is_empty() {
        return;
    }
    let selector = constraint.get("labelSelector");
    if selector.is_none() {
        errors.forbidden(path, "must not be specified when labelSelector is not set");
    }
    for (i, key) in keys.iter().filter_map(Value::as_str).enumerate() {
        let at = path.index(i);
        errors.each(&at, key, label_key(key));
        let selected = selector.is_some_and(|s| {
            s.at(&["matchLabels", key]).is_some()
                || s.list_of("matchExpressions")
                    .iter()
                    .any(|e| e.str_of("key").unwrap_or_default() == key)
        });
        if selected {
            errors.invalid(&at, key, "exists in both matchLabelKeys and labelSelector");
        }
    }
}

/// Whether selectors of a spec's spread constraints are malformed.
pub(super) fn has_bad_spread_selectors(spec: &Value<'_>) -> bool {
    spec.list_of("topologySpreadConstraints")
        .iter()
        .any(|constraint| {
            fails(|path, errors| {
                label_selector(
                    constraint.get("labelSelector"),
                    Selectors::Strict,
                    path,
                    errors,
                );
            })
        })
}

/// Whether `matchLabelKeys` of a spec's spread constraints break the rule for them.
pub(super) fn has_bad_label_keys(spec: &Value<'_>) -> bool {
    let constraints = spec.list_of("topologySpreadConstraints");
    constraints
        .iter()
        .any(|constraint| fails(|path, errors| label_keys(constraint, path, errors)))
}

/// Topology spread constraints.
pub(super) fn spread(list: &[Value<'_>], options: &Options, path: &Path<'_>, errors: &mut Errors) {
    for (i, constraint) in list.iter().enumerate() {
        let at = path.index(i);
        let text = |field| constraint.str_of(field).unwrap_or_default();
        let (key, action) = (text("topologyKey"), text("whenUnsatisfiable"));
        let skew = constraint.int_of("maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.invalid_number(&at.child("maxSkew"), skew, "must be greater than zero");
        }
        if key.is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        }
        if !SPREAD_ACTIONS.contains(&action) {
            errors.not_supported(&at.child("whenUnsatisfiable"), action, &SPREAD_ACTIONS);
        }
        let repeated = list[i + 1..].iter().any(|other| {
            other.str_of("topologyKey").unwrap_or_default() == key
                && other.str_of("whenUnsatisfiable").unwrap_or_default() == action
        });
        if repeated {
            let shown = format!("{{{key}, {action}}}");
            errors.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), &shown);
        }
        min_domains(constraint, action, &at.child("minDomains"), errors);
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.one_of(
                &at.child(field),
                constraint.str_of(field),
                &NODE_POLICIES,
                false,
            );
        }
        if options.repeated_label_keys {
            distinct_label_keys(constraint, &at.child("matchLabelKeys"), errors);
        } else {
            label_keys(constraint, &at, errors);
        }
        if !options.spread_selectors {
            let selector = constraint.get("labelSelector");
            label_selector(
                selector,
                Selectors::Strict,
                &at.child("labelSelector"),
                errors,
            );
        }
    }
}

fn min_domains(constraint: &Value<'_>, action: &str, at: &Path<'_>, errors: &mut Errors) {
    let Some(domains) = constraint.int_of("minDomains") else {
        return;
    };
    if domains <= 0 {
        errors.invalid_number(at, domains, "must be greater than zero");
    }
    if action != "DoNotSchedule" {
        let detail =
            format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        errors.invalid_number(at, domains, detail);
    }
}

/// Tolerations.
pub(crate) fn tolerations(
    list: &[Value<'_>],
    options: &Options,
    path: &Path<'_>,
    errors: &mut Errors,
) {
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
            "Lt" | "Gt" if options.comparing_tolerations => {
                compared(value, &at.child("value"), errors);
            }
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

/// The value of a comparison: a decimal number of 64 bits.
fn compared(value: &str, at: &Path<'_>, errors: &mut Errors) {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let canonical = value == "0" || (digits.starts_with(|c: char| ('1'..='9').contains(&c)));
    if !canonical || !digits.bytes().all(|b| b.is_ascii_digit()) {
        let detail = "must be a valid decimal integer in canonical form";
        errors.invalid(at, value, detail);
    }
    if value.parse::<i64>().is_err() {
        let why = crate::status::not_a_number("ParseInt", value);
        errors.invalid(at, value, why);
    }
}
