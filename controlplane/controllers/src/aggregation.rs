//! Aggregated ClusterRoles: their rules are those of the roles their selectors match.
//!
//! Mechanism of pkg/controller/clusterroleaggregation/clusterroleaggregation_controller.go. The rules
//! are written by an update with the version that was read; upstream applies them.

use kube::core::{Selector, SelectorExt};
use serde_json::Value;

use crate::kinds::{ClusterRole, Projection};
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Plan};
use crate::view::{Change, Delta, World};
use crate::write::{Edit, Write};

#[derive(Debug, Default)]
pub struct ClusterRoleAggregation;

impl Controller for ClusterRoleAggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    /// There are few roles, and who selects whom is not known: every aggregated one is looked at.
    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        if let Change::ClusterRole(delta) = change
            && matters(delta)
        {
            let aggregated = world
                .clusterroles
                .iter()
                .filter(|(_, role)| role.aggregation_rule.is_some());
            keys.extend(aggregated.map(|(key, _)| key.clone()));
        }
    }

    fn plan(&mut self, world: &World, key: &Key, _: &Cx<'_>) -> Plan {
        let Some(role) = world.clusterroles.get(key) else {
            return Plan::nothing();
        };
        let Some(rules) = collected(world, role) else {
            return Plan::nothing();
        };
        if rules == role.rules.as_deref().unwrap_or_default() {
            return Plan::nothing();
        }
        Plan::write(Write::edit(
            &ClusterRole::RESOURCE,
            key.clone(),
            role.metadata.resource_version(),
            vec![Edit::set("/rules", rules)],
        ))
    }
}

/// Whether a role grants other rules, is selected by others, or selects others.
fn matters(delta: &Delta<ClusterRole>) -> bool {
    let (Some(old), Some(new)) = (&delta.old, &delta.new) else {
        return true;
    };
    old.rules != new.rules
        || old.metadata.labels != new.metadata.labels
        || old.aggregation_rule != new.aggregation_rule
}

/// The rules of every other role a selector matches, each once; roles by name, selectors in order.
/// None for a role that is not aggregated, or whose selectors are not valid.
fn collected(world: &World, role: &ClusterRole) -> Option<Vec<Value>> {
    let mut rules: Vec<Value> = Vec::new();
    for selector in &role.aggregation_rule.as_ref()?.cluster_role_selectors {
        let selector = Selector::try_from(selector.clone()).ok()?;
        for (_, other) in world.clusterroles.iter() {
            let labels = other.metadata.labels.clone().unwrap_or_default();
            if other.metadata.name == role.metadata.name || !selector.matches(&labels) {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sim::Sim;

    fn role(name: &str, label: &str, selects: Option<&str>, verbs: &[&str]) -> Value {
        let rules: Vec<Value> = verbs
            .iter()
            .map(|verb| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}))
            .collect();
        let mut role = json!({
            "metadata": {"name": name, "labels": {label: "true"}}, "rules": rules,
        });
        if let Some(selects) = selects {
            let selectors = json!([{"matchLabels": {selects: "true"}}]);
            role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
            role["rules"] = Value::Null;
        }
        role
    }

    fn verbs(sim: &Sim, name: &str) -> Vec<String> {
        let role = sim.world.clusterroles.get(&Key::cluster(name)).unwrap();
        let verbs = role.rules.iter().flatten();
        verbs
            .map(|rule| rule["verbs"][0].as_str().unwrap().to_owned())
            .collect()
    }

    fn sim() -> Sim {
        Sim::new(vec![Box::new(ClusterRoleAggregation)])
    }

    #[test]
    fn aggregated_roles_follow_what_they_select_also_through_each_other() {
        let mut sim = sim();
        sim.create::<ClusterRole>(role("admin", "none", Some("to-admin"), &[]));
        sim.create::<ClusterRole>(role("edit", "to-admin", Some("to-edit"), &[]));
        let pods = sim.create::<ClusterRole>(role("pods", "to-edit", None, &["update"]));
        sim.create::<ClusterRole>(role("own", "to-admin", None, &["delete", "delete"]));
        sim.settle();
        assert_eq!(verbs(&sim, "edit"), ["update"]);
        assert_eq!(verbs(&sim, "admin"), ["update", "delete"]);
        sim.edit::<ClusterRole>(&pods, |pods| pods["metadata"]["labels"] = json!({}));
        sim.settle();
        assert!(verbs(&sim, "edit").is_empty());
        assert_eq!(verbs(&sim, "admin"), ["delete"]);
    }

    #[test]
    fn a_role_that_selects_itself_comes_to_an_end() {
        let mut sim = sim();
        sim.create::<ClusterRole>(role("a", "x", Some("x"), &[]));
        sim.create::<ClusterRole>(role("b", "x", None, &["get"]));
        sim.settle();
        assert_eq!(verbs(&sim, "a"), ["get"]);
    }
}
