//! Which objects belong to a controller: keep, adopt, release.
//!
//! Mechanism of pkg/controller/controller_ref_manager.go: a matching orphan is adopted, an owned
//! object that no longer matches is released, others' objects are left alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::{Selector, SelectorExt};
use serde_json::json;

use crate::kinds::Projection;
use crate::object::{Key, MetaExt, controller_ref};
use crate::resource::Resource;
use crate::view::Store;
use crate::view::store::Indexed;
use crate::write::{PatchKind, Write};

/// The objects a controller owns, and the writes that make it so.
#[derive(Debug)]
pub struct Claim<K> {
    pub owned: Vec<Arc<K>>,
    pub writes: Vec<Write>,
}

/// The selector in a form that matches; `None` when it is empty or not valid.
pub fn selector(selector: &LabelSelector) -> Option<Selector> {
    let selector = Selector::try_from(selector.clone()).ok()?;
    (!selector.selects_all()).then_some(selector)
}

/// Does `selector` match these labels?
pub fn matches(selector: &Selector, meta: &ObjectMeta) -> bool {
    static EMPTY: BTreeMap<String, String> = BTreeMap::new();
    selector.matches(meta.labels.as_ref().unwrap_or(&EMPTY))
}

/// Sorts the objects of `store` out for the controller described by `owner`.
pub fn claim<K: Projection + Indexed>(
    store: &Store<K>,
    resource: &'static Resource,
    selector: &Selector,
    owner_resource: &Resource,
    owner: &ObjectMeta,
) -> Claim<K> {
    let mut claim = Claim {
        owned: Vec::new(),
        writes: Vec::new(),
    };
    for object in store.owned_by(owner.uid()) {
        let meta = object.metadata();
        if matches(selector, meta) {
            claim.owned.push(object.clone());
        } else if !owner.is_deleting() {
            claim.writes.push(release(resource, meta, owner.uid()));
        }
    }
    if owner.is_deleting() {
        return claim;
    }
    for object in store.orphans(owner.namespace.as_deref().unwrap_or("")) {
        let meta = object.metadata();
        if matches(selector, meta) && !meta.is_deleting() {
            claim
                .writes
                .push(adopt(resource, meta, owner_resource, owner));
        }
    }
    claim
}

fn adopt(
    resource: &'static Resource,
    meta: &ObjectMeta,
    owner_resource: &Resource,
    owner: &ObjectMeta,
) -> Write {
    let reference = controller_ref(&owner_resource.api_version(), owner_resource.kind, owner);
    let body = json!({"metadata": {"uid": meta.uid, "ownerReferences": [reference]}});
    Write::patch(resource, Key::of(meta), PatchKind::Strategic, body)
}

fn release(resource: &'static Resource, meta: &ObjectMeta, owner_uid: &str) -> Write {
    let body = json!({"metadata": {
        "uid": meta.uid,
        "ownerReferences": [{"$patch": "delete", "uid": owner_uid}],
    }});
    Write::patch(resource, Key::of(meta), PatchKind::Strategic, body)
}
