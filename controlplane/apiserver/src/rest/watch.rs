//! WATCH: changes of the Cache as a stream of events, with bookmarks, the initial state where the
//! client wants it (WatchList), and errors as the last event.

use std::{sync::Arc, time::Duration};

use api::Status;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::options;
use crate::{
    body::{self, Body},
    cache::{Change, Object, Progress, Watch},
    call::Call,
    negotiate::{Encoding, Form},
    present,
    selection::Selection,
};

/// Time between bookmarks (upstream: about a minute).
const BOOKMARK_EVERY: Duration = Duration::from_secs(50);
/// Length of a watch when the client names none; upstream takes 30 to 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// Bytes of events gathered into one piece.
const CHUNK_BYTES: usize = 32 << 10;

/// A watch that is being served.
struct Stream {
    call: Call,
    selection: Selection,
    watch: Watch,
    /// Objects of the initial state that are still to be sent.
    initial: std::vec::IntoIter<Arc<Object>>,
    /// The revision of the initial state; the bookmark that ends it is still to be sent.
    initial_end: Option<u64>,
    /// Changes up to this revision are not sent. It may lie ahead: such a watch waits for it.
    after: u64,
    bookmarks: Interval,
    allow_bookmarks: bool,
    deadline: Instant,
    /// A table watch has sent its column definitions.
    headers_sent: bool,
    ended: bool,
}

/// Answers a WATCH.
pub async fn watch(call: Call) -> Result<Response<Body>, Status> {
    if call.output.encoding == Encoding::Yaml {
        // A stream of documents is written as JSON only.
        return Err(Status::not_acceptable(&["application/json;stream=watch"]));
    }
    let selection = Selection::parse(call.resource, &call.attributes)?;
    let stream = Stream::start(call, selection).await?;
    let mut response = body::json(200, Bytes::new());
    let value = match stream.call.output.form {
        Form::Object
        | Form::Table
        | Form::PartialObjectMetadata
        | Form::PartialObjectMetadataList => HeaderValue::from_static("application/json"),
    };
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    let pieces = futures::stream::unfold(stream, |mut stream| async move {
        let piece = stream.next().await?;
        Some((Ok(piece), stream))
    });
    *response.body_mut() = body::stream(pieces);
    Ok(response)
}

// === impl Stream ===

impl Stream {
    async fn start(call: Call, selection: Selection) -> Result<Self, Status> {
        let id = call.stored()?;
        let cache = call.server.cache().clone();
        let attributes = &call.attributes;
        let wanted = options::revision(attributes.param("resourceVersion"))?;
        let send_initial = options::initial_events(attributes)?;
        let scope = selection.scope(call.resource, &attributes.namespace);
        let (mut initial, mut initial_end, mut after) = (Vec::new(), None, 0);
        let from_now = attributes
            .param("resourceVersion")
            .is_none_or(|v| v.is_empty() || v == "0");
        let watch = if send_initial == Some(true) || (send_initial.is_none() && from_now) {
            if let Some(wanted) = wanted
                && !cache.wait_for(wanted).await
            {
                return Err(Status::too_large_resource_version(wanted, cache.revision()));
            }
            let (snapshot, watch) = cache.snapshot_and_watch(id, scope);
            let selected = snapshot
                .iter(&attributes.namespace)
                .filter(|o| selection.matches(o));
            initial.extend(selected.cloned());
            initial_end = send_initial.map(|_| snapshot.revision);
            watch
        } else {
            let newest = cache.revision();
            after = wanted.unwrap_or(newest);
            cache
                .watch(id, scope, after.min(newest))
                .map_err(|e| Status::too_old(e.requested, e.oldest))?
        };
        let timeout = options::number(attributes, "timeoutSeconds")?;
        let timeout = u64::try_from(timeout)
            .ok()
            .filter(|t| *t > 0)
            .map(Duration::from_secs);
        let mut bookmarks =
            tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
        bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            allow_bookmarks: attributes.flag("allowWatchBookmarks"),
            initial: initial.into_iter(),
            initial_end,
            after,
            bookmarks,
            deadline: Instant::now() + timeout.unwrap_or(DEFAULT_TIMEOUT),
            headers_sent: false,
            ended: false,
            call,
            selection,
            watch,
        })
    }

    /// The next piece of the body; none ends it.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        loop {
            if self.ended {
                return None;
            }
            self.gather(&mut out);
            if !out.is_empty() {
                return Some(out.into());
            }
            tokio::select! {
                () = self.watch.wait() => {}
                _ = self.bookmarks.tick(), if self.allow_bookmarks => {
                    if let Ok(Progress::Idle(revision)) = self.poll_into(&mut out)
                        && revision >= self.after
                    {
                        self.bookmark(revision, false, &mut out);
                    }
                    if !out.is_empty() {
                        return Some(out.into());
                    }
                }
                () = tokio::time::sleep_until(self.deadline) => self.ended = true,
            }
        }
    }

    /// Writes what is there, up to a chunk.
    fn gather(&mut self, out: &mut Vec<u8>) {
        while out.len() < CHUNK_BYTES {
            if let Some(object) = self.initial.next() {
                self.event("ADDED", &object, object.revision, out);
                continue;
            }
            if let Some(revision) = self.initial_end.take() {
                self.bookmark(revision, true, out);
                continue;
            }
            match self.poll_into(out) {
                Ok(Progress::Change(_)) => {}
                Ok(Progress::Idle(_)) => return,
                Err(()) => return,
            }
        }
    }

    /// Writes the next change if there is one. An error is written once, and is the last.
    fn poll_into(&mut self, out: &mut Vec<u8>) -> Result<Progress, ()> {
        match self.watch.poll() {
            Ok(Progress::Change(change)) => {
                self.change(&change, out);
                Ok(Progress::Change(change))
            }
            Ok(idle) => Ok(idle),
            Err(expired) => {
                let status = Status::too_old(expired.requested, expired.oldest);
                frame("ERROR", &status.to_json(), out);
                self.ended = true;
                Err(())
            }
        }
    }

    /// A change as the selector sees it: an object that enters is ADDED, one that leaves DELETED.
    fn change(&mut self, change: &Change, out: &mut Vec<u8>) {
        let namespace = &self.call.attributes.namespace;
        let selected = |object: &Option<Arc<Object>>| {
            object.clone().filter(|o| {
                (namespace.is_empty() || o.namespace() == namespace) && self.selection.matches(o)
            })
        };
        match (selected(&change.prior), selected(&change.object)) {
            _ if change.revision <= self.after => {}
            (None, None) => {}
            (None, Some(new)) => self.event("ADDED", &new, change.revision, out),
            (Some(_), Some(new)) => self.event("MODIFIED", &new, change.revision, out),
            (Some(old), None) => self.event("DELETED", &old, change.revision, out),
        }
    }

    fn event(&mut self, kind: &str, object: &Object, revision: u64, out: &mut Vec<u8>) {
        let json = present::object_at(self.call.resource, object, revision);
        let json = match self.call.output.form {
            Form::Object => json,
            Form::PartialObjectMetadata | Form::PartialObjectMetadataList => {
                let api_version = self.call.output.meta_version();
                present::metadata_only(&json, api_version).unwrap_or(json)
            }
            Form::Table => {
                let meta = format!(r#"{{"resourceVersion":"{revision}"}}"#);
                let no_headers = std::mem::replace(&mut self.headers_sent, true);
                present::table(&self.call, &[json.into()], &meta, no_headers)
            }
        };
        frame(kind, &json, out);
    }

    fn bookmark(&self, revision: u64, initial_end: bool, out: &mut Vec<u8>) {
        let resource = self.call.resource;
        let annotations = if initial_end {
            r#","annotations":{"k8s.io/initial-events-end":"true"}"#
        } else {
            ""
        };
        let (kind, api_version) = match self.call.output.form {
            Form::Object => (resource.kind, resource.api_version()),
            Form::PartialObjectMetadata | Form::PartialObjectMetadataList => {
                let api_version = self.call.output.meta_version();
                ("PartialObjectMetadata", api_version.to_owned())
            }
            Form::Table => {
                let json = format!(
                    r#"{{"kind":"Table","apiVersion":"{}","metadata":{{"resourceVersion":"{revision}"}},"columnDefinitions":null,"rows":[]}}"#,
                    self.call.output.meta_version(),
                );
                return frame("BOOKMARK", json.as_bytes(), out);
            }
        };
        let json = format!(
            r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{{"resourceVersion":"{revision}"{annotations}}}}}"#
        );
        frame("BOOKMARK", json.as_bytes(), out);
    }
}

fn frame(kind: &str, json: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(json.trim_ascii_end());
    out.extend_from_slice(b"}\n");
}
