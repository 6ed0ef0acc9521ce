//! The `default` service account of every namespace.
//!
//! Mechanism of pkg/controller/serviceaccount/serviceaccounts_controller.go.

use serde_json::json;

use crate::kinds::{Namespace, Projection, ServiceAccount};
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Plan};
use crate::view::{Change, World};
use crate::write::Write;

const NAME: &str = "default";

#[derive(Debug, Default)]
pub struct ServiceAccountController;

impl Controller for ServiceAccountController {
    fn name(&self) -> &'static str {
        "service-account-controller"
    }

    fn react(&mut self, _: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::Namespace(delta) => keys.push(delta.key()),
            Change::ServiceAccount(delta) if delta.new.is_none() && &*delta.key().name == NAME => {
                keys.push(Key::cluster(&delta.key().namespace));
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, _: &Cx<'_>) -> Plan {
        let account = Key::new(&key.name, NAME);
        let is_wanted = world.namespaces.get(key).is_some_and(|ns| is_active(ns));
        if !is_wanted || world.accounts.get(&account).is_some() {
            return Plan::nothing();
        }
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": NAME, "namespace": &*key.name}});
        Plan::write(Write::create(&ServiceAccount::RESOURCE, account, body))
    }
}

/// Things may still be created in it.
pub fn is_active(namespace: &Namespace) -> bool {
    !namespace.metadata.is_deleting() && namespace.status.phase != "Terminating"
}
