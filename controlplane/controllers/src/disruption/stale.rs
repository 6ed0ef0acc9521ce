//! The condition DisruptionTarget of pods that were to be evicted and were not.
//!
//! Mechanism of disruption.go `syncStalePodDisruption`.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::kinds::{Pod, Projection, condition};
use crate::object::{Key, MetaExt, time};
use crate::plan::{Controller, Cx, Plan};
use crate::view::{Change, World};
use crate::write::{PatchKind, Verb, Write};

const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// Kubelets say so long before they delete.
const BY_KUBELET: &str = "TerminationByKubelet";
const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub struct StaleDisruptions;

impl Controller for StaleDisruptions {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn react(&mut self, _: &World, change: &Change, keys: &mut Vec<Key>) {
        if let Change::Pod(delta) = change
            && delta
                .new
                .as_ref()
                .is_some_and(|pod| marked_since(pod).is_some())
        {
            keys.push(delta.key());
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(pod) = world.pods.get(key) else {
            return Plan::nothing();
        };
        let Some(since) = marked_since(pod) else {
            return Plan::nothing();
        };
        let age = Duration::try_from(cx.now.duration_since(since)).unwrap_or_default();
        let left = TIMEOUT.saturating_sub(age);
        if !left.is_zero() {
            return Plan::after(left);
        }
        let body = json!({"metadata": {"uid": pod.metadata.uid()}, "status": {"conditions": [
            {"type": DISRUPTION_TARGET, "status": "False", "reason": null, "message": null,
             "lastTransitionTime": time(cx.now)}]}});
        Plan::write(Write {
            resource: &Pod::RESOURCE,
            key: key.clone(),
            verb: Verb::Patch {
                subresource: Some("status"),
                kind: PatchKind::Strategic,
                body,
            },
            notes: None,
        })
    }
}

/// Since when the pod is to be evicted, although it stands.
fn marked_since(pod: &Pod) -> Option<Timestamp> {
    let mark = condition(&pod.status.conditions, DISRUPTION_TARGET)?;
    let counts = mark.status == "True"
        && mark.reason != BY_KUBELET
        && !pod.metadata.is_deleting()
        && !pod.is_terminated();
    let since = mark.last_transition_time.as_ref().filter(|_| counts)?;
    Some(since.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Sim, condition};

    #[test]
    fn a_mark_is_cleared_when_the_pod_still_stands_after_a_while() {
        let mut sim = Sim::new(vec![Box::new(StaleDisruptions)]);
        let mark = condition(DISRUPTION_TARGET, "True", sim.now);
        let key = sim.create::<Pod>(json!({
            "metadata": {"namespace": "ns", "name": "p"},
            "status": {"phase": "Running", "conditions": [mark]}}));
        sim.settle();
        assert_eq!(sim.plan(0, &key).requeue_after, Some(TIMEOUT));
        sim.advance(120);
        sim.wake(0, &key);
        sim.settle();
        let pod = sim.get::<Pod>(&key).unwrap();
        assert_eq!(pod["status"]["conditions"][0]["status"], "False");
    }
}
