//! The closures with the webhooks between and after their halves: the mutating ones see the object
//! before it is complete, the validating ones what is about to be stored.
//!
//! Webhooks are told of objects in the version of the request; the closures work in the stored one.

use api::Status;

use super::{
    Prepared, Step, Update,
    prepare::{self, First},
    stored_row,
};
use crate::{
    admission::{
        matching::Operation,
        webhook::{Concerned, Told},
    },
    cache::Object,
    call::Call,
    convert, present,
    rest::write::Encoded,
};

/// A creation that all webhooks have seen.
pub async fn create(
    call: &Call,
    body: &Encoded,
    concerned: &Concerned,
) -> Result<Prepared, Status> {
    let mut prepared = match prepare::create(call, body, concerned.mutates())? {
        First::Done(prepared) => prepared,
        First::Asks(json, mut draft) => {
            let name = draft.name.clone();
            let told = Told::new(call, Operation::Create, "", &name);
            let warnings = &mut draft.warnings;
            let json = mutated(&told, json, None, concerned, warnings).await?;
            prepare::resume_create(call, &json, draft)?
        }
    };
    if concerned.validates() {
        let key = prepared.key.clone();
        let name = key.split_once('/').map_or("", |(_, name)| name);
        let told = Told::new(call, Operation::Create, "", name);
        let json = served(call, prepared.bytes.to_vec());
        let warnings = &mut prepared.warnings;
        concerned.validate(&told, Some(&json), warnings).await?;
    }
    Ok(prepared)
}

/// An update that all webhooks have seen.
pub async fn update(
    call: &Call,
    old: &Object,
    subresource: &str,
    update: &Update<'_>,
    concerned: &Concerned,
) -> Result<Step, Status> {
    let asks = concerned.mutates();
    let first = prepare::update(call, old, subresource, update, asks)?;
    if !asks && !concerned.validates() {
        return first.done();
    }
    let before = present::object(call.resource, old);
    let told = Told {
        old: Some(&before),
        ..Told::new(call, Operation::Update, subresource, old.name())
    };
    let mut step = match first {
        First::Done(step) => step,
        First::Asks(json, mut draft) => {
            let warnings = &mut draft.warnings;
            let json = mutated(&told, json, Some(old), concerned, warnings).await?;
            prepare::resume_update(call, old, subresource, &json, draft)?
        }
    };
    let (bytes, warnings) = match &mut step {
        Step::Same(warnings) => (&old.bytes, warnings),
        Step::Write(prepared) | Step::Remove(prepared) => (&prepared.bytes, &mut prepared.warnings),
    };
    let after = Object::new(old.key.clone(), bytes.clone(), old.revision, false)
        .ok_or_else(|| Status::internal("canonical bytes have no metadata"))?;
    let json = present::object(call.resource, &after);
    concerned.validate(&told, Some(&json), warnings).await?;
    Ok(step)
}

/// The object (in the stored version) as the mutating webhooks leave it.
async fn mutated(
    told: &Told<'_>,
    json: Vec<u8>,
    old: Option<&Object>,
    concerned: &Concerned,
    warnings: &mut Vec<String>,
) -> Result<Vec<u8>, Status> {
    let call = told.call;
    let is_main = told.subresource.is_empty();
    let again = move |json: &[u8]| {
        if !is_main {
            return Ok(json.to_vec());
        }
        let json = prepare::again(call, old, &stored(call, json.to_vec()))?;
        Ok(served(call, json))
    };
    let json = served(call, json);
    let json = concerned.mutate(told, json, &again, warnings).await?;
    Ok(stored(call, json))
}

/// From the stored version to that of the request.
fn served(call: &Call, json: Vec<u8>) -> Vec<u8> {
    let (row, asked) = (stored_row(call.resource), call.resource);
    if (row.group, row.version) == (asked.group, asked.version) {
        return json;
    }
    convert::between(row, asked, &json).unwrap_or(json)
}

/// From the version of the request to the stored one.
fn stored(call: &Call, json: Vec<u8>) -> Vec<u8> {
    let (row, asked) = (stored_row(call.resource), call.resource);
    if (row.group, row.version) == (asked.group, asked.version) {
        return json;
    }
    convert::between(asked, row, &json).unwrap_or(json)
}

// === impl First ===

impl<T> First<T> {
    /// The outcome of a write nobody is asked about.
    fn done(self) -> Result<T, Status> {
        match self {
            Self::Done(done) => Ok(done),
            Self::Asks(..) => Err(Status::internal("nobody is to be asked")),
        }
    }
}
