//! Subresources: those with the object's own shape go the way of the object (status, approval,
//! finalize …); the others have a file or a function here.

mod eviction;
mod scale;

use api::{Doc, Status, Value, strategy::Part};
use bumpalo::Bump;
use http::Response;

use crate::{
    admission::{
        matching::Operation,
        webhook::{self, Told},
    },
    attempt::{self, Update},
    body::{self, Body},
    call::Call,
    chain::headers,
    present::Answer,
    rest::{self, write},
    stream,
};

/// Answers a request on a subresource.
pub async fn dispatch(call: Call, name: &'static str) -> Result<Response<Body>, Status> {
    let verb = call.attributes.verb.clone();
    match (call.resource.plural, name, verb.as_str()) {
        ("pods", "log", _) => stream::pod(call, name).await,
        ("pods", "exec" | "attach" | "portforward", _) | (_, "proxy", _) => {
            connect(call, name).await
        }
        ("pods", "binding", "create") => Ok(bind(&call).await?.respond(&call)),
        ("pods", "eviction", "create") => Ok(eviction::evict(&call).await?.respond(&call)),
        ("serviceaccounts", "token", "create") => token(&call).await,
        (_, "scale", "get" | "update" | "patch") => Ok(scale::scale(&call).await?.respond(&call)),
        (_, "status" | "approval" | "finalize" | "ephemeralcontainers" | "resize", "get") => {
            Ok(rest::get(&call).await?.respond(&call))
        }
        (
            _,
            "status" | "approval" | "finalize" | "ephemeralcontainers" | "resize",
            "update" | "patch",
        ) => Ok(write::update(&call, name).await?.respond(&call)),
        _ => Err(Status::method_not_allowed()),
    }
}

/// A stream, when admission lets it through.
async fn connect(call: Call, name: &'static str) -> Result<Response<Body>, Status> {
    let warnings = stream::admit(&call).await?;
    let response = match name {
        "proxy" => stream::proxy::proxy(call).await?,
        _ => stream::pod(call, name).await?,
    };
    Ok(warned(response, &warnings))
}

/// The body of a subresource (JSON) as webhooks leave it, with their warnings.
async fn admitted(call: &Call, json: Vec<u8>) -> Result<(Vec<u8>, Vec<String>), Status> {
    let sub = call.subresource.map_or("", |sub| sub.name);
    let told = Told::new(call, Operation::Create, sub, &call.attributes.name);
    webhook::admit_body(&told, json).await
}

fn warned(response: Response<Body>, warnings: &[String]) -> Response<Body> {
    let warnings = warnings.iter();
    warnings.fold(response, |response, warning| {
        headers::warned(response, warning)
    })
}

/// `pods/binding`, and `bindings` with the pod's name in the body (port of
/// pkg/registry/core/pod/storage/storage.go, BindingREST).
pub async fn bind(call: &Call) -> Result<Answer, Status> {
    let (json, _) = write::decode_plain(call, body_schema(call)?)?;
    let (json, warnings) = admitted(call, json).await?;
    let binding: serde_json::Value = serde_json::from_slice(&json).map_err(Status::internal)?;
    let node = binding["target"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if node.is_empty() || !matches!(kind, "" | "Node") {
        let error = api::FieldError::required("target.name", "");
        return Err(Status::invalid(
            "",
            "Binding",
            &call.attributes.name,
            &[error],
        ));
    }
    let uid = binding["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let annotations = binding["metadata"]["annotations"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let now = call.now_text();
    let edit = move |doc: &mut Doc<'_>| -> Result<(), Status> {
        check_bindable(doc, &uid)?;
        doc.set_str(&["spec", "nodeName"], &node);
        for (key, value) in &annotations {
            doc.set_str(
                &["metadata", "annotations", key],
                value.as_str().unwrap_or_default(),
            );
        }
        set_scheduled(doc, &now);
        Ok(())
    };
    attempt::update(call, "binding", &Update::With(&edit)).await?;
    let status =
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":201}"#;
    Ok(Answer {
        code: 201,
        json: status.into(),
        warnings,
    })
}

/// POST on `bindings`: the pod is named in the body.
pub async fn bind_named(mut call: Call) -> Result<Response<Body>, Status> {
    let (json, _) = write::decode_plain(&call, body_schema(&call)?)?;
    let binding: serde_json::Value = serde_json::from_slice(&json).map_err(Status::internal)?;
    let name = binding["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        return Err(Status::bad_request("name must be provided"));
    }
    call.attributes.name = name.to_owned();
    let pods = api::Facts::get()
        .resource("", "v1", "pods")
        .ok_or_else(Status::page_not_found)?;
    call.resource = pods;
    call.subresource = pods.subresource("binding");
    call.id = crate::ResourceId::of(pods);
    Ok(bind(&call).await?.respond(&call))
}

fn check_bindable(doc: &Doc<'_>, uid: &str) -> Result<(), Status> {
    let name = doc.name();
    let conflict = |why: String| Err(Status::conflict("", "pods/binding", name, &why));
    if !uid.is_empty() && uid != doc.meta("uid") {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            doc.meta("uid")
        ));
    }
    if !doc.meta("deletionTimestamp").is_empty() {
        return conflict(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    let node = doc.str_at(&["spec", "nodeName"]).unwrap_or_default();
    if !node.is_empty() {
        return conflict(format!(
            "pod {name} is already assigned to node {}",
            api::status::quote(node)
        ));
    }
    if !doc.list_at(&["spec", "schedulingGates"]).is_empty() {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    Ok(())
}

/// The condition PodScheduled becomes true.
fn set_scheduled(doc: &mut Doc<'_>, now: &str) {
    let arena = doc.arena();
    let mut condition = api::Object::new_in(arena);
    for (key, value) in [
        ("type", "PodScheduled"),
        ("status", "True"),
        ("lastTransitionTime", now),
    ] {
        condition.set_copied(key, Value::string_in(value, arena));
    }
    put_condition(doc, condition);
}

/// Replaces the condition of the same type.
fn put_condition<'a>(doc: &mut Doc<'a>, condition: api::Object<'a>) {
    let arena = doc.arena();
    let condition = Value::Object(condition);
    let type_ = condition.str_of("type");
    if let Some(list) = doc
        .get_mut(&["status", "conditions"])
        .and_then(Value::as_list_mut)
    {
        list.retain(|c| c.str_of("type") != type_);
        list.push(condition);
        return;
    }
    let mut list = api::List::new_in(arena);
    list.push(condition);
    doc.set(&["status", "conditions"], Value::List(list));
}

async fn token(call: &Call) -> Result<Response<Body>, Status> {
    let schema = body_schema(call)?;
    let (json, _) = write::decode_plain(call, schema)?;
    let (json, warnings) = admitted(call, json).await?;
    let answer = call
        .server
        .auth()
        .review(&call.user, &call.attributes, &json)?;
    Ok(warned(body::json(201, answer), &warnings))
}

/// The shape of a subresource's body.
fn body_schema(call: &Call) -> Result<&'static api::Type, Status> {
    match call.subresource {
        Some(sub) => sub.schema().ok_or_else(Status::method_not_allowed),
        None => Ok(&call.resource.schema),
    }
}

/// Which part of the object an update of a subresource is about; none: the server's own edit, not
/// the client's object, so nothing is to be reset or validated.
pub fn part(subresource: &str) -> Option<Part<'_>> {
    match subresource {
        "" | "scale" => Some(Part::Main),
        "binding" | "eviction" => None,
        name => Some(Part::Subresource(name)),
    }
}

/// A document of the scratch kind, for bodies that are patched but not stored.
fn scratch<'a>(json: &str, schema: &'a api::Type, arena: &'a Bump) -> Result<Doc<'a>, Status> {
    let bytes = arena.alloc_str(json).as_bytes();
    api::codec::decode_stored(bytes, schema, arena).map_err(Status::internal)
}
