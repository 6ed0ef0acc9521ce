//! ReplicaSet and ReplicationController: as many active pods as asked for.
//!
//! Mechanism of pkg/controller/replicaset/replica_set.go and replica_set_utils.go: claim, then
//! create in a slow start or delete by rank, then status. Expectations are not needed: the view
//! holds our own writes. A ReplicationController is the same with another selector, as in
//! pkg/controller/replication/conversion.go.

pub mod rank;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::claim::{claim, owners, selector};
use crate::kinds::{
    Condition, Pod, Projection, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus,
    ReplicationController, condition,
};
use crate::object::{Key, MetaExt, time};
use crate::plan::{Controller, Cx, Pace, Plan};
use crate::template;
use crate::view::store::Indexed;
use crate::view::{Change, Delta, Store, World};
use crate::write::{Notes, Write};

/// Pods created or deleted in one go (upstream's BurstReplicas).
const BURST: usize = 500;

/// A kind that keeps a number of pods.
pub trait Replicated: Projection + Indexed {
    /// Identity of its controller.
    const IDENTITY: &'static str;
    /// Its status says how many pods are terminating.
    const COUNTS_TERMINATING: bool;

    fn spec(&self) -> &ReplicaSetSpec;
    fn status(&self) -> &ReplicaSetStatus;
    fn store(world: &World) -> &Store<Self>;
    fn delta(change: &Change) -> Option<&Delta<Self>>;
}

impl Replicated for ReplicaSet {
    const IDENTITY: &'static str = "replicaset-controller";
    const COUNTS_TERMINATING: bool = true;

    fn spec(&self) -> &ReplicaSetSpec {
        &self.spec
    }

    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }

    fn store(world: &World) -> &Store<Self> {
        &world.replicasets
    }

    fn delta(change: &Change) -> Option<&Delta<Self>> {
        match change {
            Change::ReplicaSet(delta) => Some(delta),
            _ => None,
        }
    }
}

impl Replicated for ReplicationController {
    const IDENTITY: &'static str = "replication-controller";
    const COUNTS_TERMINATING: bool = false;

    fn spec(&self) -> &ReplicaSetSpec {
        &self.spec
    }

    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }

    fn store(world: &World) -> &Store<Self> {
        &world.replicationcontrollers
    }

    fn delta(change: &Change) -> Option<&Delta<Self>> {
        match change {
            Change::ReplicationController(delta) => Some(delta),
            _ => None,
        }
    }
}

/// The controller of one such kind.
#[derive(Debug)]
pub struct ReplicaController<K>(PhantomData<fn() -> K>);

impl<K> Default for ReplicaController<K> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<K: Replicated> Controller for ReplicaController<K> {
    fn name(&self) -> &'static str {
        K::IDENTITY
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        if let Some(delta) = K::delta(change) {
            keys.push(delta.key());
        } else if let Change::Pod(delta) = change {
            for pod in delta.both() {
                let of = |set: &K| selector(&set.spec().selector);
                owners(K::store(world), &pod.metadata, of, keys);
            }
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(set) = K::store(world).get(key) else {
            return Plan::nothing();
        };
        plan(world, set, cx)
    }
}

fn plan<K: Replicated>(world: &World, set: &Arc<K>, cx: &Cx<'_>) -> Plan {
    let Some(selector) = selector(&set.spec().selector) else {
        return Plan::nothing();
    };
    let meta = set.metadata();
    let claim = claim(&world.pods, &selector, &**set);
    let active: Vec<&Arc<Pod>> = claim.owned.iter().filter(|pod| pod.is_active()).collect();
    let terminating = claim
        .owned
        .iter()
        .filter(|p| p.metadata.is_deleting() && !p.is_terminated());
    let terminating = terminating.count();
    let mut plan = Plan::of(claim.writes);
    let adopting = !plan.writes.is_empty();
    let wanted = usize::try_from(set.spec().replicas.unwrap_or(1)).unwrap_or(0);
    if !meta.is_deleting() && !adopting {
        manage(world, &**set, &active, wanted, &mut plan);
    }
    let diff = active.len() as i64 - wanted as i64;
    let status = status(&**set, &active, terminating, diff, cx);
    if status != *set.status() {
        plan.status = Some(Write::status(&**set, &status));
    }
    if let Some(delay) = next_available(&active, set.spec().min_ready_seconds, cx.now) {
        plan.requeue(delay);
    }
    plan
}

/// Mechanism of `manageReplicas`.
fn manage<K: Replicated>(
    world: &World,
    set: &K,
    active: &[&Arc<Pod>],
    wanted: usize,
    plan: &mut Plan,
) {
    let namespace = set.metadata().namespace.as_deref().unwrap_or("");
    let notes = |done: (&'static str, &str), failed: (&'static str, &str)| Notes {
        regarding: set.object_ref(&()),
        done: Some((done.0, done.1.to_owned())),
        failed: Some((failed.0, failed.1.to_owned())),
        ..Notes::default()
    };
    plan.pace = Pace::SlowStart;
    if active.len() < wanted {
        let body = template::pod(&set.spec().template, set);
        let notes = notes(
            ("SuccessfulCreate", "Created pod: {name}"),
            ("FailedCreate", "Error creating: {error}"),
        );
        let create = Write::create(&Pod::RESOURCE, Key::new(namespace, ""), body).noting(notes);
        let count = (wanted - active.len()).min(BURST);
        plan.writes.extend(std::iter::repeat_n(create, count));
    } else if active.len() > wanted {
        let count = (active.len() - wanted).min(BURST);
        let notes = notes(
            ("SuccessfulDelete", "Deleted pod: {name}"),
            ("FailedDelete", "Error deleting: {error}"),
        );
        for pod in rank::to_delete(world, set, active, count) {
            let key = Key::of(&pod.metadata);
            let delete = Write::delete(&Pod::RESOURCE, key, pod.metadata.uid());
            plan.writes.push(delete.noting(notes.clone()));
        }
    }
}

fn status<K: Replicated>(
    set: &K,
    active: &[&Arc<Pod>],
    terminating: usize,
    diff: i64,
    cx: &Cx<'_>,
) -> ReplicaSetStatus {
    let template_labels = &set.spec().template["metadata"]["labels"];
    let fully_labelled = |pod: &Pod| {
        let labels = template_labels.as_object();
        labels.is_none_or(|l| l.iter().all(|(k, v)| pod.metadata.label(k) == v.as_str()))
    };
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let min_ready = set.spec().min_ready_seconds;
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: count(&fully_labelled),
        ready_replicas: count(&Pod::is_ready),
        available_replicas: count(&|pod| pod.is_available(min_ready, cx.now)),
        terminating_replicas: K::COUNTS_TERMINATING
            .then(|| i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.metadata().generation,
        conditions: conditions(&set.status().conditions, diff, cx),
    }
}

/// ReplicaFailure while pods cannot be created or deleted.
fn conditions(old: &[Condition], diff: i64, cx: &Cx<'_>) -> Vec<Condition> {
    const REPLICA_FAILURE: &str = "ReplicaFailure";
    let current = condition(old, REPLICA_FAILURE);
    let others = || old.iter().filter(|c| c.type_ != REPLICA_FAILURE).cloned();
    match (cx.failure, current, diff) {
        (None, ..) | (_, None, 0) => others().collect(),
        (Some(_), Some(_), _) => old.to_vec(),
        (Some(message), None, diff) => {
            let failure = Condition {
                type_: REPLICA_FAILURE.into(),
                status: "True".into(),
                last_transition_time: Some(time(cx.now)),
                reason: if diff < 0 {
                    "FailedCreate"
                } else {
                    "FailedDelete"
                }
                .into(),
                message: message.to_owned(),
                ..Condition::default()
            };
            others().chain([failure]).collect()
        }
    }
}

/// When the next ready pod becomes available.
pub fn next_available(
    pods: &[&Arc<Pod>],
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Duration> {
    if min_ready_seconds <= 0 {
        return None;
    }
    let waiting = pods
        .iter()
        .filter(|pod| !pod.is_available(min_ready_seconds, now));
    let due = waiting
        .filter_map(|pod| pod.ready_since())
        .map(|since| since.as_second() + i64::from(min_ready_seconds) - now.as_second())
        .min()?;
    Some(Duration::from_secs(u64::try_from(due).unwrap_or(0).max(1)))
}

#[cfg(test)]
mod tests;
