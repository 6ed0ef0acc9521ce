//! Revisions: annotations on ReplicaSets and the Deployment, and the ReplicaSet of a new template.
//!
//! Mechanism of deployment/sync.go `getNewReplicaSet` and util `SetNewReplicaSetAnnotations`.
//! `kubectl rollout undo` copies an old set's template into the Deployment: the old set becomes
//! the new one and gets the next revision number here.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Rollout, replicas};
use crate::kinds::{Deployment, Projection, ReplicaSet};
use crate::object::{Key, MetaExt, controller_ref};
use crate::template::{self, POD_TEMPLATE_HASH};
use crate::write::{Edit, Notes, Write};

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Longest revision history, in bytes.
const MAX_REVISION_HISTORY: usize = 2000;
/// Annotations of the Deployment that its ReplicaSets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

pub fn revision(set: &ReplicaSet) -> i64 {
    set.metadata
        .annotation(REVISION)
        .and_then(|r| r.parse().ok())
        .unwrap_or(0)
}

pub fn desired_replicas(set: &ReplicaSet) -> Option<i32> {
    set.metadata.annotation(DESIRED_REPLICAS)?.parse().ok()
}

pub fn max_replicas(set: &ReplicaSet) -> Option<i32> {
    set.metadata.annotation(MAX_REPLICAS)?.parse().ok()
}

pub fn size_annotations(desired: i32, max: i32) -> Vec<Edit> {
    vec![
        Edit::annotation(DESIRED_REPLICAS, Some(&desired.to_string())),
        Edit::annotation(MAX_REPLICAS, Some(&max.to_string())),
    ]
}

pub fn size_annotations_differ(set: &ReplicaSet, desired: i32, max: i32) -> bool {
    desired_replicas(set) != Some(desired) || max_replicas(set) != Some(max)
}

/// The next write that brings the new set's annotations or the Deployment's revision up to date.
pub fn sync(rollout: &Rollout<'_>) -> Option<Write> {
    let new = &rollout.new.as_ref()?.set;
    let deployment = rollout.deployment;
    let wanted = set_annotations(rollout, Some(new));
    let current = new.metadata.annotations.clone().unwrap_or_default();
    let mut edits: Vec<Edit> = wanted
        .iter()
        .filter(|(key, value)| current.get(*key) != Some(value))
        .map(|(key, value)| Edit::annotation(key, Some(value)))
        .collect();
    if new.spec.min_ready_seconds != deployment.spec.min_ready_seconds {
        edits.push(Edit::set(
            "/spec/minReadySeconds",
            deployment.spec.min_ready_seconds,
        ));
    }
    if !edits.is_empty() {
        let key = Key::of(&new.metadata);
        let version = new.metadata.resource_version();
        return Some(Write::edit(&ReplicaSet::RESOURCE, key, version, edits));
    }
    let revision = new.metadata.annotation(REVISION)?;
    if deployment.metadata.annotation(REVISION) == Some(revision) {
        return None;
    }
    let edits = vec![Edit::annotation(REVISION, Some(revision))];
    let key = Key::of(&deployment.metadata);
    let version = deployment.metadata.resource_version();
    Some(Write::edit(&Deployment::RESOURCE, key, version, edits))
}

/// The annotations the set of the present template must have.
fn set_annotations(
    rollout: &Rollout<'_>,
    existing: Option<&ReplicaSet>,
) -> BTreeMap<String, String> {
    let mut wanted: BTreeMap<String, String> = rollout
        .deployment
        .metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let next = rollout
        .old
        .iter()
        .map(|old| revision(&old.set))
        .max()
        .unwrap_or(0)
        + 1;
    let current = existing.map_or(0, revision);
    wanted.insert(REVISION.to_owned(), next.max(current).to_string());
    if let Some(set) = existing
        && current > 0
        && current < next
    {
        wanted.insert(REVISION_HISTORY.to_owned(), history(set, current));
    }
    if existing.is_none() {
        let desired = rollout.wanted();
        let max = desired + replicas::max_surge(rollout.deployment);
        wanted.insert(DESIRED_REPLICAS.to_owned(), desired.to_string());
        wanted.insert(MAX_REPLICAS.to_owned(), max.to_string());
    }
    wanted
}

/// The revisions a set has had, the oldest forgotten when the list grows too long.
fn history(set: &ReplicaSet, revision: i64) -> String {
    let mut history = match set.metadata.annotation(REVISION_HISTORY) {
        Some(old) if !old.is_empty() => format!("{old},{revision}"),
        _ => revision.to_string(),
    };
    while history.len() > MAX_REVISION_HISTORY {
        let Some(comma) = history.find(',') else {
            break;
        };
        history.drain(..=comma);
    }
    history
}

/// The name the set of the present template would get, and its hash.
pub fn new_name(deployment: &Deployment) -> (String, String) {
    let hash = template::hash(&deployment.spec.template, deployment.status.collision_count);
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    (template::hashed_name(name, &hash), hash)
}

/// Creates the set of the present template.
pub fn create(rollout: &Rollout<'_>) -> Write {
    let deployment = rollout.deployment;
    let (name, hash) = new_name(deployment);
    let template = template::with_label(&deployment.spec.template, POD_TEMPLATE_HASH, &hash);
    let mut selector =
        serde_json::to_value(&deployment.spec.selector).expect("a selector is plain data");
    if !selector["matchLabels"].is_object() {
        selector["matchLabels"] = json!({});
    }
    selector["matchLabels"][POD_TEMPLATE_HASH] = Value::from(hash);
    let size = replicas::new_set_size(rollout, 0);
    let meta = &deployment.metadata;
    let owner = controller_ref(
        &Deployment::RESOURCE.api_version(),
        Deployment::RESOURCE.kind,
        meta,
    );
    let body = json!({
        "apiVersion": ReplicaSet::RESOURCE.api_version(),
        "kind": ReplicaSet::RESOURCE.kind,
        "metadata": {
            "name": name,
            "namespace": meta.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": set_annotations(rollout, None),
            "ownerReferences": [owner],
        },
        "spec": {
            "replicas": size,
            "minReadySeconds": deployment.spec.min_ready_seconds,
            "selector": selector,
            "template": template,
        },
    });
    let key = Key::new(meta.namespace.as_deref().unwrap_or(""), &name);
    let scaled = format!("Scaled up replica set {name} from 0 to {size}");
    let failed = format!("Failed to create new replica set {name:?}: {{error}}");
    Write::create(&ReplicaSet::RESOURCE, key, body).noting(Notes {
        regarding: kube::Resource::object_ref(&**deployment, &()),
        done: (size > 0).then_some(("ScalingReplicaSet", scaled)),
        failed: Some(("ReplicaSetCreateError", failed)),
        ..Notes::default()
    })
}
