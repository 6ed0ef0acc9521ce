//! NodeRestriction: a node writes its own Node, its own Lease, and its own pods' status.
//!
//! Port of `plugin/pkg/admission/noderestriction`. Runs after authorization, where the object is
//! known. Requests for pods' certificates are in `pod_certificate`.

use std::collections::BTreeMap;

use api::{Doc, Status, Value};

use super::node::NODE_LEASE_NAMESPACE;
use super::service_account::BoundRef;
use crate::attributes::Attributes;
use crate::cache::Cache;
use crate::catalog::ResourceId;

mod pod_certificate;

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const NODE_RESTRICTION_LABELS: &str = "node-restriction.kubernetes.io";
/// Labels of kubernetes.io and k8s.io a kubelet may set on its Node.
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// One write of a node.
pub struct NodeWrite<'w> {
    pub cache: &'w Cache,
    pub node: &'w str,
    pub asked: &'w Attributes,
    /// The object as it would be written; none for deletes.
    pub new: Option<&'w Doc<'w>>,
    /// The object as it is; none for creates.
    pub old: Option<&'w serde_json::Value>,
    /// Whether the node may do something further.
    pub may: &'w dyn Fn(&Attributes) -> bool,
}

// === impl NodeWrite ===

impl NodeWrite<'_> {
    /// 403 unless the write is within what is the node's own.
    pub fn check(&self) -> Result<(), Status> {
        match (self.asked.group.as_str(), self.asked.resource.as_str()) {
            ("", "pods") => match self.asked.subresource.as_str() {
                "" => self.pod(),
                "status" => self.pod_status(),
                "eviction" => self.own_pod("evict"),
                other => self.forbid(format!(
                    "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
                )),
            },
            ("", "nodes") => self.own_node(),
            ("", "persistentvolumeclaims") if self.asked.subresource != "status" => {
                self.forbid("may only update PVC status".to_owned())
            }
            ("coordination.k8s.io", "leases") => self.lease(),
            ("storage.k8s.io", "csinodes") => self.named_like_node("CSINode"),
            ("certificates.k8s.io", "certificatesigningrequests") => self.signing_request(),
            ("certificates.k8s.io", "podcertificaterequests") => self.pod_certificate(),
            _ => Ok(()),
        }
    }

    fn forbid(&self, why: String) -> Result<(), Status> {
        let name = self.name();
        Err(Status::forbidden(
            &self.asked.group,
            &self.asked.resource,
            name,
            &why,
        ))
    }

    /// Name in the path or, for a create, in the body.
    fn name(&self) -> &str {
        match self.new {
            Some(new) if self.asked.name.is_empty() => new.name(),
            _ => &self.asked.name,
        }
    }

    fn pod(&self) -> Result<(), Status> {
        match self.asked.verb.as_str() {
            "create" => self.mirror_pod(),
            "delete" | "deletecollection" => self.own_pod("delete"),
            verb => self.forbid(format!(
                "unexpected operation {verb:?}, node {:?} can only create and delete mirror pods",
                self.node
            )),
        }
    }

    fn own_pod(&self, action: &str) -> Result<(), Status> {
        let pods = ResourceId::named("", "pods");
        let name = self.name();
        let pod = self
            .cache
            .get(pods, &self.asked.namespace, name)
            .ok_or_else(|| Status::not_found("", "pods", name))?;
        if pod.node_name() == Some(self.node) {
            return Ok(());
        }
        let node = self.node;
        self.forbid(format!(
            "node {node:?} can only {action} pods with spec.nodeName set to itself"
        ))
    }

    fn mirror_pod(&self) -> Result<(), Status> {
        let (node, Some(pod)) = (self.node, self.new) else {
            return Ok(());
        };
        if pod
            .map_value(&["metadata", "annotations"], MIRROR_ANNOTATION)
            .is_none()
        {
            return self.forbid(format!(
                "pod does not have {MIRROR_ANNOTATION:?} annotation, node {node:?} can only create mirror pods"
            ));
        }
        if pod.str_at(&["spec", "nodeName"]) != Some(node) {
            return self.forbid(format!(
                "node {node:?} can only create pods with spec.nodeName set to itself"
            ));
        }
        let owners = pod.list_at(&["metadata", "ownerReferences"]);
        let owned = matches!(owners, [owner] if self.is_own_reference(owner));
        if !owned {
            return self.forbid(format!(
                "node {node:?} can only create pods with a single controller owner reference set to itself"
            ));
        }
        let account = pod
            .str_at(&["spec", "serviceAccountName"])
            .unwrap_or_default();
        if !account.is_empty() {
            return self.forbid(format!(
                "node {node:?} can not create pods that reference serviceaccounts"
            ));
        }
        Ok(())
    }

    fn is_own_reference(&self, owner: &Value<'_>) -> bool {
        let node = self
            .cache
            .get(ResourceId::named("", "nodes"), "", self.node);
        owner.str_of("apiVersion") == Some("v1")
            && owner.str_of("kind") == Some("Node")
            && owner.str_of("name") == Some(self.node)
            && owner.bool_of("controller") == Some(true)
            && owner.bool_of("blockOwnerDeletion") != Some(true)
            && node.is_some_and(|node| owner.str_of("uid") == Some(node.uid()))
    }

    fn pod_status(&self) -> Result<(), Status> {
        let (node, Some(old)) = (self.node, self.old) else {
            return Ok(());
        };
        if old["spec"]["nodeName"].as_str() != Some(node) {
            return self.forbid(format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            ));
        }
        if let Some(new) = self.new
            && labels_of(new) != old_labels(Some(old))
        {
            return self.forbid(format!(
                "node {node:?} cannot update labels through pod status"
            ));
        }
        Ok(())
    }

    fn own_node(&self) -> Result<(), Status> {
        let (node, name) = (self.node, self.name());
        if name != node {
            return self.forbid(format!(
                "node {node:?} is not allowed to modify node {name:?}"
            ));
        }
        let Some(new) = self.new else { return Ok(()) };
        let changed = changed_labels(&labels_of(new), &old_labels(self.old));
        let forbidden: Vec<&str> = changed
            .iter()
            .map(String::as_str)
            .filter(|label| is_forbidden(label))
            .collect();
        if !forbidden.is_empty() {
            let list = forbidden.join(", ");
            return self.forbid(match self.old {
                None => format!("node {node:?} is not allowed to set the following labels: {list}"),
                Some(_) => format!("is not allowed to modify labels: {list}"),
            });
        }
        let Some(old) = self.old else { return Ok(()) };
        if !same(new.get(&["spec", "taints"]), &old["spec"]["taints"]) {
            return self.forbid(format!("node {node:?} is not allowed to modify taints"));
        }
        if !same(
            new.get(&["metadata", "ownerReferences"]),
            &old["metadata"]["ownerReferences"],
        ) {
            return self.forbid(format!(
                "node {node:?} is not allowed to modify ownerReferences"
            ));
        }
        Ok(())
    }

    fn lease(&self) -> Result<(), Status> {
        if self.asked.namespace != NODE_LEASE_NAMESPACE {
            return self.forbid(format!(
                "can only access leases in the {NODE_LEASE_NAMESPACE:?} system namespace"
            ));
        }
        self.named_like_node("node lease")
    }

    fn named_like_node(&self, what: &str) -> Result<(), Status> {
        if self.name() == self.node {
            return Ok(());
        }
        self.forbid(format!(
            "can only access {what} with the same name as the requesting node"
        ))
    }

    fn signing_request(&self) -> Result<(), Status> {
        let (Some(new), "create") = (self.new, self.asked.verb.as_str()) else {
            return Ok(());
        };
        let signer = new.str_at(&["spec", "signerName"]).unwrap_or_default();
        if !matches!(
            signer,
            "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet"
        ) {
            return Ok(());
        }
        let request = new.str_at(&["spec", "request"]).unwrap_or_default();
        let wanted = format!("system:node:{}", self.node);
        match super::certificates::subject(request) {
            None => self.forbid("unable to parse csr".to_owned()),
            Some(subject) if subject.common_name == wanted => Ok(()),
            Some(_) => self.forbid(format!("can only create a node CSR with CN={wanted}")),
        }
    }
}

/// 403 unless a token a node asks for is bound to a pod it runs.
pub fn check_token(
    cache: &Cache,
    node: &str,
    asked: &Attributes,
    bound: Option<&BoundRef>,
) -> Result<(), Status> {
    let forbid = |why: &str| Err(Status::forbidden("", "serviceaccounts", &asked.name, why));
    let Some(bound) =
        bound.filter(|b| b.api_version == "v1" && b.kind == "Pod" && !b.name.is_empty())
    else {
        return forbid("node requested token not bound to a pod");
    };
    if bound.uid.is_empty() {
        return forbid("node requested token with a pod binding without a uid");
    }
    let pod = cache
        .get(ResourceId::named("", "pods"), &asked.namespace, &bound.name)
        .ok_or_else(|| Status::not_found("", "pods", &bound.name))?;
    if pod.uid() != bound.uid {
        return forbid(&format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            bound.uid
        ));
    }
    if pod.node_name() != Some(node) {
        return forbid("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}

/// Whether a value of a document equals JSON; absent, null and empty lists are the same.
fn same(new: Option<&Value<'_>>, old: &serde_json::Value) -> bool {
    let new = new.map(to_json).unwrap_or_default();
    let empty =
        |value: &serde_json::Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    new == *old || (empty(&new) && empty(old))
}

fn to_json(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => (*text).into(),
        Value::List(list) => list.iter().map(to_json).collect(),
        Value::Object(object) => {
            let entries = object
                .iter()
                .map(|(key, value)| (key.to_owned(), to_json(value)));
            serde_json::Value::Object(entries.collect())
        }
    }
}

fn labels_of(doc: &Doc<'_>) -> BTreeMap<String, String> {
    let labels = doc.get(&["metadata", "labels"]).and_then(Value::as_object);
    labels.map_or_else(BTreeMap::new, |labels| {
        labels
            .iter()
            .map(|(key, value)| {
                (
                    key.to_owned(),
                    value.as_str().unwrap_or_default().to_owned(),
                )
            })
            .collect()
    })
}

fn old_labels(old: Option<&serde_json::Value>) -> BTreeMap<String, String> {
    let labels = old.and_then(|old| old["metadata"]["labels"].as_object());
    labels.map_or_else(BTreeMap::new, |labels| {
        labels
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect()
    })
}

fn changed_labels(new: &BTreeMap<String, String>, old: &BTreeMap<String, String>) -> Vec<String> {
    let mut changed: Vec<String> = new
        .iter()
        .filter(|(key, value)| old.get(*key) != Some(*value))
        .chain(old.iter().filter(|(key, _)| !new.contains_key(*key)))
        .map(|(key, _)| key.clone())
        .collect();
    changed.sort();
    changed
}

fn in_domain(domain: &str, parent: &str) -> bool {
    domain == parent
        || domain
            .strip_suffix(parent)
            .is_some_and(|rest| rest.ends_with('.'))
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    if in_domain(domain, NODE_RESTRICTION_LABELS) {
        return true;
    }
    let of_kubernetes = in_domain(domain, "kubernetes.io") || in_domain(domain, "k8s.io");
    of_kubernetes
        && !KUBELET_LABELS.contains(&label)
        && !KUBELET_LABEL_DOMAINS
            .iter()
            .any(|allowed| in_domain(domain, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_sets_its_own_labels_only() {
        let allowed = [
            "kubernetes.io/hostname",
            "beta.kubernetes.io/os",
            "foo.node.kubernetes.io/x",
            "kubelet.kubernetes.io/y",
            "example.com/z",
            "plain",
        ];
        let refused = [
            "node-restriction.kubernetes.io/team",
            "a.node-restriction.kubernetes.io/team",
            "node-role.kubernetes.io/control-plane",
            "k8s.io/x",
        ];
        for label in allowed {
            assert!(!is_forbidden(label), "{label}");
        }
        for label in refused {
            assert!(is_forbidden(label), "{label}");
        }
    }

    #[test]
    fn changed_labels_are_added_removed_and_different_ones() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let old = map(&[("same", "1"), ("gone", "1"), ("new value", "1")]);
        let new = map(&[("same", "1"), ("new value", "2"), ("added", "1")]);
        assert_eq!(changed_labels(&new, &old), ["added", "gone", "new value"]);
    }
}
