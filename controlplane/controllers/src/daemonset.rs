//! DaemonSet: one pod on every node it fits, and updates node by node.
//!
//! Mechanism of pkg/controller/daemon (daemon_controller.go, update.go, util/daemonset_util.go).
//! The template's history is kept in ControllerRevisions; the scheduler binds the pods, each of
//! which names its node by affinity.

mod placement;
mod rolling;
mod status;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::claim::{claim, owners, selector};
use crate::history::{self, History, Subject};
use crate::kinds::{ControllerRevision, DaemonSet, DaemonSetStatus, Node, Pod, Projection};
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Note, Pace, Plan};
use crate::view::{Change, Delta, World};
use crate::write::{Notes, Write};
use placement::{Place, Placement};

/// Label of a pod with the name of its revision.
pub const REVISION_HASH_LABEL: &str = "controller-revision-hash";
/// Pods created or deleted in one go.
const BURST: usize = 250;
/// First and longest pause before a failed pod on a node is replaced again.
const FAILED_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(900));

#[derive(Debug, Default)]
pub struct DaemonSetController {
    /// When a failed pod was last replaced, by set and node, and the pause after that.
    failed: HashMap<(String, String), (Timestamp, Duration)>,
}

impl Controller for DaemonSetController {
    fn name(&self) -> &'static str {
        "daemon-set-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::DaemonSet(delta) => {
                if let (Some(old), None) = (&delta.old, &delta.new) {
                    self.failed.retain(|(uid, _), _| *uid != old.metadata.uid());
                }
                keys.push(delta.key());
            }
            Change::Pod(delta) => {
                for pod in delta.both() {
                    let of = |set: &DaemonSet| selector(&set.spec.selector);
                    owners(&world.daemonsets, &pod.metadata, of, keys);
                }
            }
            Change::ControllerRevision(delta) => {
                let meta = &delta.latest().metadata;
                if let Some(owner) = meta.controller().filter(|owner| owner.kind == "DaemonSet") {
                    keys.push(Key::new(
                        meta.namespace.as_deref().unwrap_or(""),
                        &owner.name,
                    ));
                }
            }
            Change::Node(delta) if placement_changed(delta) => {
                keys.extend(world.daemonsets.iter().map(|(key, _)| key.clone()));
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(set) = world.daemonsets.get(key) else {
            return Plan::nothing();
        };
        if set.metadata.is_deleting() {
            return Plan::nothing();
        }
        self.sync(world, set, cx)
    }
}

/// The node came, went, or changed in what daemon pods look at.
fn placement_changed(delta: &Delta<Node>) -> bool {
    match (&delta.old, &delta.new) {
        (Some(old), Some(new)) => {
            let taints = |node: &Node| -> Vec<(String, String, Option<String>)> {
                let taints = node.spec.taints.iter();
                taints
                    .map(|t| (t.key.clone(), t.effect.clone(), t.value.clone()))
                    .collect()
            };
            old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
        }
        _ => true,
    }
}

/// The set, its nodes and its pods by node.
pub(crate) struct Daemons<'a> {
    set: &'a Arc<DaemonSet>,
    /// What the template says about each node, by its name.
    nodes: BTreeMap<&'a str, Place>,
    /// Nodes that should have a pod.
    wanted: i32,
    /// Pods on a node, oldest first, without deleted ones that have ended.
    pods: BTreeMap<String, Vec<Arc<Pod>>>,
    /// Name of the present template's revision.
    hash: String,
    now: Timestamp,
}

impl Daemons<'_> {
    fn is_available(&self, pod: &Pod) -> bool {
        pod.is_available(self.set.spec.min_ready_seconds, self.now)
    }

    fn is_current(&self, pod: &Pod) -> bool {
        pod.metadata.label(REVISION_HASH_LABEL) == Some(&self.hash)
    }

    fn should_run(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|place| place.should_run)
    }
}

/// Pods to delete and nodes to create pods for.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    delete: Vec<Arc<Pod>>,
    create: Vec<String>,
    events: Vec<Note>,
    /// When a failed pod may be replaced.
    look_again: Option<Duration>,
}

impl DaemonSetController {
    fn sync(&mut self, world: &World, set: &Arc<DaemonSet>, cx: &Cx<'_>) -> Plan {
        let Some(selector) = selector(&set.spec.selector) else {
            return Plan::nothing();
        };
        let pods = claim(&world.pods, &selector, &**set);
        let mut revisions = claim(&world.revisions, &selector, &**set);
        revisions.writes.extend(pods.writes);
        let bump = |collision_count| {
            let status = DaemonSetStatus {
                collision_count,
                ..set.status.clone()
            };
            Write::status(&**set, &status)
        };
        let (history, current) = match History::open(world, subject(set), revisions, bump) {
            ControlFlow::Continue(opened) => opened,
            ControlFlow::Break(first) => return first,
        };
        let hash = current
            .metadata
            .label(REVISION_HASH_LABEL)
            .unwrap_or_default()
            .to_owned();
        let placement = Placement::new(set);
        let nodes: BTreeMap<&str, Place> = world
            .nodes
            .iter()
            .map(|(key, node)| (&*key.name, placement.of(node)))
            .collect();
        let wanted = nodes.values().filter(|place| place.should_run).count();
        let daemons = Daemons {
            set,
            nodes,
            wanted: i32::try_from(wanted).unwrap_or(i32::MAX),
            pods: by_node(&pods.owned),
            hash,
            now: cx.now,
        };
        let mut plan = Plan {
            pace: Pace::SlowStart,
            ..Plan::default()
        };
        let mut moves = self.manage(&daemons);
        plan.events = std::mem::take(&mut moves.events);
        plan.requeue_after = moves.look_again;
        let settled = moves.delete.is_empty() && moves.create.is_empty();
        if settled && set.spec.update_strategy.type_ != "OnDelete" {
            moves = rolling::moves(&daemons);
        }
        plan.writes = writes(&daemons, moves);
        if plan.writes.is_empty() {
            plan.writes = surplus(&history, set, &pods.owned);
        }
        status::write(&daemons, &mut plan);
        let owned: Vec<&Arc<Pod>> = pods.owned.iter().collect();
        let next = crate::replicaset::next_available(&owned, set.spec.min_ready_seconds, cx.now);
        if let Some(delay) = next {
            plan.requeue(delay);
        }
        plan
    }

    /// Mechanism of `podsShouldBeOnNode` for every node.
    fn manage(&mut self, daemons: &Daemons<'_>) -> Moves {
        let mut moves = Moves::default();
        for (name, place) in &daemons.nodes {
            match daemons.pods.get(*name) {
                None if place.should_run => moves.create.push((*name).to_owned()),
                None => {}
                Some(_) if place.may_stay => {
                    self.prune(daemons, name, place.should_run, &mut moves);
                }
                Some(pods) => {
                    moves
                        .delete
                        .extend(pods.iter().filter(|p| !p.metadata.is_deleting()).cloned());
                }
            }
        }
        // Pods that wait for a node that is gone will never run.
        for (name, pods) in &daemons.pods {
            let waits =
                |pod: &&Arc<Pod>| pod.spec.node_name.is_none() && !pod.metadata.is_deleting();
            if !daemons.nodes.contains_key(name.as_str()) {
                moves.delete.extend(pods.iter().filter(waits).cloned());
            }
        }
        moves
    }

    /// Ended pods go (failed ones with a pause in between), then all but the oldest.
    fn prune(&mut self, daemons: &Daemons<'_>, node: &str, should_run: bool, moves: &mut Moves) {
        let pods = daemons.pods.get(node).into_iter().flatten();
        let mut running = Vec::new();
        for pod in pods.filter(|pod| !pod.metadata.is_deleting()) {
            let name = Key::of(&pod.metadata);
            match pod.status.phase.as_str() {
                "Failed" => match self.failed_pause(daemons, node) {
                    Some(left) => {
                        moves.look_again = Some(moves.look_again.map_or(left, |l| l.min(left)));
                    }
                    None => {
                        let message = format!(
                            "Found failed daemon pod {name} on node {node}, will try to kill it"
                        );
                        moves.events.push(Note::warning(
                            &**daemons.set,
                            "FailedDaemonPod",
                            message,
                        ));
                        moves.delete.push(pod.clone());
                    }
                },
                "Succeeded" => {
                    let message = format!(
                        "Found succeeded daemon pod {name} on node {node}, will try to delete it"
                    );
                    moves
                        .events
                        .push(Note::normal(&**daemons.set, "SucceededDaemonPod", message));
                    moves.delete.push(pod.clone());
                }
                _ => running.push(pod.clone()),
            }
        }
        if rolling::max_surge(daemons) == 0 {
            moves.delete.extend(running.into_iter().skip(1));
        } else if running.is_empty() {
            if should_run {
                moves.create.push(node.to_owned());
            }
        } else if running.len() > 1 {
            moves.delete.extend(rolling::surplus(daemons, running));
        }
    }

    /// What is left of the pause before the node's failed pod may be replaced.
    fn failed_pause(&mut self, daemons: &Daemons<'_>, node: &str) -> Option<Duration> {
        let key = (daemons.set.metadata.uid().to_owned(), node.to_owned());
        let now = daemons.now;
        let Some((last, pause)) = self.failed.get(&key).copied() else {
            self.failed.insert(key, (now, FAILED_BACKOFF.0));
            return None;
        };
        let age = now.duration_since(last).unsigned_abs();
        let left = pause.saturating_sub(age);
        if !left.is_zero() {
            return Some(left);
        }
        let calm = age > FAILED_BACKOFF.1 * 2;
        let next = if calm {
            FAILED_BACKOFF.0
        } else {
            (pause * 2).min(FAILED_BACKOFF.1)
        };
        self.failed.insert(key, (now, next));
        None
    }
}

fn subject(set: &DaemonSet) -> Subject<'_> {
    Subject {
        meta: &set.metadata,
        kind: DaemonSet::RESOURCE.kind,
        template: &set.spec.template,
        collision_count: set.status.collision_count,
        hash_label: REVISION_HASH_LABEL,
    }
}

/// Deletes the oldest revisions beyond the limit that no pod has (`cleanupHistory`).
fn surplus(history: &History<'_>, set: &DaemonSet, pods: &[Arc<Pod>]) -> Vec<Write> {
    let limit = set.spec.revision_history_limit.unwrap_or(10);
    let old = history.old();
    let surplus = old
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    let is_dead = |revision: &&Arc<ControllerRevision>| {
        let hash = revision.metadata.label(REVISION_HASH_LABEL);
        let mut pods = pods
            .iter()
            .map(|pod| pod.metadata.label(REVISION_HASH_LABEL));
        hash.is_none() || !pods.any(|of_pod| of_pod == hash)
    };
    history::delete(old.iter().filter(is_dead).take(surplus))
}

/// Pods by the node they are on or meant for (`getNodesToDaemonPods`).
fn by_node(pods: &[Arc<Pod>]) -> BTreeMap<String, Vec<Arc<Pod>>> {
    let mut nodes: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if pod.is_terminated() && pod.metadata.is_deleting() {
            continue;
        }
        if let Some(node) = placement::target(pod) {
            nodes.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    for pods in nodes.values_mut() {
        pods.sort_by(|a, b| {
            let bound = |pod: &Pod| pod.spec.node_name.is_none();
            bound(a)
                .cmp(&bound(b))
                .then_with(|| a.metadata.created().cmp(&b.metadata.created()))
                .then_with(|| a.metadata.name.cmp(&b.metadata.name))
        });
    }
    nodes
}

fn writes(daemons: &Daemons<'_>, moves: Moves) -> Vec<Write> {
    let set = daemons.set;
    let notes = |done: (&'static str, &str), failed: (&'static str, &str)| Notes {
        regarding: kube::Resource::object_ref(&**set, &()),
        done: Some((done.0, done.1.to_owned())),
        failed: Some((failed.0, failed.1.to_owned())),
        ..Notes::default()
    };
    let created = notes(
        ("SuccessfulCreate", "Created pod: {name}"),
        ("FailedCreate", "Error creating: {error}"),
    );
    let deleted = notes(
        ("SuccessfulDelete", "Deleted pod: {name}"),
        ("FailedDelete", "Error deleting: {error}"),
    );
    let namespace = set.metadata.namespace.as_deref().unwrap_or("");
    let create = |node: String| {
        let body = placement::pod(set, &node, &daemons.hash);
        Write::create(&Pod::RESOURCE, Key::new(namespace, ""), body).noting(created.clone())
    };
    let delete = |pod: Arc<Pod>| {
        let key = Key::of(&pod.metadata);
        Write::delete(&Pod::RESOURCE, key, pod.metadata.uid()).noting(deleted.clone())
    };
    let deletes = moves.delete.into_iter().take(BURST).map(delete);
    moves
        .create
        .into_iter()
        .take(BURST)
        .map(create)
        .chain(deletes)
        .collect()
}

#[cfg(test)]
mod tests;
