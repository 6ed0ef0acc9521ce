//! Pod garbage: pods bound to nodes that no longer exist, and deleted pods never scheduled.
//!
//! Mechanism of pkg/controller/podgc/gc_controller.go, event-driven instead of polled.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::kinds::{Pod, Projection};
use crate::object::{Key, MetaExt, time};
use crate::plan::{Controller, Cx, Plan};
use crate::view::{Change, Index, World};
use crate::write::{PatchKind, Verb, Write};

/// How long a node must have been missing.
const QUARANTINE: Duration = Duration::from_secs(40);

#[derive(Debug, Default)]
pub struct PodGc {
    /// Since when nodes that pods are bound to are known to be missing.
    missing: HashMap<String, Timestamp>,
}

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::Node(delta) => {
                let name = delta.key().name.to_string();
                if delta.new.is_none() {
                    let pods = world.pods.by_index(Index::Node(name));
                    keys.extend(pods.map(|pod| Key::of(&pod.metadata)));
                } else {
                    self.missing.remove(&name);
                }
            }
            Change::Pod(delta) => {
                let Some(pod) = &delta.new else {
                    return self.forget(world, delta.latest());
                };
                let node = pod.spec.node_name.as_deref().unwrap_or("");
                let is_lost = match node {
                    "" => pod.metadata.is_deleting(),
                    node => world.nodes.get(&Key::cluster(node)).is_none(),
                };
                if is_lost {
                    keys.push(delta.key());
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(pod) = world.pods.get(key) else {
            return Plan::nothing();
        };
        let Some(node) = pod
            .spec
            .node_name
            .as_deref()
            .filter(|node| !node.is_empty())
        else {
            if !pod.metadata.is_deleting() {
                return Plan::nothing();
            }
            return Plan::write(force_delete(pod));
        };
        if world.nodes.get(&Key::cluster(node)).is_some() {
            return Plan::nothing();
        }
        let since = *self.missing.entry(node.to_owned()).or_insert(cx.now);
        let age = u64::try_from(cx.now.as_second() - since.as_second()).unwrap_or(0);
        let left = QUARANTINE.saturating_sub(Duration::from_secs(age));
        if !left.is_zero() {
            return Plan::after(left);
        }
        let mut writes = Vec::new();
        if !pod.is_terminated() {
            writes.push(fail(pod, cx.now));
        }
        writes.push(force_delete(pod));
        Plan::of(writes)
    }
}

impl PodGc {
    /// A node without pods is nobody's concern any more.
    fn forget(&mut self, world: &World, gone: &Pod) {
        let Some(node) = &gone.spec.node_name else {
            return;
        };
        let mut pods = world.pods.by_index(Index::Node(node.clone()));
        if pods.next().is_none() {
            self.missing.remove(node);
        }
    }
}

fn force_delete(pod: &Pod) -> Write {
    let uid = pod.metadata.uid().to_owned();
    Write {
        resource: &Pod::RESOURCE,
        key: Key::of(&pod.metadata),
        verb: Verb::Delete {
            uid,
            resource_version: None,
            grace_seconds: Some(0),
            propagation: None,
        },
        notes: None,
    }
}

fn fail(pod: &Pod, now: Timestamp) -> Write {
    let body = json!({"status": {"phase": "Failed", "conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByPodGC",
        "message": "PodGC: node no longer exists",
        "lastTransitionTime": time(now),
    }]}});
    Write {
        resource: &Pod::RESOURCE,
        key: Key::of(&pod.metadata),
        verb: Verb::Patch {
            subresource: Some("status"),
            kind: PatchKind::Strategic,
            body,
        },
        notes: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Node;
    use crate::sim::Sim;

    fn pod(sim: &mut Sim, node: Option<&str>) -> Key {
        sim.create::<Pod>(json!({
            "metadata": {"namespace": "ns", "name": "p"},
            "spec": {"nodeName": node},
            "status": {"phase": "Running"}}))
    }

    #[test]
    fn a_pod_goes_some_time_after_its_node_has_gone() {
        let mut sim = Sim::new(vec![Box::<PodGc>::default()]);
        let node = sim.create::<Node>(json!({"metadata": {"name": "n"}}));
        let key = pod(&mut sim, Some("n"));
        sim.settle();
        sim.remove::<Node>(&node);
        sim.settle();
        assert_eq!(sim.plan(0, &key).requeue_after, Some(QUARANTINE));
        sim.advance(39);
        sim.wake(0, &key);
        sim.settle();
        assert!(sim.get::<Pod>(&key).is_some());
        sim.advance(1);
        sim.wake(0, &key);
        sim.settle();
        assert!(sim.get::<Pod>(&key).is_none());
    }

    #[test]
    fn a_node_that_comes_back_in_time_keeps_its_pods() {
        let mut sim = Sim::new(vec![Box::<PodGc>::default()]);
        let key = pod(&mut sim, Some("n"));
        sim.settle();
        sim.advance(30);
        sim.create::<Node>(json!({"metadata": {"name": "n"}}));
        sim.advance(30);
        sim.wake(0, &key);
        sim.settle();
        assert!(sim.get::<Pod>(&key).is_some());
    }

    #[test]
    fn a_missing_node_is_forgotten_with_its_last_pod() {
        let mut sim = Sim::new(vec![Box::<PodGc>::default()]);
        let key = pod(&mut sim, Some("n"));
        sim.settle();
        sim.remove::<Pod>(&key);
        sim.settle();
        sim.advance(60);
        let key = pod(&mut sim, Some("n"));
        assert_eq!(sim.plan(0, &key).requeue_after, Some(QUARANTINE));
    }

    #[test]
    fn a_deleted_pod_without_a_node_goes_at_once() {
        let mut sim = Sim::new(vec![Box::<PodGc>::default()]);
        let key = pod(&mut sim, None);
        let now = sim.now.to_string();
        sim.edit::<Pod>(&key, |pod| {
            pod["metadata"]["deletionTimestamp"] = now.into()
        });
        sim.settle();
        assert!(sim.get::<Pod>(&key).is_none());
    }
}
