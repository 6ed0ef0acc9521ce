//! ResourceQuota: a write that uses more of its namespace's quotas than they allow is refused; what it
//! uses is added to their status in the same commit.
//!
//! Port of `k8s.io/apiserver/pkg/admission/plugin/resourcequota`; the rules are in `api::quota`.
//! Upstream writes the quotas first and the object afterwards; here both are one batch, so a write that
//! fails uses nothing.

use api::quota::{Item, Operation, Quota, is_counted};
use api::resources::Amounts;
use api::{Status, Value};
use bumpalo::Bump;

use super::Written;
use crate::{
    attempt::{decode_stored, stored_row},
    cache::Object,
    call::Call,
    catalog::ResourceId,
    storage::{Write, WriteChange},
};

/// Checks what is about to be stored; the writes that charge it.
pub fn charge(
    call: &Call,
    old: Option<&Object>,
    written: &Written<'_>,
) -> Result<Vec<Write>, Status> {
    let row = stored_row(call.resource);
    if written.namespace.is_empty() || !is_counted(row.group, row.plural) {
        return Ok(Vec::new());
    }
    let id = ResourceId::named("", "resourcequotas");
    let snapshot = call.server.cache().snapshot(id);
    let mut quotas = snapshot.iter(written.namespace).peekable();
    if quotas.peek().is_none() {
        return Ok(Vec::new());
    }
    let read = |bytes: &[u8]| Item::read(row.group, row.plural, bytes).map_err(Status::internal);
    let new = read(written.bytes)?;
    let old = old.map(|old| read(&old.bytes)).transpose()?;
    let operation = match old {
        Some(_) => Operation::Update(written.subresource),
        None => Operation::Create,
    };
    if !new.is_handled(old.as_ref(), operation) {
        return Ok(Vec::new());
    }
    let mut writes = Vec::new();
    for object in quotas {
        let quota = Quota::read(&object.bytes).map_err(Status::internal)?;
        let used = quota
            .check(&new, old.as_ref(), operation, call.now)
            .map_err(|why| Status::forbidden(row.group, row.plural, written.name, &why))?;
        if let Some(used) = used {
            writes.push(with_used(id, object, &used)?);
        }
    }
    Ok(writes)
}

/// The write that sets what is used.
fn with_used(resource: ResourceId, quota: &Object, used: &Amounts) -> Result<Write, Status> {
    let arena = Bump::new();
    let row = api::Facts::get()
        .resource("", "v1", "resourcequotas")
        .ok_or_else(Status::page_not_found)?;
    let mut doc = decode_stored(stored_row(row), quota, &arena)?;
    for (name, quantity) in used.iter() {
        let value = Value::string_in(&quantity.to_string(), &arena);
        doc.set(&["status", "used", name], value);
    }
    Ok(Write {
        resource,
        key: quota.key.clone(),
        change: WriteChange::Put {
            bytes: api::codec::canonical_stored(&mut doc).into(),
            expires: None,
        },
        expect: Some(quota.revision),
    })
}
