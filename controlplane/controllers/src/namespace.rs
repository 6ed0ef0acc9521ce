//! Namespace: deletes what is in a namespace that is being deleted, then lets it go.
//!
//! Mechanism of pkg/controller/namespace/deletion (namespaced_resources_deleter.go,
//! status_condition_utils.go): discovery says what can be in a namespace, pods go before all
//! else, conditions say what is left. A pod that goes wakes its namespace up.

pub mod content;

use k8s_openapi::jiff::Timestamp;

use crate::kinds::{Condition, Namespace, Projection};
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Job, Plan};
use crate::view::{Change, World};
use crate::write::{Edit, Verb, Write};

/// The finalizer this controller takes away.
pub const FINALIZER: &str = "kubernetes";

/// Empty this namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Purge {
    pub key: Key,
    pub finalizers: Vec<String>,
    pub conditions: Vec<Condition>,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub struct NamespaceController;

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::Namespace(delta) => keys.push(delta.key()),
            Change::Pod(delta) if delta.new.is_none() => {
                let key = Key::cluster(&delta.key().namespace);
                if world
                    .namespaces
                    .get(&key)
                    .is_some_and(|ns| ns.metadata.is_deleting())
                {
                    keys.push(key);
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(namespace) = world.namespaces.get(key) else {
            return Plan::nothing();
        };
        let meta = &namespace.metadata;
        let finalizers = &namespace.spec.finalizers;
        if !meta.is_deleting() || !finalizers.iter().any(|f| f == FINALIZER) {
            return Plan::nothing();
        }
        if namespace.status.phase != "Terminating" {
            return Plan::write(Write {
                resource: &Namespace::RESOURCE,
                key: key.clone(),
                verb: Verb::Edit {
                    subresource: Some("status"),
                    resource_version: None,
                    edits: vec![Edit::set("/status/phase", "Terminating")],
                },
                notes: None,
            });
        }
        let purge = Purge {
            key: key.clone(),
            finalizers: finalizers.clone(),
            conditions: namespace.status.conditions.clone(),
            now: cx.now,
        };
        Plan {
            job: Some(Job::PurgeNamespace(purge)),
            ..Plan::default()
        }
    }
}
