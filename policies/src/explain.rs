//! "Would A reach B at this port, and why": a naive reading of the NetworkPolicy API text, policy by
//! policy and rule by rule, on the API's own types. It shares no code with the compiler.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{Labels, NamedPort};

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// Its address.
    pub address: IpAddr,
    /// The pod that has it, if one does.
    pub pod: Option<PodFacts<'a>>,
}

/// A pod, as far as policies look at it.
#[derive(Debug, Clone, Copy)]
pub struct PodFacts<'a> {
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Labels of the namespace.
    pub namespace_labels: &'a Labels,
    /// Labels of the pod.
    pub labels: &'a Labels,
    /// Named container ports.
    pub ports: &'a [NamedPort],
}

/// A policy as the API has it.
#[derive(Debug, Clone, Copy)]
pub struct PolicyRef<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its specification.
    pub spec: &'a NetworkPolicySpec,
}

/// The answer for one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The end is no pod: policies do not apply to it.
    NotAPod,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// Rule `rule` (from 0) of this policy allows it.
    AllowedBy {
        /// Namespace and name.
        policy: String,
        /// Index of the rule.
        rule: usize,
    },
    /// These policies isolate the pod, and none has a rule that allows it.
    DeniedBy {
        /// Namespaces and names.
        policies: Vec<String>,
    },
}

/// The answer: both must allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// For the source, leaving.
    pub egress: Reason,
    /// For the destination, arriving.
    pub ingress: Reason,
}

impl Reason {
    /// Whether this direction allows it.
    pub fn allows(&self) -> bool {
        !matches!(self, Self::DeniedBy { .. })
    }
}

impl Explanation {
    /// Whether the connection is allowed.
    pub fn allowed(&self) -> bool {
        self.egress.allows() && self.ingress.allows()
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAPod => write!(f, "allowed: not a pod"),
            Self::NotIsolated => write!(f, "allowed: no policy selects the pod"),
            Self::AllowedBy { policy, rule } => write!(f, "allowed by {policy}, rule {rule}"),
            Self::DeniedBy { policies } => write!(f, "denied by {}", policies.join(", ")),
        }
    }
}

/// Explains a new connection (after DNAT) from `source` to `port` of `destination`; `protocol` is
/// `abi::PROTO_*`. Traffic between a pod and its own node is always allowed and not asked about here.
pub fn explain(
    policies: &[PolicyRef<'_>],
    source: Party<'_>,
    destination: Party<'_>,
    protocol: u8,
    port: u16,
) -> Explanation {
    let egress = judge(policies, source, |policy| {
        let isolates = match &policy.spec.policy_types {
            Some(types) if !types.is_empty() => types.iter().any(|t| t == "Egress"),
            _ => policy
                .spec
                .egress
                .as_ref()
                .is_some_and(|rules| !rules.is_empty()),
        };
        let rules = policy.spec.egress.iter().flatten();
        let verdicts = rules.map(|rule| {
            to_or_from(rule.to.as_deref(), policy.namespace, destination)
                && at_ports(rule.ports.as_deref(), destination, protocol, port)
        });
        isolates.then(|| verdicts.collect())
    });
    let ingress = judge(policies, destination, |policy| {
        let isolates = match &policy.spec.policy_types {
            Some(types) if !types.is_empty() => types.iter().any(|t| t == "Ingress"),
            _ => true,
        };
        let rules = policy.spec.ingress.iter().flatten();
        let verdicts = rules.map(|rule| {
            to_or_from(rule.from.as_deref(), policy.namespace, source)
                && at_ports(rule.ports.as_deref(), destination, protocol, port)
        });
        isolates.then(|| verdicts.collect())
    });
    Explanation { egress, ingress }
}

/// `rules` answers, for a policy that isolates in the direction asked about, which rules allow.
fn judge(
    policies: &[PolicyRef<'_>],
    subject: Party<'_>,
    rules: impl Fn(&PolicyRef<'_>) -> Option<Vec<bool>>,
) -> Reason {
    let Some(pod) = subject.pod else {
        return Reason::NotAPod;
    };
    let mut isolating = Vec::new();
    for policy in policies {
        if policy.namespace != pod.namespace {
            continue;
        }
        let selected = policy
            .spec
            .pod_selector
            .as_ref()
            .is_none_or(|s| label_selector(s, pod.labels));
        let Some(verdicts) = rules(policy).filter(|_| selected) else {
            continue;
        };
        let policy = format!("{}/{}", policy.namespace, policy.name);
        if let Some(rule) = verdicts.iter().position(|allows| *allows) {
            return Reason::AllowedBy { policy, rule };
        }
        isolating.push(policy);
    }
    if isolating.is_empty() {
        return Reason::NotIsolated;
    }
    Reason::DeniedBy {
        policies: isolating,
    }
}

fn to_or_from(peers: Option<&[NetworkPolicyPeer]>, own: &str, other: Party<'_>) -> bool {
    match peers {
        None | Some([]) => true,
        Some(peers) => peers.iter().any(|peer| is_peer(peer, own, other)),
    }
}

fn is_peer(peer: &NetworkPolicyPeer, own: &str, other: Party<'_>) -> bool {
    if let Some(block) = &peer.ip_block {
        return in_block(block, other.address);
    }
    let Some(pod) = other.pod else { return false };
    match (&peer.namespace_selector, &peer.pod_selector) {
        (None, None) => false,
        (None, Some(pods)) => pod.namespace == own && label_selector(pods, pod.labels),
        (Some(namespaces), None) => label_selector(namespaces, pod.namespace_labels),
        (Some(namespaces), Some(pods)) => {
            label_selector(namespaces, pod.namespace_labels) && label_selector(pods, pod.labels)
        }
    }
}

fn in_block(block: &IPBlock, address: IpAddr) -> bool {
    let inside = |cidr: &String| {
        cidr.parse::<IpNetwork>()
            .is_ok_and(|net| net.contains(address))
    };
    inside(&block.cidr) && !block.except.iter().flatten().any(inside)
}

fn at_ports(
    ports: Option<&[NetworkPolicyPort]>,
    destination: Party<'_>,
    protocol: u8,
    port: u16,
) -> bool {
    match ports {
        None | Some([]) => true,
        Some(ports) => ports
            .iter()
            .any(|p| is_port(p, destination, protocol, port)),
    }
}

fn is_port(rule: &NetworkPolicyPort, destination: Party<'_>, protocol: u8, port: u16) -> bool {
    let wanted = match rule.protocol.as_deref().unwrap_or("TCP") {
        "TCP" | "" => 6,
        "UDP" => 17,
        "SCTP" => 132,
        _ => return false,
    };
    if wanted != protocol {
        return false;
    }
    match &rule.port {
        None => true,
        Some(IntOrString::Int(first)) => {
            let last = rule.end_port.unwrap_or(*first);
            *first <= i32::from(port) && i32::from(port) <= last
        }
        Some(IntOrString::String(name)) => destination.pod.is_some_and(|pod| {
            pod.ports
                .iter()
                .any(|p| p.name == *name && p.protocol == protocol && p.port == port)
        }),
    }
}

fn label_selector(selector: &LabelSelector, labels: &Labels) -> bool {
    for (key, value) in selector.match_labels.iter().flatten() {
        if labels.get(key) != Some(value) {
            return false;
        }
    }
    for expression in selector.match_expressions.iter().flatten() {
        let have = labels.get(&expression.key);
        let listed = have.is_some_and(|v| expression.values.iter().flatten().any(|w| w == v));
        let holds = match expression.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => have.is_some(),
            "DoesNotExist" => have.is_none(),
            _ => false,
        };
        if !holds {
            return false;
        }
    }
    true
}
