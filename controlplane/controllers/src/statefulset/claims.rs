//! The volume claims of a StatefulSet's pods: creating them, and who owns them under the retention
//! policy.
//!
//! Mechanism of stateful_pod_control.go and of `isClaimOwnerUpToDate`,
//! `updateClaimOwnerRefForSetAndPod` in stateful_set_utils.go.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::{Sync, range};
use crate::kinds::{PersistentVolumeClaim, Pod, Projection, StatefulSet};
use crate::object::{Key, MetaExt, controller_ref};
use crate::write::{Edit, Notes, Write};

/// Name in the template, and name of the claim of an ordinal.
fn names(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = (&str, String)> {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let templates = set.spec.volume_claim_templates.iter();
    let names = templates.filter_map(|template| template["metadata"]["name"].as_str());
    names.map(move |template| (template, format!("{template}-{name}-{ordinal}")))
}

/// Could this be the name of a claim of the set?
pub fn may_name(set: &StatefulSet, claim: &str) -> bool {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let templates = set.spec.volume_claim_templates.iter();
    let mut templates = templates.filter_map(|template| template["metadata"]["name"].as_str());
    templates.any(|template| claim.starts_with(&format!("{template}-{name}-")))
}

/// The volumes of a pod: its claims, then those of the template with other names.
pub fn volumes(set: &StatefulSet, of_template: Value, ordinal: i32) -> Vec<Value> {
    let volume = |(name, claim): (&str, String)| {
        json!({"name": name,
        "persistentVolumeClaim": {"claimName": claim}})
    };
    let mut volumes: Vec<Value> = names(set, ordinal).map(volume).collect();
    let of_template = of_template.as_array().cloned().unwrap_or_default();
    let is_claim = |volume: &Value| names(set, ordinal).any(|(name, _)| volume["name"] == name);
    volumes.extend(of_template.into_iter().filter(|volume| !is_claim(volume)));
    volumes
}

/// Creates the claims of an ordinal that are not there.
pub fn missing(sync: &Sync<'_>, ordinal: i32) -> Vec<Write> {
    let set = sync.set;
    let namespace = set.metadata.namespace.as_deref().unwrap_or("");
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let templates = set.spec.volume_claim_templates.iter();
    let mut writes = Vec::new();
    for (template, (_, name)) in templates.zip(names(set, ordinal)) {
        let key = Key::new(namespace, &name);
        if sync.world.claims.get(&key).is_some() {
            continue;
        }
        let mut body = template.clone();
        body["apiVersion"] = "v1".into();
        body["kind"] = "PersistentVolumeClaim".into();
        let metadata = &mut body["metadata"];
        metadata["name"] = name.as_str().into();
        metadata["namespace"] = namespace.into();
        if !metadata["labels"].is_object() {
            metadata["labels"] = json!({});
        }
        for (label, value) in set.spec.selector.match_labels.iter().flatten() {
            metadata["labels"][label] = value.as_str().into();
        }
        let about =
            format!("Create Claim {name} Pod {set_name}-{ordinal} in StatefulSet {set_name}");
        let notes = Notes {
            regarding: kube::Resource::object_ref(set, &()),
            done: Some(("SuccessfulCreate", format!("{about} success"))),
            failed: Some(("FailedCreate", format!("{about} failed error: {{error}}"))),
            ..Notes::default()
        };
        writes.push(Write::create(&PersistentVolumeClaim::RESOURCE, key, body).noting(notes));
    }
    writes
}

fn existing<'a>(
    sync: &'a Sync<'_>,
    ordinal: i32,
) -> impl Iterator<Item = &'a PersistentVolumeClaim> {
    let namespace = sync.set.metadata.namespace.as_deref().unwrap_or("");
    let claims = &sync.world.claims;
    names(sync.set, ordinal)
        .filter_map(move |(_, name)| claims.get(&Key::new(namespace, &name)))
        .map(|claim| &**claim)
}

/// A claim of the ordinal still belongs to a predecessor of the pod and goes with it
/// (`PodClaimIsStale`).
pub fn are_stale(sync: &Sync<'_>, ordinal: i32) -> bool {
    let name = sync.set.metadata.name.as_deref().unwrap_or_default();
    let pod = format!("{name}-{ordinal}");
    let is_of_pod = |reference: &OwnerReference| reference.kind == "Pod" && reference.name == pod;
    let deletes = sync
        .set
        .spec
        .persistent_volume_claim_retention_policy
        .when_scaled
        == "Delete";
    deletes
        && existing(sync, ordinal).any(|claim| {
            let owners = claim.metadata.owner_references.iter().flatten();
            owners.into_iter().any(is_of_pod)
        })
}

/// The writes that make the owners of a pod's claims what the policy says.
pub fn retention(sync: &Sync<'_>, ordinal: i32, pod: &Pod) -> Vec<Write> {
    let set = sync.set;
    existing(sync, ordinal)
        .filter_map(|claim| {
            let meta = &claim.metadata;
            let owners = owners(meta, set, pod, range(set).contains(&ordinal))?;
            let edit = if owners.is_empty() {
                Edit::remove("/metadata/ownerReferences")
            } else {
                Edit::set("/metadata/ownerReferences", Value::Array(owners))
            };
            let version = meta.resource_version();
            let resource = &PersistentVolumeClaim::RESOURCE;
            Some(Write::edit(resource, Key::of(meta), version, vec![edit]))
        })
        .collect()
}

/// The owners the claim should have; `None` when it has them, or when others have a hand in it.
fn owners(claim: &ObjectMeta, set: &StatefulSet, pod: &Pod, is_wanted: bool) -> Option<Vec<Value>> {
    let present = claim.owner_references.as_deref().unwrap_or(&[]);
    let names = |reference: &OwnerReference, meta: &ObjectMeta, kind: &str, version: &str| {
        reference.kind == kind
            && reference.api_version == version
            && Some(&reference.name) == meta.name.as_ref()
    };
    let is_set = |r: &OwnerReference| names(r, &set.metadata, "StatefulSet", "apps/v1");
    let is_pod = |r: &OwnerReference| names(r, &pod.metadata, "Pod", "v1");
    let is_stale = |r: &OwnerReference| {
        is_set(r) && r.uid != set.metadata.uid() || is_pod(r) && r.uid != pod.metadata.uid()
    };
    if present.iter().any(is_stale) {
        return None;
    }
    let policy = &set.spec.persistent_volume_claim_retention_policy;
    let (when_scaled, when_deleted) = (
        policy.when_scaled == "Delete",
        policy.when_deleted == "Delete",
    );
    let is_controller = |r: &OwnerReference| r.controller == Some(true);
    let is_ours = |r: &OwnerReference| is_set(r) || is_pod(r);
    let is_shared =
        (when_scaled || when_deleted) && present.iter().any(|r| is_controller(r) && !is_ours(r));
    // With another controller in charge ours only leaves.
    let by_set = !is_shared && when_deleted && (!when_scaled || is_wanted);
    let by_pod = !is_shared && when_scaled && !is_wanted;
    let has = |test: &dyn Fn(&OwnerReference) -> bool| present.iter().any(test);
    let is_current = has(&is_set) == by_set
        && has(&is_pod) == by_pod
        && present.iter().filter(|r| is_ours(r)).all(is_controller);
    if is_current {
        return None;
    }
    let others = present.iter().filter(|r| !is_ours(r));
    let mut owners: Vec<Value> = others
        .map(|r| serde_json::to_value(r).expect("a reference is plain data"))
        .collect();
    if by_set {
        owners.push(controller_ref("apps/v1", "StatefulSet", &set.metadata));
    }
    if by_pod {
        owners.push(controller_ref("v1", "Pod", &pod.metadata));
    }
    Some(owners)
}
