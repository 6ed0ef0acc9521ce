//! DELETE and DELETECOLLECTION: preconditions, grace, finalizers and propagation.
//!
//! Port of `rest.BeforeDelete` (`k8s.io/apiserver/pkg/registry/rest/delete.go`) and
//! `deletionFinalizersForGarbageCollection` (`registry/generic/registry/store.go`).

use std::sync::Arc;

use api::{Doc, FieldError, List, Resource, Status, Value};
use bumpalo::Bump;
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    admission::{
        self,
        matching::Operation,
        webhook::{Concerned, Told},
    },
    allocate,
    attempt::{commit_writes, decode_stored, is_finalized, stored_row},
    cache::Object,
    call::Call,
    catalog::ResourceId,
    clock,
    present::{self, Answer},
    rest::write::unregistered,
    selection::Selection,
    storage::{Write, WriteChange},
};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Attempts before the client is told to come back.
const MAX_ATTEMPTS: usize = 32;

/// Objects of a collection deleted at the same time (upstream: DeleteCollectionWorkers). Fewer than
/// attempts: of those that meet at one object, one wins each round.
const COLLECTION_WORKERS: usize = 16;

/// `meta.k8s.io/v1.DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphan_dependents: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dry_run: Vec<String>,
}

/// What must hold of the object for it to be deleted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// What deleting an object comes to.
enum Step {
    /// Nothing changes (it is terminating already).
    Same,
    /// It stays for now, marked.
    Mark(Bytes),
    /// It goes, with these writes; this is how it is shown, where that is not how it was stored.
    Remove(Vec<Write>, Option<Bytes>),
}

/// DELETE of one object.
pub async fn delete(call: &Call) -> Result<Answer, Status> {
    let options = options(call)?;
    let (namespace, name) = (&call.attributes.namespace, &call.attributes.name);
    delete_one(call, namespace, name, &options).await
}

/// DELETE of everything selected in a collection. Answers with the list of it.
pub async fn delete_collection(call: &Call) -> Result<Answer, Status> {
    let id = call.stored()?;
    let options = options(call)?;
    let selection = Selection::parse(call.resource, &call.attributes)?;
    let snapshot = call.server.cache().snapshot(id);
    let selected: Vec<Arc<Object>> = snapshot
        .iter(&call.attributes.namespace)
        .filter(|o| selection.matches(o))
        .cloned()
        .collect();
    let mut items = Vec::new();
    let delete = |object: Arc<Object>| {
        let options = &options;
        async move {
            let deleted = delete_one(call, object.namespace(), object.name(), options).await;
            (object, deleted)
        }
    };
    // The log makes commits that wait for it at the same time durable with one sync.
    let mut deleted = stream::iter(selected)
        .map(delete)
        .buffered(COLLECTION_WORKERS);
    while let Some((object, deleted)) = deleted.next().await {
        match deleted {
            Ok(_) => {
                if !items.is_empty() {
                    items.push(b',');
                }
                items.extend(present::item_at(call.resource, &object, object.revision));
            }
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let mut json = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{{"resourceVersion":"{}"}},"items":["#,
        call.resource.kind,
        call.resource.api_version(),
        call.server.cache().revision(),
    )
    .into_bytes();
    json.extend(items);
    json.extend_from_slice(b"]}");
    Ok(Answer::ok(json))
}

/// Deletes one object of the call's resource.
pub async fn delete_one(
    call: &Call,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Answer, Status> {
    delete_with(call, namespace, name, options, None).await
}

/// Further writes in the commit of a deletion, asked for at each attempt.
pub type With<'w> = &'w (dyn Fn(&Object) -> Result<Vec<Write>, Status> + Sync);

/// [`delete_one`]; with further writes it is an eviction, about which webhooks have been asked already.
pub async fn delete_with(
    call: &Call,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    with: Option<With<'_>>,
) -> Result<Answer, Status> {
    let id = call.stored()?;
    let Resource { group, plural, .. } = call.resource;
    let dry_run = call.dry_run() || !options.dry_run.is_empty();
    let told = Told {
        dry_run,
        deletion: Some(options),
        ..Told::new(call, Operation::Delete, "", &call.attributes.name)
    };
    let concerned = match with {
        Some(_) => Concerned::nobody(),
        None => told.concerned(),
    };
    for _ in 0..MAX_ATTEMPTS {
        let old = call
            .server
            .cache()
            .get(id, namespace, name)
            .ok_or_else(|| Status::not_found(group, plural, name))?;
        check_preconditions(call, &old, options)?;
        admission::admit_delete(call, &old)?;
        let warnings = ask(&told, &concerned, &old).await?;
        let step = evaluate(call, &old, options)?;
        let (bytes, extra, last) = match step {
            Step::Same => {
                let answer = Answer::ok(present::object(call.resource, &old));
                return Ok(Answer { warnings, ..answer });
            }
            Step::Mark(bytes) => (Some(bytes), Vec::new(), None),
            Step::Remove(extra, last) => (None, extra, last),
        };
        let shown = bytes.clone().or(last);
        if dry_run {
            let answer = answer(call, &old, shown, old.revision);
            return Ok(Answer { warnings, ..answer });
        }
        let write = deletion(id, &old, bytes);
        let mut writes: Vec<Write> = std::iter::once(write).chain(extra).collect();
        if let Some(with) = with {
            writes.extend(with(&old)?);
        }
        if let Some(revision) = commit_writes(call, &writes).await? {
            let answer = answer(call, &old, shown, revision);
            return Ok(Answer { warnings, ..answer });
        }
    }
    Err(Status::server_timeout(group, plural, "delete", 1))
}

/// Asks the webhooks about the deletion of an object; their warnings.
async fn ask(told: &Told<'_>, concerned: &Concerned, old: &Object) -> Result<Vec<String>, Status> {
    let mut warnings = Vec::new();
    if concerned.mutates() || concerned.validates() {
        let before = present::object(told.resource, old);
        let told = Told {
            old: Some(&before),
            ..*told
        };
        concerned.admit(&told, None, &mut warnings).await?;
    }
    Ok(warnings)
}

/// The write that marks an object, or removes it.
fn deletion(resource: ResourceId, old: &Object, marked: Option<Bytes>) -> Write {
    let change = marked.map_or(WriteChange::Remove, |bytes| WriteChange::Put {
        bytes,
        expires: None,
    });
    Write {
        resource,
        key: old.key.clone(),
        change,
        expect: Some(old.revision),
    }
}

/// Options from the body, or from the query where there is none.
pub fn options(call: &Call) -> Result<DeleteOptions, Status> {
    let mut options = if call.body.is_empty() {
        from_query(call)?
    } else {
        from_body(call)?
    };
    if options.grace_period_seconds.is_some_and(|g| g < 0) {
        options.grace_period_seconds = Some(1);
    }
    let errors = errors(call, &options);
    if errors.is_empty() {
        return Ok(options);
    }
    Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors))
}

/// Port of `ValidateDeleteOptions` (`k8s.io/apimachinery/pkg/apis/meta/v1/validation/validation.go`).
fn errors(call: &Call, options: &DeleteOptions) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let field = "propagationPolicy";
    if let Some(policy) = options.propagation_policy.as_deref() {
        if options.orphan_dependents.is_some() {
            let text = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(field, policy, text));
        }
        if !["Foreground", "Background", "Orphan"].contains(&policy) {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported(field, policy, &supported));
        }
    }
    let mut dry_run = call.attributes.params("dryRun");
    dry_run.extend(options.dry_run.iter().map(String::as_str));
    errors.extend(super::options::dry_run_error(&dry_run));
    errors
}

fn from_query(call: &Call) -> Result<DeleteOptions, Status> {
    let attributes = &call.attributes;
    let is_given = attributes
        .param("gracePeriodSeconds")
        .is_some_and(|grace| !grace.is_empty());
    let grace = super::options::number(attributes, "gracePeriodSeconds")?;
    Ok(DeleteOptions {
        grace_period_seconds: is_given.then_some(grace),
        propagation_policy: attributes.param("propagationPolicy").map(str::to_owned),
        orphan_dependents: attributes.param("orphanDependents").map(|v| v == "true"),
        preconditions: None,
        dry_run: Vec::new(),
    })
}

fn from_body(call: &Call) -> Result<DeleteOptions, Status> {
    let kind = api::Facts::get()
        .kind("", "v1", "DeleteOptions")
        .or_else(|| api::Facts::get().kind("meta.k8s.io", "v1", "DeleteOptions"));
    let arena = Bump::new();
    let json = match kind {
        Some(kind) => {
            let (doc, _) = api::decode(
                call.format()?,
                &call.body,
                &kind.schema,
                api::FieldValidation::Ignore,
                &arena,
            )
            .map_err(|e| Status::bad_request(e.unrecognized().unwrap_or_else(|| e.to_string())))?;
            let version = match doc.api_version() {
                "" => "meta.k8s.io/v1",
                given => given,
            };
            if !matches!(doc.kind(), "" | "DeleteOptions") {
                return Err(Status::bad_request(unregistered(version, doc.kind())));
            }
            api::canonical(&doc)
        }
        None => call.body.to_vec(),
    };
    serde_json::from_slice(&json)
        .map_err(|e| Status::bad_request(format!("the delete options cannot be read: {e}")))
}

fn check_preconditions(call: &Call, old: &Object, options: &DeleteOptions) -> Result<(), Status> {
    let Some(preconditions) = &options.preconditions else {
        return Ok(());
    };
    // Named by its kind, as upstream does here.
    let Resource { group, kind, .. } = call.resource;
    let conflict = |why: String| Err(Status::conflict(group, kind, old.name(), &why));
    if let Some(uid) = &preconditions.uid
        && uid != old.uid()
    {
        return conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object \
             might have been deleted and then recreated",
            old.uid()
        ));
    }
    if let Some(version) = &preconditions.resource_version
        && *version != old.revision.to_string()
    {
        return conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion \
             in record ({}). The object might have been modified",
            old.revision
        ));
    }
    Ok(())
}

fn evaluate(call: &Call, old: &Object, options: &DeleteOptions) -> Result<Step, Status> {
    let arena = Bump::new();
    let row = stored_row(call.resource);
    let old_doc = decode_stored(row, old, &arena)?;
    let mut doc = old_doc.clone();
    let finalizers = set_finalizers(&mut doc, options, orphans_by_default(row));
    let grace = if is_pod(row) {
        pod_grace(&doc, options)
    } else {
        0
    };
    let terminating = old.is_terminating();
    if grace == 0 && !finalizers && is_finalized_but_for_grace(&doc) {
        // A pod is shown as it would have been marked: with no time left.
        let last = is_pod(row).then(|| {
            mark(&mut doc, call.now, 0, terminating);
            Bytes::from(api::codec::canonical_stored(&mut doc))
        });
        return Ok(Step::Remove(allocate::on_delete(call, row, &old_doc), last));
    }
    if terminating {
        let before = doc
            .int_at(&["metadata", "deletionGracePeriodSeconds"])
            .unwrap_or(0);
        if grace < before {
            mark(&mut doc, call.now, grace, terminating);
        }
    } else {
        mark(&mut doc, call.now, grace, terminating);
        if doc.kind() == "Namespace" {
            // Namespaces have no grace period (pkg/registry/core/namespace/storage/storage.go).
            doc.remove(&["metadata", "deletionGracePeriodSeconds"]);
            doc.set_str(&["status", "phase"], "Terminating");
        }
    }
    if terminating && is_finalized(&doc) {
        return Ok(Step::Remove(allocate::on_delete(call, row, &old_doc), None));
    }
    let bytes = Bytes::from(api::codec::canonical_stored(&mut doc));
    Ok(if bytes == old.bytes {
        Step::Same
    } else {
        Step::Mark(bytes)
    })
}

/// Kinds whose dependents stay behind when the request does not say otherwise, as they always did
/// (DefaultGarbageCollectionPolicy of pkg/registry/{core/replicationcontroller,batch/job}).
fn orphans_by_default(row: &Resource) -> bool {
    matches!(
        (row.group, row.kind),
        ("", "ReplicationController") | ("batch", "Job")
    )
}

/// Adds or removes the finalizers of the propagation policy; true when any finalizer is left.
fn set_finalizers(doc: &mut Doc<'_>, options: &DeleteOptions, orphans: bool) -> bool {
    let held = doc.list_at(&["metadata", "finalizers"]);
    let texts = held.iter().filter_map(Value::as_str);
    let is_decided = texts.into_iter().any(|t| t == ORPHAN || t == FOREGROUND);
    let wanted = match (
        options.propagation_policy.as_deref(),
        options.orphan_dependents,
    ) {
        (Some("Orphan"), _) | (None, Some(true)) => Some(ORPHAN),
        (Some("Foreground"), _) => Some(FOREGROUND),
        (Some(_), _) | (None, Some(false)) => None,
        // Without a policy the finalizers already there decide.
        (None, None) if orphans && !is_decided => Some(ORPHAN),
        (None, None) => return !doc.list_at(&["metadata", "finalizers"]).is_empty(),
    };
    let arena = doc.arena();
    let mut list = List::new_in(arena);
    for text in doc
        .list_at(&["metadata", "finalizers"])
        .iter()
        .filter_map(Value::as_str)
    {
        if text != ORPHAN && text != FOREGROUND {
            list.push(Value::String(text));
        }
    }
    if let Some(text) = wanted {
        list.push(Value::String(text));
    }
    let any = !list.is_empty();
    if any {
        doc.set(&["metadata", "finalizers"], Value::List(list));
    } else {
        doc.remove(&["metadata", "finalizers"]);
    }
    any
}

fn is_finalized_but_for_grace(doc: &Doc<'_>) -> bool {
    doc.kind() != "Namespace" || doc.list_at(&["spec", "finalizers"]).is_empty()
}

/// Port of `podStrategy.CheckGracefulDelete` (pkg/registry/core/pod/strategy.go).
fn pod_grace(doc: &Doc<'_>, options: &DeleteOptions) -> i64 {
    let wanted = options
        .grace_period_seconds
        .or_else(|| doc.int_at(&["spec", "terminationGracePeriodSeconds"]))
        .unwrap_or(0)
        .max(0);
    let unscheduled = doc
        .str_at(&["spec", "nodeName"])
        .unwrap_or_default()
        .is_empty();
    let finished = matches!(
        doc.str_at(&["status", "phase"]),
        Some("Succeeded" | "Failed")
    );
    if unscheduled || finished { 0 } else { wanted }
}

fn mark(doc: &mut Doc<'_>, now: i64, grace: i64, terminating: bool) {
    // A shortened grace period counts from the first deletion's start.
    let start = if terminating {
        deletion_start(doc).unwrap_or(now)
    } else {
        now
    };
    let at = clock::rfc3339(start.saturating_add(grace));
    doc.set_str(&["metadata", "deletionTimestamp"], &at);
    doc.set_int(&["metadata", "deletionGracePeriodSeconds"], grace);
    if !terminating && doc.generation() > 0 {
        let next = doc.generation() + 1;
        doc.set_int(&["metadata", "generation"], next);
    }
}

fn deletion_start(doc: &Doc<'_>) -> Option<i64> {
    let format = &time::format_description::well_known::Rfc3339;
    let at = time::OffsetDateTime::parse(doc.meta("deletionTimestamp"), format).ok()?;
    let grace = doc
        .int_at(&["metadata", "deletionGracePeriodSeconds"])
        .unwrap_or(0);
    Some(at.unix_timestamp() - grace)
}

fn is_pod(row: &Resource) -> bool {
    row.strategy.graceful_delete || (row.group.is_empty() && row.plural == "pods")
}

/// The object when it stays (or the kind says so), else a Status that names it.
fn answer(call: &Call, old: &Arc<Object>, shown: Option<Bytes>, revision: u64) -> Answer {
    let Resource { group, plural, .. } = call.resource;
    if let Some(bytes) = shown {
        if let Some(object) = Object::new(old.key.clone(), bytes, revision, false) {
            return Answer::ok(present::object(call.resource, &object));
        }
    } else if stored_row(call.resource).strategy.return_deleted {
        return Answer::ok(present::object_at(call.resource, old, revision));
    }
    let mut details = serde_json::Map::new();
    details.insert("name".into(), old.name().into());
    if !group.is_empty() {
        details.insert("group".into(), (*group).into());
    }
    details.insert("kind".into(), (*plural).into());
    details.insert("uid".into(), old.uid().into());
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    Answer::ok(status.to_string().into_bytes())
}
