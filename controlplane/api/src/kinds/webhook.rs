//! ValidatingWebhookConfigurations and MutatingWebhookConfigurations: validation.
//!
//! Port of `pkg/apis/admissionregistration/validation/validation.go` and
//! `k8s.io/apiserver/pkg/util/webhook/validation.go`.

use std::collections::HashSet;

use crate::doc::{Doc, Value};
use crate::expression::{Environment, Expression, Kind, policy};
use crate::validate::meta::{Selectors, label_selector};
use crate::validate::names::{dns_1035_label, dns_subdomain, label_key, port_number};
use crate::validate::path::{Errors, Path};

/// The group of both kinds.
pub(crate) const GROUP: &str = "admissionregistration.k8s.io";
/// Both kinds.
pub(crate) const KINDS: [&str; 2] = [
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
];
/// What match conditions may refer to.
pub const CONDITIONS: Environment<'static> = Environment {
    roots: &[
        "object",
        "oldObject",
        "request",
        "namespaceObject",
        "authorizer",
        policy::REQUEST_RESOURCE,
    ],
    variables: &[],
    structs: false,
};
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];
/// Those a webhook may have by now.
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const SECONDS: std::ops::RangeInclusive<i64> = 1..=30;
const MAX_CONDITIONS: usize = 64;
const URL_FORM: &str = "; desired format: https://host[/path]";

/// What is overlooked in an update, because the old version has it too.
struct Leniency {
    side_effects: bool,
    review_versions: bool,
    names: bool,
    conditions: bool,
}

/// A configuration of either kind.
pub(crate) fn configuration(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let hooks = doc.list_at(&["webhooks"]);
    let leniency = Leniency::of(hooks, old.map(|old| old.list_at(&["webhooks"])));
    let path = Path::new("webhooks");
    let mut names = HashSet::new();
    for (i, hook) in hooks.iter().enumerate() {
        let at = path.index(i);
        webhook(hook, doc.kind(), &leniency, &at, errors);
        review_versions(
            hook,
            &leniency,
            &at.child("admissionReviewVersions"),
            errors,
        );
        let name = hook.str_of("name").unwrap_or_default();
        if !leniency.names && !name.is_empty() && !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
    }
}

// === impl Leniency ===

impl Leniency {
    fn of(new: &[Value<'_>], old: Option<&[Value<'_>]>) -> Self {
        let Some(old) = old else {
            return Self {
                side_effects: false,
                review_versions: false,
                names: false,
                conditions: false,
            };
        };
        let has_known = |hook: &Value<'_>| {
            let versions = hook.list_of("admissionReviewVersions");
            let mut known = versions.iter().filter_map(Value::as_str);
            versions.is_empty() || known.any(|version| REVIEW_VERSIONS.contains(&version))
        };
        let has_none = |hook: &Value<'_>| {
            let effects = hook.str_of("sideEffects").unwrap_or_default();
            NO_SIDE_EFFECTS.contains(&effects)
        };
        let mut names = HashSet::new();
        let is_unique = |hook: &Value<'_>| {
            let name = hook.str_of("name").unwrap_or_default();
            name.is_empty() || names.insert(name.to_owned())
        };
        let same =
            |(a, b): (&Value<'_>, &Value<'_>)| a.get("matchConditions") == b.get("matchConditions");
        Self {
            side_effects: !old.iter().all(has_none),
            review_versions: !old.iter().all(has_known),
            names: !old.iter().all(is_unique),
            conditions: new.len() == old.len() && new.iter().zip(old).all(same),
        }
    }
}

fn webhook(
    hook: &Value<'_>,
    kind: &str,
    leniency: &Leniency,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    qualified_name(hook.str_of("name"), &path.child("name"), errors);
    let rules = path.child("rules");
    for (i, one) in hook.list_of("rules").iter().enumerate() {
        rule(one, &rules.index(i), errors);
    }
    let mut enums = vec![
        ("failurePolicy", &["Fail", "Ignore"][..]),
        ("matchPolicy", &["Equivalent", "Exact"][..]),
    ];
    if kind == "MutatingWebhookConfiguration" {
        enums.push(("reinvocationPolicy", &["IfNeeded", "Never"][..]));
    }
    for (field, valid) in enums {
        errors.one_of(&path.child(field), hook.str_of(field), valid, false);
    }
    side_effects(
        hook.str_of("sideEffects"),
        leniency,
        &path.child("sideEffects"),
        errors,
    );
    if let Some(seconds) = hook.get("timeoutSeconds").and_then(Value::as_int)
        && !SECONDS.contains(&seconds)
    {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid_number(&path.child("timeoutSeconds"), seconds, detail);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        label_selector(
            hook.get(field),
            Selectors::Strict,
            &path.child(field),
            errors,
        );
    }
    client(
        hook.get("clientConfig"),
        &path.child("clientConfig"),
        errors,
    );
    if !leniency.conditions {
        let conditions = hook.list_of("matchConditions");
        match_conditions(
            conditions,
            &CONDITIONS,
            &path.child("matchConditions"),
            errors,
        );
    }
}

fn qualified_name(name: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    let name = name.unwrap_or_default();
    if name.is_empty() {
        return errors.required(path, "");
    }
    let problems = dns_subdomain(name);
    if !problems.is_empty() {
        errors.invalid(path, name, problems.join(","));
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.invalid(path, name, detail);
    }
}

fn side_effects(value: Option<&str>, leniency: &Leniency, path: &Path<'_>, errors: &mut Errors) {
    let allowed = if leniency.side_effects {
        &SIDE_EFFECTS[..]
    } else {
        &NO_SIDE_EFFECTS[..]
    };
    match value {
        None => errors.required(path, &format!("must specify one of {}", allowed.join(", "))),
        Some(value) if !allowed.contains(&value) => errors.not_supported(path, value, allowed),
        Some(_) => {}
    }
}

pub(crate) fn rule(rule: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let operations = rule.list_of("operations");
    list(rule, "operations", "operations", path, errors);
    let at = path.child("operations");
    for (i, operation) in operations.iter().enumerate() {
        let operation = operation.as_str().unwrap_or_default();
        if !OPERATIONS.contains(&operation) {
            errors.not_supported(&at.index(i), operation, &OPERATIONS);
        }
    }
    list(rule, "apiGroups", "API groups", path, errors);
    list(rule, "apiVersions", "API versions", path, errors);
    let at = path.child("apiVersions");
    for (i, version) in rule.list_of("apiVersions").iter().enumerate() {
        if version.as_str() == Some("") {
            errors.required(&at.index(i), "");
        }
    }
    resources(rule, &path.child("resources"), errors);
    let scopes = ["*", "Cluster", "Namespaced"];
    errors.one_of(&path.child("scope"), rule.str_of("scope"), &scopes, false);
}

/// A list that may not be empty, and in which `*` is alone.
fn list(rule: &Value<'_>, field: &str, what: &str, path: &Path<'_>, errors: &mut Errors) {
    let items = rule.list_of(field);
    let at = path.child(field);
    if items.is_empty() {
        errors.required(&at, "");
    }
    if items.len() > 1 && items.iter().any(|item| item.as_str() == Some("*")) {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.invalid_value(&at, rule.get(field), detail);
    }
}

fn resources(rule: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let items = rule.list_of("resources");
    if items.is_empty() {
        errors.required(path, "");
    }
    let (mut of_all, mut for_all) = (HashSet::new(), HashSet::new());
    let (mut is_double, mut is_single, mut is_plain) = (false, false, false);
    for (i, item) in items.iter().enumerate() {
        let text = item.as_str().unwrap_or_default();
        let at = path.index(i);
        if text.is_empty() {
            errors.required(&at, "");
            continue;
        }
        is_double |= text == "*/*";
        is_single |= text == "*";
        let Some((resource, sub)) = text.split_once('/') else {
            // Of the last one, as upstream.
            is_plain = text != "*";
            continue;
        };
        if of_all.contains(resource) {
            let detail = format!("if '{resource}/*' is present, must not specify {text}");
            errors.invalid(&at, text, detail);
        }
        if for_all.contains(sub) {
            let detail = format!("if '*/{sub}' is present, must not specify {text}");
            errors.invalid(&at, text, detail);
        }
        if sub == "*" {
            of_all.insert(resource);
        }
        if resource == "*" {
            for_all.insert(sub);
        }
    }
    if items.len() > 1 && is_double {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.invalid_value(path, rule.get("resources"), detail);
    }
    if is_single && is_plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid_value(path, rule.get("resources"), detail);
    }
}

fn review_versions(hook: &Value<'_>, leniency: &Leniency, path: &Path<'_>, errors: &mut Errors) {
    let versions = hook.list_of("admissionReviewVersions");
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        return errors.required(path, &format!("must specify one of {known}"));
    }
    let mut seen = HashSet::new();
    for (i, version) in versions.iter().enumerate() {
        let version = version.as_str().unwrap_or_default();
        if seen.insert(version) {
            errors.each(&path.index(i), version, dns_1035_label(version));
        } else {
            errors.invalid(&path.index(i), version, "duplicate version");
        }
    }
    if !leniency.review_versions && !REVIEW_VERSIONS.iter().any(|known| seen.contains(known)) {
        let detail = format!("must include at least one of {known}");
        errors.invalid_value(path, hook.get("admissionReviewVersions"), detail);
    }
}

fn client(client: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    let url = client.and_then(|client| client.str_of("url"));
    let reference = client.and_then(|client| client.get("service"));
    match (url, reference) {
        (Some(url), None) => url_of_webhook(url, &path.child("url"), errors),
        (None, Some(reference)) => service(reference, &path.child("service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn url_of_webhook(url: &str, path: &Path<'_>, errors: &mut Errors) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{URL_FORM}");
        errors.invalid(path, scheme, detail);
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let authority = if scheme.is_empty() { "" } else { authority };
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (user, host),
        None => ("", authority),
    };
    if host.is_empty() {
        errors.invalid(path, host, format!("host must be specified{URL_FORM}"));
    }
    if !user.is_empty() {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    if !fragment.is_empty() {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    if !query.is_empty() {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn service(reference: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    for field in ["name", "namespace"] {
        if reference.str_of(field).unwrap_or_default().is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    let port = reference.get("port").and_then(Value::as_int).unwrap_or(0);
    let problems = port_number(port);
    if !problems.is_empty() {
        let detail = format!("port is not valid: {}", problems.join(", "));
        errors.invalid_number(&path.child("port"), port, detail);
    }
    url_path(
        reference.str_of("path").unwrap_or_default(),
        &path.child("path"),
        errors,
    );
}

fn url_path(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if matches!(text, "" | "/") {
        return;
    }
    if text == "//" {
        return errors.invalid(path, text, "segment[0] may not be empty");
    }
    if !text.starts_with('/') {
        errors.invalid(path, text, "must start with a '/'");
    }
    let mut rest = text.chars();
    rest.next();
    let rest = rest.as_str();
    let steps = rest.strip_suffix('/').unwrap_or(rest).split('/');
    for (i, step) in steps.enumerate() {
        if step.is_empty() {
            errors.invalid(path, text, format!("segment[{i}] may not be empty"));
            continue;
        }
        for problem in dns_subdomain(step) {
            errors.invalid(path, text, format!("segment[{i}]: {problem}"));
        }
    }
}

/// Match conditions that may refer to what the environment has.
pub(crate) fn match_conditions(
    conditions: &[Value<'_>],
    environment: &Environment<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if conditions.len() > MAX_CONDITIONS {
        errors.too_many(path, conditions.len(), MAX_CONDITIONS);
    }
    let mut names = HashSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        let expression = condition.str_of("expression").unwrap_or_default();
        expression_of(
            expression.trim(),
            environment,
            &at.child("expression"),
            errors,
        );
        let name = condition.str_of("name").unwrap_or_default();
        errors.named(&at.child("name"), Some(name), label_key);
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
    }
}

fn expression_of(
    expression: &str,
    environment: &Environment<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if expression.is_empty() {
        return errors.required(path, "");
    }
    if let Err(why) = Expression::compile_to(expression, environment, &[Kind::Bool]) {
        errors.invalid(path, expression, why);
    }
}

#[cfg(test)]
mod tests {
    use bumpalo::Bump;
    use serde_json::json;

    use super::*;
    use crate::Facts;

    /// What is wrong with a configuration of one webhook.
    fn problems(change: impl FnOnce(&mut serde_json::Value)) -> Vec<String> {
        let mut hook = json!({
            "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://example.com/path"}, "timeoutSeconds": 10,
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                       "resources": ["pods"], "scope": "*"}],
        });
        change(&mut hook);
        let arena = Bump::new();
        let row = Facts::get()
            .resource(GROUP, "v1", "validatingwebhookconfigurations")
            .unwrap();
        let text = arena.alloc_str(&json!({"webhooks": [hook]}).to_string());
        let doc = crate::codec::decode_stored(text.as_bytes(), &row.schema, &arena).unwrap();
        let mut errors = Errors::default();
        configuration(&doc, None, &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn match_conditions_are_compiled() {
        let with = |expression: &str| {
            let conditions = json!([{"name": "a", "expression": expression}]);
            problems(|hook| hook["matchConditions"] = conditions).join("\n")
        };
        assert_eq!(with("object.metadata.name != 'skip-me'"), "");
        for (bad, want) in [
            ("... [] bad expression", "compilation failed"),
            ("'text'", "must evaluate to bool"),
            ("params.x", "undeclared reference"),
        ] {
            assert!(with(bad).contains(want), "{}", with(bad));
        }
    }

    #[test]
    fn a_whole_webhook_is_fine() {
        assert!(problems(|_| {}).is_empty());
        let service =
            json!({"service": {"namespace": "n", "name": "s", "path": "/a/b/", "port": 8443}});
        assert!(problems(|hook| hook["clientConfig"] = service).is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        type Change = fn(&mut serde_json::Value);
        let one = |change: Change| problems(change).join("\n");
        let table: [(Change, &str); 9] = [
            (
                |hook| hook["name"] = "a.b".into(),
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three \
                 segments separated by dots",
            ),
            (
                |hook| hook["sideEffects"] = "Some".into(),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \
                 \"NoneOnDryRun\"",
            ),
            (
                |hook| hook["timeoutSeconds"] = 31.into(),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 \
                 and 30 seconds",
            ),
            (
                |hook| hook["clientConfig"] = json!({}),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                |hook| hook["clientConfig"]["url"] = "http://example.com".into(),
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed \
                 URL scheme; desired format: https://host[/path]",
            ),
            (
                |hook| hook["clientConfig"]["url"] = "https://example.com/?a=b".into(),
                "webhooks[0].clientConfig.url: Invalid value: \"a=b\": query parameters are not \
                 permitted in the URL",
            ),
            (
                |hook| hook["rules"][0]["resources"] = json!(["*", "pods"]),
                "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, \
                 must not specify other resources without subresources",
            ),
            (
                |hook| hook["admissionReviewVersions"] = json!(["v2"]),
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least \
                 one of v1, v1beta1",
            ),
            (
                |hook| hook["matchConditions"] = json!([{"name": "a", "expression": " "}]),
                "webhooks[0].matchConditions[0].expression: Required value",
            ),
        ];
        for (change, want) in table {
            assert_eq!(one(change), want);
        }
    }
}
