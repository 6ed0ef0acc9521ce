//! What the collector does at the API server: look owners up, delete, take out references and
//! finalizers. Everything is checked against the live object first.

use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

use super::graph::{
    Dependents, FOREGROUND, FOREGROUND_POLICY, Kind, ORPHAN, Object, Owner, OwnerState, Uid,
    Verdict, Work, judge,
};

const METADATA: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {path}")]
    Request {
        action: &'static str,
        path: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("owner kind {kind} of group {group:?} is not served")]
    UnknownKind { group: String, kind: String },
}

/// What was learned.
#[derive(Debug, Default)]
pub struct Acted {
    /// Owners that do not exist.
    pub absent: Vec<Uid>,
}

/// Carries out one piece of work.
pub async fn act(client: &Client, resources: &[Kind], work: Work) -> Result<Acted, Error> {
    match work {
        Work::Judge {
            object,
            owners,
            dependents,
        } => judge_live(client, resources, object, owners, dependents).await,
        Work::ReleaseForeground(object) => {
            remove_finalizer(client, &path(resources, &object), &object.uid, FOREGROUND).await?;
            Ok(Acted::default())
        }
        Work::Orphan { owner, dependents } => {
            for dependent in dependents {
                let path = path(resources, &dependent);
                let gone = std::slice::from_ref(&owner.uid);
                drop_references(client, &path, &dependent.uid, gone).await?;
            }
            remove_finalizer(client, &path(resources, &owner), &owner.uid, ORPHAN).await?;
            Ok(Acted::default())
        }
    }
}

async fn judge_live(
    client: &Client,
    resources: &[Kind],
    object: Object,
    mut owners: Vec<(Owner, OwnerState)>,
    dependents: Dependents,
) -> Result<Acted, Error> {
    let path = path(resources, &object);
    let Some(live) = get(client, &path, &object.uid).await? else {
        return Ok(Acted::default());
    };
    let mut acted = Acted::default();
    for (owner, state) in &mut owners {
        if *state == OwnerState::Unknown {
            *state = look_up(client, resources, &object, owner).await?;
            if *state == OwnerState::Absent {
                acted.absent.push(owner.uid.clone());
            }
        }
    }
    // References the live object has lost or won since are not ours to judge.
    let references = live["metadata"]["ownerReferences"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let is_live = |uid: &Uid| references.iter().any(|r| r["uid"].as_str() == Some(uid));
    let known: Vec<(Uid, OwnerState)> = owners
        .into_iter()
        .map(|(o, s)| (o.uid, s))
        .filter(|(uid, _)| is_live(uid))
        .collect();
    if known.len() != references.len() || !live["metadata"]["deletionTimestamp"].is_null() {
        return Ok(acted);
    }
    let finalizers: Vec<String> =
        serde_json::from_value(live["metadata"]["finalizers"].clone()).unwrap_or_default();
    match judge(&known, dependents, &finalizers) {
        Verdict::Keep => {}
        Verdict::DropReferences(gone) => {
            drop_references(client, &path, &object.uid, &gone).await?;
        }
        Verdict::Delete(policy) => delete(client, &path, &live["metadata"], policy).await?,
        Verdict::UnblockAndDelete => {
            let mut open = references;
            for reference in &mut open {
                reference["blockOwnerDeletion"] = Value::Bool(false);
            }
            let meta = &live["metadata"];
            let open = Value::Array(open);
            if let Some(live) = patch(client, &path, meta, "ownerReferences", open).await? {
                delete(client, &path, &live["metadata"], FOREGROUND_POLICY).await?;
            }
        }
    }
    Ok(acted)
}

/// Deletes the object if it is still as `meta` says.
async fn delete(client: &Client, path: &str, meta: &Value, policy: &str) -> Result<(), Error> {
    let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy,
        "preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}});
    let content = Some(("application/json", &body));
    send(client, Method::DELETE, path, content).await.map(drop)
}

async fn look_up(
    client: &Client,
    resources: &[Kind],
    dependent: &Object,
    owner: &Owner,
) -> Result<OwnerState, Error> {
    let is_owners = |kind: &&Kind| {
        let Kind { resource, served } = kind;
        *served && resource.group == *owner.group && resource.kind == *owner.kind
    };
    let Some(Kind { resource, .. }) = resources.iter().find(is_owners) else {
        return Err(Error::UnknownKind {
            group: owner.group.to_string(),
            kind: owner.kind.to_string(),
        });
    };
    let namespace = if resource.namespaced {
        &*dependent.key.namespace
    } else {
        ""
    };
    if resource.namespaced && namespace.is_empty() {
        // A cluster-scoped object cannot have an owner in a namespace.
        return Ok(OwnerState::Absent);
    }
    let path = format!("{}/{}", resource.collection(namespace), owner.name);
    let Some(live) = get(client, &path, &owner.uid).await? else {
        return Ok(OwnerState::Absent);
    };
    let finalizers = live["metadata"]["finalizers"].as_array();
    let waits = finalizers.is_some_and(|f| f.iter().any(|f| f == FOREGROUND));
    let is_deleting = !live["metadata"]["deletionTimestamp"].is_null();
    Ok(if waits && is_deleting {
        OwnerState::Waiting
    } else {
        OwnerState::Solid
    })
}

/// Takes references out of an object; nothing happens when it is gone.
async fn drop_references(
    client: &Client,
    path: &str,
    uid: &str,
    owners: &[Uid],
) -> Result<(), Error> {
    let Some(live) = get(client, path, uid).await? else {
        return Ok(());
    };
    let meta = &live["metadata"];
    let mut references = meta["ownerReferences"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let before = references.len();
    references.retain(|r| !owners.iter().any(|uid| r["uid"].as_str() == Some(uid)));
    if references.len() == before {
        return Ok(());
    }
    let value = if references.is_empty() {
        Value::Null
    } else {
        Value::Array(references)
    };
    patch(client, path, meta, "ownerReferences", value)
        .await
        .map(drop)
}

async fn remove_finalizer(
    client: &Client,
    path: &str,
    uid: &str,
    finalizer: &str,
) -> Result<(), Error> {
    let Some(live) = get(client, path, uid).await? else {
        return Ok(());
    };
    let meta = &live["metadata"];
    let mut finalizers = meta["finalizers"].as_array().cloned().unwrap_or_default();
    let before = finalizers.len();
    finalizers.retain(|f| f != finalizer);
    if finalizers.len() == before {
        return Ok(());
    }
    let value = if finalizers.is_empty() {
        Value::Null
    } else {
        Value::Array(finalizers)
    };
    patch(client, path, meta, "finalizers", value)
        .await
        .map(drop)
}

/// Replaces one field of the metadata, if the object has not changed meanwhile; returns what it is then.
async fn patch(
    client: &Client,
    path: &str,
    meta: &Value,
    field: &str,
    value: Value,
) -> Result<Option<Value>, Error> {
    let mut body = json!({"metadata": {"uid": meta["uid"],
        "resourceVersion": meta["resourceVersion"]}});
    body["metadata"][field] = value;
    let content = Some(("application/merge-patch+json", &body));
    send(client, Method::PATCH, path, content).await
}

/// The live metadata, if it is still the same object.
async fn get(client: &Client, path: &str, uid: &str) -> Result<Option<Value>, Error> {
    let live = send(client, Method::GET, path, None).await?;
    Ok(live.filter(|live| live["metadata"]["uid"].as_str() == Some(uid)))
}

/// `None` when there is no such object.
async fn send(
    client: &Client,
    method: Method,
    path: &str,
    content: Option<(&str, &Value)>,
) -> Result<Option<Value>, Error> {
    let action = match method {
        Method::GET => "get",
        Method::DELETE => "delete",
        _ => "patch",
    };
    let fail = |source| Error::Request {
        action,
        path: path.to_owned(),
        source: Box::new(source),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::ACCEPT, METADATA);
    let mut bytes = Vec::new();
    if let Some((content_type, body)) = content {
        request = request.header(http::header::CONTENT_TYPE, content_type);
        bytes = serde_json::to_vec(body).map_err(|e| fail(kube::Error::SerdeError(e)))?;
    }
    let request = request
        .body(bytes)
        .map_err(|e| fail(kube::Error::HttpError(e)))?;
    match client.request::<Value>(request).await {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(fail(error)),
    }
}

fn path(resources: &[Kind], object: &Object) -> String {
    let resource = &resources[object.resource].resource;
    format!(
        "{}/{}",
        resource.collection(&object.key.namespace),
        object.key.name
    )
}
