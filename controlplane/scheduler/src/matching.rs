//! Selectors and tolerations: does this label set, node or taint match?
//!
//! Semantics of k8s.io/component-helpers/scheduling/corev1 (nodeaffinity, toleration) and of label
//! selectors.

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::object::{Labels, Node};

/// Does a label selector match? An absent one matches nothing, an empty one everything.
pub fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else {
        return false;
    };
    let exact = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    exact
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|e| {
            let values = e.values.as_deref().unwrap_or(&[]);
            compare(&e.operator, labels.get(&e.key), values)
        })
}

/// Does any term match the node? Terms without requirements match nothing.
pub fn selects_node(selector: &NodeSelector, node: &Node) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| term_selects(term, node))
}

pub fn term_selects(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = node.name().to_owned();
    let field = |r: &NodeSelectorRequirement| (r.key == "metadata.name").then_some(&name);
    expressions
        .iter()
        .all(|r| requirement(r, node.labels().get(&r.key)))
        && fields.iter().all(|r| requirement(r, field(r)))
}

fn requirement(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    compare(
        &requirement.operator,
        value,
        requirement.values.as_deref().unwrap_or(&[]),
    )
}

fn compare(operator: &str, value: Option<&String>, values: &[String]) -> bool {
    let ordered = |wanted: Ordering| {
        let number = |text: &String| text.parse::<i64>().ok();
        match (value.and_then(number), values.first().and_then(number)) {
            (Some(value), Some(limit)) => value.cmp(&limit) == wanted,
            _ => false,
        }
    };
    match operator {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => ordered(Ordering::Greater),
        "Lt" => ordered(Ordering::Less),
        _ => false,
    }
}

/// The first taint with one of `effects` that nothing tolerates.
pub fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    let mut concerned = taints
        .iter()
        .filter(|t| effects.contains(&t.effect.as_str()));
    concerned.find(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn filled(text: &Option<String>) -> Option<&str> {
        text.as_deref().filter(|text| !text.is_empty())
    }
    if filled(&toleration.effect).is_some_and(|effect| effect != taint.effect)
        || filled(&toleration.key).is_some_and(|key| key != taint.key)
    {
        return false;
    }
    let value = toleration.value.as_deref().unwrap_or("");
    let tainted = taint.value.as_deref().unwrap_or("");
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => filled(&toleration.key).is_some() && value == tainted,
        Some(operator @ ("Gt" | "Lt")) => {
            let operator = if operator == "Gt" {
                Ordering::Greater
            } else {
                Ordering::Less
            };
            match (tainted.parse::<i64>(), value.parse::<i64>()) {
                (Ok(tainted), Ok(value)) => tainted.cmp(&value) == operator,
                _ => false,
            }
        }
        Some(_) => false,
    }
}
