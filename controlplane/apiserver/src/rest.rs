//! The verbs: from a routed request to the room that handles it.

pub mod delete;
pub mod list;
pub mod options;
pub mod watch;
pub mod write;

use api::Status;
use http::Response;

use crate::{
    body::{self, Body},
    call::Call,
    present::{self, Answer},
    subresource,
};

/// Answers a request on a resource.
pub async fn dispatch(call: Call) -> Result<Response<Body>, Status> {
    if let Some(sub) = call.subresource {
        // Methods without a verb (OPTIONS) are for who is asked through it.
        let any_method = sub.name == "proxy";
        if !any_method && !sub.verbs.contains(&call.attributes.verb.as_str()) {
            return Err(unsupported(&call));
        }
        return subresource::dispatch(call, sub.name).await;
    }
    let on_collection = call.attributes.name.is_empty();
    let fits = match call.attributes.verb.as_str() {
        "create" => on_collection,
        "update" | "patch" => !on_collection,
        _ => true,
    };
    if !fits || !call.resource.has_verb(&call.attributes.verb) {
        return Err(unsupported(&call));
    }
    if !call.resource.stored {
        return create_only(call).await;
    }
    match call.attributes.verb.as_str() {
        "get" => Ok(get(&call).await?.respond(&call)),
        "list" => list::list(&call).await,
        "watch" => watch::watch(call).await,
        "create" => Ok(write::create(&call).await?.respond(&call)),
        "update" | "patch" => Ok(write::update(&call, "").await?.respond(&call)),
        "delete" => Ok(delete::delete(&call).await?.respond(&call)),
        "deletecollection" => Ok(delete::delete_collection(&call).await?.respond(&call)),
        _ => Err(unsupported(&call)),
    }
}

/// One object.
pub async fn get(call: &Call) -> Result<Answer, Status> {
    let id = call.stored()?;
    let cache = call.server.cache();
    let (namespace, name) = (&call.attributes.namespace, &call.attributes.name);
    if let Some(wanted) = options::revision(call.attributes.param("resourceVersion"))?
        && !cache.wait_for(wanted).await
    {
        return Err(Status::too_large_resource_version(wanted, cache.revision()));
    }
    let object = cache
        .get(id, namespace, name)
        .ok_or_else(|| call.not_found())?;
    Ok(Answer::ok(present::object(call.resource, &object)))
}

/// 405 in upstream's words.
pub fn unsupported(_call: &Call) -> Status {
    Status::method_not_allowed()
}

async fn create_only(call: Call) -> Result<Response<Body>, Status> {
    if call.resource.plural == "componentstatuses" {
        return component_statuses(&call);
    }
    if call.attributes.verb != "create" {
        return Err(unsupported(&call));
    }
    if call.resource.plural == "bindings" {
        return subresource::bind_named(call).await;
    }
    let call = &call;
    let (body, _) = write::decode_plain(call, &call.resource.schema)?;
    let json = call
        .server
        .auth()
        .review(&call.user, &call.attributes, &body)?;
    Ok(body::json(201, json))
}

/// The deprecated list of a control plane's parts; they are one process here, which answers.
fn component_statuses(call: &Call) -> Result<Response<Body>, Status> {
    if call.attributes.verb != "list" {
        return Err(call.not_found());
    }
    let json = r#"{"kind":"ComponentStatusList","apiVersion":"v1","metadata":{},"items":[]}"#;
    Ok(body::json(200, json))
}
