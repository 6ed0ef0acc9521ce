//! Takes PodCertificateRequests away a while after they were made: by then they have ended, and who asked
//! has read the answer.
//!
//! Mechanism of pkg/controller/certificates/cleaner/pcrcleaner.go, event-driven instead of polled.

use std::time::Duration;

use crate::kinds::{PodCertificateRequest, Projection};
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Plan};
use crate::view::{Change, World};
use crate::write::{Verb, Write};

/// How long a request is kept.
const KEPT: Duration = Duration::from_secs(15 * 60);

#[derive(Debug)]
pub struct PodRequestCleaner;

impl Controller for PodRequestCleaner {
    fn name(&self) -> &'static str {
        "podcertificaterequestcleaner"
    }

    fn react(&mut self, _world: &World, change: &Change, keys: &mut Vec<Key>) {
        if let Change::PodCertificateRequest(delta) = change
            && delta.new.is_some()
            && delta.old.is_none()
        {
            keys.push(delta.key());
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(request) = world.pod_requests.get(key) else {
            return Plan::nothing();
        };
        let meta = &request.metadata;
        let made = meta.creation_timestamp.as_ref().map_or(cx.now, |t| t.0);
        let age = Duration::try_from(cx.now.duration_since(made)).unwrap_or_default();
        let left = KEPT.saturating_sub(age);
        if !left.is_zero() {
            return Plan::after(left);
        }
        Plan::write(Write {
            resource: &PodCertificateRequest::RESOURCE,
            key: key.clone(),
            verb: Verb::Delete {
                uid: meta.uid().to_owned(),
                resource_version: None,
                grace_seconds: None,
                propagation: None,
            },
            notes: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    #[test]
    fn a_request_goes_a_quarter_of_an_hour_after_it_was_made() {
        let mut world = World::default();
        let made: PodCertificateRequest = serde_json::from_value(json!({"metadata": {
            "namespace": "ns", "name": "req-1", "uid": "u", "resourceVersion": "1",
            "creationTimestamp": "1970-01-01T00:00:00Z"}}))
        .unwrap();
        let changes = world.deliver(Event::Apply(made).into());
        let mut keys = Vec::new();
        PodRequestCleaner.react(&world, &changes[0], &mut keys);
        let key = Key::new("ns", "req-1");
        assert_eq!(keys, std::slice::from_ref(&key));
        let plan_at = |second| {
            let now = Timestamp::from_second(second).unwrap();
            PodRequestCleaner.plan(&world, &key, &Cx { now, failure: None })
        };
        assert_eq!(plan_at(890), Plan::after(Duration::from_secs(10)));
        let plan = plan_at(900);
        assert!(
            matches!(&plan.writes[..], [Write { verb: Verb::Delete { uid, .. }, .. }] if uid == "u"),
            "{plan:?}"
        );
    }
}
