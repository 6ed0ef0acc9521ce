//! Finished Jobs go some time after their end.
//!
//! Mechanism of pkg/controller/ttlafterfinished/ttlafterfinished_controller.go.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::kinds::{Job, Projection};
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Plan};
use crate::view::{Change, World};
use crate::write::{Propagation, Verb, Write};

#[derive(Debug, Default)]
pub struct TtlAfterFinished;

impl Controller for TtlAfterFinished {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    fn react(&mut self, _: &World, change: &Change, keys: &mut Vec<Key>) {
        if let Change::Job(delta) = change
            && delta.new.as_ref().is_some_and(|job| expiry(job).is_some())
        {
            keys.push(delta.key());
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(job) = world.jobs.get(key) else {
            return Plan::nothing();
        };
        let Some(expiry) = expiry(job) else {
            return Plan::nothing();
        };
        let left = expiry.as_second() - cx.now.as_second();
        if left > 0 {
            return Plan::after(Duration::from_secs(left.unsigned_abs()));
        }
        Plan::write(Write {
            resource: &Job::RESOURCE,
            key: key.clone(),
            verb: Verb::Delete {
                uid: job.metadata.uid().to_owned(),
                resource_version: Some(job.metadata.resource_version().to_owned()),
                grace_seconds: None,
                propagation: Some(Propagation::Foreground),
            },
            notes: None,
        })
    }
}

/// When the Job goes; `None` while it has not ended or if it is to stay.
fn expiry(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.ttl_seconds_after_finished?;
    if job.metadata.is_deleting() {
        return None;
    }
    let ended = job.finished()?.last_transition_time.as_ref()?.0;
    Timestamp::from_second(ended.as_second() + i64::from(ttl)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;
    use serde_json::json;

    #[test]
    fn a_finished_job_goes_when_its_time_has_come() {
        let mut sim = Sim::new(vec![Box::new(TtlAfterFinished)]);
        let ended = sim.now.to_string();
        let key = sim.create::<Job>(json!({
            "metadata": {"namespace": "ns", "name": "j"},
            "spec": {"ttlSecondsAfterFinished": 10},
            "status": {"conditions": [
                {"type": "Complete", "status": "True", "lastTransitionTime": ended}]}}));
        sim.settle();
        assert_eq!(
            sim.plan(0, &key).requeue_after,
            Some(Duration::from_secs(10))
        );
        sim.advance(10);
        sim.wake(0, &key);
        sim.settle();
        assert!(sim.get::<Job>(&key).is_none());
    }
}
