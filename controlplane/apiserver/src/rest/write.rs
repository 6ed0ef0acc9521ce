//! CREATE, UPDATE and PATCH: decoding a body, and the attempt that is repeated until it fits.

use api::{Doc, Format, PatchKind, Status, Type};
use bumpalo::Bump;
use bytes::Bytes;

use crate::{
    attempt::{self, Update},
    call::Call,
    convert,
    present::{Answer, internal_package},
};

/// POST on a collection.
pub async fn create(call: &Call) -> Result<Answer, Status> {
    let body = stored_body(call)?;
    attempt::create(call, &body).await
}

/// PUT and PATCH on an object or one of its subresources that has the object's own shape.
pub async fn update(call: &Call, subresource: &str) -> Result<Answer, Status> {
    if call.attributes.verb == "patch" {
        let kind = patch_kind(call)?;
        return attempt::update(
            call,
            subresource,
            &Update::Patch {
                kind,
                body: &call.body,
            },
        )
        .await;
    }
    let body = stored_body(call)?;
    attempt::update(call, subresource, &Update::Replace { body: &body }).await
}

/// The kind of patch the client sends.
pub fn patch_kind(call: &Call) -> Result<PatchKind, Status> {
    match PatchKind::of_media_type(call.content_type()) {
        // The place of server-side apply; until then clients learn it at once.
        Some(PatchKind::Apply) | None => Err(Status::unsupported_patch()),
        Some(kind) => Ok(kind),
    }
}

/// A body and how it is encoded.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub format: Format,
    pub bytes: Bytes,
}

/// The body in the version that is stored.
fn stored_body(call: &Call) -> Result<Encoded, Status> {
    let format = call.format()?;
    if !convert::is_needed(call.resource) {
        return Ok(Encoded {
            format,
            bytes: call.body.clone(),
        });
    }
    let (json, _) = decode_plain(call, &call.resource.schema)?;
    let bytes = convert::to_stored(call.resource, &json).map(Bytes::from);
    Ok(Encoded {
        format: Format::Json,
        bytes: bytes.unwrap_or_else(|| json.into()),
    })
}

/// Decodes a body of any shape to canonical JSON, with warnings: for bodies that are not stored.
pub fn decode_plain(call: &Call, schema: &'static Type) -> Result<(Vec<u8>, Vec<String>), Status> {
    let arena = Bump::new();
    let encoded = Encoded {
        format: call.format()?,
        bytes: call.body.clone(),
    };
    let (doc, warnings) = decode(call, &encoded, schema, &arena)?;
    Ok((api::canonical(&doc), warnings))
}

/// Why a body of that version and kind is none of the (group, kind) of the endpoint: nobody knows it, or
/// it is something else.
fn misfit(api_version: &str, kind: &str, wanted: (&str, &str)) -> Option<String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let (wanted_group, wanted_kind) = wanted;
    if api::Facts::get().kind(group, version, kind).is_none() {
        return Some(unregistered(api_version, kind));
    }
    (kind != wanted_kind).then(|| {
        let package = internal_package(wanted_group);
        format!("converting ({version}.{kind}) to ({package}.{wanted_kind}): unknown conversion")
    })
}

/// What upstream's scheme says of a kind it does not know.
pub fn unregistered(api_version: &str, kind: &str) -> String {
    let quote = api::status::quote;
    format!(
        "no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
        quote(kind),
        quote(api_version)
    )
}

/// Decodes a body with the checks that come before any other: well-formed, and of this kind.
pub fn decode<'a>(
    call: &Call,
    body: &Encoded,
    schema: &'a Type,
    arena: &'a Bump,
) -> Result<(Doc<'a>, Vec<String>), Status> {
    let (group, version, kind) = match call.subresource {
        Some(sub) => (sub.group, sub.version, sub.kind),
        None => (
            call.resource.group,
            call.resource.version,
            call.resource.kind,
        ),
    };
    let bytes = arena.alloc_slice_copy(&body.bytes);
    let (mut doc, warnings) =
        api::decode(body.format, bytes, schema, call.field_validation(), arena)
            .map_err(|error| error.to_status(version, kind, &body.bytes))?;
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let converted = call.resource.group != call.resource.storage_group;
    let given = (doc.api_version().to_owned(), doc.kind().to_owned());
    if doc.kind().is_empty() {
        doc.set_str(&["kind"], kind);
    }
    let named = if given.0.is_empty() {
        &api_version
    } else {
        &given.0
    };
    if named.matches('/').count() > 1 {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): unexpected GroupVersion \
             string: {named} ({})",
            api::codec::summary(&body.bytes)
        )));
    }
    if let Some(why) = misfit(named, doc.kind(), (group, kind)) {
        return Err(Status::bad_request(format!(
            "{} in version {} cannot be handled as a {kind}: {why}",
            doc.kind(),
            api::status::quote(named.rsplit('/').next().unwrap_or_default()),
        )));
    }
    if doc.api_version().is_empty() {
        doc.set_str(&["apiVersion"], &api_version);
    } else if doc.api_version() != api_version && !converted {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({api_version})",
            doc.api_version()
        )));
    }
    Ok((doc, warnings))
}
