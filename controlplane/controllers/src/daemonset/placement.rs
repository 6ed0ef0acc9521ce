//! Where daemon pods belong, and the pod for one node.
//!
//! Mechanism of `nodeShouldRunDaemonPod` and util/daemonset_util.go.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};
use serde_json::{Value, json};

use super::REVISION_HASH_LABEL;
use crate::kinds::{DaemonSet, Node, Pod};
use crate::node::evict::tolerates;
use crate::node::{NO_EXECUTE, NO_SCHEDULE};
use crate::object::MetaExt;
use crate::template;

/// Taints every daemon pod tolerates.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", NO_EXECUTE),
    ("node.kubernetes.io/unreachable", NO_EXECUTE),
    ("node.kubernetes.io/disk-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/memory-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/pid-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/unschedulable", NO_SCHEDULE),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", NO_SCHEDULE);
const NODE_NAME_FIELD: &str = "metadata.name";

/// What the template says about nodes.
pub struct Placement<'a> {
    node_name: Option<&'a str>,
    node_selector: Vec<(&'a str, &'a str)>,
    terms: Option<Vec<NodeSelectorTerm>>,
    tolerations: Vec<Toleration>,
}

/// What a template says about one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// A pod should be started there.
    pub should_run: bool,
    /// A pod that is there may stay.
    pub may_stay: bool,
}

impl<'a> Placement<'a> {
    pub fn new(set: &'a DaemonSet) -> Self {
        let spec = &set.spec.template["spec"];
        let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            ["nodeSelectorTerms"];
        let selector = spec["nodeSelector"].as_object().into_iter().flatten();
        Self {
            node_name: spec["nodeName"].as_str().filter(|name| !name.is_empty()),
            node_selector: selector
                .filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
                .collect(),
            terms: serde_json::from_value(required.clone()).ok(),
            tolerations: serde_json::from_value(tolerations(spec)).unwrap_or_default(),
        }
    }

    pub fn of(&self, node: &Node) -> Place {
        let name = node.metadata.name.as_deref();
        let fits = self.node_name.is_none_or(|wanted| Some(wanted) == name)
            && self
                .node_selector
                .iter()
                .all(|(k, v)| node.metadata.label(k) == Some(v))
            && self
                .terms
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|t| term(t, node)));
        if !fits {
            return Place {
                should_run: false,
                may_stay: false,
            };
        }
        let tolerated = |effects: &[&str]| {
            let concerned = node
                .spec
                .taints
                .iter()
                .filter(|t| effects.contains(&&*t.effect));
            concerned.into_iter().all(|taint: &Taint| {
                self.tolerations
                    .iter()
                    .any(|toleration| tolerates(toleration, taint))
            })
        };
        Place {
            should_run: tolerated(&[NO_SCHEDULE, NO_EXECUTE]),
            may_stay: tolerated(&[NO_EXECUTE]),
        }
    }
}

fn term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    let label = |r: &NodeSelectorRequirement| requirement(r, node.metadata.label(&r.key));
    let field = |r: &NodeSelectorRequirement| {
        let value = node
            .metadata
            .name
            .as_deref()
            .filter(|_| r.key == NODE_NAME_FIELD);
        requirement(r, value)
    };
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(label)
        && fields.iter().all(field)
}

fn requirement(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    let contained = value.is_some_and(|value| values.iter().any(|v| v == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let numbers = value
        .and_then(number)
        .zip(values.first().and_then(|v| number(v)));
    match requirement.operator.as_str() {
        "In" => contained,
        "NotIn" => !contained,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers.is_some_and(|(value, limit)| value > limit),
        "Lt" => numbers.is_some_and(|(value, limit)| value < limit),
        _ => false,
    }
}

/// The template's tolerations and those every daemon pod has.
fn tolerations(spec: &Value) -> Value {
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let network = spec["hostNetwork"]
        .as_bool()
        .unwrap_or(false)
        .then_some(NETWORK_UNAVAILABLE);
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    Value::Array(tolerations)
}

/// The node a daemon pod is on, or meant for by its affinity (`GetTargetNodeName`).
pub fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = pod
        .spec
        .node_name
        .as_deref()
        .filter(|node| !node.is_empty())
    {
        return Some(node);
    }
    let affinity = pod.spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required
        .node_selector_terms
        .iter()
        .filter_map(|t| t.match_fields.as_ref());
    let name = fields
        .flatten()
        .find(|f| f.key == NODE_NAME_FIELD && f.operator == "In")?;
    name.values.as_ref()?.first().map(String::as_str)
}

/// The pod of `set` for `node`.
pub fn pod(set: &DaemonSet, node: &str, hash: &str) -> Value {
    let template = template::with_label(&set.spec.template, REVISION_HASH_LABEL, hash);
    let mut pod = template::pod(&template, set);
    let spec = &mut pod["spec"];
    spec["tolerations"] = tolerations(spec);
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": [{"matchFields": [
            {"key": NODE_NAME_FIELD, "operator": "In", "values": [node]}]}]});
    pod
}
