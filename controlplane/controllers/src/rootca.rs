//! The config map `kube-root-ca.crt` of every namespace: how pods verify the API server.
//!
//! Mechanism of pkg/controller/certificates/rootcacertpublisher/publisher.go.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::driver::feed::ROOT_CA_CONFIG_MAP;
use crate::kinds::{ConfigMap, Projection};
use crate::object::{Key, MetaExt};
use crate::plan::{Controller, Cx, Plan};
use crate::serviceaccount::is_active;
use crate::view::{Change, World};
use crate::write::{Verb, Write};

const DATA_KEY: &str = "ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
     endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
     guaranteed across distributions of Kubernetes clusters.",
);

#[derive(Debug)]
pub struct RootCaPublisher {
    pub root_ca_pem: String,
}

impl Controller for RootCaPublisher {
    fn name(&self) -> &'static str {
        "root-ca-cert-publisher"
    }

    fn react(&mut self, _: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::Namespace(delta) => keys.push(delta.key()),
            Change::ConfigMap(delta) if &*delta.key().name == ROOT_CA_CONFIG_MAP => {
                keys.push(Key::cluster(&delta.key().namespace));
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, _: &Cx<'_>) -> Plan {
        if !world.namespaces.get(key).is_some_and(|ns| is_active(ns)) {
            return Plan::nothing();
        }
        let map = Key::new(&key.name, ROOT_CA_CONFIG_MAP);
        let data = BTreeMap::from([(DATA_KEY.to_owned(), self.root_ca_pem.clone())]);
        let body = |metadata: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
        match world.configmaps.get(&map) {
            None => {
                let metadata = json!({"name": ROOT_CA_CONFIG_MAP, "namespace": &*key.name,
                    "annotations": {DESCRIPTION.0: DESCRIPTION.1}});
                Plan::write(Write::create(&ConfigMap::RESOURCE, map, body(metadata)))
            }
            Some(current) if current.data == data || current.metadata.is_deleting() => {
                Plan::nothing()
            }
            Some(current) => {
                let metadata =
                    serde_json::to_value(&current.metadata).expect("metadata is plain data");
                let verb = Verb::Replace {
                    subresource: None,
                    body: body(metadata),
                };
                Plan::write(Write {
                    resource: &ConfigMap::RESOURCE,
                    key: map,
                    verb,
                    notes: None,
                })
            }
        }
    }
}
