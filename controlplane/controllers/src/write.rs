//! Writes as data, and the one place that performs them.
//!
//! Input: a `Write` (what to do to which object). Output: what the API server answered, or a
//! `WriteError` that says what to do next. Knows no kind's meaning.

use http::{Method, Request};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use serde::Serialize;
use serde_json::{Value, json};

use crate::kinds::Projection;
use crate::object::{Key, MetaExt};
use crate::resource::Resource;

/// One change to one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub resource: &'static Resource,
    /// The object; the name is empty for a create with `generateName`.
    pub key: Key,
    pub verb: Verb,
    /// Events to record about the outcome.
    pub notes: Option<Box<Notes>>,
}

/// The Events of a write; `{name}` stands for the object's name and `{error}` for the failure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    pub regarding: ObjectReference,
    pub done: Option<(&'static str, String)>,
    /// The write itself states something bad.
    pub done_is_warning: bool,
    pub failed: Option<(&'static str, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    Create {
        body: Value,
    },
    /// PUT of a whole object the controller owns alone, or has just read.
    Replace {
        subresource: Option<&'static str>,
        body: Value,
    },
    /// Read, edit, PUT: nothing the controller does not know is lost. With a resource version
    /// the object must still have it.
    Edit {
        subresource: Option<&'static str>,
        resource_version: Option<String>,
        edits: Vec<Edit>,
    },
    Patch {
        subresource: Option<&'static str>,
        kind: PatchKind,
        body: Value,
    },
    Delete {
        uid: String,
        resource_version: Option<String>,
        grace_seconds: Option<i64>,
        /// What becomes of its dependents; `None` leaves it to the kind.
        propagation: Option<Propagation>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Merge,
    Strategic,
}

/// Sets (or with `None` removes) the value at a JSON pointer, making parents as needed.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    pub pointer: String,
    pub value: Option<Value>,
}

impl Edit {
    pub fn set(pointer: &str, value: impl Into<Value>) -> Self {
        Self {
            pointer: pointer.to_owned(),
            value: Some(value.into()),
        }
    }

    pub fn remove(pointer: &str) -> Self {
        Self {
            pointer: pointer.to_owned(),
            value: None,
        }
    }

    pub fn annotation(key: &str, value: Option<&str>) -> Self {
        let key = key.replace('~', "~0").replace('/', "~1");
        Self {
            pointer: format!("/metadata/annotations/{key}"),
            value: value.map(Value::from),
        }
    }
}

/// What became of a write.
#[derive(Debug)]
pub enum Written {
    Object(Value),
    /// Accepted deletion of the object with this uid.
    Deleted {
        uid: String,
    },
    /// There was nothing to do (already gone, or the edit changes nothing).
    Nothing,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{what}: the object has changed since it was read")]
    Conflict { what: String },
    #[error("{what}: already exists")]
    AlreadyExists { what: String },
    #[error("{what}: the namespace is being deleted")]
    NamespaceTerminating { what: String },
    #[error("{what}: {message}")]
    Rejected { what: String, message: String },
    #[error("{what}")]
    Unreachable {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl Write {
    pub fn create(resource: &'static Resource, key: Key, body: Value) -> Self {
        Self {
            resource,
            key,
            verb: Verb::Create { body },
            notes: None,
        }
    }

    pub fn edit(
        resource: &'static Resource,
        key: Key,
        resource_version: &str,
        edits: Vec<Edit>,
    ) -> Self {
        let resource_version = Some(resource_version.to_owned());
        Self {
            resource,
            key,
            verb: Verb::Edit {
                subresource: None,
                resource_version,
                edits,
            },
            notes: None,
        }
    }

    /// Replaces the whole status of an object as it was read.
    pub fn status<K: Projection>(object: &K, status: &impl Serialize) -> Self {
        let meta = object.metadata();
        let status = serde_json::to_value(status).expect("a status is plain data");
        let edit = Edit::set("/status", status);
        Self::edit_status(
            &K::RESOURCE,
            Key::of(meta),
            meta.resource_version(),
            vec![edit],
        )
    }

    pub fn edit_status(
        resource: &'static Resource,
        key: Key,
        resource_version: &str,
        edits: Vec<Edit>,
    ) -> Self {
        let verb = Verb::Edit {
            subresource: Some("status"),
            resource_version: Some(resource_version.to_owned()),
            edits,
        };
        Self {
            resource,
            key,
            verb,
            notes: None,
        }
    }

    pub fn patch(resource: &'static Resource, key: Key, kind: PatchKind, body: Value) -> Self {
        Self {
            resource,
            key,
            verb: Verb::Patch {
                subresource: None,
                kind,
                body,
            },
            notes: None,
        }
    }

    pub fn delete(resource: &'static Resource, key: Key, uid: &str) -> Self {
        let verb = Verb::Delete {
            uid: uid.to_owned(),
            resource_version: None,
            grace_seconds: None,
            propagation: None,
        };
        Self {
            resource,
            key,
            verb,
            notes: None,
        }
    }

    pub fn noting(mut self, notes: Notes) -> Self {
        self.notes = Some(Box::new(notes));
        self
    }

    fn describe(&self) -> String {
        let verb = match &self.verb {
            Verb::Create { .. } => "create",
            Verb::Replace { .. } => "update",
            Verb::Edit {
                subresource: None, ..
            } => "update",
            Verb::Edit {
                subresource: Some(sub),
                ..
            } => sub,
            Verb::Patch { .. } => "patch",
            Verb::Delete { .. } => "delete",
        };
        format!("{verb} {} {}", self.resource.plural, self.key)
    }
}

/// Performs one write.
pub async fn apply(client: &Client, write: &Write) -> Result<Written, WriteError> {
    tracing::debug!(write = write.describe(), "writing");
    let Write {
        resource,
        key,
        verb,
        notes: _,
    } = write;
    let object = |sub: Option<&str>| resource.object(&key.namespace, &key.name, sub);
    let result = match verb {
        Verb::Create { body } => {
            let collection = resource.collection(&key.namespace);
            send(client, Method::POST, &collection, JSON, body).await
        }
        Verb::Replace { subresource, body } => {
            send(client, Method::PUT, &object(*subresource), JSON, body).await
        }
        Verb::Edit {
            subresource,
            resource_version,
            edits,
        } => {
            let paths = (object(None), object(*subresource));
            return edit(client, write, paths, resource_version.as_deref(), edits).await;
        }
        Verb::Patch {
            subresource,
            kind,
            body,
        } => {
            let content_type = match kind {
                PatchKind::Merge => "application/merge-patch+json",
                PatchKind::Strategic => "application/strategic-merge-patch+json",
            };
            send(
                client,
                Method::PATCH,
                &object(*subresource),
                content_type,
                body,
            )
            .await
        }
        Verb::Delete {
            uid,
            resource_version,
            grace_seconds,
            propagation,
        } => {
            let mut body = delete_options(uid, resource_version.as_deref(), *grace_seconds);
            if let Some(propagation) = propagation {
                body["propagationPolicy"] = format!("{propagation:?}").into();
            }
            return match send(client, Method::DELETE, &object(None), JSON, &body).await {
                Ok(_) => Ok(Written::Deleted { uid: uid.clone() }),
                Err(error) => gone_is_fine(write, error),
            };
        }
    };
    match result {
        Ok(object) => Ok(Written::Object(object)),
        Err(error) if matches!(verb, Verb::Patch { .. }) => gone_is_fine(write, error),
        Err(error) => Err(classify(write, error)),
    }
}

const JSON: &str = "application/json";

/// Reads at the first path, edits, and puts to the second.
async fn edit(
    client: &Client,
    write: &Write,
    (get, put): (String, String),
    version: Option<&str>,
    edits: &[Edit],
) -> Result<Written, WriteError> {
    let mut object = match send(client, Method::GET, &get, JSON, &Value::Null).await {
        Ok(object) => object,
        Err(error) => return gone_is_fine(write, error),
    };
    let current = object
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str);
    if version.is_some_and(|version| current != Some(version)) {
        return Err(WriteError::Conflict {
            what: write.describe(),
        });
    }
    let before = object.clone();
    for edit in edits {
        apply_edit(&mut object, edit);
    }
    if before == object {
        return Ok(Written::Nothing);
    }
    match send(client, Method::PUT, &put, JSON, &object).await {
        Ok(object) => Ok(Written::Object(object)),
        Err(error) => gone_is_fine(write, error),
    }
}

/// Sets or removes one value.
pub fn apply_edit(object: &mut Value, edit: &Edit) {
    let Some((parents, last)) = edit.pointer.rsplit_once('/') else {
        return;
    };
    let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
    let mut at = object;
    for part in parents.split('/').skip(1) {
        if edit.value.is_none() && at.get(unescape(part)).is_none() {
            return;
        }
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[unescape(part)];
    }
    match &edit.value {
        Some(value) => {
            if !at.is_object() {
                *at = json!({});
            }
            at[unescape(last)] = value.clone();
        }
        None => {
            if let Some(map) = at.as_object_mut() {
                map.remove(&unescape(last));
            }
        }
    }
}

fn delete_options(uid: &str, resource_version: Option<&str>, grace: Option<i64>) -> Value {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
    if !uid.is_empty() {
        options["preconditions"]["uid"] = uid.into();
    }
    if let Some(version) = resource_version {
        options["preconditions"]["resourceVersion"] = version.into();
    }
    if let Some(grace) = grace {
        options["gracePeriodSeconds"] = grace.into();
    }
    options
}

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    content_type: &str,
    body: &Value,
) -> Result<Value, kube::Error> {
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        serde_json::to_vec(body).map_err(kube::Error::SerdeError)?
    };
    let mut request = Request::builder().method(method).uri(path);
    if !bytes.is_empty() {
        request = request.header(http::header::CONTENT_TYPE, content_type);
    }
    let request = request.body(bytes).map_err(kube::Error::HttpError)?;
    client.request::<Value>(request).await
}

fn gone_is_fine(write: &Write, error: kube::Error) -> Result<Written, WriteError> {
    match error {
        kube::Error::Api(status) if status.code == 404 => Ok(Written::Nothing),
        error => Err(classify(write, error)),
    }
}

fn classify(write: &Write, error: kube::Error) -> WriteError {
    let what = write.describe();
    match error {
        kube::Error::Api(status) => {
            let terminating = status.details.as_ref().is_some_and(|details| {
                details
                    .causes
                    .iter()
                    .any(|cause| cause.reason == "NamespaceTerminating")
            });
            match (status.code, status.reason.as_str()) {
                (_, "AlreadyExists") => WriteError::AlreadyExists { what },
                (409, _) => WriteError::Conflict { what },
                _ if terminating => WriteError::NamespaceTerminating { what },
                _ => WriteError::Rejected {
                    what,
                    message: status.message.clone(),
                },
            }
        }
        source => WriteError::Unreachable {
            what,
            source: Box::new(source),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_makes_its_parents_and_unescapes_its_path() {
        let mut object = json!({"metadata": {"name": "a"}});
        apply_edit(&mut object, &Edit::annotation("a.io/b~c", Some("1")));
        assert_eq!(object["metadata"]["annotations"]["a.io/b~c"], "1");
        apply_edit(&mut object, &Edit::annotation("a.io/b~c", None));
        assert_eq!(object["metadata"]["annotations"], json!({}));
        apply_edit(&mut object, &Edit::set("/status", json!({"x": 1})));
        assert_eq!(object["status"]["x"], 1);
    }

    #[test]
    fn removing_what_is_not_there_changes_nothing() {
        let mut object = json!({"metadata": {"name": "a"}});
        apply_edit(&mut object, &Edit::remove("/metadata/annotations/x"));
        assert_eq!(object, json!({"metadata": {"name": "a"}}));
    }
}
