//! The Node authorizer: a node reads what its own pods refer to and writes what is its own.
//!
//! Port of `plugin/pkg/auth/authorizer/node`. The graph is kept from the cache's changes of pods:
//! node → its pods → the secrets, config maps, claims and service accounts they name, and of pod
//! certificate requests, which name their node. Persistent volumes and resource claims are not part of it
//! yet: nodes cannot read them.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::lenient;
use super::rule::{PolicyRule, any_allows};
use crate::attributes::Attributes;
use crate::cache::{Change, Object};

/// Namespace of the leases nodes renew.
pub const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";

/// What leads from a node to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Pod,
    PodCertificateRequest,
}

/// What a node can be led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vertex {
    Pod,
    PodCertificateRequest,
    Secret,
    ConfigMap,
    ServiceAccount,
    PersistentVolumeClaim,
}

/// A vertex by namespace and name.
type Reference = (Vertex, String, String);

/// Which node is related to what.
#[derive(Debug, Default)]
pub struct NodeGraph {
    /// Node and references of each bound pod and of each request.
    sources: HashMap<(Source, String), (String, Vec<Reference>)>,
    /// How many of these refer to something, by node.
    related: HashMap<String, HashMap<Reference, usize>>,
}

/// The answer of the Node authorizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAnswer {
    Allow,
    /// No, and why; another authorizer may still allow it.
    NoOpinion(String),
}

// === impl NodeGraph ===

impl NodeGraph {
    /// Takes over a change.
    pub fn apply(&mut self, source: Source, change: &Change) {
        if let (Some(object), Some(prior)) = (&change.object, &change.prior)
            && object.uid() == prior.uid()
            && object.field("spec") == prior.field("spec")
        {
            return;
        }
        let key = (source, change.latest().key.to_string());
        self.remove(&key);
        let Some(object) = &change.object else {
            return;
        };
        match source {
            Source::Pod => {
                if let Some(node) = object.node_name() {
                    self.insert(key, node.to_owned(), references(object));
                }
            }
            Source::PodCertificateRequest => {
                let spec: RequestSpec = spec_of(object);
                let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
                let itself = (Vertex::PodCertificateRequest, namespace, name);
                self.insert(key, spec.node_name, vec![itself]);
            }
        }
    }

    fn insert(&mut self, key: (Source, String), node: String, references: Vec<Reference>) {
        let related = self.related.entry(node.clone()).or_default();
        for reference in &references {
            *related.entry(reference.clone()).or_default() += 1;
        }
        self.sources.insert(key, (node, references));
    }

    fn remove(&mut self, key: &(Source, String)) {
        let Some((node, references)) = self.sources.remove(key) else {
            return;
        };
        let Some(related) = self.related.get_mut(&node) else {
            return;
        };
        for reference in references {
            if let Some(count) = related.get_mut(&reference) {
                *count -= 1;
                if *count == 0 {
                    related.remove(&reference);
                }
            }
        }
        if related.is_empty() {
            self.related.remove(&node);
        }
    }

    fn has_path(&self, node: &str, vertex: Vertex, namespace: &str, name: &str) -> bool {
        let reference = (vertex, namespace.to_owned(), name.to_owned());
        self.related
            .get(node)
            .is_some_and(|related| related.contains_key(&reference))
    }

    /// Whether `node` may do that; `rules` are those of the role `system:node`, for what is not
    /// divided by node.
    pub fn authorize(&self, node: &str, asked: &Attributes, rules: &[PolicyRule]) -> NodeAnswer {
        if asked.is_resource {
            match (asked.group.as_str(), asked.resource.as_str()) {
                ("", "secrets") => return self.read_object(node, Vertex::Secret, asked),
                ("", "configmaps") => return self.read_object(node, Vertex::ConfigMap, asked),
                ("", "persistentvolumeclaims") => return self.claim(node, asked),
                ("", "serviceaccounts") => return self.service_account(node, asked),
                ("coordination.k8s.io", "leases") => return lease(node, asked),
                ("storage.k8s.io", "csinodes") => return csi_node(node, asked),
                ("", "nodes") => return own_node(node, asked),
                ("", "pods") => return self.pod(node, asked),
                ("certificates.k8s.io", "podcertificaterequests") => {
                    return self.pod_certificate(node, asked);
                }
                ("", "persistentvolumes")
                | ("storage.k8s.io", "volumeattachments")
                | ("resource.k8s.io", "resourceclaims" | "resourceslices") => {
                    return no(unrelated(node));
                }
                _ => {}
            }
        }
        if any_allows(rules, asked) {
            NodeAnswer::Allow
        } else {
            no("")
        }
    }

    fn related(&self, node: &str, vertex: Vertex, asked: &Attributes) -> NodeAnswer {
        if asked.name.is_empty() {
            return no("No Object name found");
        }
        if self.has_path(node, vertex, &asked.namespace, &asked.name) {
            NodeAnswer::Allow
        } else {
            no(unrelated(node))
        }
    }

    fn read_object(&self, node: &str, vertex: Vertex, asked: &Attributes) -> NodeAnswer {
        if !matches!(asked.verb.as_str(), "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !asked.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if asked.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, vertex, asked)
    }

    fn claim(&self, node: &str, asked: &Attributes) -> NodeAnswer {
        match (asked.verb.as_str(), asked.subresource.as_str()) {
            ("get", "") | ("update" | "patch", "status") => {
                self.related(node, Vertex::PersistentVolumeClaim, asked)
            }
            (_, "status") => no("can only get/update/patch this type"),
            _ => no("can only get individual resources of this type"),
        }
    }

    fn service_account(&self, node: &str, asked: &Attributes) -> NodeAnswer {
        match (asked.verb.as_str(), asked.subresource.as_str()) {
            ("get", "") => self.read_object(node, Vertex::ServiceAccount, asked),
            ("create", "token") if !asked.name.is_empty() => {
                self.related(node, Vertex::ServiceAccount, asked)
            }
            ("create", _) if !asked.name.is_empty() => {
                no("can only create token subresource of serviceaccount")
            }
            _ => no("can only create tokens for individual service accounts"),
        }
    }

    /// NodeRestriction limits the writes to pods of the node.
    fn pod(&self, node: &str, asked: &Attributes) -> NodeAnswer {
        match (asked.subresource.as_str(), asked.verb.as_str()) {
            ("", "get") => self.related(node, Vertex::Pod, asked),
            ("", "list" | "watch") => {
                if selects_node(asked, node) {
                    NodeAnswer::Allow
                } else if asked.name.is_empty() {
                    no("can only list/watch pods with spec.nodeName field selector")
                } else {
                    self.related(node, Vertex::Pod, asked)
                }
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                NodeAnswer::Allow
            }
            _ => no(""),
        }
    }

    /// NodeRestriction limits creations to pods of the node.
    fn pod_certificate(&self, node: &str, asked: &Attributes) -> NodeAnswer {
        if !asked.subresource.is_empty() {
            return no("nodes may not access the status subresource of PodCertificateRequests");
        }
        match asked.verb.as_str() {
            "create" => NodeAnswer::Allow,
            "get" => self.related(node, Vertex::PodCertificateRequest, asked),
            "list" | "watch" if selects_node(asked, node) => NodeAnswer::Allow,
            "list" | "watch" => {
                no("can only list/watch podcertificaterequests with nodeName field selector")
            }
            verb => no(format!("nodes may not {verb} podcertificaterequests")),
        }
    }
}

fn no(reason: impl Into<String>) -> NodeAnswer {
    NodeAnswer::NoOpinion(reason.into())
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

/// Whether a field selector demands `spec.nodeName=NODE`.
fn selects_node(asked: &Attributes, node: &str) -> bool {
    asked.param("fieldSelector").is_some_and(|selector| {
        selector.split(',').any(|term| {
            let value = term.strip_prefix("spec.nodeName=");
            value.map(|value| value.strip_prefix('=').unwrap_or(value)) == Some(node)
        })
    })
}

fn own_node(node: &str, asked: &Attributes) -> NodeAnswer {
    match (asked.subresource.as_str(), asked.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => NodeAnswer::Allow,
        ("", "get" | "list" | "watch") => match asked.name.as_str() {
            name if name == node => NodeAnswer::Allow,
            "" => no(format!(
                "node '{node}' cannot read all nodes, only its own Node object"
            )),
            name => no(format!(
                "node '{node}' cannot read '{name}', only its own Node object"
            )),
        },
        _ => no(""),
    }
}

fn lease(node: &str, asked: &Attributes) -> NodeAnswer {
    if !matches!(
        asked.verb.as_str(),
        "get" | "create" | "update" | "patch" | "delete"
    ) {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != NODE_LEASE_NAMESPACE {
        return no(format!(
            "can only access leases in the {NODE_LEASE_NAMESPACE:?} system namespace"
        ));
    }
    // The name of a create is in the body: NodeRestriction looks there.
    if asked.verb != "create" && asked.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    NodeAnswer::Allow
}

fn csi_node(node: &str, asked: &Attributes) -> NodeAnswer {
    if !asked.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if !matches!(
        asked.verb.as_str(),
        "get" | "create" | "update" | "patch" | "delete"
    ) {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if asked.verb != "create" && asked.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    NodeAnswer::Allow
}

// === references of a pod ===

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RequestSpec {
    node_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    service_account_name: String,
    image_pull_secrets: Vec<Named>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    ephemeral_containers: Vec<Container>,
    volumes: Vec<Volume>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    env: Vec<EnvVar>,
    env_from: Vec<EnvFrom>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct EnvVar {
    value_from: Option<ValueFrom>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ValueFrom {
    config_map_key_ref: Option<Named>,
    secret_key_ref: Option<Named>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct EnvFrom {
    config_map_ref: Option<Named>,
    secret_ref: Option<Named>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Volume {
    secret: Option<SecretVolume>,
    config_map: Option<Named>,
    persistent_volume_claim: Option<ClaimVolume>,
    projected: Option<Projected>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct SecretVolume {
    secret_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ClaimVolume {
    claim_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Projected {
    sources: Vec<ProjectedSource>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ProjectedSource {
    secret: Option<Named>,
    config_map: Option<Named>,
}

fn spec_of<S: DeserializeOwned + Default>(object: &Object) -> S {
    object
        .field("spec")
        .and_then(|spec| lenient::from_slice(spec.as_bytes()).ok())
        .unwrap_or_default()
}

/// What a pod gives its node access to, the pod itself included.
fn references(pod: &Object) -> Vec<Reference> {
    let spec: PodSpec = spec_of(pod);
    let mut found = vec![(Vertex::Pod, pod.name().to_owned())];
    found.push((Vertex::ServiceAccount, spec.service_account_name));
    found.extend(
        spec.image_pull_secrets
            .into_iter()
            .map(|s| (Vertex::Secret, s.name)),
    );
    let containers = spec
        .containers
        .into_iter()
        .chain(spec.init_containers)
        .chain(spec.ephemeral_containers);
    for container in containers {
        for from in container.env.into_iter().filter_map(|env| env.value_from) {
            found.extend(from.config_map_key_ref.map(|c| (Vertex::ConfigMap, c.name)));
            found.extend(from.secret_key_ref.map(|s| (Vertex::Secret, s.name)));
        }
        for from in container.env_from {
            found.extend(from.config_map_ref.map(|c| (Vertex::ConfigMap, c.name)));
            found.extend(from.secret_ref.map(|s| (Vertex::Secret, s.name)));
        }
    }
    for volume in spec.volumes {
        found.extend(volume.secret.map(|s| (Vertex::Secret, s.secret_name)));
        found.extend(volume.config_map.map(|c| (Vertex::ConfigMap, c.name)));
        let claim = volume.persistent_volume_claim;
        found.extend(claim.map(|c| (Vertex::PersistentVolumeClaim, c.claim_name)));
        for source in volume.projected.into_iter().flat_map(|p| p.sources) {
            found.extend(source.secret.map(|s| (Vertex::Secret, s.name)));
            found.extend(source.config_map.map(|c| (Vertex::ConfigMap, c.name)));
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    let namespace = pod.namespace();
    found
        .into_iter()
        .map(|(vertex, name)| (vertex, namespace.to_owned(), name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: &str = "/apis/certificates.k8s.io/v1/namespaces/a/podcertificaterequests";

    fn graph() -> NodeGraph {
        let mut graph = NodeGraph::default();
        let references = [
            (Vertex::Pod, "web"),
            (Vertex::ServiceAccount, "default"),
            (Vertex::Secret, "tls"),
        ];
        let references = references
            .map(|(vertex, name)| (vertex, "a".to_owned(), name.to_owned()))
            .to_vec();
        graph.insert((Source::Pod, "a/web".into()), "n1".into(), references);
        let request = (Vertex::PodCertificateRequest, "a".into(), "req-1".into());
        let key = (Source::PodCertificateRequest, "a/req-1".into());
        graph.insert(key, "n1".into(), vec![request]);
        graph
    }

    #[test]
    fn a_node_reaches_what_its_pods_refer_to_and_nothing_else() {
        let graph = graph();
        // node, method, uri, allowed
        let table = [
            ("n1", "GET", "/api/v1/namespaces/a/secrets/tls", true),
            ("n2", "GET", "/api/v1/namespaces/a/secrets/tls", false),
            ("n1", "GET", "/api/v1/namespaces/b/secrets/tls", false),
            ("n1", "GET", "/api/v1/namespaces/a/secrets", false),
            (
                "n1",
                "GET",
                "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name%3Dtls",
                true,
            ),
            ("n1", "DELETE", "/api/v1/namespaces/a/secrets/tls", false),
            (
                "n1",
                "POST",
                "/api/v1/namespaces/a/serviceaccounts/default/token",
                true,
            ),
            (
                "n1",
                "POST",
                "/api/v1/namespaces/a/serviceaccounts/other/token",
                false,
            ),
            (
                "n1",
                "GET",
                "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1",
                true,
            ),
            (
                "n1",
                "GET",
                "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2",
                false,
            ),
            ("n1", "GET", "/api/v1/namespaces/a/pods/web", true),
            ("n1", "GET", "/api/v1/nodes/n1", true),
            ("n1", "GET", "/api/v1/nodes", false),
            (
                "n1",
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1",
                true,
            ),
            (
                "n1",
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2",
                false,
            ),
            (
                "n1",
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/n1",
                false,
            ),
            ("n1", "GET", "/api/v1/services", true),
            ("n1", "POST", REQUESTS, true),
            ("n1", "GET", &format!("{REQUESTS}/req-1"), true),
            ("n2", "GET", &format!("{REQUESTS}/req-1"), false),
            ("n1", "GET", REQUESTS, false),
            (
                "n1",
                "GET",
                &format!("{REQUESTS}?fieldSelector=spec.nodeName%3Dn1"),
                true,
            ),
            (
                "n1",
                "GET",
                &format!("{REQUESTS}?fieldSelector=spec.nodeName%3Dn2"),
                false,
            ),
            ("n1", "PUT", &format!("{REQUESTS}/req-1/status"), false),
            ("n1", "DELETE", &format!("{REQUESTS}/req-1"), false),
            ("n1", "DELETE", "/api/v1/namespaces/a/services/x", false),
        ];
        let rules: Vec<PolicyRule> = vec![PolicyRule {
            verbs: vec!["list".into()],
            api_groups: vec![String::new()],
            resources: vec!["services".into()],
            ..PolicyRule::default()
        }];
        for (node, method, uri, allowed) in table {
            let (path, query) = uri
                .split_once('?')
                .map_or((uri, None), |(p, q)| (p, Some(q)));
            let asked = Attributes::parse(&method.parse().unwrap(), path, query);
            let answer = graph.authorize(node, &asked, &rules);
            assert_eq!(
                answer == NodeAnswer::Allow,
                allowed,
                "{node} {method} {uri}: {answer:?}"
            );
        }
    }

    #[test]
    fn what_a_deleted_pod_referred_to_is_out_of_reach_again() {
        let mut graph = graph();
        graph.remove(&(Source::Pod, "a/web".into()));
        graph.remove(&(Source::PodCertificateRequest, "a/req-1".into()));
        assert!(!graph.has_path("n1", Vertex::Secret, "a", "tls"));
        assert!(graph.related.is_empty() && graph.sources.is_empty());
    }
}
