//! Pods with the tracking finalizer whose Job is gone or finished: nobody will account for them.
//!
//! Mechanism of pkg/controller/job/job_controller.go `syncOrphanPod`.

use super::{is_ours, is_tracked, manage};
use crate::kinds::Pod;
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Plan};
use crate::view::{Change, World};

#[derive(Debug, Default)]
pub struct JobOrphans;

impl Controller for JobOrphans {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::Pod(delta) => {
                let pod = delta.new.as_ref();
                if pod.is_some_and(|pod| is_tracked(pod) && is_orphan(world, pod)) {
                    keys.push(delta.key());
                }
            }
            Change::Job(delta) => {
                let job = delta.latest();
                if delta.new.is_some() && job.finished().is_none() {
                    return;
                }
                let pods = world.pods.owned_by(job.metadata.uid());
                let tracked = pods.filter(|pod| is_tracked(pod));
                keys.extend(tracked.map(|pod| Key::of(&pod.metadata)));
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, _: &Cx<'_>) -> Plan {
        match world.pods.get(key) {
            Some(pod) if is_tracked(pod) && is_orphan(world, pod) => {
                Plan::write(manage::untrack(pod))
            }
            _ => Plan::nothing(),
        }
    }
}

fn is_orphan(world: &World, pod: &Pod) -> bool {
    let Some(owner) = pod.metadata.controller() else {
        return true;
    };
    if owner.kind != "Job" || owner.api_version != "batch/v1" {
        return false;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    let job = world.jobs.get(&Key::new(namespace, &owner.name));
    let job = job.filter(|job| job.metadata.uid() == owner.uid);
    job.is_none_or(|job| is_ours(job) && job.finished().is_some())
}
