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
use crate::view::Store;
use crate::view::store::Indexed;
use crate::write::{PatchKind, Write};

/// Directive of strategic merge patches: takes these out of the finalizers.
pub const DELETE_FINALIZERS: &str = "$deleteFromPrimitiveList/finalizers";

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

/// Keys of the owners of kind `K` an object with this metadata concerns: the one that controls it,
/// or every one that could adopt it.
pub fn owners<K: Projection + Indexed>(
    store: &Store<K>,
    meta: &ObjectMeta,
    selector: impl Fn(&K) -> Option<Selector>,
    keys: &mut Vec<Key>,
) {
    let namespace = meta.namespace.as_deref().unwrap_or("");
    match meta.controller() {
        Some(owner) if owner.kind == K::RESOURCE.kind => {
            keys.push(Key::new(namespace, &owner.name));
        }
        Some(_) => {}
        None => {
            let adopters = store
                .in_namespace(namespace)
                .filter(|owner| selector(owner).is_some_and(|s| matches(&s, meta)));
            keys.extend(adopters.map(|owner| Key::of(owner.metadata())));
        }
    }
}

/// Sorts the objects of `store` out for the controller `owner`.
pub fn claim<K: Projection + Indexed, O: Projection>(
    store: &Store<K>,
    selector: &Selector,
    owner: &O,
) -> Claim<K> {
    claim_those(store, |meta| matches(selector, meta), owner, None)
}

/// The same with any condition, and for an owner whose objects may carry a finalizer of its own.
pub fn claim_those<K: Projection + Indexed, O: Projection>(
    store: &Store<K>,
    is_meant: impl Fn(&ObjectMeta) -> bool,
    owner: &O,
    finalizer: Option<&str>,
) -> Claim<K> {
    let owner = owner.metadata();
    let mut claim = Claim {
        owned: Vec::new(),
        writes: Vec::new(),
    };
    for object in store.owned_by(owner.uid()) {
        let meta = object.metadata();
        if is_meant(meta) {
            claim.owned.push(object.clone());
        } else if !owner.is_deleting() {
            claim
                .writes
                .push(release::<K>(meta, owner.uid(), finalizer));
        }
    }
    if owner.is_deleting() {
        return claim;
    }
    for object in store.orphans(owner.namespace.as_deref().unwrap_or("")) {
        let meta = object.metadata();
        if is_meant(meta) && !meta.is_deleting() {
            claim.writes.push(adopt::<K, O>(meta, owner, finalizer));
        }
    }
    claim
}

fn adopt<K: Projection, O: Projection>(
    meta: &ObjectMeta,
    owner: &ObjectMeta,
    finalizer: Option<&str>,
) -> Write {
    let reference = controller_ref(&O::RESOURCE.api_version(), O::RESOURCE.kind, owner);
    let mut body = json!({"metadata": {"uid": meta.uid, "ownerReferences": [reference]}});
    if let Some(finalizer) = finalizer {
        body["metadata"]["finalizers"] = json!([finalizer]);
    }
    Write::patch(&K::RESOURCE, Key::of(meta), PatchKind::Strategic, body)
}

fn release<K: Projection>(meta: &ObjectMeta, owner_uid: &str, finalizer: Option<&str>) -> Write {
    let mut body = json!({"metadata": {
        "uid": meta.uid,
        "ownerReferences": [{"$patch": "delete", "uid": owner_uid}],
    }});
    if let Some(finalizer) = finalizer {
        body["metadata"][DELETE_FINALIZERS] = json!([finalizer]);
    }
    Write::patch(&K::RESOURCE, Key::of(meta), PatchKind::Strategic, body)
}
