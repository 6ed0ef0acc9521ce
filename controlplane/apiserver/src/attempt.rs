//! One write, tried until it fits: a synchronous closure from the stored version to the next one
//! (decode → default → admission → allocate → prepare → validate → admission; `prepare`), with the
//! webhooks it concerns between and after its halves (`asked`), then a compare-and-swap; on a conflict
//! all of it runs again on what is there now.
//!
//! The closure works on a `Doc` in an arena that lives for one half of it; only bytes cross an `await`.
//! Port of the order in `k8s.io/apiserver/pkg/registry/generic/registry/store.go`.

mod asked;
mod identity;
mod prepare;

use std::sync::Arc;

use api::{Doc, Facts, PatchKind, Resource, Status};
use bytes::Bytes;

use crate::{
    admission::{
        Written,
        matching::Operation,
        quota,
        webhook::{Concerned, Told},
    },
    attributes::Attributes,
    cache::{Key, Object},
    call::Call,
    chain,
    present::{self, Answer},
    rest::write::Encoded,
    storage::{CommitError, Write, WriteChange},
};

pub use prepare::{decode_stored, is_finalized};

/// Attempts before a writer is told to come back. Creations in a namespace with a quota meet at the
/// quota: of N at the same time one wins each round, and a controller creates 64 at a time.
const MAX_ATTEMPTS: usize = 128;
/// Names tried for `generateName`.
const MAX_NAMES: usize = 8;

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
    /// Same bytes: no write, no revision; only warnings.
    Same(Vec<String>),
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
    let concerned = Told::new(call, Operation::Create, "", &call.attributes.name).concerned();
    let mut names = 0;
    for _ in 0..MAX_ATTEMPTS {
        let mut prepared = asked::create(call, body, &concerned).await?;
        charge(call, None, "", &mut prepared)?;
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
    let concerned = match update {
        // Whoever makes these has asked about what led to them.
        Update::With(_) => Concerned::nobody(),
        Update::Replace { .. } | Update::Patch { .. } => {
            Told::new(call, Operation::Update, subresource, name).concerned()
        }
    };
    for _ in 0..MAX_ATTEMPTS {
        let Some(old) = call.server.cache().get(id, namespace, name) else {
            return create_by_update(call, subresource, update).await;
        };
        let step = asked::update(call, &old, subresource, update, &concerned).await?;
        let (mut prepared, remove) = match step {
            Step::Same(warnings) => {
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
        if !remove {
            charge(call, Some(&old), subresource, &mut prepared)?;
        }
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

/// Adds what a write takes from quotas.
fn charge(
    call: &Call,
    old: Option<&Object>,
    subresource: &str,
    prepared: &mut Prepared,
) -> Result<(), Status> {
    let (namespace, name) = prepared.key.split_once('/').unwrap_or_default();
    let written = Written {
        subresource,
        namespace,
        name,
        bytes: &prepared.bytes,
    };
    let writes = quota::charge(call, old, &written)?;
    prepared.extra.extend(writes);
    Ok(())
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
