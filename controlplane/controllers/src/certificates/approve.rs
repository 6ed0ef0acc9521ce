//! Approves the certificates nodes need: client, serving and network half.
//!
//! Mechanism of pkg/controller/certificates/approver/sarapprove.go. Upstream leaves kubelet-serving
//! requests to an operator; here they are approved when every name in them is the node's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::request::Request;
use super::{
    BOOTSTRAPPERS, CLIENT_SIGNER, NET, NODE_CLIENT_SIGNER, NODE_SERVING_SIGNER, NODE_USER_PREFIX,
    NODES, has_condition,
};
use crate::kinds::{CertificateSigningRequest, CertificateSigningRequestSpec, Node, Projection};
use crate::object::{Key, MetaExt, time};
use crate::plan::{Controller, Cx, Plan};
use crate::view::{Change, World};
use crate::write::{Edit, Verb, Write};

#[derive(Debug, Default)]
pub struct Approver {
    waiting: Waiting,
}

/// Open requests for serving certificates, by what decides about them.
#[derive(Debug, Default)]
struct Waiting {
    /// By the node they are for, whose addresses have to be theirs.
    of_node: BTreeMap<String, BTreeSet<Key>>,
    /// By the addresses they name, which no other node may have.
    naming: BTreeMap<String, BTreeSet<Key>>,
    /// The node and the addresses each is found by.
    found_by: BTreeMap<Key, (String, BTreeSet<String>)>,
}

impl Controller for Approver {
    fn name(&self) -> &'static str {
        "certificate-controller"
    }

    fn react(&mut self, _world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::CertificateSigningRequest(delta) => {
                let key = delta.key();
                self.waiting.remove(&key);
                if let Some(csr) = &delta.new {
                    self.waiting.insert(&key, csr);
                }
                keys.push(key);
            }
            Change::Node(delta) => {
                let (old, new) = (addresses(delta.old.as_ref()), addresses(delta.new.as_ref()));
                if old != new {
                    let name = delta.key().name.to_string();
                    let lost: Vec<&str> = old.difference(&new).map(String::as_str).collect();
                    keys.extend(self.waiting.touched_by(&name, &lost));
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(csr) = world.requests.get(key).filter(|csr| is_open(csr)) else {
            return Plan::nothing();
        };
        let Ok(request) = Request::read(&csr.spec.request.0) else {
            return Plan::nothing();
        };
        let Some(message) = decide(world, &csr.spec, &request) else {
            return Plan::nothing();
        };
        let now = time(cx.now);
        let approved = json!({
            "type": "Approved",
            "status": "True",
            "reason": "AutoApproved",
            "message": message,
            "lastUpdateTime": now,
            "lastTransitionTime": now,
        });
        let mut conditions: Vec<Value> = Vec::new();
        for condition in &csr.status.conditions {
            conditions.push(serde_json::to_value(condition).expect("a condition is plain data"));
        }
        conditions.push(approved);
        Plan::write(Write {
            resource: &CertificateSigningRequest::RESOURCE,
            key: key.clone(),
            verb: Verb::Edit {
                subresource: Some("approval"),
                resource_version: Some(csr.metadata.resource_version().to_owned()),
                edits: vec![Edit::set("/status/conditions", conditions)],
            },
            notes: None,
        })
    }
}

impl Waiting {
    fn insert(&mut self, key: &Key, csr: &CertificateSigningRequest) {
        if csr.spec.signer_name != NODE_SERVING_SIGNER || !is_open(csr) {
            return;
        }
        let Ok(request) = Request::read(&csr.spec.request.0) else {
            return;
        };
        let Some(node) = request.common_name.strip_prefix(NODE_USER_PREFIX) else {
            return;
        };
        let named: BTreeSet<String> = request.addresses.iter().map(ToString::to_string).collect();
        for address in &named {
            let keys = self.naming.entry(address.clone()).or_default();
            keys.insert(key.clone());
        }
        let keys = self.of_node.entry(node.to_owned()).or_default();
        keys.insert(key.clone());
        self.found_by.insert(key.clone(), (node.to_owned(), named));
    }

    fn remove(&mut self, key: &Key) {
        let Some((node, named)) = self.found_by.remove(key) else {
            return;
        };
        take(&mut self.of_node, &node, key);
        for address in named {
            take(&mut self.naming, &address, key);
        }
    }

    /// Requests about which may be decided otherwise once a node's addresses have changed.
    fn touched_by(&self, node: &str, lost: &[&str]) -> BTreeSet<Key> {
        let own = self.of_node.get(node).into_iter().flatten();
        let freed = lost.iter().filter_map(|address| self.naming.get(*address));
        own.chain(freed.flatten()).cloned().collect()
    }
}

fn take(map: &mut BTreeMap<String, BTreeSet<Key>>, at: &str, key: &Key) {
    if let Some(keys) = map.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(at);
        }
    }
}

/// A node's addresses, as requests name them.
fn addresses(node: Option<&Arc<Node>>) -> BTreeSet<String> {
    let addresses = node.into_iter().flat_map(|node| &node.status.addresses);
    addresses.map(|a| a.address.to_ascii_lowercase()).collect()
}

fn is_open(csr: &CertificateSigningRequest) -> bool {
    csr.status.certificate.0.is_empty()
        && !has_condition(csr, "Approved")
        && !has_condition(csr, "Denied")
}

/// Why the request may be approved; `None` leaves it to an operator.
fn decide(
    world: &World,
    spec: &CertificateSigningRequestSpec,
    request: &Request,
) -> Option<&'static str> {
    let is_in = |group: &str| spec.groups.iter().any(|g| g == group);
    match spec.signer_name.as_str() {
        NODE_CLIENT_SIGNER if is_node_client(spec, request) => {
            if is_in(BOOTSTRAPPERS) {
                Some("Auto approving kubelet client certificate of a joining node.")
            } else {
                (is_in(NODES) && spec.username == request.common_name)
                    .then_some("Auto approving self kubelet client certificate.")
            }
        }
        NODE_SERVING_SIGNER if is_node_serving(spec, request) => {
            let is_own = is_in(NODES) && spec.username == request.common_name;
            (is_own && names_are_own(world, request))
                .then_some("Auto approving kubelet serving certificate for the node's own names.")
        }
        CLIENT_SIGNER => {
            let node = net_node(spec, request)?;
            let is_own = is_in(NODES) && spec.username == format!("{NODE_USER_PREFIX}{node}");
            let renews = is_in(NET) && spec.username == request.common_name;
            (is_in(BOOTSTRAPPERS) || is_own || renews)
                .then_some("Auto approving the network half's client certificate.")
        }
        _ => None,
    }
}

/// `IsKubeletClientCSR`.
pub fn is_node_client(spec: &CertificateSigningRequestSpec, request: &Request) -> bool {
    request.organizations == [NODES]
        && request.common_name.starts_with(NODE_USER_PREFIX)
        && !request.has_names()
        && usages_are(spec, "client auth")
}

/// `IsKubeletServingCSR`.
pub fn is_node_serving(spec: &CertificateSigningRequestSpec, request: &Request) -> bool {
    request.organizations == [NODES]
        && request.common_name.starts_with(NODE_USER_PREFIX)
        && !(request.dns_names.is_empty() && request.addresses.is_empty())
        && request.other_names == 0
        && usages_are(spec, "server auth")
}

/// The node whose network half this request is for.
fn net_node<'a>(spec: &CertificateSigningRequestSpec, request: &'a Request) -> Option<&'a str> {
    let node = request.common_name.strip_prefix(NET)?.strip_prefix(':')?;
    let is_valid = !node.is_empty()
        && request.organizations == [NET]
        && !request.has_names()
        && usages_are(spec, "client auth");
    is_valid.then_some(node)
}

/// Digital signature, the wanted purpose, and perhaps key encipherment; nothing else.
fn usages_are(spec: &CertificateSigningRequestSpec, purpose: &str) -> bool {
    let usages: BTreeSet<&str> = spec.usages.iter().map(String::as_str).collect();
    let short = BTreeSet::from(["digital signature", purpose]);
    let long = BTreeSet::from(["digital signature", "key encipherment", purpose]);
    usages == short || usages == long
}

/// Every name is the node's own: its addresses when it has reported them, before that its name
/// and addresses that no other node has.
fn names_are_own(world: &World, request: &Request) -> bool {
    let Some(name) = request.common_name.strip_prefix(NODE_USER_PREFIX) else {
        return false;
    };
    let key = Key::cluster(name);
    let is_address = |node: &Node, text: &str| {
        node.status
            .addresses
            .iter()
            .any(|a| a.address.eq_ignore_ascii_case(text))
    };
    let own = world
        .nodes
        .get(&key)
        .filter(|node| !node.status.addresses.is_empty());
    let dns_is_own = |dns: &str| dns == name || own.is_some_and(|node| is_address(node, dns));
    let address_is_own = |address: &str| match own {
        Some(node) => is_address(node, address),
        None => !world
            .nodes
            .iter()
            .any(|(k, node)| *k != key && is_address(node, address)),
    };
    request.dns_names.iter().all(|dns| dns_is_own(dns))
        && request
            .addresses
            .iter()
            .all(|address| address_is_own(&address.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::watcher::Event;

    fn spec(signer: &str, user: &str, group: &str, purpose: &str) -> CertificateSigningRequestSpec {
        CertificateSigningRequestSpec {
            signer_name: signer.into(),
            username: user.into(),
            groups: vec![group.into()],
            usages: vec!["digital signature".into(), purpose.into()],
            ..Default::default()
        }
    }

    fn request(cn: &str, org: &str, addresses: &[&str]) -> Request {
        Request {
            common_name: cn.into(),
            organizations: vec![org.into()],
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ..Request::default()
        }
    }

    fn world(nodes: &[(&str, &str)]) -> World {
        let mut world = World::default();
        for (name, address) in nodes {
            let node: Node = serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "resourceVersion": "1"},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]}}))
            .unwrap();
            world.deliver(Event::Apply(node).into());
        }
        world
    }

    #[test]
    fn a_joining_node_gets_its_client_certificate_and_others_do_not() {
        let world = world(&[]);
        let wanted = request("system:node:a", "system:nodes", &[]);
        let ask = |user, group| {
            decide(
                &world,
                &spec(NODE_CLIENT_SIGNER, user, group, "client auth"),
                &wanted,
            )
            .is_some()
        };
        assert!(ask("system:bootstrap:abcdef", BOOTSTRAPPERS));
        assert!(ask("system:node:a", NODES));
        assert!(!ask("system:node:b", NODES));
        assert!(!ask("someone", "system:authenticated"));
    }

    #[test]
    fn a_client_certificate_with_extra_names_or_usages_is_left_alone() {
        let world = world(&[]);
        let named = request("system:node:a", "system:nodes", &["10.0.0.1"]);
        let spec_ = spec(NODE_CLIENT_SIGNER, "x", BOOTSTRAPPERS, "client auth");
        assert!(decide(&world, &spec_, &named).is_none());
        let server = spec(NODE_CLIENT_SIGNER, "x", BOOTSTRAPPERS, "server auth");
        let plain = request("system:node:a", "system:nodes", &[]);
        assert!(decide(&world, &server, &plain).is_none());
    }

    #[test]
    fn a_serving_certificate_names_only_the_node_itself() {
        let ask = |world: &World, address: &str| {
            let wanted = request("system:node:a", "system:nodes", &[address]);
            let spec = spec(NODE_SERVING_SIGNER, "system:node:a", NODES, "server auth");
            decide(world, &spec, &wanted).is_some()
        };
        let registered = world(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
        assert!(ask(&registered, "10.0.0.1"));
        assert!(!ask(&registered, "10.0.0.2"));
        assert!(!ask(&registered, "10.0.0.3"));
        let joining = world(&[("b", "10.0.0.2")]);
        assert!(ask(&joining, "10.0.0.1"));
        assert!(!ask(&joining, "10.0.0.2"));
    }

    #[test]
    fn a_network_half_is_approved_for_its_own_node_only() {
        let world = world(&[]);
        let wanted = request("windlass:net:a", "windlass:net", &[]);
        let ask = |user, group| {
            decide(
                &world,
                &spec(CLIENT_SIGNER, user, group, "client auth"),
                &wanted,
            )
            .is_some()
        };
        assert!(ask("system:bootstrap:abcdef", BOOTSTRAPPERS));
        assert!(ask("system:node:a", NODES));
        assert!(ask("windlass:net:a", NET));
        assert!(!ask("system:node:b", NODES));
        assert!(!ask("windlass:net:b", NET));
        let masters = request("windlass:net:a", "system:masters", &[]);
        let spec = spec(CLIENT_SIGNER, "x", BOOTSTRAPPERS, "client auth");
        assert!(decide(&world, &spec, &masters).is_none());
    }

    fn serving(node: &str, address: &str, certificate: &str) -> CertificateSigningRequest {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = format!("{NODE_USER_PREFIX}{node}");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let address = rcgen::SanType::IpAddress(address.parse().unwrap());
        params.subject_alt_names = vec![address];
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let mut csr = CertificateSigningRequest {
            spec: spec(NODE_SERVING_SIGNER, "x", NODES, "server auth"),
            ..Default::default()
        };
        csr.metadata.name = Some(format!("csr-{node}"));
        let revision = if certificate.is_empty() { "1" } else { "2" };
        csr.metadata.resource_version = Some(revision.to_owned());
        csr.spec.request.0 = pem.into_bytes();
        csr.status.certificate.0 = certificate.as_bytes().to_vec();
        csr
    }

    #[test]
    fn a_node_wakes_only_requests_its_addresses_decide_about() {
        let (mut world, mut approver) = (World::default(), Approver::default());
        let mut react = |world: &mut World, delivery| {
            let mut keys = Vec::new();
            for change in world.deliver(delivery) {
                approver.react(world, &change, &mut keys);
            }
            keys.iter()
                .map(|key| key.name.to_string())
                .collect::<Vec<_>>()
        };
        for (node, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
            let event = Event::Apply(serving(node, address, ""));
            react(&mut world, event.into());
        }
        let node = |name: &str, address: &str, beat: &str| -> Node {
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "resourceVersion": beat},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]}}))
            .unwrap()
        };
        let has = |name, address, beat| Event::Apply(node(name, address, beat)).into();
        assert_eq!(react(&mut world, has("a", "10.0.0.9", "1")), ["csr-a"]);
        assert!(
            react(&mut world, has("a", "10.0.0.9", "2")).is_empty(),
            "a heartbeat"
        );
        assert!(react(&mut world, has("c", "10.0.0.2", "3")).is_empty());
        assert_eq!(
            react(&mut world, has("c", "10.0.0.3", "4")),
            ["csr-b"],
            "it was c's"
        );
        react(
            &mut world,
            Event::Apply(serving("a", "10.0.0.1", "signed")).into(),
        );
        assert!(
            react(&mut world, has("a", "10.0.0.1", "5")).is_empty(),
            "decided"
        );
    }
}
