//! What makes an RBAC object that exists grant at least what the bootstrap policy wants. Pure.
//!
//! Port of `k8s.io/component-helpers/auth/rbac/reconciliation/reconcile_{role,rolebindings}.go` in the
//! mode the server uses: permissions and subjects are added, never taken away, and an object
//! annotated `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

use serde_json::{Map, Value};

use super::lenient;
use super::rule::{PolicyRule, uncovered};

/// The annotation that, when "false", keeps an object as it is.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What an existing object needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Reconciled {
    /// It is as wanted.
    Same,
    /// It is not as wanted, and its annotation says to leave it so.
    Protected,
    /// The object with what was missing.
    Update(Value),
    /// A binding to another role: role references cannot change, so it is made anew.
    Recreate,
}

/// A Role or ClusterRole.
pub fn role(existing: &Value, expected: &Value) -> Reconciled {
    let mut role = with_expected_meta(existing, expected);
    let aggregated = |role: &Value| !role["aggregationRule"].is_null();
    // The rules of an aggregated role are its controller's.
    if !aggregated(expected) {
        let missing = uncovered(&rules(existing), &rules(expected));
        if !missing.is_empty() {
            let missing = serde_json::to_value(missing).expect("rules are plain data");
            extend(&mut role, "rules", missing);
        }
        if aggregated(existing)
            && let Some(role) = role.as_object_mut()
        {
            role.remove("aggregationRule");
        }
    } else {
        let missing = missing_items(
            &existing["aggregationRule"]["clusterRoleSelectors"],
            &expected["aggregationRule"]["clusterRoleSelectors"],
        );
        if !missing.is_empty() {
            if !aggregated(existing) {
                role["aggregationRule"] = Value::Object(Map::new());
            }
            let rule = &mut role["aggregationRule"];
            extend(rule, "clusterRoleSelectors", Value::Array(missing));
        }
    }
    outcome(existing, role)
}

/// A RoleBinding or ClusterRoleBinding.
pub fn binding(existing: &Value, expected: &Value) -> Reconciled {
    if existing["roleRef"] != expected["roleRef"] {
        return if is_protected(existing) {
            Reconciled::Protected
        } else {
            Reconciled::Recreate
        };
    }
    let mut binding = with_expected_meta(existing, expected);
    let missing = missing_items(&existing["subjects"], &expected["subjects"]);
    if !missing.is_empty() {
        extend(&mut binding, "subjects", Value::Array(missing));
    }
    outcome(existing, binding)
}

fn outcome(existing: &Value, wanted: Value) -> Reconciled {
    if wanted == *existing {
        Reconciled::Same
    } else if is_protected(existing) {
        Reconciled::Protected
    } else {
        Reconciled::Update(wanted)
    }
}

fn is_protected(object: &Value) -> bool {
    object["metadata"]["annotations"][AUTOUPDATE] == "false"
}

/// The existing object with the labels and annotations it lacks.
fn with_expected_meta(existing: &Value, expected: &Value) -> Value {
    let mut object = existing.clone();
    for field in ["labels", "annotations"] {
        let Some(wanted) = expected["metadata"][field].as_object() else {
            continue;
        };
        for (key, value) in wanted {
            if object["metadata"][field].get(key).is_none() {
                object["metadata"][field][key] = value.clone();
            }
        }
    }
    object
}

fn rules(role: &Value) -> Vec<PolicyRule> {
    let rules = role["rules"].to_string();
    lenient::from_slice(rules.as_bytes()).unwrap_or_default()
}

fn missing_items(existing: &Value, expected: &Value) -> Vec<Value> {
    let items = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let existing = items(existing);
    let mut missing = items(expected);
    missing.retain(|item| !existing.contains(item));
    missing
}

fn extend(object: &mut Value, field: &str, more: Value) {
    let mut list = object[field].as_array().cloned().unwrap_or_default();
    list.extend(more.as_array().cloned().unwrap_or_default());
    object[field] = Value::Array(list);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(resource: &str, verbs: &[&str]) -> Value {
        json!({"apiGroups": [""], "resources": [resource], "verbs": verbs})
    }

    fn role_of(rules: &[Value]) -> Value {
        json!({"metadata": {"name": "r"}, "rules": rules})
    }

    #[test]
    fn a_role_gets_back_what_it_lacks_and_keeps_what_it_has_besides() {
        let expected = role_of(&[rule("pods", &["get", "list"])]);
        let existing = role_of(&[rule("pods", &["get"]), rule("nodes", &["get"])]);
        let Reconciled::Update(updated) = role(&existing, &expected) else {
            panic!("an update");
        };
        let want = [
            rule("pods", &["get"]),
            rule("nodes", &["get"]),
            rule("pods", &["list"]),
        ];
        assert_eq!(updated["rules"], json!(want));
        assert_eq!(role(&updated, &expected), Reconciled::Same);
    }

    #[test]
    fn permissions_covered_in_other_words_are_not_missing() {
        let expected = role_of(&[rule("pods", &["get", "list"])]);
        let existing = role_of(&[rule("*", &["*"])]);
        assert_eq!(role(&existing, &expected), Reconciled::Same);
    }

    #[test]
    fn a_protected_role_stays_as_it_is() {
        let expected = role_of(&[rule("pods", &["get"])]);
        let mut existing = role_of(&[]);
        existing["metadata"]["annotations"] = json!({AUTOUPDATE: "false"});
        assert_eq!(role(&existing, &expected), Reconciled::Protected);
        existing["metadata"]["annotations"] = json!({AUTOUPDATE: "true"});
        assert!(matches!(role(&existing, &expected), Reconciled::Update(_)));
    }

    #[test]
    fn labels_and_annotations_are_added_but_not_changed() {
        let mut expected = role_of(&[]);
        expected["metadata"]["labels"] = json!({"a": "1", "b": "2"});
        let mut existing = role_of(&[]);
        existing["metadata"]["labels"] = json!({"a": "mine"});
        let Reconciled::Update(updated) = role(&existing, &expected) else {
            panic!("an update");
        };
        assert_eq!(
            updated["metadata"]["labels"],
            json!({"a": "mine", "b": "2"})
        );
    }

    #[test]
    fn an_aggregated_role_keeps_its_rules_and_gets_its_selectors() {
        let selector = |label: &str| json!({"matchLabels": {label: "true"}});
        let aggregated = |selectors: &[Value], rules: &[Value]| {
            json!({
                "metadata": {"name": "r"}, "rules": rules,
                "aggregationRule": {"clusterRoleSelectors": selectors},
            })
        };
        let expected = aggregated(&[selector("a")], &[rule("pods", &["get"])]);
        let existing = aggregated(&[selector("mine")], &[rule("nodes", &["get"])]);
        let want = aggregated(
            &[selector("mine"), selector("a")],
            &[rule("nodes", &["get"])],
        );
        assert_eq!(role(&existing, &expected), Reconciled::Update(want));
        let Reconciled::Update(plain) = role(&existing, &role_of(&[])) else {
            panic!("an update");
        };
        assert!(plain.get("aggregationRule").is_none());
    }

    #[test]
    fn a_binding_gets_missing_subjects_and_is_made_anew_for_another_role() {
        let binding_of = |role: &str, subjects: &[&str]| {
            let subjects: Vec<Value> = subjects
                .iter()
                .map(|name| json!({"kind": "Group", "name": name}))
                .collect();
            json!({"metadata": {"name": "b"}, "roleRef": {"name": role}, "subjects": subjects})
        };
        let expected = binding_of("r", &["x", "y"]);
        let existing = binding_of("r", &["mine", "x"]);
        let want = binding_of("r", &["mine", "x", "y"]);
        assert_eq!(binding(&existing, &expected), Reconciled::Update(want));
        assert_eq!(
            binding(&binding_of("q", &["x"]), &expected),
            Reconciled::Recreate
        );
    }
}
