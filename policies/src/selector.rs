//! Label selectors in a canonical form: equal selectors compare equal however they were written.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::Labels;

/// A label selector. Without requirements it matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    requirements: BTreeSet<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Requirement {
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Exists(String),
    Absent(String),
    /// An operator this version does not know: matches nothing, so nothing is allowed by mistake.
    Unknown,
}

// === impl Selector ===

impl Selector {
    /// From the API's form.
    pub fn new(selector: &LabelSelector) -> Self {
        let labels = selector.match_labels.iter().flatten();
        let equal = labels.map(|(k, v)| Requirement::In(k.clone(), BTreeSet::from([v.clone()])));
        let expressions = selector.match_expressions.iter().flatten().map(|e| {
            let values = || e.values.iter().flatten().cloned().collect();
            match e.operator.as_str() {
                "In" => Requirement::In(e.key.clone(), values()),
                "NotIn" => Requirement::NotIn(e.key.clone(), values()),
                "Exists" => Requirement::Exists(e.key.clone()),
                "DoesNotExist" => Requirement::Absent(e.key.clone()),
                _ => Requirement::Unknown,
            }
        });
        Self {
            requirements: equal.chain(expressions).collect(),
        }
    }

    /// Whether all requirements hold. `NotIn` holds for labels that are absent.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| match requirement {
                Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
                Requirement::NotIn(key, values) => {
                    labels.get(key).is_none_or(|v| !values.contains(v))
                }
                Requirement::Exists(key) => labels.contains_key(key),
                Requirement::Absent(key) => !labels.contains_key(key),
                Requirement::Unknown => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn matches(key: &str, operator: &str, values: &[&str], labels: &[(&str, &str)]) -> bool {
        let expression = LabelSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(values.iter().map(|v| v.to_string()).collect()),
        };
        let selector = LabelSelector {
            match_expressions: Some(vec![expression]),
            ..Default::default()
        };
        let labels = labels
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        Selector::new(&selector).matches(&labels)
    }

    #[test]
    fn operators_treat_absent_labels_as_the_api_says() {
        assert!(matches("a", "In", &["x", "y"], &[("a", "y")]));
        assert!(!matches("a", "In", &["x"], &[]));
        assert!(matches("a", "NotIn", &["x"], &[]));
        assert!(!matches("a", "NotIn", &["x"], &[("a", "x")]));
        assert!(matches("a", "Exists", &[], &[("a", "")]));
        assert!(matches("a", "DoesNotExist", &[], &[("b", "")]));
        assert!(!matches("a", "Gt", &["1"], &[("a", "2")]));
    }

    #[test]
    fn an_empty_selector_matches_everything() {
        assert!(Selector::new(&LabelSelector::default()).matches(&Labels::new()));
    }
}
