//! StatefulSet: pods with a name, storage and order of their own.
//!
//! Mechanism of pkg/controller/statefulset (stateful_set_control.go, stateful_set_utils.go): claims
//! and revisions, then every ordinal in ascending order, then the surplus in descending order, then
//! the update from the highest ordinal down. With the policy OrderedReady the first thing to wait
//! for ends the plan; with Parallel nothing waits.

mod claims;
mod replica;
mod update;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::claim::{claim, claim_those, matches, owners, selector};
use crate::history::{self, History, Subject};
use crate::kinds::{ControllerRevision, Pod, Projection, StatefulSet, StatefulSetStatus};
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Plan};
use crate::replicaset::next_available;
use crate::view::{Change, World};
use crate::write::Write;

/// Label of a pod with the name of its revision.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// Label of a revision with its hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

#[derive(Debug, Default)]
pub struct StatefulSetController;

impl Controller for StatefulSetController {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::StatefulSet(delta) => keys.push(delta.key()),
            Change::Pod(delta) => {
                for pod in delta.both() {
                    let of = |set: &StatefulSet| selector(&set.spec.selector);
                    owners(&world.statefulsets, &pod.metadata, of, keys);
                }
            }
            Change::ControllerRevision(delta) => {
                let meta = &delta.latest().metadata;
                if let Some(owner) = meta.controller().filter(|o| o.kind == "StatefulSet") {
                    let namespace = meta.namespace.as_deref().unwrap_or("");
                    keys.push(Key::new(namespace, &owner.name));
                }
            }
            // A pod may wait for a claim of its predecessor to be gone.
            Change::PersistentVolumeClaim(delta) if delta.new.is_none() => {
                let key = delta.key();
                let sets = world.statefulsets.in_namespace(&key.namespace);
                let concerned = sets.filter(|set| claims::may_name(set, &key.name));
                keys.extend(concerned.map(|set| Key::of(&set.metadata)));
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        match world.statefulsets.get(key) {
            Some(set) => plan(world, set, cx),
            None => Plan::nothing(),
        }
    }
}

/// A set with its pods by ordinal.
struct Sync<'a> {
    world: &'a World,
    set: &'a StatefulSet,
    /// Templates and names of the revisions.
    current: (Value, String),
    updated: (Value, String),
    /// Pods within the range of ordinals, and those beyond it.
    replicas: BTreeMap<i32, Arc<Pod>>,
    condemned: BTreeMap<i32, Arc<Pod>>,
    now: Timestamp,
}

fn plan(world: &World, set: &Arc<StatefulSet>, cx: &Cx<'_>) -> Plan {
    let Some(selector) = selector(&set.spec.selector) else {
        return Plan::nothing();
    };
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let is_member = |meta: &ObjectMeta| {
        matches(&selector, meta) && replica::parent_and_ordinal(meta).0 == Some(name)
    };
    let pods = claim_those(&world.pods, is_member, &**set, None);
    let mut revisions = claim(&world.revisions, &selector, &**set);
    revisions.writes.extend(pods.writes);
    let bump = |collision_count| {
        let status = StatefulSetStatus {
            collision_count,
            ..set.status.clone()
        };
        Write::status(&**set, &status)
    };
    let (history, updated) = match History::open(world, subject(set), revisions, bump) {
        ControlFlow::Continue(opened) => opened,
        ControlFlow::Break(first) => return first,
    };
    let current = history.named(&set.status.current_revision);
    let current = current.unwrap_or(&updated).clone();
    let sync = Sync::new(world, set, [&current, &updated], &pods.owned, cx.now);
    let mut plan = Plan::nothing();
    if !set.metadata.is_deleting() {
        sync.run(&mut plan);
    }
    if plan.writes.is_empty() {
        plan.writes = surplus(&history, &sync, &pods.owned);
    }
    let status = sync.status();
    if status != set.status {
        plan.status = Some(Write::status(&**set, &status));
    }
    let owned: Vec<&Arc<Pod>> = pods.owned.iter().collect();
    if let Some(delay) = next_available(&owned, set.spec.min_ready_seconds, cx.now) {
        plan.requeue(delay);
    }
    plan
}

fn subject(set: &StatefulSet) -> Subject<'_> {
    Subject {
        meta: &set.metadata,
        kind: StatefulSet::RESOURCE.kind,
        template: &set.spec.template,
        collision_count: set.status.collision_count,
        hash_label: HASH_LABEL,
    }
}

/// Deletes the oldest of the revisions nothing refers to, beyond the limit (`truncateHistory`).
fn surplus(history: &History<'_>, sync: &Sync<'_>, pods: &[Arc<Pod>]) -> Vec<Write> {
    let Ok(limit) = usize::try_from(sync.set.spec.revision_history_limit.unwrap_or(10)) else {
        return Vec::new();
    };
    let is_dead = |revision: &&Arc<ControllerRevision>| {
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        let is_of_pod = pods.iter().any(|pod| replica::revision(pod) == Some(name));
        !is_of_pod && name != sync.current.1 && name != sync.updated.1
    };
    let dead: Vec<&Arc<ControllerRevision>> = history.old().iter().filter(is_dead).collect();
    let surplus = dead.len().saturating_sub(limit);
    history::delete(dead.into_iter().take(surplus))
}

impl<'a> Sync<'a> {
    fn new(
        world: &'a World,
        set: &'a StatefulSet,
        [current, updated]: [&ControllerRevision; 2],
        pods: &[Arc<Pod>],
        now: Timestamp,
    ) -> Self {
        let revision = |revision: &ControllerRevision| {
            let name = revision.metadata.name.clone().unwrap_or_default();
            (history::template_of(revision), name)
        };
        let by_ordinal = pods.iter().filter_map(|pod| {
            let ordinal = replica::parent_and_ordinal(&pod.metadata).1?;
            Some((ordinal, pod.clone()))
        });
        let (replicas, condemned) = by_ordinal.partition(|(n, _)| range(set).contains(n));
        Self {
            world,
            set,
            current: revision(current),
            updated: revision(updated),
            replicas,
            condemned,
            now,
        }
    }

    /// The next writes, up to the first thing to wait for.
    fn run(&self, plan: &mut Plan) {
        for ordinal in range(self.set) {
            if self.replica(ordinal, plan) && self.is_ordered() {
                return;
            }
        }
        for (ordinal, pod) in &self.condemned {
            plan.writes.extend(claims::retention(self, *ordinal, pod));
        }
        let first_unhealthy = self.first_unavailable();
        for (_, pod) in self.condemned.iter().rev() {
            if self.condemn(pod, first_unhealthy, plan) && self.is_ordered() {
                return;
            }
        }
        if self.set.spec.update_strategy.type_ != "OnDelete" {
            plan.writes.extend(update::deletions(self));
        }
    }

    /// One ordinal (`processReplica`); true when it has to be waited for.
    fn replica(&self, ordinal: i32, plan: &mut Plan) -> bool {
        let Some(pod) = self.replicas.get(&ordinal) else {
            if !claims::are_stale(self, ordinal) {
                plan.writes.extend(claims::missing(self, ordinal));
                plan.writes.push(replica::creation(self, ordinal));
            }
            return true;
        };
        if pod.is_terminated() {
            if !pod.metadata.is_deleting() {
                plan.writes.push(replica::deletion(self.set, pod));
            }
            return true;
        }
        if pod.status.phase == "Pending" {
            plan.writes.extend(claims::missing(self, ordinal));
        }
        if self.is_ordered() && (pod.metadata.is_deleting() || !self.is_available(pod)) {
            return true;
        }
        plan.writes.extend(replica::identity(pod));
        plan.writes.extend(claims::retention(self, ordinal, pod));
        false
    }

    /// One pod beyond the range (`processCondemned`); true when it has to be waited for.
    fn condemn(&self, pod: &Arc<Pod>, first_unhealthy: Option<&Arc<Pod>>, plan: &mut Plan) -> bool {
        if pod.metadata.is_deleting() {
            return true;
        }
        let is_first = first_unhealthy.is_some_and(|first| Arc::ptr_eq(first, pod));
        if self.is_ordered() && !self.is_available(pod) && !is_first {
            return true;
        }
        plan.writes.push(replica::deletion(self.set, pod));
        true
    }

    fn is_ordered(&self) -> bool {
        self.set.spec.pod_management_policy != "Parallel"
    }

    /// Running and ready for long enough.
    fn is_available(&self, pod: &Pod) -> bool {
        pod.status.phase == "Running" && pod.is_available(self.set.spec.min_ready_seconds, self.now)
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        !self.is_available(pod) || pod.metadata.is_deleting()
    }

    /// Of all pods the one with the lowest ordinal that is unavailable, replicas first; `None` also
    /// when that is one still to be created.
    fn first_unavailable(&self) -> Option<&Arc<Pod>> {
        for ordinal in range(self.set) {
            match self.replicas.get(&ordinal) {
                Some(pod) if !self.is_unavailable(pod) => {}
                unhealthy => return unhealthy,
            }
        }
        self.condemned.values().find(|pod| self.is_unavailable(pod))
    }

    fn status(&self) -> StatefulSetStatus {
        let pods = || self.replicas.values().chain(self.condemned.values());
        let count = |test: &dyn Fn(&Pod) -> bool| {
            i32::try_from(pods().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
        };
        let of = |revision: &str| {
            count(&|pod| !pod.metadata.is_deleting() && replica::revision(pod) == Some(revision))
        };
        let set = self.set;
        let is_ready = |pod: &Pod| pod.status.phase == "Running" && pod.is_ready();
        let mut status = StatefulSetStatus {
            observed_generation: set.metadata.generation,
            replicas: count(&|_| true),
            ready_replicas: count(&is_ready),
            current_replicas: of(&self.current.1),
            updated_replicas: of(&self.updated.1),
            current_revision: self.current.1.clone(),
            update_revision: self.updated.1.clone(),
            collision_count: Some(set.status.collision_count.unwrap_or(0)),
            conditions: set.status.conditions.clone(),
            available_replicas: count(&|pod| is_ready(pod) && self.is_available(pod)),
        };
        // The update is over: what was updated is current now (`completeUpdate`).
        let wanted = set.spec.replicas.unwrap_or(1);
        let counts = [
            status.updated_replicas,
            status.ready_replicas,
            status.replicas,
        ];
        if counts == [wanted; 3] {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
        status
    }
}

/// Ordinals of the pods there should be.
fn range(set: &StatefulSet) -> std::ops::Range<i32> {
    let start = set.spec.ordinals.start;
    start..start.saturating_add(set.spec.replicas.unwrap_or(1))
}

/// A merge patch of labels.
fn label_patch(pod: &Pod, labels: &Value) -> Write {
    let body = json!({"metadata": {"uid": pod.metadata.uid(), "labels": labels}});
    let key = Key::of(&pod.metadata);
    Write::patch(&Pod::RESOURCE, key, crate::write::PatchKind::Merge, body)
}

#[cfg(test)]
mod tests;
