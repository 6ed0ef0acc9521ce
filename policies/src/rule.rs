//! NetworkPolicies, parsed once: defaults applied, addresses and ports checked. What cannot be parsed
//! allows nothing.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::selector::Selector;
use crate::{Name, Pod};

/// A parsed policy. A direction it does not isolate is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The policy.
    pub name: Name,
    /// Pods of its namespace that it isolates.
    pub subjects: Selector,
    /// What may come in.
    pub ingress: Option<Vec<Rule>>,
    /// What may go out.
    pub egress: Option<Vec<Rule>>,
}

/// One rule: any of the peers, at any of the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `None`: everybody.
    pub peers: Option<Vec<Peer>>,
    /// `None`: every protocol and port.
    pub ports: Option<Vec<PortSpec>>,
}

/// Who a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods, by labels.
    Pods {
        /// Where.
        namespaces: Namespaces,
        /// Which.
        pods: Selector,
    },
    /// Addresses.
    Block(Block),
}

/// Which namespaces a peer is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespaces {
    /// One, by name: the policy's own.
    Named(String),
    /// By labels.
    Labelled(Selector),
}

/// A range of addresses with holes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The range; host bits are 0.
    pub cidr: IpNetwork,
    /// The holes, within the range.
    pub except: BTreeSet<IpNetwork>,
}

/// Destination ports of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortSpec {
    /// Ports `lo..=hi`, host order, of a protocol (`abi::PROTO_*`).
    Range {
        /// `abi::PROTO_*`.
        protocol: u8,
        /// First port.
        lo: u16,
        /// Last port.
        hi: u16,
    },
    /// The destination pod's port of that name.
    Named {
        /// `abi::PROTO_*`.
        protocol: u8,
        /// Name of a container port.
        name: String,
    },
}

// === impl Policy ===

impl Policy {
    /// Parses a policy; `policyTypes` defaults to Ingress, and Egress if there are egress rules.
    pub fn new(name: Name, spec: &NetworkPolicySpec) -> Self {
        let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let listed = |wanted: &str| types.iter().any(|t| t == wanted);
        let ingress = types.is_empty() || listed("Ingress");
        let egress = if types.is_empty() {
            has_egress
        } else {
            listed("Egress")
        };
        let namespace = name.namespace.clone();
        let rules_in = || {
            let rules = spec.ingress.iter().flatten();
            rules
                .map(|r| rule(&namespace, r.from.as_deref(), r.ports.as_deref()))
                .collect()
        };
        let rules_out = || {
            let rules = spec.egress.iter().flatten();
            rules
                .map(|r| rule(&namespace, r.to.as_deref(), r.ports.as_deref()))
                .collect()
        };
        Self {
            subjects: spec
                .pod_selector
                .as_ref()
                .map(Selector::new)
                .unwrap_or_default(),
            ingress: ingress.then(rules_in),
            egress: egress.then(rules_out),
            name,
        }
    }

    /// Whether a rule names a block of addresses.
    pub fn has_blocks(&self) -> bool {
        let rules = self.ingress.iter().chain(&self.egress).flatten();
        let mut peers = rules.filter_map(|rule| rule.peers.as_ref()).flatten();
        peers.any(|peer| matches!(peer, Peer::Block(_)))
    }

    /// Whether the policy isolates the pod.
    pub fn selects(&self, pod: &Pod) -> bool {
        self.name.namespace == pod.name.namespace && self.subjects.matches(&pod.labels)
    }
}

fn rule(
    namespace: &str,
    peers: Option<&[NetworkPolicyPeer]>,
    ports: Option<&[NetworkPolicyPort]>,
) -> Rule {
    let peers = peers.filter(|p| !p.is_empty());
    let ports = ports.filter(|p| !p.is_empty());
    Rule {
        peers: peers.map(|all| all.iter().filter_map(|p| peer(namespace, p)).collect()),
        ports: ports.map(|all| all.iter().filter_map(port).collect()),
    }
}

fn peer(namespace: &str, raw: &NetworkPolicyPeer) -> Option<Peer> {
    if let Some(raw) = &raw.ip_block {
        return block(raw).map(Peer::Block);
    }
    let pods = raw.pod_selector.as_ref().map(Selector::new);
    let namespaces = match &raw.namespace_selector {
        Some(selector) => Namespaces::Labelled(Selector::new(selector)),
        // A peer that names nothing is refused by the API server; here it matches nobody.
        None if pods.is_none() => return None,
        None => Namespaces::Named(namespace.into()),
    };
    Some(Peer::Pods {
        namespaces,
        pods: pods.unwrap_or_default(),
    })
}

fn block(raw: &IPBlock) -> Option<Block> {
    let parse = |text: &String| {
        let net: IpNetwork = text.parse().ok()?;
        IpNetwork::new(net.network(), net.prefix()).ok()
    };
    let cidr = parse(&raw.cidr)?;
    let except = raw
        .except
        .iter()
        .flatten()
        .map(parse)
        .collect::<Option<BTreeSet<_>>>()?;
    Some(Block { cidr, except })
}

fn port(raw: &NetworkPolicyPort) -> Option<PortSpec> {
    let protocol = match raw.protocol.as_deref() {
        None | Some("" | "TCP") => abi::PROTO_TCP,
        Some("UDP") => abi::PROTO_UDP,
        Some("SCTP") => abi::PROTO_SCTP,
        Some(_) => return None,
    };
    match &raw.port {
        None => Some(PortSpec::Range {
            protocol,
            lo: 0,
            hi: u16::MAX,
        }),
        Some(IntOrString::String(name)) => Some(PortSpec::Named {
            protocol,
            name: name.clone(),
        }),
        Some(IntOrString::Int(number)) => {
            let lo = u16::try_from(*number).ok()?;
            let hi = raw.end_port.map_or(Ok(lo), u16::try_from).ok()?;
            (lo <= hi).then_some(PortSpec::Range { protocol, lo, hi })
        }
    }
}

// === impl Block ===

impl Block {
    /// Whether all of `net` is in the block. Ranges are cut at the boundaries of every block, so one
    /// is never in a block by half.
    pub fn contains(&self, net: &IpNetwork) -> bool {
        within(&self.cidr, net) && !self.except.iter().any(|hole| within(hole, net))
    }
}

fn within(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4()
        && outer.prefix() <= inner.prefix()
        && outer.contains(inner.network())
}
