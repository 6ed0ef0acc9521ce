//! The verbs: from a routed request to the room that handles it.

pub mod delete;
pub mod list;
pub mod options;
pub mod watch;
pub mod write;

use api::Status;
use http::{Method, Response};

use crate::{
    attributes::Attributes,
    body::{self, Body},
    call::Call,
    negotiate::Form,
    present::{self, Answer},
    subresource,
};

/// Answers a request on a resource.
pub async fn dispatch(call: Call) -> Result<Response<Body>, Status> {
    let proxied = call.subresource.is_some_and(|sub| sub.name == "proxy");
    if call.parts.method == Method::HEAD && !proxied {
        return Err(unsupported(&call));
    }
    let applies = matches!(
        api::PatchKind::of_media_type(call.content_type()),
        Some(api::PatchKind::Apply)
    );
    if !proxied {
        options::check_write(&call.attributes, applies)?;
    }
    if call.output.form == Form::Table {
        present::check_table(&call.attributes)?;
    }
    present::check_metadata(&call)?;
    if let Some(sub) = call.subresource {
        // Methods without a verb (OPTIONS) are for who is asked through it.
        let any_method = sub.name == "proxy";
        if !any_method && !sub.verbs.contains(&call.attributes.verb.as_str()) {
            return Err(unsupported(&call));
        }
        return subresource::dispatch(call, sub.name).await;
    }
    let on_collection = call.attributes.name.is_empty();
    check_scope(&call)?;
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

/// Outside of namespaces there is of namespaced kinds the collection of all, if it can be listed, and
/// nothing else.
fn check_scope(call: &Call) -> Result<(), Status> {
    let Attributes {
        verb,
        namespace,
        name,
        ..
    } = &call.attributes;
    let is_listed = matches!(verb.as_str(), "list" | "watch");
    // A field selector may give a collection a name.
    let is_collection = is_listed || verb == "deletecollection" || name.is_empty();
    if !call.resource.namespaced || !namespace.is_empty() {
        Ok(())
    } else if !is_collection || !call.resource.has_verb("list") {
        Err(Status::page_not_found())
    } else if is_listed {
        Ok(())
    } else {
        Err(unsupported(call))
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
        // Upstream names it so here.
        return Err(Status::not_found(
            "",
            "componentstatus",
            &call.attributes.name,
        ));
    }
    let json = r#"{"kind":"ComponentStatusList","apiVersion":"v1","metadata":{},"items":[]}"#;
    Ok(body::json(200, json))
}
