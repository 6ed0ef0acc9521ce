//! What the names in a policy's expressions stand for.

use std::{collections::BTreeSet, sync::Arc};

use api::{
    Status, Value,
    expression::{
        Scope, authorizer, from_json, from_value,
        policy::{Policy as Expressions, REQUEST_RESOURCE},
    },
};
use bumpalo::Bump;

use super::{Invocation, Objects, parsed};
use crate::{
    admission::webhook::{Told, conditions::Asking, review},
    cache::Object,
    catalog::ResourceId,
    convert,
};

/// Binds what the expressions refer to; nothing is converted that they do not need.
pub fn scope(
    told: &Told<'_>,
    invocation: &Invocation<'_>,
    expressions: &Expressions,
    objects: Objects<'_, '_>,
) -> Result<Scope, Status> {
    let all = expressions.expressions();
    let roots: BTreeSet<&str> = all.flat_map(|expression| expression.roots()).collect();
    let mut scope = Scope::new();
    for root in roots {
        let value = match root {
            "object" => of_version(told, invocation, objects.object),
            "oldObject" => of_version(told, invocation, objects.old),
            "request" => from_json(&review::request(told, invocation.resource)?),
            "namespaceObject" => namespace(told)?,
            "params" => invocation.param.as_deref().map_or_else(null, of_object),
            "authorizer" => authorizer::authorizer(Arc::new(Asking::new(told))),
            REQUEST_RESOURCE => authorizer::resource(Arc::new(Asking::new(told)), told.access()),
            _ => null(),
        };
        scope.bind(root, value);
    }
    Ok(scope)
}

fn null() -> api::expression::Value {
    api::expression::Value::Null
}

/// An object in the version the rule names.
fn of_version(
    told: &Told<'_>,
    invocation: &Invocation<'_>,
    object: Option<&Value<'_>>,
) -> api::expression::Value {
    let Some(object) = object else { return null() };
    let (from, to) = (told.resource, invocation.resource);
    let is_same = (from.group, from.version) == (to.group, to.version);
    if is_same || !told.is_of_resource() {
        return from_value(object);
    }
    let mut json = Vec::new();
    api::codec::write_value(object, &mut json);
    let converted = convert::between(from, to, &json);
    let json = serde_json::from_slice(&converted.unwrap_or(json));
    json.map_or_else(|_| null(), |json| from_json(&json))
}

fn of_object(object: &Object) -> api::expression::Value {
    let arena = Bump::new();
    parsed(object, &arena).map_or_else(null, |value| from_value(&value))
}

/// The namespace of the request; null for what is in none, and for namespaces themselves.
fn namespace(told: &Told<'_>) -> Result<api::expression::Value, Status> {
    if told.namespace.is_empty() || !told.resource.namespaced {
        return Ok(null());
    }
    let cache = told.call.server.cache();
    let namespaces = ResourceId::named("", "namespaces");
    let namespace = cache.get(namespaces, "", told.namespace);
    let missing = || Status::not_found("", "namespaces", told.namespace);
    namespace
        .map(|object| of_object(&object))
        .ok_or_else(missing)
}
