//! ReplicaSet and ReplicationController: as many active pods as asked for.
//!
//! Mechanism of pkg/controller/replicaset/replica_set.go and replica_set_utils.go, which serves both
//! kinds upstream too (pkg/controller/replication): claim, then create in a slow start or delete by
//! rank, then status. Expectations are not needed: the view holds our own writes.

pub mod rank;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;
use kube::core::Selector;
use serde_json::Value;

use crate::claim::{claim, owners, selector};
use crate::kinds::{
    Condition, Pod, Projection, ReplicaSet, ReplicaSetStatus, ReplicationController, condition,
};
use crate::object::{Key, MetaExt, time};
use crate::plan::{Controller, Cx, Pace, Plan};
use crate::template;
use crate::view::store::Indexed;
use crate::view::{Change, Delta, Store, World};
use crate::write::{Notes, Write};

/// Pods created or deleted in one go (upstream's BurstReplicas).
const BURST: usize = 500;

/// A kind that keeps a number of pods of one template.
pub trait Replicated: Projection + Indexed {
    /// Identity of its controller.
    const CONTROLLER: &'static str;
    /// Its status tells how many pods are on their way out.
    const COUNTS_TERMINATING: bool;

    fn store(world: &World) -> &Store<Self>;
    fn delta(change: &Change) -> Option<&Delta<Self>>;
    fn selector(&self) -> Option<Selector>;
    fn replicas(&self) -> Option<i32>;
    fn template(&self) -> &Value;
    fn min_ready_seconds(&self) -> i32;
    fn status(&self) -> &ReplicaSetStatus;
}

macro_rules! replicated {
    ($kind:ident, $store:ident, $controller:literal, $terminating:literal, $selector:path) => {
        impl Replicated for $kind {
            const CONTROLLER: &'static str = $controller;
            const COUNTS_TERMINATING: bool = $terminating;

            fn store(world: &World) -> &Store<Self> {
                &world.$store
            }
            fn delta(change: &Change) -> Option<&Delta<Self>> {
                match change {
                    Change::$kind(delta) => Some(delta),
                    _ => None,
                }
            }
            fn selector(&self) -> Option<Selector> {
                $selector(&self.spec.selector)
            }
            fn replicas(&self) -> Option<i32> {
                self.spec.replicas
            }
            fn template(&self) -> &Value {
                &self.spec.template
            }
            fn min_ready_seconds(&self) -> i32 {
                self.spec.min_ready_seconds
            }
            fn status(&self) -> &ReplicaSetStatus {
                &self.status
            }
        }
    };
}
replicated!(
    ReplicaSet,
    replicasets,
    "replicaset-controller",
    true,
    selector
);
replicated!(
    ReplicationController,
    controllers,
    "replication-controller",
    false,
    of_labels
);

/// A selector of nothing but labels; `None` when it is empty.
fn of_labels(labels: &BTreeMap<String, String>) -> Option<Selector> {
    selector(&LabelSelector {
        match_labels: Some(labels.clone()),
        ..LabelSelector::default()
    })
}

/// The controller of one of the kinds.
#[derive(Debug)]
pub struct Replicas<K>(PhantomData<fn() -> K>);

impl<K> Default for Replicas<K> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<K: Replicated> Controller for Replicas<K> {
    fn name(&self) -> &'static str {
        K::CONTROLLER
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        if let Some(delta) = K::delta(change) {
            keys.push(delta.key());
        } else if let Change::Pod(delta) = change {
            for pod in delta.both() {
                owners(K::store(world), &pod.metadata, K::selector, keys);
            }
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        match K::store(world).get(key) {
            Some(set) => plan(world, &**set, cx),
            None => Plan::nothing(),
        }
    }
}

fn plan<K: Replicated>(world: &World, set: &K, cx: &Cx<'_>) -> Plan {
    let Some(selector) = set.selector() else {
        return Plan::nothing();
    };
    let meta = set.metadata();
    let claim = claim(&world.pods, &selector, set);
    let active: Vec<&Arc<Pod>> = claim.owned.iter().filter(|pod| pod.is_active()).collect();
    let terminating = claim.owned.iter().filter(|pod| pod.is_terminating());
    let terminating = terminating.count();
    let mut plan = Plan {
        writes: claim.writes,
        ..Plan::default()
    };
    let adopting = !plan.writes.is_empty();
    let wanted = usize::try_from(set.replicas().unwrap_or(1)).unwrap_or(0);
    if !meta.is_deleting() && !adopting {
        manage(world, set, &active, wanted, &mut plan);
    }
    let diff = active.len() as i64 - wanted as i64;
    let status = status(set, &active, terminating, diff, cx);
    if status != *set.status() {
        let version = meta.resource_version();
        let value = serde_json::to_value(&status).expect("a status is plain data");
        plan.status = Some(Write::status(&K::RESOURCE, Key::of(meta), version, value));
    }
    if let Some(delay) = next_available(&active, set.min_ready_seconds(), cx.now) {
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
        regarding: kube::Resource::object_ref(set, &()),
        done: Some((done.0, done.1.to_owned())),
        failed: Some((failed.0, failed.1.to_owned())),
        ..Notes::default()
    };
    plan.pace = Pace::SlowStart;
    if active.len() < wanted {
        let body = template::pod(set.template(), set);
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
        for pod in rank::to_delete(world, set.metadata(), active, count) {
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
    let template_labels = &set.template()["metadata"]["labels"];
    let fully_labelled = |pod: &Pod| {
        let labels = template_labels.as_object();
        labels.is_none_or(|l| l.iter().all(|(k, v)| pod.metadata.label(k) == v.as_str()))
    };
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let min_ready = set.min_ready_seconds();
    let terminating = i32::try_from(terminating).unwrap_or(i32::MAX);
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: count(&fully_labelled),
        ready_replicas: count(&Pod::is_ready),
        available_replicas: count(&|pod| pod.is_available(min_ready, cx.now)),
        terminating_replicas: K::COUNTS_TERMINATING.then_some(terminating),
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
