//! One write, tried until it fits: a synchronous closure from the stored version to the next one
//! (decode → default → admission → allocate → prepare → validate → admission), then a
//! compare-and-swap; on a conflict the closure runs again on what is there now.
//!
//! The closure works on a `Doc` in an arena that lives for one attempt; only bytes cross an `await`.
//! Port of the order in `k8s.io/apiserver/pkg/registry/generic/registry/store.go`.

use std::sync::Arc;

use api::{
    Doc, Facts, FieldError, PatchKind, Resource, Status, Value,
    strategy::{Part, SystemFields},
};
use bumpalo::Bump;
use bytes::Bytes;

use crate::{
    admission::{self, Written},
    allocate,
    attributes::Attributes,
    cache::{Key, Object},
    call::Call,
    chain, clock,
    present::{self, Answer},
    rest::write::{Encoded, decode},
    storage::{CommitError, MAX_OBJECT_BYTES, Write, WriteChange},
    subresource,
};

/// Attempts before a writer is told to come back. Creations in a namespace with a quota meet at the
/// quota: of N at the same time one wins each round, and a controller creates 64 at a time.
const MAX_ATTEMPTS: usize = 128;
/// Names tried for `generateName`.
const MAX_NAMES: usize = 8;
/// Longest base of a generated name (63 less the suffix; upstream: maxGeneratedNameLength).
const MAX_NAME_BASE: usize = 63 - clock::SUFFIX_CHARS;

/// What an update does to the stored object.
pub enum Update<'u> {
    /// PUT.
    Replace { body: &'u Encoded },
    /// PATCH.
    Patch { kind: PatchKind, body: &'u [u8] },
    /// A change of the server's own (binding, scale).
    With(&'u Edit),
}

/// Edits the object in place.
pub type Edit = dyn for<'a> Fn(&mut Doc<'a>) -> Result<(), Status> + Send + Sync;

/// The next version of an object.
struct Prepared {
    key: Key,
    bytes: Bytes,
    /// Writes that belong to it: claims on addresses and ports.
    extra: Vec<Write>,
    warnings: Vec<String>,
    generated_name: bool,
}

/// What an attempt on a stored object comes to.
enum Step {
    /// Same bytes: no write, no revision.
    Same,
    Write(Prepared),
    /// Its last finalizer is gone: the object goes.
    Remove(Prepared),
}

/// The row under which the object is stored; schema and strategy of every version's writes.
pub fn stored_row(resource: &'static Resource) -> &'static Resource {
    Facts::get()
        .resource(
            resource.storage_group,
            resource.storage_version,
            resource.plural,
        )
        .unwrap_or(resource)
}

/// Creates an object from a body.
pub async fn create(call: &Call, body: &Encoded) -> Result<Answer, Status> {
    let id = call.stored()?;
    let mut names = 0;
    for _ in 0..MAX_ATTEMPTS {
        let prepared = prepare_create(call, body)?;
        let name = prepared
            .key
            .split_once('/')
            .map_or("", |(_, name)| name)
            .to_owned();
        if call
            .server
            .cache()
            .get(id, namespace_of(&prepared.key), &name)
            .is_some()
        {
            names += 1;
            if prepared.generated_name && names < MAX_NAMES {
                continue;
            }
            return Err(exists(call, &name, prepared.generated_name));
        }
        if call.dry_run() {
            return dry(call, prepared, 201, None);
        }
        match commit(call, &prepared, None, false).await? {
            Some(revision) => return shown(call, prepared, revision, 201),
            None => continue,
        }
    }
    Err(busy(call, "create"))
}

/// Updates the object (or one of its subresources) the request names.
pub async fn update(call: &Call, subresource: &str, update: &Update<'_>) -> Result<Answer, Status> {
    let id = call.stored()?;
    let (namespace, name) = (&call.attributes.namespace, &call.attributes.name);
    for _ in 0..MAX_ATTEMPTS {
        let Some(old) = call.server.cache().get(id, namespace, name) else {
            return create_by_update(call, subresource, update).await;
        };
        let (step, warnings) = evaluate(call, &old, subresource, update)?;
        let (prepared, remove) = match step {
            Step::Same => {
                let json = present::object(call.resource, &old);
                return Ok(Answer {
                    code: 200,
                    json,
                    warnings,
                });
            }
            Step::Write(prepared) => (prepared, false),
            Step::Remove(prepared) => (prepared, true),
        };
        if call.dry_run() {
            return dry(call, prepared, 200, Some(&old));
        }
        if let Some(revision) = commit(call, &prepared, Some(&old), remove).await? {
            return shown(call, prepared, revision, 200);
        }
    }
    Err(busy(call, "update"))
}

/// PUT of an absent object: a creation where the kind allows it, with its own authorization.
async fn create_by_update(
    call: &Call,
    subresource: &str,
    update: &Update<'_>,
) -> Result<Answer, Status> {
    if let Update::Patch { body, .. } = update {
        api::patch::check_json(body).map_err(|e| e.to_status())?;
    }
    let Update::Replace { body } = update else {
        return Err(call.not_found());
    };
    if !subresource.is_empty() || !stored_row(call.resource).strategy.create_on_update {
        return Err(call.not_found());
    }
    let attributes = Attributes {
        verb: "create".into(),
        ..call.attributes.clone()
    };
    chain::authorize(&call.server, &call.user, &attributes)?;
    create(call, body).await
}

/// The closure of a creation.
fn prepare_create(call: &Call, body: &Encoded) -> Result<Prepared, Status> {
    let arena = Bump::new();
    let row = stored_row(call.resource);
    let (mut doc, mut warnings) = decode(call, body, &row.schema, &arena)?;
    fit_namespace(call, &mut doc)?;
    let generated_name = fit_name(call, &mut doc)?;
    if !doc.meta("resourceVersion").is_empty() {
        // An error of upstream's storage that nothing makes the client's fault.
        let text = "resourceVersion should not be set on objects to be created";
        return Err(Status::new(500, "", text));
    }
    // A Job without labels has its template's. Upstream's defaults share the map, so those that the
    // strategy gives the template are among them.
    let shares_labels = row.kind == "Job"
        && doc
            .get(&["metadata", "labels"])
            .and_then(Value::as_object)
            .is_none_or(|labels| labels.is_empty());
    api::default::default(row, &mut doc);
    let mut admission = admission::Admission::new(call, row, None);
    admission.mutate(&mut doc)?;
    api::default::default(row, &mut doc);
    let mut extra = allocate::on_write(call, row, &mut doc, None)?;
    extra.extend(admission.guard.take());
    let (uid, now) = (clock::new_uid(), call.now_text());
    let fields = SystemFields {
        uid: &uid,
        now: &now,
    };
    warnings.append(&mut api::strategy::prepare_create(row, &mut doc, fields));
    let mut errors = api::validate::validate_create(row, &doc);
    errors.extend(admission.check_certificates(&doc, None));
    if !errors.is_empty() {
        return Err(Status::invalid(row.group, row.kind, doc.name(), &errors));
    }
    warnings.append(&mut api::warn::on_create(row, &doc));
    admission.validate(&doc)?;
    warnings.append(&mut admission.warnings);
    if shares_labels {
        let labels = doc.get(&["spec", "template", "metadata", "labels"]);
        if let Some(labels) = labels.map(|labels| labels.copy_in(doc.arena())) {
            doc.set(&["metadata", "labels"], labels);
        }
    }
    let (namespace, name) = (doc.namespace(), doc.name());
    let key: Key = format!("{namespace}/{name}").into();
    let bytes = stored_bytes(&mut doc)?;
    extra.extend(admission.admit_written(&Written {
        subresource: "",
        namespace,
        name,
        bytes: &bytes,
    })?);
    Ok(Prepared {
        key,
        bytes,
        extra,
        warnings,
        generated_name,
    })
}

/// The closure of an update.
fn evaluate(
    call: &Call,
    old: &Object,
    subresource: &str,
    update: &Update<'_>,
) -> Result<(Step, Vec<String>), Status> {
    let arena = Bump::new();
    let row = stored_row(call.resource);
    let mut old_doc = decode_stored(row, old, &arena)?;
    old_doc.set_str(&["metadata", "resourceVersion"], &old.revision.to_string());
    let (mut doc, mut warnings) = changed(call, row, &old_doc, update, &arena)?;
    fit_namespace(call, &mut doc)?;
    check_identity(call, row, &mut doc, &old_doc, old)?;
    api::default::default(row, &mut doc);
    let mut admission = admission::Admission::new(call, row, Some((old, &old_doc)));
    if subresource.is_empty() {
        admission.mutate(&mut doc)?;
        api::default::default(row, &mut doc);
    }
    let part = subresource::part(subresource);
    let mut extra = match part {
        Some(Part::Main) => allocate::on_write(call, row, &mut doc, Some(&old_doc))?,
        Some(Part::Subresource(_)) | None => Vec::new(),
    };
    if let Some(part) = part {
        api::strategy::prepare_update(row, &mut doc, &old_doc, part);
        if row.plural == "certificatesigningrequests" {
            api::strategy::populate_certificate_times(&mut doc, &old_doc, &call.now_text());
        }
        let errors = invalid_update(&admission, &doc, &old_doc, part);
        if !errors.is_empty() {
            return Err(Status::invalid(row.group, row.kind, doc.name(), &errors));
        }
        warnings.append(&mut api::warn::on_update(row, &doc, &old_doc, part));
    }
    admission.validate(&doc)?;
    warnings.append(&mut admission.warnings);
    let gone = old.is_terminating() && is_finalized(&doc);
    let bytes = stored_bytes(&mut doc)?;
    if bytes == old.bytes && !gone {
        return Ok((Step::Same, warnings));
    }
    if gone {
        extra = allocate::on_delete(call, row, &old_doc);
    } else {
        extra.extend(admission.admit_written(&Written {
            subresource,
            namespace: old.namespace(),
            name: old.name(),
            bytes: &bytes,
        })?);
    }
    let prepared = Prepared {
        key: old.key.clone(),
        bytes,
        extra,
        warnings: warnings.clone(),
        generated_name: false,
    };
    Ok((
        if gone {
            Step::Remove(prepared)
        } else {
            Step::Write(prepared)
        },
        warnings,
    ))
}

/// What is wrong with an update.
fn invalid_update(
    admission: &admission::Admission<'_>,
    doc: &Doc<'_>,
    old: &Doc<'_>,
    part: Part<'_>,
) -> Vec<FieldError> {
    let mut errors = api::validate::validate_update(admission.row, doc, old, part);
    if errors.is_empty() && part == Part::Subresource("status") {
        errors.extend(admission.check_certificates(doc, Some(old)));
    }
    errors
}

/// The object as the client wants it.
fn changed<'a>(
    call: &Call,
    row: &'static Resource,
    old: &Doc<'a>,
    update: &Update<'_>,
    arena: &'a Bump,
) -> Result<(Doc<'a>, Vec<String>), Status> {
    match update {
        Update::Replace { body } => decode(call, body, &row.schema, arena),
        Update::Patch { kind, body } => {
            let patch = arena.alloc_slice_copy(body);
            api::patch::apply_patch(*kind, old, patch, call.field_validation(), arena)
                .map_err(|e| e.to_status())
        }
        Update::With(edit) => {
            let mut doc = old.clone();
            edit(&mut doc)?;
            Ok((doc, Vec::new()))
        }
    }
}

/// The stored object as a document.
pub fn decode_stored<'a>(
    row: &'static Resource,
    object: &Object,
    arena: &'a Bump,
) -> Result<Doc<'a>, Status> {
    let bytes = arena.alloc_slice_copy(&object.bytes);
    api::codec::decode_stored(bytes, &row.schema, arena)
        .map_err(|e| Status::internal(format_args!("stored object {}: {e}", object.key)))
}

/// Name, uid and resourceVersion in an update must be those of the object.
fn check_identity(
    call: &Call,
    row: &Resource,
    doc: &mut Doc<'_>,
    old_doc: &Doc<'_>,
    old: &Object,
) -> Result<(), Status> {
    let name = call.attributes.name.as_str();
    if doc.name().is_empty() {
        doc.set_str(&["metadata", "name"], name);
    } else if doc.name() != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            doc.name()
        )));
    }
    let uid = doc.meta("uid");
    // Of a patch it is no precondition; validation finds it changed.
    let is_patch = call.attributes.verb == "patch";
    if !is_patch && !uid.is_empty() && uid != old_doc.meta("uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            old_doc.meta("uid")
        );
        return Err(Status::conflict(row.group, row.plural, name, &why));
    }
    check_version(row, doc, old)
}

/// The resourceVersion a client sends is a condition; none (or 0) is allowed where the kind says so.
fn check_version(row: &Resource, doc: &Doc<'_>, old: &Object) -> Result<(), Status> {
    let version = doc.meta("resourceVersion");
    let invalid = |error| Err(Status::invalid(row.group, row.kind, old.name(), &[error]));
    let field = "metadata.resourceVersion";
    match if version.is_empty() {
        Ok(0)
    } else {
        version.parse::<u64>()
    } {
        Ok(0) if row.strategy.unconditional_update => Ok(()),
        Ok(0) => {
            let text = "must be specified for an update";
            invalid(api::FieldError::invalid_raw(field, "0", text))
        }
        Ok(version) if version == old.revision => Ok(()),
        Ok(_) => Err(Status::stale(row.group, row.plural, old.name())),
        Err(_) => {
            let text = api::status::not_a_number("ParseUint", version);
            Err(Status::new(500, "", text))
        }
    }
}

/// Whether nothing holds a terminating object any more.
pub fn is_finalized(doc: &Doc<'_>) -> bool {
    let grace = doc
        .int_at(&["metadata", "deletionGracePeriodSeconds"])
        .unwrap_or(0);
    let held_namespace =
        doc.kind() == "Namespace" && !doc.list_at(&["spec", "finalizers"]).is_empty();
    grace == 0 && !held_namespace && doc.list_at(&["metadata", "finalizers"]).is_empty()
}

fn fit_namespace(call: &Call, doc: &mut Doc<'_>) -> Result<(), Status> {
    let wanted = call.attributes.namespace.as_str();
    let given = doc.namespace();
    if !call.resource.namespaced {
        if !given.is_empty() {
            doc.remove(&["metadata", "namespace"]);
        }
        return Ok(());
    }
    if given.is_empty() {
        doc.set_str(&["metadata", "namespace"], wanted);
    } else if given != wanted {
        let text = "the namespace of the provided object does not match the namespace sent on the \
                    request";
        return Err(Status::bad_request(text));
    }
    Ok(())
}

/// Settles the name; true when it was generated.
fn fit_name(call: &Call, doc: &mut Doc<'_>) -> Result<bool, Status> {
    let url_name = call.attributes.name.as_str();
    if !url_name.is_empty() {
        if doc.name().is_empty() {
            doc.set_str(&["metadata", "name"], url_name);
        } else if doc.name() != url_name {
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({url_name})",
                doc.name()
            )));
        }
        return Ok(false);
    }
    let base = doc.meta("generateName");
    if !doc.name().is_empty() || base.is_empty() {
        return Ok(false);
    }
    let mut cut = base.len().min(MAX_NAME_BASE);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let name = format!("{}{}", &base[..cut], clock::random_suffix());
    doc.set_str(&["metadata", "name"], &name);
    Ok(true)
}

fn stored_bytes(doc: &mut Doc<'_>) -> Result<Bytes, Status> {
    let bytes = api::codec::canonical_stored(doc);
    if bytes.len() > MAX_OBJECT_BYTES {
        return Err(Status::too_large(format_args!(
            "limit is {MAX_OBJECT_BYTES}"
        )));
    }
    Ok(bytes.into())
}

/// Writes; none when somebody was faster and the attempt must be repeated.
async fn commit(
    call: &Call,
    prepared: &Prepared,
    old: Option<&Arc<Object>>,
    remove: bool,
) -> Result<Option<u64>, Status> {
    let resource = call.stored()?;
    let ttl = call.server.options().event_ttl.as_secs() as i64;
    let expires = (stored_row(call.resource).kind == "Event").then(|| (call.now + ttl) as u32);
    let change = if remove {
        WriteChange::Remove
    } else {
        WriteChange::Put {
            bytes: prepared.bytes.clone(),
            expires,
        }
    };
    let expect = old.map(|o| o.revision);
    let mut writes = vec![Write {
        resource,
        key: prepared.key.clone(),
        change,
        expect,
    }];
    writes.extend(prepared.extra.iter().cloned());
    commit_writes(call, &writes).await
}

/// Commits; none on a conflict, a `Status` for every other failure.
pub async fn commit_writes(call: &Call, writes: &[Write]) -> Result<Option<u64>, Status> {
    match call.server.storage().commit(writes).await {
        Ok(revision) => Ok(Some(revision)),
        Err(CommitError::Conflict { .. }) => Ok(None),
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let text = format!("{error}: {}", source.unwrap_or_default());
            tracing::warn!(
                resource = call.resource.plural,
                error = text,
                "write failed"
            );
            Err(Status::internal(text))
        }
    }
}

fn shown(call: &Call, prepared: Prepared, revision: u64, code: u16) -> Result<Answer, Status> {
    let Prepared {
        key,
        bytes,
        warnings,
        ..
    } = prepared;
    let object = Object::new(key, bytes, revision, false)
        .ok_or_else(|| Status::internal("canonical bytes have no metadata"))?;
    Ok(Answer {
        code,
        json: present::object(call.resource, &object),
        warnings,
    })
}

/// The answer of a dry run: what would be stored, with the version there is.
fn dry(
    call: &Call,
    prepared: Prepared,
    code: u16,
    old: Option<&Arc<Object>>,
) -> Result<Answer, Status> {
    match old {
        Some(old) => shown(call, prepared, old.revision, code),
        None => Ok(Answer {
            code,
            json: prepared.bytes.to_vec(),
            warnings: prepared.warnings,
        }),
    }
}

fn exists(call: &Call, name: &str, generated: bool) -> Status {
    let Resource { group, plural, .. } = call.resource;
    if generated {
        Status::generate_name_conflict(group, plural, name)
    } else {
        Status::already_exists(group, plural, name)
    }
}

fn busy(call: &Call, operation: &str) -> Status {
    let Resource { group, plural, .. } = call.resource;
    Status::server_timeout(group, plural, operation, 1)
}

fn namespace_of(key: &str) -> &str {
    key.split_once('/').map_or("", |(namespace, _)| namespace)
}
