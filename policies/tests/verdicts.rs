//! What the rows decide, read as the datapath reads them, is what the naive explanation says; and at
//! every point of a transition each verdict is the old one or the new one.
#![expect(clippy::unwrap_used, reason = "a failure of the setup fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policies::explain::{Party, PodFacts, PolicyRef, explain};
use policies::{
    Allowed, Compiled, Labels, Name, NamedPort, Pod, Policy, RowKey, Step, Verdicts, World,
    transition,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const OUTSIDE: [&str; 3] = ["10.1.0.9", "10.1.1.9", "192.0.2.1"];
const PORTS: [(u8, u16); 5] = [(6, 80), (6, 81), (6, 8080), (17, 80), (17, 53)];

// === generators ===

fn labels() -> impl Strategy<Value = Labels> {
    btree_map(select(vec!["a", "b"]), select(vec!["x", "y"]), 0..3).prop_map(|m| {
        m.into_iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect()
    })
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let expression = (
        select(vec!["a", "b"]),
        select(vec!["In", "NotIn", "Exists", "DoesNotExist"]),
        vec(select(vec!["x", "y"]), 1..3),
    )
        .prop_map(|(key, operator, values)| LabelSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: (!operator.contains("xist"))
                .then(|| values.into_iter().map(Into::into).collect()),
        });
    (
        option::of(labels()),
        option::weighted(0.3, vec(expression, 1..3)),
    )
        .prop_map(|(match_labels, match_expressions)| LabelSelector {
            match_labels,
            match_expressions,
        })
}

fn peer() -> impl Strategy<Value = NetworkPolicyPeer> {
    let block = (
        select(vec![
            "10.0.0.0/8",
            "10.1.0.0/16",
            "0.0.0.0/0",
            "10.0.0.0/30",
        ]),
        0..3usize,
    )
        .prop_map(|(cidr, holes)| {
            let holes = ["10.1.1.0/24", "10.0.0.2/32"].iter().take(holes);
            let outer: IpNetwork = cidr.parse().unwrap();
            let inside = holes.filter(|h| {
                let hole: IpNetwork = h.parse().unwrap();
                hole.prefix() > outer.prefix() && outer.contains(hole.ip())
            });
            let except = Some(inside.map(|h| h.to_string()).collect());
            let ip_block = Some(IPBlock {
                cidr: cidr.into(),
                except,
            });
            NetworkPolicyPeer {
                ip_block,
                ..Default::default()
            }
        });
    let pods = (option::of(selector()), option::of(selector())).prop_map(
        |(namespace_selector, pod_selector)| {
            // A peer must name something.
            let pod_selector = match (&namespace_selector, pod_selector) {
                (None, None) => Some(LabelSelector::default()),
                (_, pods) => pods,
            };
            NetworkPolicyPeer {
                ip_block: None,
                namespace_selector,
                pod_selector,
            }
        },
    );
    prop_oneof![1 => block, 3 => pods]
}

fn port() -> impl Strategy<Value = NetworkPolicyPort> {
    let number = prop_oneof![
        2 => select(vec![80, 81, 8080, 53]).prop_map(|p| Some(IntOrString::Int(p))),
        1 => select(vec!["web", "dns"]).prop_map(|n| Some(IntOrString::String(n.into()))),
        1 => Just(None),
    ];
    (
        number,
        select(vec![None, Some("TCP"), Some("UDP")]),
        option::weighted(0.3, 80..9000i32),
    )
        .prop_map(|(port, protocol, end)| NetworkPolicyPort {
            end_port: match &port {
                Some(IntOrString::Int(first)) => end.filter(|e| e >= first),
                _ => None,
            },
            port,
            protocol: protocol.map(Into::into),
        })
}

fn spec() -> impl Strategy<Value = NetworkPolicySpec> {
    let rule = || (option::of(vec(peer(), 0..3)), option::of(vec(port(), 0..3)));
    let types = vec![
        vec![],
        vec!["Ingress"],
        vec!["Egress"],
        vec!["Ingress", "Egress"],
    ];
    (
        selector(),
        select(types),
        vec(rule(), 0..3),
        vec(rule(), 0..3),
    )
        .prop_map(|(selector, types, ingress, egress)| NetworkPolicySpec {
            pod_selector: Some(selector),
            policy_types: Some(types.into_iter().map(Into::into).collect()),
            ingress: Some(
                ingress
                    .into_iter()
                    .map(|(from, ports)| NetworkPolicyIngressRule { from, ports })
                    .collect(),
            ),
            egress: Some(
                egress
                    .into_iter()
                    .map(|(to, ports)| NetworkPolicyEgressRule { ports, to })
                    .collect(),
            ),
        })
}

type Specs = Vec<(&'static str, NetworkPolicySpec)>;

fn specs() -> impl Strategy<Value = Specs> {
    vec((select(vec!["n1", "n2"]), spec()), 0..5)
}

fn pods() -> impl Strategy<Value = Vec<Arc<Pod>>> {
    let named = vec((select(vec!["web", "dns"]), select(PORTS.to_vec())), 0..3);
    let pod = (select(vec!["n1", "n2"]), labels(), named, any::<bool>());
    (labels(), labels(), vec(pod, 1..6)).prop_map(|(n1, n2, pods)| {
        let (n1, n2) = (Arc::new(n1), Arc::new(n2));
        let pods = pods
            .into_iter()
            .enumerate()
            .map(|(i, (namespace, labels, named, local))| {
                Arc::new(Pod {
                    name: Name {
                        namespace: namespace.into(),
                        name: format!("p{i}").as_str().into(),
                    },
                    labels: Arc::new(labels),
                    namespace_labels: if namespace == "n1" {
                        n1.clone()
                    } else {
                        n2.clone()
                    },
                    addresses: vec![format!("10.0.0.{}", i + 1).parse().unwrap()],
                    ports: named
                        .into_iter()
                        .map(|(name, (protocol, port))| NamedPort {
                            name: name.into(),
                            protocol,
                            port,
                        })
                        .collect(),
                    local,
                })
            });
        pods.collect()
    })
}

fn world(specs: &Specs, pods: &[Arc<Pod>]) -> World {
    let policies = specs.iter().enumerate().map(|(i, (namespace, spec))| {
        let name = Name {
            namespace: (*namespace).into(),
            name: format!("np{i}").as_str().into(),
        };
        Arc::new(Policy::new(name, spec))
    });
    World {
        policies: policies.collect(),
        pods: pods.to_vec(),
    }
}

// === reading rows as the datapath does ===

#[derive(Clone, Default)]
struct Datapath {
    rows: BTreeMap<RowKey, Allowed>,
    ranges: BTreeMap<IpNetwork, u32>,
    peers: BTreeMap<IpAddr, u32>,
    endpoints: BTreeMap<Name, Verdicts>,
}

impl Datapath {
    fn of(compiled: &Compiled) -> Self {
        Self {
            rows: compiled.rows.clone(),
            ranges: compiled.ranges.clone(),
            peers: compiled.peers.clone(),
            endpoints: compiled.endpoints.clone(),
        }
    }

    fn class(&self, address: IpAddr) -> u32 {
        if let Some(class) = self.peers.get(&address) {
            return *class;
        }
        let around = self.ranges.iter().filter(|(net, _)| net.contains(address));
        around
            .max_by_key(|(net, _)| net.prefix())
            .map_or(0, |(_, class)| *class)
    }

    fn allows(&self, pod: &Pod, direction: u8, other: IpAddr, proto: u8, port: u16) -> bool {
        let Some(ep) = self.endpoints.get(&pod.name) else {
            return true;
        };
        let bit = if direction == abi::DIR_INGRESS {
            abi::ISOLATED_INGRESS
        } else {
            abi::ISOLATED_EGRESS
        };
        if ep.isolation & bit == 0 {
            return true;
        }
        let row = |class| {
            self.rows.get(&RowKey {
                set_id: ep.set_id,
                direction,
                class,
            })
        };
        let row = row(self.class(other)).or_else(|| row(0));
        row.is_some_and(|row| row.allows(proto, port))
    }

    /// Applies a step element by element, telling `seen` after each.
    fn apply(&mut self, step: &Step, mut seen: impl FnMut(&Self)) {
        match step {
            Step::AddRows(rows) => {
                for (key, row) in rows {
                    self.rows.insert(*key, row.clone());
                    seen(self);
                }
            }
            Step::Ranges(all) => {
                for (net, class) in all {
                    self.ranges.insert(*net, *class);
                    seen(self);
                }
                for net in self.ranges.keys().copied().collect::<Vec<_>>() {
                    if !all.contains_key(&net) {
                        self.ranges.remove(&net);
                        seen(self);
                    }
                }
            }
            Step::Peers(all) => {
                for (address, class) in all {
                    self.peers.insert(*address, *class);
                    seen(self);
                }
                for address in self.peers.keys().copied().collect::<Vec<_>>() {
                    if !all.contains_key(&address) {
                        self.peers.remove(&address);
                        seen(self);
                    }
                }
            }
            Step::Endpoints(all) => {
                let names: BTreeSet<Name> =
                    all.keys().chain(self.endpoints.keys()).cloned().collect();
                for name in names {
                    match all.get(&name) {
                        Some(verdicts) => self.endpoints.insert(name, *verdicts),
                        None => self.endpoints.remove(&name),
                    };
                    seen(self);
                }
            }
            Step::Narrowed(_) => {}
            Step::RemoveRows(keys) => {
                for key in keys {
                    self.rows.remove(key);
                    seen(self);
                }
            }
        }
    }
}

/// Every question worth asking: local pod, direction, other address, protocol, port.
fn questions(pods: &[Arc<Pod>]) -> Vec<(Arc<Pod>, u8, IpAddr, u8, u16)> {
    let inside = pods.iter().map(|p| p.addresses[0]);
    let outside = OUTSIDE.iter().map(|a| a.parse().unwrap());
    let others: Vec<IpAddr> = inside.chain(outside).collect();
    let mut all = Vec::new();
    for pod in pods.iter().filter(|p| p.local) {
        for other in &others {
            for (protocol, port) in PORTS {
                for direction in [abi::DIR_INGRESS, abi::DIR_EGRESS] {
                    all.push((pod.clone(), direction, *other, protocol, port));
                }
            }
        }
    }
    all
}

fn answers(datapath: &Datapath, pods: &[Arc<Pod>]) -> Vec<bool> {
    let ask = |(pod, direction, other, protocol, port): (Arc<Pod>, u8, IpAddr, u8, u16)| {
        datapath.allows(&pod, direction, other, protocol, port)
    };
    questions(pods).into_iter().map(ask).collect()
}

fn party<'a>(pods: &'a [Arc<Pod>], address: IpAddr) -> Party<'a> {
    let pod = pods
        .iter()
        .find(|p| p.addresses.contains(&address))
        .map(|p| PodFacts {
            namespace: &p.name.namespace,
            namespace_labels: &p.namespace_labels,
            labels: &p.labels,
            ports: &p.ports,
        });
    Party { address, pod }
}

fn explained(specs: &Specs, pods: &[Arc<Pod>]) -> Vec<bool> {
    let names: Vec<String> = (0..specs.len()).map(|i| format!("np{i}")).collect();
    let refs: Vec<PolicyRef<'_>> = specs
        .iter()
        .zip(&names)
        .map(|((namespace, spec), name)| PolicyRef {
            namespace,
            name,
            spec,
        })
        .collect();
    let ask = |(pod, direction, other, protocol, port): (Arc<Pod>, u8, IpAddr, u8, u16)| {
        let (own, other) = (party(pods, pod.addresses[0]), party(pods, other));
        if direction == abi::DIR_INGRESS {
            explain(&refs, other, own, protocol, port).ingress.allows()
        } else {
            explain(&refs, own, other, protocol, port).egress.allows()
        }
    };
    questions(pods).into_iter().map(ask).collect()
}

fn check_transition(old: (&Specs, &[Arc<Pod>]), new: (&Specs, &[Arc<Pod>])) {
    let before = Compiled::new(&world(old.0, old.1), &Compiled::default());
    let new_world = world(new.0, new.1);
    let after = Compiled::new(&new_world, &before);
    let mut datapath = Datapath::of(&before);
    let was = answers(&datapath, new.1);
    let becomes = answers(&Datapath::of(&after), new.1);
    for step in transition(&before, &after, &new_world) {
        datapath.apply(&step, |now| {
            let now = answers(now, new.1);
            for (i, verdict) in now.iter().enumerate() {
                let question = &questions(new.1)[i];
                assert!(
                    *verdict == was[i] || *verdict == becomes[i],
                    "{question:?} in {step:?}"
                );
            }
        });
    }
    assert_eq!(answers(&datapath, new.1), becomes);
    assert_eq!(datapath.rows, after.rows);
    assert_eq!(
        (datapath.ranges, datapath.peers),
        (after.ranges, after.peers)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn rows_decide_what_the_explanation_says(specs in specs(), pods in pods()) {
        let compiled = Compiled::new(&world(&specs, &pods), &Compiled::default());
        let (rows, naive) = (answers(&Datapath::of(&compiled), &pods), explained(&specs, &pods));
        for (i, question) in questions(&pods).iter().enumerate() {
            prop_assert_eq!(rows[i], naive[i], "{:?}", question);
        }
    }

    #[test]
    fn a_new_agent_gives_the_same_ids(specs in specs(), pods in pods()) {
        let first = Compiled::new(&world(&specs, &pods), &Compiled::default());
        let second = Compiled::new(&world(&specs, &pods), &Compiled::default());
        prop_assert_eq!(first, second);
    }

    #[test]
    fn a_change_of_policies_is_old_or_new_at_every_point(
        old in specs(), new in specs(), pods in pods(),
    ) {
        check_transition((&old, &pods), (&new, &pods));
    }

    #[test]
    fn nothing_changed_is_nothing_to_do(specs in specs(), pods in pods()) {
        let world = world(&specs, &pods);
        let compiled = Compiled::new(&world, &Compiled::default());
        let again = Compiled::new(&world, &compiled);
        let mut datapath = Datapath::of(&compiled);
        let before = (datapath.rows.clone(), datapath.endpoints.clone());
        for step in transition(&compiled, &again, &world) {
            prop_assert!(!matches!(step, Step::AddRows(_) | Step::RemoveRows(_) | Step::Narrowed(_)));
            datapath.apply(&step, |_| {});
        }
        prop_assert_eq!(before, (datapath.rows, datapath.endpoints));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// One pod's labels change: under the same policies each verdict is the old or the new one.
    #[test]
    fn a_change_of_a_remote_pods_labels_is_old_or_new_at_every_point(
        specs in specs(), pods in pods(), labels in labels(),
    ) {
        let mut moved = pods.clone();
        if let Some(pod) = moved.iter_mut().find(|p| !p.local) {
            Arc::make_mut(pod).labels = Arc::new(labels);
        }
        check_transition((&specs, &pods), (&specs, &moved));
    }
}

#[test]
fn an_empty_policy_denies_everything_and_an_empty_rule_allows_everything() {
    let pods = |n: &str| {
        Arc::new(Pod {
            name: Name {
                namespace: "n1".into(),
                name: n.into(),
            },
            labels: Arc::default(),
            namespace_labels: Arc::default(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            ports: vec![],
            local: true,
        })
    };
    let pods = [pods("a")];
    let deny = NetworkPolicySpec {
        pod_selector: Some(LabelSelector::default()),
        ..Default::default()
    };
    let allow = NetworkPolicySpec {
        ingress: Some(vec![NetworkPolicyIngressRule::default()]),
        ..deny.clone()
    };
    let verdict = |spec: &NetworkPolicySpec| {
        let specs = vec![("n1", spec.clone())];
        let compiled = Compiled::new(&world(&specs, &pods), &Compiled::default());
        let datapath = Datapath::of(&compiled);
        let other = "192.0.2.1".parse().unwrap();
        let ask = |direction| datapath.allows(&pods[0], direction, other, 6, 80);
        (ask(abi::DIR_INGRESS), ask(abi::DIR_EGRESS))
    };
    assert_eq!(verdict(&deny), (false, true));
    assert_eq!(verdict(&allow), (true, true));
}
