//! ClusterRoles with the rules that count: an aggregated role has those of every role its selectors
//! match, and these may be aggregated themselves.
//!
//! Upstream a controller copies the rules into the object (`pkg/controller/clusterroleaggregation`);
//! here the index derives them, so they are never late. Selectors by `matchExpressions` match
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use super::rule::PolicyRule;

type Labels = BTreeMap<String, String>;

/// A ClusterRole as the index needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterRole {
    metadata: Metadata,
    rules: Vec<PolicyRule>,
    aggregation_rule: Option<AggregationRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Metadata {
    labels: Labels,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AggregationRule {
    cluster_role_selectors: Vec<Selector>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Selector {
    match_labels: Labels,
    match_expressions: Vec<serde_json::Value>,
}

/// All ClusterRoles by name.
#[derive(Debug, Default)]
pub struct ClusterRoles {
    roles: HashMap<String, ClusterRole>,
    effective: HashMap<String, Arc<Vec<PolicyRule>>>,
}

// === impl ClusterRoles ===

impl ClusterRoles {
    /// The rules of a role; none if there is no such role.
    pub fn rules(&self, name: &str) -> Option<&Arc<Vec<PolicyRule>>> {
        self.effective.get(name)
    }

    /// Sets or removes a role.
    pub fn set(&mut self, name: &str, role: Option<ClusterRole>) {
        let touched: Vec<String> = self
            .roles
            .iter()
            .filter(|(_, other)| {
                let before = self.roles.get(name).is_some_and(|old| other.selects(old));
                before || role.as_ref().is_some_and(|new| other.selects(new))
            })
            .map(|(other, _)| other.clone())
            .collect();
        match role {
            Some(role) => self.roles.insert(name.to_owned(), role),
            None => self.roles.remove(name),
        };
        self.derive(name);
        if !touched.is_empty() {
            self.derive_aggregated();
        }
    }

    /// Every aggregated role: they may collect each other.
    fn derive_aggregated(&mut self) {
        let aggregated: Vec<String> = self
            .roles
            .iter()
            .filter(|(_, role)| role.is_aggregated())
            .map(|(name, _)| name.clone())
            .collect();
        for name in aggregated {
            self.derive(&name);
        }
    }

    fn derive(&mut self, name: &str) {
        if !self.roles.contains_key(name) {
            self.effective.remove(name);
            return;
        }
        let mut rules = Vec::new();
        self.collect(name, &mut BTreeSet::new(), &mut rules);
        self.effective.insert(name.to_owned(), Arc::new(rules));
    }

    fn collect<'r>(
        &'r self,
        name: &'r str,
        seen: &mut BTreeSet<&'r str>,
        into: &mut Vec<PolicyRule>,
    ) {
        let Some(role) = self.roles.get(name) else {
            return;
        };
        if !seen.insert(name) {
            return;
        }
        if !role.is_aggregated() {
            for rule in &role.rules {
                if !into.contains(rule) {
                    into.push(rule.clone());
                }
            }
            return;
        }
        for (other, candidate) in &self.roles {
            if role.selects(candidate) {
                self.collect(other, seen, into);
            }
        }
    }
}

// === impl ClusterRole ===

impl ClusterRole {
    fn is_aggregated(&self) -> bool {
        self.aggregation_rule
            .as_ref()
            .is_some_and(|rule| !rule.cluster_role_selectors.is_empty())
    }

    fn selects(&self, other: &ClusterRole) -> bool {
        let selectors = self
            .aggregation_rule
            .iter()
            .flat_map(|rule| &rule.cluster_role_selectors);
        selectors.into_iter().any(|selector| {
            let labels = &other.metadata.labels;
            selector.match_expressions.is_empty()
                && selector
                    .match_labels
                    .iter()
                    .all(|(key, value)| labels.get(key) == Some(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(label: &str, selects: &str, verb: &str) -> ClusterRole {
        let mut object = json!({"metadata": {"labels": {label: "true"}}});
        if !verb.is_empty() {
            object["rules"] = json!([{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]);
        }
        if !selects.is_empty() {
            let selectors = json!([{"matchLabels": {selects: "true"}}]);
            object["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
        }
        serde_json::from_value(object).unwrap()
    }

    fn verbs(roles: &ClusterRoles, name: &str) -> Vec<String> {
        let mut verbs: Vec<String> = roles
            .rules(name)
            .unwrap()
            .iter()
            .map(|rule| rule.verbs[0].clone())
            .collect();
        verbs.sort();
        verbs
    }

    #[test]
    fn aggregated_roles_follow_what_they_select_also_through_each_other() {
        let mut roles = ClusterRoles::default();
        roles.set("admin", Some(role("none", "to-admin", "")));
        roles.set("edit", Some(role("to-admin", "to-edit", "")));
        assert!(verbs(&roles, "admin").is_empty());
        roles.set("pods", Some(role("to-edit", "", "update")));
        roles.set("own", Some(role("to-admin", "", "delete")));
        assert_eq!(verbs(&roles, "edit"), ["update"]);
        assert_eq!(verbs(&roles, "admin"), ["delete", "update"]);
        roles.set("pods", None);
        assert!(verbs(&roles, "edit").is_empty());
        assert_eq!(verbs(&roles, "admin"), ["delete"]);
        assert!(roles.rules("pods").is_none());
    }

    #[test]
    fn roles_that_select_each_other_come_to_an_end() {
        let mut roles = ClusterRoles::default();
        roles.set("a", Some(role("x", "y", "")));
        roles.set("b", Some(role("y", "x", "")));
        roles.set("c", Some(role("x", "", "get")));
        assert_eq!(verbs(&roles, "a"), ["get"]);
    }
}
