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
        return subresource::dispatch(call, sub.name).await;
    }
    if !call.resource.has_verb(&call.attributes.verb) {
        return Err(unsupported(&call));
    }
    if !call.resource.stored {
        return review(&call);
    }
    match call.attributes.verb.as_str() {
        "get" => Ok(get(&call)?.respond(&call)),
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
pub fn get(call: &Call) -> Result<Answer, Status> {
    let id = call.stored()?;
    let (namespace, name) = (&call.attributes.namespace, &call.attributes.name);
    let (object, revision) = call.server.cache().get_with_revision(id, namespace, name);
    if let Some(wanted) = options::revision(call.attributes.param("resourceVersion"))?
        && wanted > revision
    {
        return Err(Status::too_large_resource_version(wanted, revision));
    }
    let object = object.ok_or_else(|| call.not_found())?;
    Ok(Answer::ok(present::object(call.resource, &object)))
}

/// 405 in upstream's words.
pub fn unsupported(_call: &Call) -> Status {
    Status::method_not_allowed()
}

fn review(call: &Call) -> Result<Response<Body>, Status> {
    if call.attributes.verb != "create" {
        return Err(unsupported(call));
    }
    let (body, _) = write::decode_plain(call, &call.resource.schema)?;
    let json = call
        .server
        .auth()
        .review(&call.user, &call.attributes, &body)?;
    Ok(body::json(201, json))
}
