//! The cluster as scheduling sees it: nodes, the pods on them, and what is left.
//!
//! Input: objects as they change, and assumptions (a pod placed but not confirmed yet). Kept
//! incrementally: a change of a pod costs that pod and its node. Mechanism of
//! pkg/scheduler/backend/cache.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::object::{Key, Labels, Node, Pod};
use crate::resources::{Amounts, PodRequest};

/// A pod on a node, with what it takes.
#[derive(Clone, Debug)]
pub struct Placed {
    pub pod: Arc<Pod>,
    pub request: PodRequest,
    pub ports: Vec<HostPort>,
}

/// A port of the node that a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// The host ports of a pod; with host networking every container port is one.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let sidecars = pod.spec.init_containers.iter();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = pod
        .spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| &c.ports);
    ports
        .filter_map(|port| {
            let number = match port.host_port {
                0 if pod.spec.host_network => port.container_port,
                number => number,
            };
            let filled = |text: &Option<String>, default: &str| {
                text.clone()
                    .filter(|t| !t.is_empty())
                    .unwrap_or_else(|| default.to_owned())
            };
            (number > 0).then(|| HostPort {
                ip: filled(&port.host_ip, "0.0.0.0"),
                protocol: filled(&port.protocol, "TCP"),
                port: number,
            })
        })
        .collect()
}

/// A node and the pods on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub allocatable: Amounts,
    pub pods: BTreeMap<Key, Placed>,
    pub requested: Amounts,
    /// Requested cpu and memory with defaults.
    pub scored: (i64, i64),
}

impl NodeInfo {
    fn new(node: Arc<Node>) -> Self {
        Self {
            allocatable: Amounts::parse(&node.status.allocatable),
            node,
            pods: BTreeMap::new(),
            requested: Amounts::default(),
            scored: (0, 0),
        }
    }

    fn add(&mut self, placed: Placed) {
        self.requested.add(&placed.request.amounts);
        self.scored.0 += placed.request.scored.0;
        self.scored.1 += placed.request.scored.1;
        self.pods.insert(placed.pod.key(), placed);
    }

    fn remove(&mut self, key: &Key) -> Option<Placed> {
        let placed = self.pods.remove(key)?;
        self.requested.subtract(&placed.request.amounts);
        self.scored.0 -= placed.request.scored.0;
        self.scored.1 -= placed.request.scored.1;
        Some(placed)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<Arc<str>, NodeInfo>,
    /// Node of every placed pod, known node or not.
    placed: HashMap<Key, Arc<str>>,
    /// Placed pods whose node is not known (yet).
    stray: HashMap<Arc<str>, BTreeMap<Key, Placed>>,
    /// Pods placed by us and not confirmed by the API server yet, by uid.
    assumed: HashMap<Key, String>,
    /// Placed pods with required anti-affinity terms: they reject others.
    repelling: BTreeSet<Key>,
    /// Placed pods with any wish about other pods.
    choosy: BTreeSet<Key>,
    /// Placed pods by their controller's uid.
    owned: HashMap<Arc<str>, BTreeSet<Key>>,
    namespaces: HashMap<Arc<str>, Labels>,
    /// Pods that wait for others to make room for them, with the node they were promised.
    promised: BTreeMap<Key, (Arc<Pod>, Arc<str>)>,
}

impl Snapshot {
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub fn namespace_labels(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace)
    }

    /// All placed pods with their nodes.
    pub fn placed(&self) -> impl Iterator<Item = (&NodeInfo, &Placed)> {
        self.nodes
            .values()
            .flat_map(|node| node.pods.values().map(move |pod| (node, pod)))
    }

    /// Placed pods that have required anti-affinity terms.
    pub fn repelling(&self) -> impl Iterator<Item = (&NodeInfo, &Placed)> {
        self.of_keys(&self.repelling)
    }

    /// Placed pods that wish for or against the company of others.
    pub fn choosy(&self) -> impl Iterator<Item = (&NodeInfo, &Placed)> {
        self.of_keys(&self.choosy)
    }

    /// Placed pods of the controller with that uid.
    pub fn owned_by(&self, uid: &str) -> impl Iterator<Item = (&NodeInfo, &Placed)> {
        self.owned
            .get(uid)
            .into_iter()
            .flat_map(|keys| self.of_keys(keys))
    }

    fn of_keys<'a>(
        &'a self,
        keys: &'a BTreeSet<Key>,
    ) -> impl Iterator<Item = (&'a NodeInfo, &'a Placed)> {
        keys.iter().filter_map(|key| {
            let node = self.nodes.get(self.placed.get(key)?)?;
            Some((node, node.pods.get(key)?))
        })
    }

    pub fn set_namespace(&mut self, name: &str, labels: Labels) {
        self.namespaces.insert(name.into(), labels);
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    pub fn set_node(&mut self, node: Node) {
        let name: Arc<str> = node.name().into();
        let node = Arc::new(node);
        if let Some(info) = self.nodes.get_mut(&name) {
            info.allocatable = Amounts::parse(&node.status.allocatable);
            info.node = node;
            return;
        }
        let mut info = NodeInfo::new(node);
        for placed in self.stray.remove(&name).unwrap_or_default().into_values() {
            info.add(placed);
        }
        self.nodes.insert(name, info);
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some((name, info)) = self.nodes.remove_entry(name)
            && !info.pods.is_empty()
        {
            self.stray.insert(name, info.pods);
        }
    }

    /// Takes in a pod as the API server has it. An assumed pod stays assumed until it is bound.
    pub fn set_pod(&mut self, pod: &Arc<Pod>) {
        let key = pod.key();
        match pod.node() {
            Some(node) if !pod.is_finished() => {
                self.assumed.remove(&key);
                self.promised.remove(&key);
                self.place(pod.clone(), node.into());
            }
            None if self.assumed.get(&key).is_some_and(|uid| uid == pod.uid()) => {}
            _ => self.remove_pod(&key),
        }
    }

    /// Room on `node` is being made for the pod.
    pub fn promise(&mut self, pod: &Arc<Pod>, node: &str) {
        self.promised.insert(pod.key(), (pod.clone(), node.into()));
    }

    /// The pod waits for no room any more.
    pub fn break_promise(&mut self, key: &Key) {
        self.promised.remove(key);
    }

    /// The node the pod was promised.
    pub fn promised(&self, key: &Key) -> Option<&str> {
        self.promised.get(key).map(|(_, node)| &**node)
    }

    /// Pods that were promised the node.
    pub fn promised_to(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        let promised = self.promised.values();
        promised
            .filter(move |(_, on)| &**on == node)
            .map(|(pod, _)| pod)
    }

    /// The cluster with the promises kept that come before the pod; `None` if there are none.
    pub fn with_rivals(&self, pod: &Pod) -> Option<Self> {
        let key = pod.key();
        let rivals = self.promised.iter().filter(|(other, (rival, _))| {
            **other != key && rival.spec.priority >= pod.spec.priority
        });
        let mut rivals = rivals.peekable();
        rivals.peek()?;
        let mut kept = self.clone();
        for (_, (rival, node)) in rivals {
            kept.place(rival.clone(), node.clone());
        }
        Some(kept)
    }

    /// Counts `pod` on `node` although the API server does not know yet.
    pub fn assume(&mut self, pod: &Arc<Pod>, node: &str) {
        self.promised.remove(&pod.key());
        self.place(pod.clone(), node.into());
        self.assumed.insert(pod.key(), pod.uid().to_owned());
    }

    /// The binding did not happen.
    pub fn forget(&mut self, key: &Key) {
        if self.assumed.contains_key(key) {
            self.remove_pod(key);
        }
    }

    pub fn is_assumed(&self, key: &Key) -> bool {
        self.assumed.contains_key(key)
    }

    pub fn remove_pod(&mut self, key: &Key) {
        self.assumed.remove(key);
        let Some(node) = self.placed.remove(key) else {
            return;
        };
        let mut placed = None;
        if let Some(info) = self.nodes.get_mut(&node) {
            placed = info.remove(key);
        } else if let Some(pods) = self.stray.get_mut(&node) {
            placed = pods.remove(key);
            if pods.is_empty() {
                self.stray.remove(&node);
            }
        }
        if let Some(placed) = placed {
            self.unindex(key, &placed.pod);
        }
    }

    /// Counts `pod` on `node`, and nowhere else.
    pub fn place(&mut self, pod: Arc<Pod>, node: Arc<str>) {
        let key = pod.key();
        self.remove_pod(&key);
        self.index(&key, &pod);
        let placed = Placed {
            request: PodRequest::of(&pod),
            ports: host_ports(&pod),
            pod,
        };
        self.placed.insert(key.clone(), node.clone());
        match self.nodes.get_mut(&node) {
            Some(info) => info.add(placed),
            None => {
                self.stray.entry(node).or_default().insert(key, placed);
            }
        }
    }

    fn index(&mut self, key: &Key, pod: &Pod) {
        if !pod.anti_affinity_terms().is_empty() {
            self.repelling.insert(key.clone());
        }
        if is_choosy(pod) {
            self.choosy.insert(key.clone());
        }
        if let Some(owner) = pod.owner() {
            self.owned
                .entry(owner.into())
                .or_default()
                .insert(key.clone());
        }
    }

    fn unindex(&mut self, key: &Key, pod: &Pod) {
        self.repelling.remove(key);
        self.choosy.remove(key);
        let Some(owner) = pod.owner() else { return };
        if let Some(keys) = self.owned.get_mut(owner) {
            keys.remove(key);
            if keys.is_empty() {
                self.owned.remove(owner);
            }
        }
    }
}

fn is_choosy(pod: &Pod) -> bool {
    let affinity = pod.spec.affinity.as_ref();
    affinity.is_some_and(|a| a.pod_affinity.is_some() || a.pod_anti_affinity.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::CPU;
    use serde_json::json;

    fn pod(name: &str, node: Option<&str>, phase: &str) -> Arc<Pod> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name},
            "spec": {"nodeName": node, "containers": [{"resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": phase}}))
        .unwrap();
        Arc::new(pod)
    }

    fn node(name: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
    }

    #[test]
    fn an_assumed_pod_counts_until_it_is_bound_finished_or_forgotten() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("a"));
        let requested = |s: &Snapshot| s.node("a").unwrap().requested.get(CPU);
        snapshot.assume(&pod("p", None, "Pending"), "a");
        assert_eq!(requested(&snapshot), 1000);
        snapshot.set_pod(&pod("p", None, "Pending"));
        assert_eq!(requested(&snapshot), 1000);
        snapshot.set_pod(&pod("p", Some("a"), "Running"));
        assert_eq!(requested(&snapshot), 1000);
        assert!(!snapshot.is_assumed(&pod("p", None, "").key()));
        snapshot.set_pod(&pod("p", Some("a"), "Succeeded"));
        assert_eq!(requested(&snapshot), 0);
        snapshot.assume(&pod("q", None, "Pending"), "a");
        snapshot.forget(&pod("q", None, "").key());
        assert_eq!(requested(&snapshot), 0);
    }

    #[test]
    fn the_indexes_follow_pods_to_other_nodes_and_out() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("a"));
        let owned = |node: &str| -> Arc<Pod> {
            let term = json!({"topologyKey": "zone", "labelSelector": {}});
            let pod = json!({
                "metadata": {"namespace": "ns", "name": "p", "uid": "p", "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r",
                     "controller": true}]},
                "spec": {"nodeName": node, "affinity": {"podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let counts = |s: &Snapshot| {
            let (repelling, choosy) = (s.repelling().count(), s.choosy().count());
            (repelling, choosy, s.owned_by("r").count())
        };
        // Its node is not known yet.
        snapshot.set_pod(&owned("b"));
        assert_eq!(counts(&snapshot), (0, 0, 0));
        snapshot.set_node(node("b"));
        assert_eq!(counts(&snapshot), (1, 1, 1));
        snapshot.remove_pod(&owned("b").key());
        assert_eq!(counts(&snapshot), (0, 0, 0));
        assert!(snapshot.owned.is_empty() && snapshot.choosy.is_empty());
    }

    #[test]
    fn pods_seen_before_their_node_are_counted_when_it_comes() {
        let mut snapshot = Snapshot::default();
        snapshot.set_pod(&pod("p", Some("a"), "Running"));
        snapshot.set_node(node("a"));
        assert_eq!(snapshot.node("a").unwrap().requested.get(CPU), 1000);
        snapshot.remove_node("a");
        snapshot.set_node(node("a"));
        assert_eq!(snapshot.node("a").unwrap().requested.get(CPU), 1000);
    }
}
