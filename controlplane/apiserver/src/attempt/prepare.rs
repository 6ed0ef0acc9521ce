//! The closures: from a body, or the stored version and a change, to what is to be stored.
//!
//! Synchronous, on documents in an arena. Each has two halves; between them mutating webhooks may be
//! asked, so what the first half leaves is bytes and a [`Draft`]. Without webhooks the halves follow each
//! other on the same document.

use api::{
    Doc, FieldError, Resource, Status, Value,
    strategy::{Part, SystemFields},
};
use bumpalo::Bump;
use bytes::Bytes;

use super::{Prepared, Step, Update, identity, stored_row};
use crate::{
    admission::{Admission, Written},
    allocate,
    cache::{Key, Object},
    call::Call,
    clock,
    rest::write::{Encoded, decode},
    storage::{MAX_OBJECT_BYTES, Write},
    subresource,
};

/// What the first half leaves to the second, besides the object.
pub struct Draft {
    /// The object's name; `""` when it is yet to be made.
    pub name: String,
    pub warnings: Vec<String>,
    /// A condition of the write.
    guard: Option<Write>,
    /// The name that was made from `generateName`. Webhooks do not see it.
    generated: Option<String>,
    shares_labels: bool,
}

/// What the first half comes to.
pub enum First<T> {
    /// Nobody is to be asked: the second half has run too.
    Done(T),
    /// The object for the webhooks, complete JSON in the stored version.
    Asks(Vec<u8>, Draft),
}

/// A creation; `asks` when webhooks are to see the object before it is complete.
pub fn create(call: &Call, body: &Encoded, asks: bool) -> Result<First<Prepared>, Status> {
    let arena = Bump::new();
    let row = stored_row(call.resource);
    let (mut doc, mut warnings) = decode(call, body, &row.schema, &arena)?;
    identity::fit_namespace(call, &mut doc)?;
    let is_generated = identity::fit_name(call, &mut doc)?;
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
    let mut admission = Admission::new(call, row, None);
    admission.mutate(&mut doc)?;
    api::default::default(row, &mut doc);
    warnings.append(&mut admission.warnings);
    let mut draft = Draft {
        name: String::new(),
        warnings,
        guard: admission.guard.take(),
        generated: is_generated.then(|| doc.name().to_owned()),
        shares_labels,
    };
    if !asks {
        return create_rest(call, row, doc, draft).map(First::Done);
    }
    if is_generated {
        doc.remove(&["metadata", "name"]);
    }
    draft.name = doc.name().to_owned();
    Ok(First::Asks(api::canonical(&doc), draft))
}

/// The second half of a creation, with the object as webhooks left it.
pub fn resume_create(call: &Call, json: &[u8], draft: Draft) -> Result<Prepared, Status> {
    let arena = Bump::new();
    let row = stored_row(call.resource);
    let mut doc = read(row, json, &arena)?;
    identity::fit_namespace(call, &mut doc)?;
    if let Some(name) = draft.generated.as_deref().filter(|_| doc.name().is_empty()) {
        doc.set_str(&["metadata", "name"], name);
    }
    create_rest(call, row, doc, draft)
}

fn create_rest(
    call: &Call,
    row: &'static Resource,
    mut doc: Doc<'_>,
    draft: Draft,
) -> Result<Prepared, Status> {
    let Draft {
        mut warnings,
        guard,
        generated,
        shares_labels,
        ..
    } = draft;
    let mut admission = Admission::new(call, row, None);
    let mut extra = allocate::on_write(call, row, &mut doc, None)?;
    extra.extend(guard);
    let (uid, now) = (clock::new_uid(), call.now_text());
    let fields = SystemFields {
        uid: &uid,
        now: &now,
    };
    warnings.append(&mut api::strategy::prepare_create(row, &mut doc, fields));
    let mut errors = api::validate::validate_create(row, &doc);
    errors.extend(admission.check(&doc, None));
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
    admission.admit_written(&Written {
        subresource: "",
        namespace,
        name,
        bytes: &bytes,
    })?;
    Ok(Prepared {
        key,
        bytes,
        extra,
        warnings,
        generated_name: generated.is_some(),
    })
}

/// An update of a subresource (`""`: of the object); `asks` as for [`create`].
pub fn update(
    call: &Call,
    old: &Object,
    subresource: &str,
    update: &Update<'_>,
    asks: bool,
) -> Result<First<Step>, Status> {
    let arena = Bump::new();
    let row = stored_row(call.resource);
    let old_doc = decode_old(row, old, &arena)?;
    let (mut doc, mut warnings) = changed(call, row, &old_doc, update, &arena)?;
    identity::fit_namespace(call, &mut doc)?;
    identity::check(call, row, &mut doc, &old_doc, old)?;
    api::default::default(row, &mut doc);
    let mut admission = Admission::new(call, row, Some((old, &old_doc)));
    if subresource.is_empty() {
        admission.mutate(&mut doc)?;
        api::default::default(row, &mut doc);
    }
    warnings.append(&mut admission.warnings);
    if asks {
        let draft = Draft {
            name: old.name().to_owned(),
            warnings,
            guard: None,
            generated: None,
            shares_labels: false,
        };
        return Ok(First::Asks(api::canonical(&doc), draft));
    }
    update_rest(admission, subresource, doc, warnings).map(First::Done)
}

/// The second half of an update, with the object as webhooks left it.
pub fn resume_update(
    call: &Call,
    old: &Object,
    subresource: &str,
    json: &[u8],
    draft: Draft,
) -> Result<Step, Status> {
    let arena = Bump::new();
    let row = stored_row(call.resource);
    let old_doc = decode_old(row, old, &arena)?;
    let mut doc = read(row, json, &arena)?;
    identity::fit_namespace(call, &mut doc)?;
    identity::check(call, row, &mut doc, &old_doc, old)?;
    let admission = Admission::new(call, row, Some((old, &old_doc)));
    update_rest(admission, subresource, doc, draft.warnings)
}

fn update_rest<'a>(
    mut admission: Admission<'a>,
    subresource: &str,
    mut doc: Doc<'a>,
    mut warnings: Vec<String>,
) -> Result<Step, Status> {
    let (call, row) = (admission.call, admission.row);
    let Some((old, old_doc)) = admission.old else {
        return Err(Status::internal("an update has an old version"));
    };
    let part = subresource::part(subresource);
    let mut extra = match part {
        Some(Part::Main) => allocate::on_write(call, row, &mut doc, Some(old_doc))?,
        Some(Part::Subresource(_)) | None => Vec::new(),
    };
    if let Some(part) = part {
        api::strategy::prepare_update(row, &mut doc, old_doc, part);
        if row.plural == "certificatesigningrequests" {
            api::strategy::populate_certificate_times(&mut doc, old_doc, &call.now_text());
        }
        let errors = invalid_update(&admission, &doc, old_doc, part);
        if !errors.is_empty() {
            return Err(Status::invalid(row.group, row.kind, doc.name(), &errors));
        }
        warnings.append(&mut api::warn::on_update(row, &doc, old_doc, part));
    }
    admission.validate(&doc)?;
    warnings.append(&mut admission.warnings);
    let gone = old.is_terminating() && is_finalized(&doc);
    let bytes = stored_bytes(&mut doc)?;
    if bytes == old.bytes && !gone {
        return Ok(Step::Same(warnings));
    }
    if gone {
        extra = allocate::on_delete(call, row, old_doc);
    } else {
        admission.admit_written(&Written {
            subresource,
            namespace: old.namespace(),
            name: old.name(),
            bytes: &bytes,
        })?;
    }
    let prepared = Prepared {
        key: old.key.clone(),
        bytes,
        extra,
        warnings,
        generated_name: false,
    };
    Ok(if gone {
        Step::Remove(prepared)
    } else {
        Step::Write(prepared)
    })
}

/// What is wrong with an update.
fn invalid_update(
    admission: &Admission<'_>,
    doc: &Doc<'_>,
    old: &Doc<'_>,
    part: Part<'_>,
) -> Vec<FieldError> {
    let mut errors = api::validate::validate_update(admission.row, doc, old, part);
    if errors.is_empty() {
        let status_of = (part == Part::Subresource("status")).then_some(old);
        errors.extend(admission.check(doc, status_of));
    }
    errors
}

/// The plugins once more over an object that webhooks changed.
pub fn again(call: &Call, old: Option<&Object>, json: &[u8]) -> Result<Vec<u8>, Status> {
    let arena = Bump::new();
    let row = stored_row(call.resource);
    let old_doc = old.map(|old| decode_old(row, old, &arena)).transpose()?;
    let mut doc = read(row, json, &arena)?;
    let mut admission = Admission::new(call, row, old.zip(old_doc.as_ref()));
    admission.mutate(&mut doc)?;
    api::default::default(row, &mut doc);
    Ok(api::canonical(&doc))
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

/// The stored object as a document, with its resourceVersion.
fn decode_old<'a>(
    row: &'static Resource,
    old: &Object,
    arena: &'a Bump,
) -> Result<Doc<'a>, Status> {
    let mut doc = decode_stored(row, old, arena)?;
    doc.set_str(&["metadata", "resourceVersion"], &old.revision.to_string());
    Ok(doc)
}

/// JSON of our own or of a webhook's patch, defaulted, as a document.
fn read<'a>(row: &'static Resource, json: &[u8], arena: &'a Bump) -> Result<Doc<'a>, Status> {
    let bytes = arena.alloc_slice_copy(json);
    api::codec::decode_stored(bytes, &row.schema, arena).map_err(Status::internal)
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

/// Whether nothing holds a terminating object any more.
pub fn is_finalized(doc: &Doc<'_>) -> bool {
    let grace = doc
        .int_at(&["metadata", "deletionGracePeriodSeconds"])
        .unwrap_or(0);
    let held_namespace =
        doc.kind() == "Namespace" && !doc.list_at(&["spec", "finalizers"]).is_empty();
    grace == 0 && !held_namespace && doc.list_at(&["metadata", "finalizers"]).is_empty()
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
