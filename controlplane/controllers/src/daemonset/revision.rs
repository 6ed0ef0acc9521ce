//! The history of a DaemonSet's template: one ControllerRevision per template.
//!
//! Mechanism of daemon/update.go `constructHistory`, `snapshot` and `cleanupHistory`. The data of a
//! revision is the patch `kubectl rollout undo` applies.

use std::sync::Arc;

use serde_json::{Value, json};

use super::REVISION_HASH_LABEL;
use crate::kinds::{ControllerRevision, DaemonSet, Pod, Projection};
use crate::object::{Key, MetaExt, controller_ref};
use crate::plan::Plan;
use crate::template;
use crate::view::World;
use crate::write::{Edit, Write};

pub struct History<'a> {
    set: &'a DaemonSet,
    current: Option<Arc<ControllerRevision>>,
    old: Vec<Arc<ControllerRevision>>,
}

impl<'a> History<'a> {
    pub fn new(set: &'a DaemonSet, revisions: Vec<Arc<ControllerRevision>>) -> Self {
        let data = data(set);
        let (mut current, mut old): (Vec<_>, Vec<_>) = revisions
            .into_iter()
            .partition(|revision| revision.data == data);
        current.sort_by_key(|revision| revision.revision);
        let newest = current.pop();
        old.extend(current);
        old.sort_by_key(|revision| revision.revision);
        Self {
            set,
            current: newest,
            old,
        }
    }

    /// The revision of the present template, or the write that is needed first.
    pub fn current(&self) -> Result<&ControllerRevision, Write> {
        let number = self.old.iter().map(|old| old.revision).max().unwrap_or(0) + 1;
        let Some(current) = &self.current else {
            return Err(create(self.set, number));
        };
        let version = current.metadata.resource_version();
        let edit = |edits| {
            Write::edit(
                &ControllerRevision::RESOURCE,
                Key::of(&current.metadata),
                version,
                edits,
            )
        };
        if current.revision < number {
            return Err(edit(vec![Edit::set("/revision", number)]));
        }
        if current.metadata.label(REVISION_HASH_LABEL).is_none() {
            let name = current.metadata.name.clone().unwrap_or_default();
            let pointer = format!("/metadata/labels/{REVISION_HASH_LABEL}");
            return Err(edit(vec![Edit::set(&pointer, name)]));
        }
        Ok(current)
    }

    /// Deletes the oldest revisions beyond the limit that no pod has.
    pub fn surplus(&self, pods: &[Arc<Pod>]) -> Vec<Write> {
        let limit = self.set.spec.revision_history_limit.unwrap_or(10);
        let surplus = self
            .old
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        let is_live = |revision: &ControllerRevision| {
            let hash = revision.metadata.label(REVISION_HASH_LABEL);
            hash.is_some()
                && pods
                    .iter()
                    .any(|pod| pod.metadata.label(REVISION_HASH_LABEL) == hash)
        };
        let dead = self
            .old
            .iter()
            .filter(|r| !is_live(r) && !r.metadata.is_deleting());
        let delete = |revision: &Arc<ControllerRevision>| {
            let meta = &revision.metadata;
            Write::delete(&ControllerRevision::RESOURCE, Key::of(meta), meta.uid())
        };
        dead.take(surplus).map(delete).collect()
    }
}

/// Carries the write out, unless the name of a new revision is taken by another template: then
/// the next hash is another one.
pub fn create_or_bump(world: &World, set: &DaemonSet, write: Write) -> Plan {
    let is_create = matches!(write.verb, crate::write::Verb::Create { .. });
    if !(is_create && world.revisions.get(&write.key).is_some()) {
        return Plan::write(write);
    }
    let mut status = set.status.clone();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    let value = serde_json::to_value(&status).expect("a status is plain data");
    let meta = &set.metadata;
    let write = Write::status(
        &DaemonSet::RESOURCE,
        Key::of(meta),
        meta.resource_version(),
        value,
    );
    Plan {
        status: Some(write),
        ..Plan::default()
    }
}

fn data(set: &DaemonSet) -> Value {
    let mut template = set.spec.template.clone();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

fn create(set: &DaemonSet, number: i64) -> Write {
    let meta = &set.metadata;
    let hash = template::hash(&set.spec.template, set.status.collision_count);
    let name = template::hashed_name(meta.name.as_deref().unwrap_or_default(), &hash);
    let labelled = template::with_label(&set.spec.template, REVISION_HASH_LABEL, &hash);
    let owner = controller_ref(&DaemonSet::RESOURCE.api_version(), "DaemonSet", meta);
    let body = json!({
        "apiVersion": ControllerRevision::RESOURCE.api_version(),
        "kind": ControllerRevision::RESOURCE.kind,
        "metadata": {
            "name": name,
            "namespace": meta.namespace,
            "labels": labelled["metadata"]["labels"],
            "annotations": meta.annotations,
            "ownerReferences": [owner],
        },
        "data": data(set),
        "revision": number,
    });
    let key = Key::new(meta.namespace.as_deref().unwrap_or(""), &name);
    Write::create(&ControllerRevision::RESOURCE, key, body)
}
