//! Kubernetes Events of both halves. `Recorder` never blocks and never fails its caller: events go
//! through a bounded queue to one task that counts repetitions on the existing Event, as upstream's
//! correlator does. What does not fit into the queue is counted and dropped.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events waiting to be written.
const QUEUE: usize = 512;
/// Distinct events whose repetitions are counted; beyond it the memory starts afresh.
const REMEMBERED: usize = 1024;
/// Longest message the API accepts.
const MAX_MESSAGE: usize = 1024;

/// Why, in one word for machines.
pub type Reason = Cow<'static, str>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Normal,
    Warning,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    reference: ObjectReference,
}

impl Subject {
    pub fn new(reference: ObjectReference) -> Self {
        Self { reference }
    }

    pub fn node(name: &str) -> Self {
        Self::new(ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        })
    }

    /// The same object, of which a field is meant.
    pub fn field(mut self, path: String) -> Self {
        self.reference.field_path = Some(path);
        self
    }
}

/// Who records: shown as the source of its events.
#[derive(Debug, Clone)]
pub struct Source {
    /// `kubelet`, as upstream's tools expect, or `windlass-net`.
    pub component: &'static str,
    pub node: String,
}

struct Message {
    subject: Subject,
    kind: Kind,
    reason: Reason,
    message: String,
    time: Timestamp,
}

/// The handle everyone records with.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Message>,
}

impl Recorder {
    pub fn record(
        &self,
        subject: &Subject,
        kind: Kind,
        reason: impl Into<Reason>,
        message: impl Into<String>,
    ) {
        let mut message: String = message.into();
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE)
                .rev()
                .find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or(0));
        }
        let subject = subject.clone();
        let message = Message {
            subject,
            kind,
            reason: reason.into(),
            message,
            time: Timestamp::now(),
        };
        if let Err(error) = self.queue.try_send(message) {
            tracing::warn!(%error, "event dropped");
        }
    }

    pub fn normal(&self, subject: &Subject, reason: &'static str, message: impl Into<String>) {
        self.record(subject, Kind::Normal, reason, message);
    }

    pub fn warning(&self, subject: &Subject, reason: &'static str, message: impl Into<String>) {
        self.record(subject, Kind::Warning, reason, message);
    }
}

/// A recorder and the task that writes what it records.
pub fn recorder(
    client: Client,
    source: Source,
    shutdown: CancellationToken,
) -> (Recorder, impl Future<Output = ()>) {
    let (queue, receiver) = mpsc::channel(QUEUE);
    (
        Recorder { queue },
        write(client, source, receiver, shutdown),
    )
}

#[derive(PartialEq, Eq, Hash)]
struct Same {
    uid: Option<String>,
    field: Option<String>,
    kind: Kind,
    reason: Reason,
    message: String,
}

struct Written {
    name: String,
    count: i32,
}

async fn write(
    client: Client,
    source: Source,
    mut queue: mpsc::Receiver<Message>,
    shutdown: CancellationToken,
) {
    let mut written: HashMap<Same, Written> = HashMap::new();
    loop {
        let message = tokio::select! {
            message = queue.recv() => message,
            () = shutdown.cancelled() => return,
        };
        let Some(message) = message else { return };
        if written.len() >= REMEMBERED {
            written.clear();
        }
        if let Err(error) = write_one(&client, &source, message, &mut written).await {
            tracing::debug!(%error, "event not written");
        }
    }
}

async fn write_one(
    client: &Client,
    source: &Source,
    message: Message,
    written: &mut HashMap<Same, Written>,
) -> Result<(), kube::Error> {
    let reference = &message.subject.reference;
    let namespace = reference
        .namespace
        .clone()
        .unwrap_or_else(|| "default".to_owned());
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let time = Time(Timestamp::from_second(message.time.as_second()).unwrap_or(message.time));
    let same = Same {
        uid: reference.uid.clone(),
        field: reference.field_path.clone(),
        kind: message.kind,
        reason: message.reason.clone(),
        message: message.message.clone(),
    };
    let name = format!(
        "{}.{:x}",
        reference.name.as_deref().unwrap_or("unknown"),
        message.time.as_nanosecond()
    );
    match written.entry(same) {
        Entry::Occupied(mut entry) => {
            let known = entry.get_mut();
            let patch = json!({ "count": known.count + 1, "lastTimestamp": time });
            let patched = api
                .patch(&known.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            match patched {
                Ok(_) => known.count += 1,
                Err(error) => {
                    entry.remove();
                    return Err(error);
                }
            }
        }
        Entry::Vacant(entry) => {
            let event = event(source, &name, &namespace, time, message);
            api.create(&PostParams::default(), &event).await?;
            entry.insert(Written { name, count: 1 });
        }
    }
    Ok(())
}

fn event(source: &Source, name: &str, namespace: &str, time: Time, message: Message) -> Event {
    let kind = match message.kind {
        Kind::Normal => "Normal",
        Kind::Warning => "Warning",
    };
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: message.subject.reference,
        type_: Some(kind.to_owned()),
        reason: Some(message.reason.into_owned()),
        message: Some(message.message),
        count: Some(1),
        first_timestamp: Some(time.clone()),
        last_timestamp: Some(time),
        source: Some(EventSource {
            component: Some(source.component.to_owned()),
            host: Some(source.node.clone()),
        }),
        reporting_component: Some(source.component.to_owned()),
        reporting_instance: Some(source.node.clone()),
        ..Event::default()
    }
}
