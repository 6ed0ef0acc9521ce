//! Addresses and ports of Services: chosen while the Service is written, claimed in the same batch.
//!
//! A cluster IP is claimed by the IPAddress object of that name, a node port by an internal object
//! named by its number; both are created under the condition that they do not exist, so two writers
//! cannot take the same one, and the loser's attempt is run again.
//! Port of `pkg/registry/core/service/storage/{alloc,storage}.go`.

mod address;
mod port;

use api::{Doc, FieldError, Resource, Status};
use bytes::Bytes;

use crate::{
    call::Call,
    storage::{Write, WriteChange},
};

/// What an allocation can come to: writes that claim or release, or the errors of the fields.
type Claims = Result<Vec<Write>, Vec<FieldError>>;

/// Fills in addresses and ports of a Service that is being written; returns the claims' writes.
pub fn on_write(
    call: &Call,
    row: &Resource,
    doc: &mut Doc<'_>,
    old: Option<&Doc<'_>>,
) -> Result<Vec<Write>, Status> {
    if !is_service(row) {
        return Ok(Vec::new());
    }
    let services = crate::ResourceId::named("", "services");
    if old.is_none()
        && call
            .server
            .cache()
            .get(services, doc.namespace(), doc.name())
            .is_some()
    {
        // Said before its own address is found to be taken.
        return Err(Status::already_exists("", row.plural, doc.name()));
    }
    if let Some(old) = old {
        address::keep(doc, old);
        port::keep(doc, old);
    }
    let result = address::allocate(call, doc, old).and_then(|mut writes| {
        writes.extend(port::allocate(call, doc, old)?);
        Ok(writes)
    });
    result.map_err(|errors| Status::invalid(row.group, row.kind, doc.name(), &errors))
}

/// Releases what a Service holds.
pub fn on_delete(call: &Call, row: &Resource, old: &Doc<'_>) -> Vec<Write> {
    if !is_service(row) {
        return Vec::new();
    }
    let mut writes = address::release(call, &address::held(old));
    writes.extend(port::release(call, &port::held(old)));
    writes
}

fn is_service(row: &Resource) -> bool {
    row.group.is_empty() && row.plural == "services"
}

fn service_type<'a>(doc: &Doc<'a>) -> &'a str {
    doc.str_at(&["spec", "type"])
        .filter(|t| !t.is_empty())
        .unwrap_or("ClusterIP")
}

/// Creation of a claim.
fn claim(resource: crate::ResourceId, name: &str, json: String) -> Write {
    Write {
        resource,
        key: format!("/{name}").into(),
        change: WriteChange::Put {
            bytes: Bytes::from(json),
            expires: None,
        },
        expect: None,
    }
}

/// Removal of a claim, if it is there.
fn unclaim(call: &Call, resource: crate::ResourceId, name: &str) -> Option<Write> {
    let object = call.server.cache().get(resource, "", name)?;
    Some(Write {
        resource,
        key: object.key.clone(),
        change: WriteChange::Remove,
        expect: Some(object.revision),
    })
}
