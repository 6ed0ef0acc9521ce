//! Admission policies and their bindings, validating and mutating: validation.
//!
//! Port of `pkg/apis/admissionregistration/validation/validation.go`. Expressions are compiled by
//! [`crate::expression::policy`]; those that an object has already may stay as they are.

use std::collections::HashSet;

use super::webhook;
use crate::doc::{Doc, Value};
use crate::expression::{Environment, policy};
use crate::strategy::same;
use crate::validate::meta::{Selectors, label_selector};
use crate::validate::names::{dns_1035_label, dns_subdomain, label_key, path_segment};
use crate::validate::path::{Errors, Path};

/// The kinds.
pub(crate) const POLICIES: [&str; 2] = ["ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"];
pub(crate) const BINDINGS: [&str; 2] = [
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicyBinding",
];
const REASONS: [&str; 4] = [
    "Forbidden",
    "Invalid",
    "RequestEntityTooLarge",
    "Unauthorized",
];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
const MUTABLE: [&str; 2] = ["CREATE", "UPDATE"];
const MAX_AUDITS: usize = 20;
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// A policy of either kind.
pub(crate) fn policy(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let Some(spec) = doc.get(&["spec"]) else {
        return errors.required(&Path::new("spec"), "");
    };
    let is_mutating = doc.kind() == "MutatingAdmissionPolicy";
    let path = Path::new("spec");
    let failure = &["Fail", "Ignore"];
    errors.one_of(
        &path.child("failurePolicy"),
        spec.str_of("failurePolicy"),
        failure,
        true,
    );
    if let Some(kind) = spec.get("paramKind") {
        param_kind(kind, &path.child("paramKind"), errors);
    }
    constraints(spec, is_mutating, &path, errors);
    let roots = policy::roots(spec.get("paramKind").is_some(), true);
    let environment = Environment {
        roots: &roots,
        variables: &[],
        structs: false,
    };
    let is_changed = |field: &[&str]| old.is_none_or(|old| !same(doc, old, field));
    if is_changed(&["spec", policy::CONDITIONS]) {
        let list = spec.list_of(policy::CONDITIONS);
        let at = path.child(policy::CONDITIONS);
        webhook::match_conditions(list, &environment, &at, errors);
    }
    variables(spec.list_of("variables"), &path.child("variables"), errors);
    match is_mutating {
        true => mutations(spec, &path, errors),
        false => validations(doc.name(), spec, &path, errors),
    }
    if is_changed(&["spec"]) {
        let (_, problems) = policy::compile(spec);
        let is_other = |problem: &policy::Problem| !problem.field.starts_with(policy::CONDITIONS);
        for problem in problems.into_iter().filter(is_other) {
            errors.invalid(&path.child(&problem.field), &problem.source, problem.why);
        }
    }
}

/// A binding of either kind.
pub(crate) fn binding(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let name = doc.str_at(&["spec", "policyName"]);
    errors.named(&path.child("policyName"), name, dns_subdomain);
    if let Some(reference) = doc.get(&["spec", "paramRef"]) {
        param_ref(reference, &path.child("paramRef"), errors);
    }
    if let Some(resources) = doc.get(&["spec", "matchResources"]) {
        match_resources(resources, &path.child("matchResources"), errors);
    }
    if doc.kind() == "ValidatingAdmissionPolicyBinding" {
        actions(doc, &path.child("validationActions"), errors);
    }
}

fn actions(doc: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    let list = doc.list_at(&["spec", "validationActions"]);
    for (i, action) in list.iter().filter_map(Value::as_str).enumerate() {
        errors.one_of(&path.index(i), Some(action), &ACTIONS, false);
        if !seen.insert(action) {
            errors.duplicate(&path.index(i), action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure \
                      information in the API response and headers serves no purpose)";
        errors.invalid_value(path, doc.get(&["spec", "validationActions"]), detail);
    }
    if list.is_empty() {
        errors.required(path, "at least one validation action is required");
    }
}

fn param_kind(kind: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("apiVersion");
    let version = kind.str_of("apiVersion").unwrap_or_default();
    match version.split('/').collect::<Vec<_>>().as_slice() {
        [""] => errors.required(&at, ""),
        [version] => join(&at, version, dns_1035_label(version), errors),
        [group, version] => {
            if !group.is_empty() {
                join(&at, group, dns_subdomain(group), errors);
            }
            if version.is_empty() {
                errors.invalid(&at, version, "version must be specified");
            } else {
                join(&at, version, dns_1035_label(version), errors);
            }
        }
        _ => {
            let detail = format!("unexpected GroupVersion string: {version}");
            errors.invalid(&at, version, detail);
        }
    }
    let at = path.child("kind");
    let kind = kind.str_of("kind").unwrap_or_default();
    if kind.is_empty() {
        return errors.required(&at, "");
    }
    let problems = dns_1035_label(&kind.to_lowercase());
    if !problems.is_empty() {
        let detail = format!(
            "may have mixed case, but should otherwise match: {}",
            problems.join(",")
        );
        errors.invalid(&at, kind, detail);
    }
}

fn join(path: &Path<'_>, value: &str, problems: Vec<String>, errors: &mut Errors) {
    if !problems.is_empty() {
        errors.invalid(path, value, problems.join(","));
    }
}

fn constraints(spec: &Value<'_>, is_mutating: bool, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("matchConstraints");
    let Some(constraints) = spec.get("matchConstraints") else {
        return errors.required(&path, "");
    };
    match_resources(constraints, &path, errors);
    let rules = constraints.list_of("resourceRules");
    let path = path.child("resourceRules");
    if rules.is_empty() {
        errors.required(&path, "");
    }
    let operations = rules.iter().flat_map(|rule| rule.list_of("operations"));
    for operation in operations.filter_map(Value::as_str) {
        if is_mutating && !MUTABLE.contains(&operation) {
            errors.not_supported(&path.child("operations"), operation, &MUTABLE);
        }
    }
}

fn match_resources(resources: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    errors.one_of(
        &path.child("matchPolicy"),
        resources.str_of("matchPolicy"),
        &["Equivalent", "Exact"],
        true,
    );
    for field in ["namespaceSelector", "objectSelector"] {
        let (at, selector) = (path.child(field), resources.get(field));
        match selector {
            None => errors.required(&at, ""),
            selector => label_selector(selector, Selectors::Strict, &at, errors),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let at = path.child(field);
        for (i, rule) in resources.list_of(field).iter().enumerate() {
            let at = at.index(i);
            let mut seen = HashSet::new();
            let names = at.child("resourceNames");
            let list = rule.list_of("resourceNames").iter();
            for (i, name) in list.filter_map(Value::as_str).enumerate() {
                errors.each(&names.index(i), name, path_segment(name));
                if !seen.insert(name) {
                    errors.duplicate(&names.index(i), name);
                }
            }
            webhook::rule(rule, &at, errors);
        }
    }
}

fn variables(list: &[Value<'_>], path: &Path<'_>, errors: &mut Errors) {
    for (i, variable) in list.iter().enumerate() {
        let at = path.index(i);
        let name = variable.str_of("name").unwrap_or_default();
        if name.trim().is_empty() {
            errors.required(&at.child("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(&at.child("name"), name, "must be a valid CEL identifier");
        }
        if is_blank(variable, "expression") {
            errors.required(&at.child("expression"), "expression is not specified");
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let is_word = |c: char| c == '_' || c.is_ascii_alphanumeric();
    name.chars().all(is_word)
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !RESERVED.contains(&name)
}

fn is_blank(value: &Value<'_>, field: &str) -> bool {
    value.str_of(field).unwrap_or_default().trim().is_empty()
}

fn validations(name: &str, spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let (list, audits) = (
        spec.list_of("validations"),
        spec.list_of("auditAnnotations"),
    );
    if list.is_empty() && audits.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.required(&path.child("validations"), detail);
        errors.required(&path.child("auditAnnotations"), detail);
    }
    let at = path.child("validations");
    for (i, one) in list.iter().enumerate() {
        validation(one, &at.index(i), errors);
    }
    let at = path.child("auditAnnotations");
    if audits.len() > MAX_AUDITS {
        let detail = format!("must not have more than {MAX_AUDITS} auditAnnotations");
        errors.invalid_value(&at, spec.get("auditAnnotations"), detail);
    }
    let mut keys = HashSet::new();
    for (i, audit) in audits.iter().enumerate() {
        let at = at.index(i);
        let key = audit.str_of("key").unwrap_or_default();
        if name.is_empty() {
            let detail = "requires metadata.name be non-empty";
            errors.invalid(&at.child("key"), key, detail);
        } else {
            let qualified = format!("{name}/{key}");
            errors.each(&at.child("key"), &qualified, label_key(&qualified));
        }
        if is_blank(audit, "valueExpression") {
            let detail = "valueExpression is not specified";
            errors.required(&at.child("valueExpression"), detail);
        }
        if !keys.insert(key) {
            errors.duplicate(&at.child("key"), key);
        }
    }
}

fn validation(validation: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    if is_blank(validation, "expression") {
        errors.required(&path.child("expression"), "expression is not specified");
    }
    for field in ["messageExpression", "message"] {
        let text = validation.str_of(field).unwrap_or_default();
        if !text.is_empty() && text.trim().is_empty() {
            errors.invalid(&path.child(field), text, "must be non-empty if specified");
        } else if field == "message" && text.trim().contains(['\n', '\r']) {
            errors.invalid(&path.child(field), text, "must not contain line breaks");
        }
    }
    let reason = validation.str_of("reason");
    errors.one_of(&path.child("reason"), reason, &REASONS, false);
}

fn mutations(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let list = spec.list_of("mutations");
    let at = path.child("mutations");
    if list.is_empty() {
        errors.required(&at, "mutations must contain at least one item");
    }
    for (i, mutation) in list.iter().enumerate() {
        let at = at.index(i);
        let types = [
            ("ApplyConfiguration", "applyConfiguration", "jsonPatch"),
            ("JSONPatch", "jsonPatch", "applyConfiguration"),
        ];
        let given = mutation.str_of("patchType");
        let names = types.map(|(name, ..)| name);
        errors.one_of(&at.child("patchType"), given, &names, true);
        let Some((kind, own, other)) = types.into_iter().find(|(name, ..)| Some(*name) == given)
        else {
            continue;
        };
        match mutation.get(own) {
            None => {
                let detail = format!("must be specified when patchType is {kind}");
                errors.required(&at.child(own), &detail);
            }
            Some(patch) if is_blank(patch, "expression") => {
                errors.required(&at.child(own).child("expression"), "");
            }
            Some(_) => {}
        }
        if mutation.get(other).is_some() {
            let detail = format!("must not be specified when patchType is {kind}");
            errors.invalid(&at.child(other), &format!("{{{other}}}"), detail);
        }
    }
    let policies = &["IfNeeded", "Never"];
    let policy = spec.str_of("reinvocationPolicy");
    errors.one_of(&path.child("reinvocationPolicy"), policy, policies, true);
}

fn param_ref(reference: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let name = reference.str_of("name").unwrap_or_default();
    let selector = reference.get("selector");
    let exclusive = "name and selector are mutually exclusive";
    if !name.is_empty() {
        errors.each(&path.child("name"), name, path_segment(name));
        if selector.is_some() {
            errors.forbidden(&path.child("name"), exclusive);
        }
    }
    if selector.is_some() {
        let at = path.child("selector");
        label_selector(selector, Selectors::Strict, &at, errors);
        if !name.is_empty() {
            errors.forbidden(&at, exclusive);
        }
    }
    if name.is_empty() && selector.is_none() {
        errors.required(path, "one of name or selector must be specified");
    }
    errors.one_of(
        &path.child("parameterNotFoundAction"),
        reference.str_of("parameterNotFoundAction"),
        &["Deny", "Allow"],
        true,
    );
}
