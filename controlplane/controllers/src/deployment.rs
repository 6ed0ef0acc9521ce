//! Deployment: revisions of a template, rolled out by scaling ReplicaSets.
//!
//! Mechanism of pkg/controller/deployment (deployment_controller.go, sync.go, rolling.go,
//! recreate.go, progress.go, util/deployment_util.go). Each plan does the next step only: the
//! view takes in its writes and the plan is made again, until nothing is left to do.

pub mod replicas;
mod revision;
mod rollout;
mod status;

use std::sync::Arc;

use crate::claim::{claim, owners, selector};
use crate::kinds::{Deployment, Projection, ReplicaSet};
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Plan};
use crate::template;
use crate::view::{Change, World};
use crate::write::{Edit, Notes, Write};

pub use replicas::scaled;

#[derive(Debug, Default)]
pub struct DeploymentController;

impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::Deployment(delta) => keys.push(delta.key()),
            Change::ReplicaSet(delta) => {
                for set in delta.both() {
                    let of = |deployment: &Deployment| selector(&deployment.spec.selector);
                    owners(&world.deployments, &set.metadata, of, keys);
                }
            }
            // A Recreate rollout waits for the last old pod to be gone.
            Change::Pod(delta) if delta.new.as_ref().is_none_or(|pod| pod.is_terminated()) => {
                let pod = delta.latest();
                let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
                let set = pod
                    .metadata
                    .controller()
                    .filter(|owner| owner.kind == "ReplicaSet");
                let set = set.and_then(|s| world.replicasets.get(&Key::new(namespace, &s.name)));
                if let Some(owner) = set.and_then(|set| set.metadata.controller()) {
                    let key = Key::new(namespace, &owner.name);
                    let deployment = world.deployments.get(&key);
                    if deployment.is_some_and(|d| d.spec.strategy.type_ == "Recreate") {
                        keys.push(key);
                    }
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(deployment) = world.deployments.get(key) else {
            return Plan::nothing();
        };
        plan(world, deployment, cx)
    }
}

/// A ReplicaSet and the size this plan gives it.
#[derive(Clone, Debug)]
pub(crate) struct Sized {
    set: Arc<ReplicaSet>,
    size: i32,
}

impl Sized {
    fn new(set: Arc<ReplicaSet>) -> Self {
        let size = set.spec.replicas.unwrap_or(1);
        Self { set, size }
    }

    /// Available replicas that this size keeps; the status may still tell of a larger one.
    fn available(&self) -> i32 {
        self.set.status.available_replicas.min(self.size)
    }

    /// The same, but nothing while the status does not speak of the present size yet: what is
    /// not known to be available must not let other replicas go.
    fn confirmed_available(&self) -> i32 {
        let is_stale = self.set.status.observed_generation != self.set.metadata.generation;
        if is_stale { 0 } else { self.available() }
    }
}

/// A deployment with its ReplicaSets: the one of the present template, and the others, oldest
/// first.
#[derive(Debug)]
pub(crate) struct Rollout<'a> {
    deployment: &'a Arc<Deployment>,
    new: Option<Sized>,
    old: Vec<Sized>,
}

impl<'a> Rollout<'a> {
    fn new(deployment: &'a Arc<Deployment>, sets: Vec<Arc<ReplicaSet>>) -> Self {
        let mut sets: Vec<Sized> = sets.into_iter().map(Sized::new).collect();
        sets.sort_by(|a, b| {
            let (a, b) = (&a.set.metadata, &b.set.metadata);
            a.created()
                .cmp(&b.created())
                .then_with(|| a.name.cmp(&b.name))
        });
        let template = &deployment.spec.template;
        let new = sets
            .iter()
            .position(|s| template::same(&s.set.spec.template, template));
        let new = new.map(|at| sets.remove(at));
        Self {
            deployment,
            new,
            old: sets,
        }
    }

    fn wanted(&self) -> i32 {
        self.deployment.spec.replicas.unwrap_or(1)
    }

    fn all(&self) -> impl Iterator<Item = &Sized> {
        self.old.iter().chain(&self.new)
    }

    fn total(&self) -> i32 {
        self.all().map(|s| s.size).sum()
    }

    /// The writes that bring every set to the size this plan gives it. With `force` the
    /// annotations of sets whose size stays are brought up to date as well.
    fn scale_writes(&self, force: bool) -> Vec<Write> {
        let desired = self.wanted();
        let max = desired + replicas::max_surge(self.deployment);
        let writes = self.all().filter_map(|sized| {
            let set = &sized.set;
            let before = set.spec.replicas.unwrap_or(1);
            let stale = revision::size_annotations_differ(set, desired, max);
            let resized = before != sized.size;
            if !(resized || force && stale) {
                return None;
            }
            let mut edits = revision::size_annotations(desired, max);
            edits.push(Edit::set("/spec/replicas", sized.size));
            let key = Key::of(&set.metadata);
            let version = set.metadata.resource_version();
            let write = Write::edit(&ReplicaSet::RESOURCE, key, version, edits);
            Some(if resized {
                write.noting(self.scaled_note(set, before, sized.size))
            } else {
                write
            })
        });
        writes.collect()
    }

    fn scaled_note(&self, set: &ReplicaSet, from: i32, to: i32) -> Notes {
        let direction = if from < to { "up" } else { "down" };
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
        Notes {
            regarding: kube::Resource::object_ref(&**self.deployment, &()),
            done: Some(("ScalingReplicaSet", message)),
            ..Notes::default()
        }
    }
}

fn plan(world: &World, deployment: &Arc<Deployment>, cx: &Cx<'_>) -> Plan {
    let Some(selector) = selector(&deployment.spec.selector) else {
        return Plan::nothing();
    };
    let meta = &deployment.metadata;
    let claim = claim(&world.replicasets, &selector, &**deployment);
    if !claim.writes.is_empty() {
        return Plan::of(claim.writes);
    }
    let mut rollout = Rollout::new(deployment, claim.owned);
    if meta.is_deleting() {
        return status::only(&rollout, cx);
    }
    if let Some(write) = revision::sync(&rollout) {
        return Plan::write(write);
    }
    if deployment.spec.paused || rollout::is_scaling(&rollout) {
        return rollout::scale(&mut rollout, cx);
    }
    match deployment.spec.strategy.type_.as_str() {
        "Recreate" => rollout::recreate(world, &mut rollout, cx),
        _ => rollout::rolling(world, &mut rollout, cx),
    }
}

#[cfg(test)]
mod tests;
