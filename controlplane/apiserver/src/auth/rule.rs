//! Policy rules: what one rule allows, and whether some rules cover others. Pure.
//!
//! Port of `pkg/apis/rbac/v1/evaluation_helpers.go` and of
//! `k8s.io/component-helpers/auth/rbac/validation/policy_comparator.go`.

use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;

const ALL: &str = "*";

/// A rule of a Role or ClusterRole. Field names are those of `rbac.authorization.k8s.io/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PolicyRule {
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// Whether one of the rules allows what is asked.
pub fn any_allows<'r>(
    rules: impl IntoIterator<Item = &'r PolicyRule>,
    attributes: &Attributes,
) -> bool {
    rules.into_iter().any(|rule| rule.allows(attributes))
}

/// The single permissions of `servant` that no rule of `owner` covers.
pub fn uncovered(owner: &[PolicyRule], servant: &[PolicyRule]) -> Vec<PolicyRule> {
    servant
        .iter()
        .flat_map(PolicyRule::single_permissions)
        .filter(|single| !owner.iter().any(|rule| rule.covers(single)))
        .collect()
}

/// Describes permissions, one line each, those that differ by verb only together.
pub fn describe(singles: Vec<PolicyRule>) -> String {
    let mut merged: Vec<PolicyRule> = Vec::new();
    for single in singles {
        let same = merged.iter_mut().find(|rule| {
            rule.api_groups == single.api_groups
                && rule.resources == single.resources
                && rule.resource_names == single.resource_names
                && rule.non_resource_urls == single.non_resource_urls
        });
        match same {
            Some(rule) => rule.verbs.extend(single.verbs),
            None => merged.push(single),
        }
    }
    let mut lines: Vec<String> = merged.iter().map(PolicyRule::compact_string).collect();
    lines.sort();
    lines.dedup();
    lines.join("\n")
}

// === impl PolicyRule ===

impl PolicyRule {
    /// Full authority over resources and over other paths.
    pub fn full_authority() -> [Self; 2] {
        let all = || vec![ALL.to_owned()];
        [
            Self {
                verbs: all(),
                api_groups: all(),
                resources: all(),
                ..Self::default()
            },
            Self {
                verbs: all(),
                non_resource_urls: all(),
                ..Self::default()
            },
        ]
    }

    /// Whether this rule allows what is asked.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !has_or_all(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.is_resource {
            return self
                .non_resource_urls
                .iter()
                .any(|url| url_matches(url, &attributes.path));
        }
        has_or_all(&self.api_groups, &attributes.group)
            && self.allows_resource(&attributes.resource, &attributes.subresource)
            && (self.resource_names.is_empty() || self.resource_names.contains(&attributes.name))
    }

    fn allows_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|allowed| {
            if allowed == ALL {
                return true;
            }
            match allowed.split_once('/') {
                None => subresource.is_empty() && allowed == resource,
                Some((ALL, sub)) => !subresource.is_empty() && sub == subresource,
                Some((name, sub)) => name == resource && sub == subresource,
            }
        })
    }

    /// Splits into rules with one verb and one resource, name or URL each.
    fn single_permissions(&self) -> Vec<Self> {
        let mut singles = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                singles.push(Self {
                    verbs: one(verb),
                    non_resource_urls: one(url),
                    ..Self::default()
                });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let plain = Self {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        singles.push(plain);
                        continue;
                    }
                    singles.extend(self.resource_names.iter().map(|name| Self {
                        resource_names: one(name),
                        ..plain.clone()
                    }));
                }
            }
        }
        singles
    }

    /// Whether this rule covers a single permission.
    fn covers(&self, single: &Self) -> bool {
        let within = |own: &[String], asked: &[String]| {
            own.iter().any(|v| v == ALL) || asked.iter().all(|v| own.contains(v))
        };
        let resource_covered = |asked: &String| {
            self.resources.iter().any(|own| {
                own == ALL
                    || own == asked
                    || own.strip_prefix("*/").is_some_and(|own_sub| {
                        asked.split_once('/').is_some_and(|(_, sub)| sub == own_sub)
                    })
            })
        };
        let names = self.resource_names.is_empty()
            || (!single.resource_names.is_empty()
                && single
                    .resource_names
                    .iter()
                    .all(|n| self.resource_names.contains(n)));
        within(&self.verbs, &single.verbs)
            && within(&self.api_groups, &single.api_groups)
            && single.resources.iter().all(resource_covered)
            && (single.resources.is_empty() || names)
            && single.non_resource_urls.iter().all(|asked| {
                self.non_resource_urls
                    .iter()
                    .any(|own| url_matches(own, asked))
            })
    }

    fn compact_string(&self) -> String {
        let list = |name: &str, values: &[String]| {
            (!values.is_empty()).then(|| format!("{name}:{values:?}"))
        };
        let parts: Vec<String> = [
            list("NonResourceURLs", &self.non_resource_urls),
            list("APIGroups", &self.api_groups),
            list("Resources", &self.resources),
            list("ResourceNames", &self.resource_names),
            list("Verbs", &self.verbs),
        ]
        .into_iter()
        .flatten()
        .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

fn has_or_all(list: &[String], value: &str) -> bool {
    list.iter().any(|entry| entry == ALL || entry == value)
}

/// `*` is everything, a trailing `*` a prefix.
fn url_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(json: serde_json::Value) -> PolicyRule {
        serde_json::from_value(json).unwrap()
    }

    fn ask(verb: &str, uri: &str) -> Attributes {
        let mut attributes = Attributes::parse(&http::Method::GET, uri, None);
        attributes.verb = verb.to_owned();
        attributes
    }

    #[test]
    fn a_rule_allows_what_it_names() {
        let pods = rule(serde_json::json!(
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/status"]}));
        // verb, uri, allowed
        let table = [
            ("get", "/api/v1/namespaces/a/pods/b", true),
            ("list", "/api/v1/namespaces/a/pods", false),
            ("get", "/api/v1/namespaces/a/pods/b/log", false),
            ("get", "/api/v1/namespaces/a/services/b/status", true),
            ("get", "/apis/apps/v1/namespaces/a/pods/b", false),
            ("get", "/healthz", false),
        ];
        for (verb, uri, allowed) in table {
            assert_eq!(pods.allows(&ask(verb, uri)), allowed, "{verb} {uri}");
        }
    }

    #[test]
    fn names_and_urls_limit_a_rule() {
        let named = rule(serde_json::json!(
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["b"]}));
        assert!(named.allows(&ask("get", "/api/v1/namespaces/a/pods/b")));
        assert!(!named.allows(&ask("get", "/api/v1/namespaces/a/pods/c")));
        assert!(!named.allows(&ask("list", "/api/v1/namespaces/a/pods")));
        let urls = rule(
            serde_json::json!({"verbs": ["get"], "nonResourceURLs": ["/healthz/*", "/version"]}),
        );
        assert!(urls.allows(&ask("get", "/healthz/ping")));
        assert!(urls.allows(&ask("get", "/version")));
        assert!(!urls.allows(&ask("get", "/versions")));
    }

    #[test]
    fn uncovered_permissions_are_described() {
        let owner = [rule(serde_json::json!(
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}))];
        let wanted = [rule(serde_json::json!(
            {"verbs": ["get", "delete", "watch"], "apiGroups": [""], "resources": ["pods"]}))];
        assert!(uncovered(&owner, &owner).is_empty());
        assert!(uncovered(&PolicyRule::full_authority(), &wanted).is_empty());
        let missing = describe(uncovered(&owner, &wanted));
        assert_eq!(
            missing,
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete", "watch"]}"#
        );
    }

    #[test]
    fn a_named_permission_does_not_cover_an_unnamed_one() {
        let named = rule(serde_json::json!(
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}));
        let unnamed = rule(serde_json::json!(
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
        assert_eq!(
            uncovered(std::slice::from_ref(&named), std::slice::from_ref(&unnamed)).len(),
            1
        );
        assert!(uncovered(&[unnamed], &[named]).is_empty());
    }

    fn some_of(values: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
        proptest::sample::subsequence(values, 0..values.len())
            .prop_map(|values| values.into_iter().map(str::to_owned).collect())
    }

    fn rules() -> impl Strategy<Value = Vec<PolicyRule>> {
        let rule = (
            some_of(&["get", "list", "delete", "*"]),
            some_of(&["", "apps", "*"]),
            some_of(&["pods", "pods/log", "services", "*/log", "*"]),
            some_of(&["a", "b"]),
            some_of(&["/healthz", "/healthz/*", "/metrics", "*"]),
        );
        let rule =
            rule.prop_map(
                |(verbs, api_groups, resources, resource_names, urls)| PolicyRule {
                    verbs,
                    api_groups,
                    resources,
                    resource_names,
                    non_resource_urls: urls,
                },
            );
        proptest::collection::vec(rule, 0..4)
    }

    /// Every request there is in the small world of [`rules`].
    fn requests() -> Vec<Attributes> {
        let mut requests = Vec::new();
        for verb in ["get", "list", "delete", "watch"] {
            for path in ["/healthz", "/healthz/x", "/metrics", "/other"] {
                requests.push(ask(verb, path));
            }
            for root in ["/api/v1", "/apis/apps/v1", "/apis/batch/v1"] {
                for rest in [
                    "pods",
                    "pods/a",
                    "pods/b/log",
                    "services/b",
                    "services/c/log",
                ] {
                    requests.push(ask(verb, &format!("{root}/namespaces/n/{rest}")));
                }
            }
        }
        requests
    }

    proptest! {
        #[test]
        fn who_covers_rules_may_do_whatever_they_allow(owner in rules(), servant in rules()) {
            if uncovered(&owner, &servant).is_empty() {
                for request in requests() {
                    let granted = any_allows(&servant, &request);
                    prop_assert!(!granted || any_allows(&owner, &request), "{request:?}");
                }
            }
        }

        #[test]
        fn rules_cover_themselves(rules in rules()) {
            prop_assert!(uncovered(&rules, &rules).is_empty());
        }
    }
}
