//! Scopes: which objects a quota is about.

use serde::Deserialize;

/// A requirement on an object (`ScopedResourceSelectorRequirement`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Scope {
    pub scope_name: String,
    pub operator: String,
    pub values: Vec<String>,
}

impl Scope {
    /// The requirement that the scope applies at all.
    pub fn exists(scope_name: String) -> Self {
        Self {
            scope_name,
            operator: "Exists".to_owned(),
            values: Vec::new(),
        }
    }

    /// Whether one of the names an object has for this scope is as required.
    pub fn selects(&self, names: &[&str]) -> bool {
        let listed = |name: &&str| self.values.iter().any(|value| value == name);
        match self.operator.as_str() {
            "In" => names.iter().any(listed),
            "NotIn" => names.is_empty() || !names.iter().all(listed),
            "Exists" => !names.is_empty(),
            "DoesNotExist" => names.is_empty(),
            _ => false,
        }
    }
}
