//! LIST: a snapshot, filtered, in pages, streamed in chunks.

use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use http::{HeaderValue, Response, header};

use super::options::{At, Continue, at, limit};
use crate::{
    body::{self, Body},
    cache::{Object, Snapshot},
    call::Call,
    negotiate::Form,
    present,
    selection::Selection,
};

/// Bytes per piece of a streamed list.
const CHUNK_BYTES: usize = 48 << 10;

/// Upstream's text; clients look for none of it, people read it.
const TOKEN_EXPIRED: &str = "The provided continue parameter is too old to display a consistent \
    list result. You can start a new list without the continue parameter, or use the continue \
    token in this response to retrieve the remainder of the results. Continuing with the provided \
    token results in an inconsistent list - objects that were created, modified, or deleted \
    between the time the first chunk was returned and now may show up in the list.";

/// Why there is no page; an expired token comes with one that works.
struct Refused {
    status: Status,
    fresh: Option<String>,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self {
            status,
            fresh: None,
        }
    }
}

/// A page of a list.
struct Page {
    objects: Vec<Arc<Object>>,
    /// `metadata` as JSON.
    meta: String,
}

/// Answers a LIST.
pub async fn list(call: &Call) -> Result<Response<Body>, Status> {
    let selection = Selection::parse(call.resource, &call.attributes)?;
    let page = match page(call, &selection).await {
        Ok(page) => page,
        Err(Refused {
            status,
            fresh: None,
        }) => return Err(status),
        Err(Refused {
            status,
            fresh: Some(token),
        }) => return Ok(expired(&status, &token)),
    };
    let response = match call.output.form {
        Form::Object => streamed(call, page),
        Form::PartialObjectMetadata | Form::PartialObjectMetadataList => metadata_list(call, &page),
        Form::Table => {
            let objects: Vec<Bytes> = page
                .objects
                .iter()
                .map(|o| present::object(call.resource, o).into())
                .collect();
            body::json(200, present::table(call, &objects, &page.meta, false))
        }
    };
    let mut response = response;
    let value = HeaderValue::from_static(call.output.content_type());
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    Ok(response)
}

/// The state a list or the start of a watch is about.
pub async fn snapshot(call: &Call, at: At) -> Result<Snapshot, Status> {
    let id = call.stored()?;
    let cache = call.server.cache();
    let (At::NotOlderThan(wanted) | At::Exact(wanted)) = at else {
        return Ok(cache.snapshot(id));
    };
    if !cache.wait_for(wanted).await {
        return Err(Status::too_large_resource_version(wanted, cache.revision()));
    }
    match at {
        At::Newest | At::NotOlderThan(_) => Ok(cache.snapshot(id)),
        At::Exact(wanted) => cache.snapshot_at(id, wanted).map_err(|expired| {
            Status::expired(format!(
                "The resourceVersion for the provided list is too old: {wanted} ({})",
                expired.oldest
            ))
        }),
    }
}

async fn page(call: &Call, selection: &Selection) -> Result<Page, Refused> {
    let (limit, at) = (limit(&call.attributes)?, at(&call.attributes)?);
    let token = call.attributes.param("continue").filter(|t| !t.is_empty());
    let token = token.map(Continue::parse).transpose()?;
    let (state, pinned) = match &token {
        None => (snapshot(call, at).await?, None),
        Some(token) => {
            if !matches!(
                call.attributes.param("resourceVersion"),
                None | Some("" | "0")
            ) {
                let text = "specifying resource version is not allowed when using continue";
                return Err(Status::bad_request(text).into());
            }
            continued(call, token)?
        }
    };
    let after = token.as_ref().map(|t| t.start.as_str());
    let mut matching = state
        .iter_from(&call.attributes.namespace, after)
        .filter(|object| selection.matches(object));
    let mut objects: Vec<Arc<Object>> = Vec::new();
    let mut meta = format!(
        r#"{{"resourceVersion":"{}""#,
        pinned.unwrap_or(state.revision)
    );
    if limit == 0 {
        objects.extend(matching.cloned());
    } else {
        objects.extend(matching.by_ref().take(limit).cloned());
        let remaining = matching.count();
        if let (Some(last), true) = (objects.last(), remaining > 0) {
            let token = Continue::new(Some(pinned.unwrap_or(state.revision)), &last.key).encode();
            meta.push_str(&format!(r#","continue":"{token}""#));
            // With a selector upstream does not count, so clients must not see it.
            if selection.is_everything() {
                meta.push_str(&format!(r#","remainingItemCount":{remaining}"#));
            }
        }
    }
    meta.push('}');
    Ok(Page { objects, meta })
}

/// The state a continue token is about; 410 with a token that goes on inconsistently.
fn continued(call: &Call, token: &Continue) -> Result<(Snapshot, Option<u64>), Refused> {
    let id = call.stored()?;
    let cache = call.server.cache();
    let Ok(revision) = u64::try_from(token.rv) else {
        return Ok((cache.snapshot(id), None));
    };
    match cache.snapshot_at(id, revision) {
        Ok(state) => Ok((state, Some(revision))),
        Err(_) => {
            let fresh = Continue::new(None, &token.start).encode();
            let status = Status::expired(TOKEN_EXPIRED);
            Err(Refused {
                status,
                fresh: Some(fresh),
            })
        }
    }
}

/// A 410 that carries a continue token.
fn expired(status: &Status, token: &str) -> Response<Body> {
    let json = String::from_utf8(status.to_json()).unwrap_or_default();
    let meta = format!(r#""metadata":{{"continue":"{token}"}}"#);
    body::json(status.code, json.replacen(r#""metadata":{}"#, &meta, 1))
}

fn list_head(call: &Call, meta: &str) -> Vec<u8> {
    format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{meta},"items":["#,
        call.resource.kind,
        call.resource.api_version()
    )
    .into_bytes()
}

fn streamed(call: &Call, page: Page) -> Response<Body> {
    let resource = call.resource;
    let head = list_head(call, &page.meta);
    let mut objects = page.objects.into_iter().peekable();
    let mut pending = Some(head);
    let mut first = true;
    let pieces = std::iter::from_fn(move || {
        let mut chunk = pending.take()?;
        while chunk.len() < CHUNK_BYTES {
            let Some(object) = objects.next() else {
                chunk.extend_from_slice(b"]}\n");
                return Some(Ok(Bytes::from(chunk)));
            };
            if !std::mem::take(&mut first) {
                chunk.push(b',');
            }
            chunk.extend_from_slice(&present::item_at(resource, &object, object.revision));
        }
        pending = Some(Vec::with_capacity(CHUNK_BYTES + 4096));
        Some(Ok(Bytes::from(chunk)))
    });
    let mut response = body::json(200, Bytes::new());
    *response.body_mut() = body::stream(futures::stream::iter(pieces));
    response
}

fn metadata_list(call: &Call, page: &Page) -> Response<Body> {
    let mut out = format!(
        r#"{{"kind":"PartialObjectMetadataList","apiVersion":"{}","metadata":{},"items":["#,
        call.output.meta_version(),
        page.meta
    )
    .into_bytes();
    for (index, object) in page.objects.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let json = present::object(call.resource, object);
        out.extend(present::metadata_only(&json, call.output.meta_version()).unwrap_or_default());
    }
    out.extend_from_slice(b"]}\n");
    body::json(200, out)
}
