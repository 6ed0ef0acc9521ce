//! ResourceQuota: the status says what is used.
//!
//! Mechanism of pkg/controller/resourcequota/resource_quota_controller.go: admission adds what new
//! objects use; this controller counts anew when a quota changes, when something it counts goes or
//! needs less, and every few minutes. The counting (`recount`) asks the API server, whose answers are
//! at least as new as the quota that is read first; so what admission adds meanwhile makes the write
//! fail, and nothing is counted from an old view.

pub mod recount;

use std::sync::Arc;
use std::time::Duration;

use api::quota::counts;

use crate::kinds::{Pod, ResourceQuota, Service};
use crate::object::Key;
use crate::plan::{Controller, Cx, Job, Plan};
use crate::view::{Change, Delta, World};

/// Time after which a quota is counted again without a reason (upstream's resync period).
const RESYNC: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub struct QuotaController;

impl Controller for QuotaController {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::ResourceQuota(delta) => match (&delta.old, &delta.new) {
                // Changes of the status are admission's, or our own; somebody else's are corrected here at
                // once, by upstream at its next resync.
                (Some(old), Some(new))
                    if old.spec == new.spec
                        && (old.status == new.status || new.status.hard == new.spec.hard) => {}
                _ => keys.push(delta.key()),
            },
            Change::Pod(delta) if has_finished(delta) => {
                that_count(world, ("", "pods"), Some(&delta.key().namespace), keys);
            }
            Change::Service(delta) if has_other_type(delta) => {
                that_count(world, ("", "services"), Some(&delta.key().namespace), keys);
            }
            Change::Removed(removed) => {
                let kind = (removed.group.as_str(), removed.plural.as_str());
                that_count(world, kind, removed.namespace.as_deref(), keys);
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, _: &Cx<'_>) -> Plan {
        let Some(quota) = world.quotas.get(key) else {
            return Plan::nothing();
        };
        if quota.metadata.deletion_timestamp.is_some() {
            return Plan::nothing();
        }
        Plan {
            job: Some(Job::Recount(key.clone())),
            requeue_after: Some(RESYNC),
            ..Plan::default()
        }
    }
}

/// The quotas of a namespace (or of all) that count objects of the kind.
fn that_count(world: &World, kind: (&str, &str), namespace: Option<&str>, keys: &mut Vec<Key>) {
    let (group, plural) = kind;
    let counting = |quota: &&Arc<ResourceQuota>| counts(&quota.spec.hard, group, plural);
    let key = |quota: &Arc<ResourceQuota>| Key::of(&quota.metadata);
    match namespace {
        Some(namespace) => {
            let quotas = world.quotas.in_namespace(namespace);
            keys.extend(quotas.filter(counting).map(key));
        }
        None => {
            let quotas = world.quotas.iter().map(|(_, quota)| quota);
            keys.extend(quotas.filter(counting).map(key));
        }
    }
}

/// The pod has come to its end, and no longer uses what it asked for.
fn has_finished(delta: &Delta<Pod>) -> bool {
    match (&delta.old, &delta.new) {
        (Some(old), Some(new)) => !old.is_terminated() && new.is_terminated(),
        _ => false,
    }
}

fn has_other_type(delta: &Delta<Service>) -> bool {
    match (&delta.old, &delta.new) {
        (Some(old), Some(new)) => old.spec.type_ != new.spec.type_,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;
    use crate::view::Removed;

    fn quota(namespace: &str, hard: serde_json::Value) -> ResourceQuota {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": "q", "uid": namespace,
                "resourceVersion": "1"},
            "spec": {"hard": hard},
        }))
        .unwrap()
    }

    #[test]
    fn what_goes_makes_the_quotas_that_count_it_be_counted_anew() {
        let mut world = World::default();
        let mut controller = QuotaController;
        for (namespace, hard) in [
            ("a", json!({"pods": "1"})),
            ("b", json!({"count/widgets.example.com": "1"})),
            (
                "c",
                json!({"count/widgets.example.com": "1", "secrets": "1"}),
            ),
        ] {
            world.deliver(Event::Apply(quota(namespace, hard)).into());
        }
        let mut after = |group: &str, plural: &str, namespace: Option<&str>| {
            let change = Change::Removed(Removed {
                group: group.into(),
                plural: plural.into(),
                namespace: namespace.map(Into::into),
            });
            let mut keys = Vec::new();
            controller.react(&world, &change, &mut keys);
            keys.iter()
                .map(|key| key.namespace.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(after("", "pods", Some("a")), ["a"]);
        assert!(after("", "pods", Some("b")).is_empty());
        assert_eq!(after("example.com", "widgets", None), ["b", "c"]);
        assert_eq!(after("", "secrets", Some("c")), ["c"]);
    }

    #[test]
    fn a_change_of_the_status_alone_is_no_reason_unless_it_is_wrong() {
        let mut world = World::default();
        let mut controller = QuotaController;
        let mut keys = Vec::new();
        let mut deliver = |world: &mut World, quota: ResourceQuota| {
            for change in world.deliver(Event::Apply(quota).into()) {
                controller.react(world, &change, &mut keys);
            }
            keys.drain(..).count()
        };
        let with_version = |hard, version: &str| {
            let mut quota = quota("a", hard);
            quota.metadata.resource_version = Some(version.into());
            quota
        };
        assert_eq!(
            deliver(&mut world, with_version(json!({"pods": "1"}), "1")),
            1
        );
        let mut counted = with_version(json!({"pods": "1"}), "2");
        counted.status.hard = counted.spec.hard.clone();
        assert_eq!(deliver(&mut world, counted.clone()), 0);
        let mut meddled = with_version(json!({"pods": "1"}), "3");
        meddled.status.hard = quota("a", json!({"pods": "9"})).spec.hard;
        assert_eq!(deliver(&mut world, meddled), 1);
        assert_eq!(
            deliver(&mut world, with_version(json!({"pods": "2"}), "4")),
            1
        );
    }
}
