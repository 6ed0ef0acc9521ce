//! The history of a template: one ControllerRevision per template a DaemonSet or StatefulSet has had.
//!
//! Mechanism of pkg/controller/history/controller_history.go and of its users: daemon/update.go
//! `constructHistory`, statefulset/stateful_set_control.go `getStatefulSetRevisions`. The data of a
//! revision is the patch `kubectl rollout undo` applies.

use std::ops::ControlFlow;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::claim::Claim;
use crate::kinds::{ControllerRevision, Projection};
use crate::object::{Key, MetaExt, controller_ref};
use crate::plan::Plan;
use crate::template;
use crate::view::World;
use crate::write::{Edit, Verb, Write};

/// Whose history it is.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub meta: &'a ObjectMeta,
    pub kind: &'static str,
    pub template: &'a Value,
    pub collision_count: Option<i32>,
    /// Label of a revision with its hash.
    pub hash_label: &'static str,
}

/// Its revisions: of the present template, and the others, oldest first.
pub struct History<'a> {
    subject: Subject<'a>,
    current: Option<Arc<ControllerRevision>>,
    old: Vec<Arc<ControllerRevision>>,
}

impl<'a> History<'a> {
    /// The history with the revision of the present template, or the plan of what comes first: claims,
    /// or the write of that revision. When its name is taken by another template, `bump` writes the
    /// next collision count instead, with which the next hash is another one.
    pub fn open(
        world: &World,
        subject: Subject<'a>,
        claims: Claim<ControllerRevision>,
        bump: impl FnOnce(Option<i32>) -> Write,
    ) -> ControlFlow<Plan, (Self, Arc<ControllerRevision>)> {
        if !claims.writes.is_empty() {
            return ControlFlow::Break(Plan::of(claims.writes));
        }
        let history = Self::new(subject, claims.owned);
        let write = match history.current() {
            Ok(current) => {
                let current = current.clone();
                return ControlFlow::Continue((history, current));
            }
            Err(write) => write,
        };
        let is_create = matches!(write.verb, Verb::Create { .. });
        if !(is_create && world.revisions.get(&write.key).is_some()) {
            return ControlFlow::Break(Plan::write(write));
        }
        let count = subject.collision_count.unwrap_or(0) + 1;
        ControlFlow::Break(Plan {
            status: Some(bump(Some(count))),
            ..Plan::default()
        })
    }

    fn new(subject: Subject<'a>, revisions: Vec<Arc<ControllerRevision>>) -> Self {
        let data = data(subject.template);
        let (mut current, mut old): (Vec<_>, Vec<_>) = revisions
            .into_iter()
            .partition(|revision| revision.data == data);
        current.sort_by_key(|revision| revision.revision);
        let newest = current.pop();
        old.extend(current);
        old.sort_by_key(|revision| revision.revision);
        Self {
            subject,
            current: newest,
            old,
        }
    }

    /// The revision of the present template, or the write that is needed first.
    fn current(&self) -> Result<&Arc<ControllerRevision>, Write> {
        let number = self.old.iter().map(|old| old.revision).max().unwrap_or(0) + 1;
        let Some(current) = &self.current else {
            return Err(create(self.subject, number));
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
        let label = self.subject.hash_label;
        if current.metadata.label(label).is_none() {
            let name = current.metadata.name.clone().unwrap_or_default();
            let pointer = format!("/metadata/labels/{}", label.replace('/', "~1"));
            return Err(edit(vec![Edit::set(&pointer, name)]));
        }
        Ok(current)
    }

    /// The revision with that name.
    pub fn named(&self, name: &str) -> Option<&Arc<ControllerRevision>> {
        let mut all = self.old.iter().chain(&self.current);
        all.find(|revision| revision.metadata.name.as_deref() == Some(name))
    }

    /// Revisions that are not of the present template, oldest first.
    pub fn old(&self) -> &[Arc<ControllerRevision>] {
        &self.old
    }
}

/// The template a revision keeps.
pub fn template_of(revision: &ControllerRevision) -> Value {
    let mut template = revision.data["spec"]["template"].clone();
    if let Some(template) = template.as_object_mut() {
        template.remove("$patch");
    }
    template
}

/// Deletes revisions.
pub fn delete<'a>(revisions: impl Iterator<Item = &'a Arc<ControllerRevision>>) -> Vec<Write> {
    let standing = revisions.filter(|revision| !revision.metadata.is_deleting());
    let delete = |revision: &Arc<ControllerRevision>| {
        let meta = &revision.metadata;
        Write::delete(&ControllerRevision::RESOURCE, Key::of(meta), meta.uid())
    };
    standing.map(delete).collect()
}

fn data(template: &Value) -> Value {
    let mut template = template.clone();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

fn create(subject: Subject<'_>, number: i64) -> Write {
    let Subject {
        meta,
        kind,
        template,
        collision_count,
        hash_label,
    } = subject;
    let hash = template::hash(template, collision_count);
    let name = template::hashed_name(meta.name.as_deref().unwrap_or_default(), &hash);
    let labelled = template::with_label(template, hash_label, &hash);
    let owner = controller_ref("apps/v1", kind, meta);
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
        "data": data(template),
        "revision": number,
    });
    let key = Key::new(meta.namespace.as_deref().unwrap_or(""), &name);
    Write::create(&ControllerRevision::RESOURCE, key, body)
}
