//! Node health: a node whose heartbeat stops becomes Unknown; taints follow the conditions.
//!
//! Mechanism of pkg/controller/nodelifecycle/node_lifecycle_controller.go: what counts is when a
//! new heartbeat was *seen*, by our own clock. When no node at all is ready the fault is more
//! likely here: then nothing is evicted (full disruption).

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{NO_EXECUTE, NO_SCHEDULE, NOT_READY_TAINT, READY, UNREACHABLE_TAINT, evict, readiness};
use crate::driver::feed::NODE_LEASE_NAMESPACE;
use crate::kinds::{Node, Pod, Projection, condition};
use crate::object::{Key, MetaExt, time};
use crate::plan::{Controller, Cx, Note, Plan};
use crate::view::{Change, Index, World};
use crate::write::{Edit, PatchKind, Verb, Write};

/// A node that has not been heard of for this long is Unknown.
const GRACE: Duration = Duration::from_secs(40);
/// The same for a node that was never heard of.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Conditions that become Unknown together.
const CONDITIONS: [&str; 4] = [READY, "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Taints that follow from a condition being True.
const PRESSURE_TAINTS: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// The last sign of life of a node.
#[derive(Clone, Debug, PartialEq)]
struct Pulse {
    lease: Option<MicroTime>,
    heartbeat: Option<Time>,
    seen: Timestamp,
    never: bool,
}

#[derive(Debug, Default)]
pub struct NodeLifecycle {
    pulses: HashMap<Key, Pulse>,
}

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::Node(delta) => {
                if delta.new.is_none() {
                    self.pulses.remove(&delta.key());
                }
                keys.push(delta.key());
                let ready = |node: &Option<std::sync::Arc<Node>>| {
                    node.as_ref().is_some_and(|node| readiness(node) == "True")
                };
                // Whether any node is ready matters to all.
                if ready(&delta.old) != ready(&delta.new) {
                    keys.extend(world.nodes.iter().map(|(key, _)| key.clone()));
                }
            }
            Change::Lease(delta) => keys.push(Key::cluster(&delta.key().name)),
            Change::Pod(delta) => {
                let Some(pod) = &delta.new else { return };
                let Some(name) = pod.spec.node_name.as_deref() else {
                    return;
                };
                let key = Key::cluster(name);
                let concerns = |node: &Node| {
                    readiness(node) == "Unknown"
                        || node.spec.taints.iter().any(|t| t.effect == NO_EXECUTE)
                };
                if world.nodes.get(&key).is_some_and(|node| concerns(node)) {
                    keys.push(key);
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(node) = world.nodes.get(key) else {
            return Plan::nothing();
        };
        let silent_in = self.silent_in(world, key, node, cx.now);
        let status = readiness(node);
        if silent_in.is_zero() && (status != "Unknown" || never_posted(node)) {
            return mark_unknown(node, cx);
        }
        let mut plan = Plan::nothing();
        plan.writes.extend(taint_write(world, node, cx.now));
        if status == "Unknown" {
            plan.writes.extend(mark_pods(world, key, cx.now));
        }
        evict::plan(world, node, cx.now, &mut plan);
        if !silent_in.is_zero() {
            plan.requeue(silent_in);
        }
        plan
    }
}

impl NodeLifecycle {
    /// How long until the node counts as silent; zero when it does.
    fn silent_in(&mut self, world: &World, key: &Key, node: &Node, now: Timestamp) -> Duration {
        let lease = world.leases.get(&Key::new(NODE_LEASE_NAMESPACE, &key.name));
        let lease = lease.and_then(|lease| lease.spec.renew_time.clone());
        // Unknown is what we say, not what the kubelet says.
        let heartbeat = condition(&node.status.conditions, READY)
            .filter(|ready| ready.status != "Unknown")
            .and_then(|ready| ready.last_heartbeat_time.clone());
        let never = lease.is_none() && heartbeat.is_none();
        let pulse = self.pulses.entry(key.clone()).or_insert_with(|| Pulse {
            lease: lease.clone(),
            heartbeat: heartbeat.clone(),
            seen: if never { node.metadata.created() } else { now },
            never,
        });
        let is_news = heartbeat.is_some() && pulse.heartbeat != heartbeat;
        if pulse.lease != lease || is_news {
            *pulse = Pulse {
                lease,
                heartbeat,
                seen: now,
                never,
            };
        }
        let grace = if pulse.never { STARTUP_GRACE } else { GRACE };
        let age = now.as_second() - pulse.seen.as_second();
        grace.saturating_sub(Duration::from_secs(u64::try_from(age).unwrap_or(0)))
    }
}

fn never_posted(node: &Node) -> bool {
    condition(&node.status.conditions, READY).is_none()
}

fn mark_unknown(node: &Node, cx: &Cx<'_>) -> Plan {
    let now = time(cx.now);
    let unknown = |type_: &str| {
        let current = condition(&node.status.conditions, type_);
        let (reason, message) = match current {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => (
                "NodeStatusNeverUpdated",
                "Kubelet never posted node status.",
            ),
        };
        let heartbeat = current.and_then(|c| c.last_heartbeat_time.clone());
        json!({
            "type": type_,
            "status": "Unknown",
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": heartbeat.unwrap_or_else(|| node_created(node)),
            "lastTransitionTime": now,
        })
    };
    let is_known = |type_: &&&str| {
        condition(&node.status.conditions, type_).is_none_or(|c| c.status != "Unknown")
    };
    let conditions: Vec<Value> = CONDITIONS
        .iter()
        .filter(is_known)
        .map(|t| unknown(t))
        .collect();
    let write = Write {
        resource: &Node::RESOURCE,
        key: Key::of(&node.metadata),
        verb: Verb::Patch {
            subresource: Some("status"),
            kind: PatchKind::Strategic,
            body: json!({"status": {"conditions": conditions}}),
        },
        notes: None,
    };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let message = format!("Node {name} status is now: NodeNotReady");
    let events = vec![Note::normal(node, "NodeNotReady", message)];
    Plan {
        writes: vec![write],
        events,
        ..Plan::default()
    }
}

fn node_created(node: &Node) -> Time {
    node.metadata
        .creation_timestamp
        .clone()
        .unwrap_or(Time(Timestamp::UNIX_EPOCH))
}

/// The write that makes the node's taints follow its conditions.
fn taint_write(world: &World, node: &Node, now: Timestamp) -> Option<Write> {
    let any_ready = world
        .nodes
        .iter()
        .any(|(_, node)| readiness(node) == "True");
    let taints = wanted_taints(node, any_ready, now);
    if taints == node.spec.taints {
        return None;
    }
    let edit = if taints.is_empty() {
        Edit::remove("/spec/taints")
    } else {
        Edit::set("/spec/taints", json!(taints))
    };
    let key = Key::of(&node.metadata);
    Some(Write::edit(
        &Node::RESOURCE,
        key,
        node.metadata.resource_version(),
        vec![edit],
    ))
}

/// Others' taints as they are, then ours.
fn wanted_taints(node: &Node, any_ready: bool, now: Timestamp) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let key = match readiness(node) {
        "True" => None,
        "False" => Some(NOT_READY_TAINT),
        // A node that was never heard of is new rather than lost.
        _ if never_posted(node) => Some(NOT_READY_TAINT),
        _ => Some(UNREACHABLE_TAINT),
    };
    if let Some(key) = key {
        wanted.push((key, NO_SCHEDULE));
        if any_ready {
            wanted.push((key, NO_EXECUTE));
        }
    }
    for (type_, key) in PRESSURE_TAINTS {
        if condition(&node.status.conditions, type_).is_some_and(|c| c.status == "True") {
            wanted.push((key, NO_SCHEDULE));
        }
    }
    if node.spec.unschedulable {
        wanted.push((UNSCHEDULABLE_TAINT, NO_SCHEDULE));
    }
    let is_ours = |taint: &Taint| {
        let pressure = PRESSURE_TAINTS.iter().any(|(_, key)| *key == taint.key);
        pressure || [NOT_READY_TAINT, UNREACHABLE_TAINT, UNSCHEDULABLE_TAINT].contains(&&*taint.key)
    };
    let is_wanted = |taint: &Taint| {
        wanted
            .iter()
            .any(|(k, e)| taint.key == *k && taint.effect == *e)
    };
    let mut taints: Vec<Taint> = node
        .spec
        .taints
        .iter()
        .filter(|t| !is_ours(t) || is_wanted(t))
        .cloned()
        .collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|t| t.key == *key && t.effect == *effect) {
            taints.push(Taint {
                key: (*key).to_owned(),
                effect: (*effect).to_owned(),
                value: None,
                time_added: Some(time(now)),
            });
        }
    }
    taints
}

/// Pods of a silent node are no longer ready (`MarkPodsNotReady`).
fn mark_pods(world: &World, node: &Key, now: Timestamp) -> Vec<Write> {
    let pods = world.pods.by_index(Index::Node(node.name.to_string()));
    let ready = pods.filter(|pod| pod.is_ready());
    let mark = |pod: &std::sync::Arc<Pod>| Write {
        resource: &Pod::RESOURCE,
        key: Key::of(&pod.metadata),
        verb: Verb::Patch {
            subresource: Some("status"),
            kind: PatchKind::Strategic,
            body: json!({"status": {"conditions": [
                {"type": READY, "status": "False", "lastTransitionTime": time(now)}]}}),
        },
        notes: None,
    };
    ready.map(mark).collect()
}

#[cfg(test)]
mod tests;
