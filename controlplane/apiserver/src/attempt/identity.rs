//! Whose object a write is about: its name, namespace, uid and version must be those that the request
//! and the stored object have.

use api::{Doc, Resource, Status};

use crate::{cache::Object, call::Call, clock};

/// Longest base of a generated name (63 less the suffix; upstream: maxGeneratedNameLength).
const MAX_NAME_BASE: usize = 63 - clock::SUFFIX_CHARS;

/// Name, uid and resourceVersion in an update must be those of the object.
pub fn check(
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

/// The namespace is that of the request.
pub fn fit_namespace(call: &Call, doc: &mut Doc<'_>) -> Result<(), Status> {
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
pub fn fit_name(call: &Call, doc: &mut Doc<'_>) -> Result<bool, Status> {
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
