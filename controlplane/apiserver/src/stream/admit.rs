//! CONNECT as admission sees it: the query of a request on a stream as the options object of its kind,
//! for instance a PodAttachOptions.
//!
//! Port of `ConnectResource` in `k8s.io/apiserver/pkg/endpoints/handlers/rest.go`. What mutating webhooks
//! make of the options is not taken over.

use api::{Status, Type};
use serde_json::{Map, Value};

use crate::{
    admission::{
        matching::Operation,
        webhook::{self, Told},
    },
    attributes::Attributes,
    call::Call,
};

/// Asks the webhooks that are about a stream; their warnings.
pub async fn admit(call: &Call) -> Result<Vec<String>, Status> {
    let Some(sub) = call.subresource else {
        return Ok(Vec::new());
    };
    let told = Told {
        dry_run: false,
        ..Told::new(call, Operation::Connect, sub.name, &call.attributes.name)
    };
    let concerned = told.concerned();
    if !concerned.mutates() && !concerned.validates() {
        return Ok(Vec::new());
    }
    let mut options = Map::new();
    options.insert("kind".into(), sub.kind.into());
    options.insert("apiVersion".into(), sub.version.into());
    if let Some(shape) = sub.schema().and_then(Type::as_struct) {
        for field in &shape.fields {
            if let Some(value) = value(&call.attributes, field.name, &field.ty) {
                options.insert(field.name.into(), value);
            }
        }
    }
    let json = Value::Object(options).to_string().into_bytes();
    let (_, warnings) = webhook::admit_body(&told, json).await?;
    Ok(warnings)
}

/// A field of the options in the query; `path` is what follows `proxy` in the address.
fn value(attributes: &Attributes, name: &str, ty: &Type) -> Option<Value> {
    if name == "path" {
        let rest = attributes.rest.as_str();
        return (!rest.is_empty()).then(|| format!("/{rest}").into());
    }
    let given = attributes.params(name);
    let first = *given.first()?;
    match ty {
        Type::Bool => attributes.flag(name).then_some(Value::Bool(true)),
        Type::Int32 | Type::Int64 => first.parse::<i64>().ok().map(Value::from),
        Type::List(element) if **element == Type::String => Some(given.into()),
        Type::List(_) => {
            let numbers = given.iter().flat_map(|text| text.split(','));
            let numbers = numbers.filter_map(|text| text.parse::<i64>().ok());
            Some(numbers.collect::<Vec<i64>>().into())
        }
        _ => Some(first.into()),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn the_query_is_an_object() {
        let query = "stdin=true&tty=0&container=c&command=a&command=b&ports=1,2";
        let path = "/api/v1/namespaces/n/services/s/proxy/a/b";
        let attributes = Attributes::parse(&Method::POST, path, Some(query));
        let strings = Type::List(Box::new(Type::String));
        let numbers = Type::List(Box::new(Type::Int32));
        let table = [
            ("stdin", &Type::Bool, Some(Value::from(true))),
            ("tty", &Type::Bool, None),
            ("stdout", &Type::Bool, None),
            ("container", &Type::String, Some("c".into())),
            ("command", &strings, Some(vec!["a", "b"].into())),
            ("ports", &numbers, Some(vec![1, 2].into())),
            ("path", &Type::String, Some("/a/b".into())),
        ];
        for (name, ty, want) in table {
            assert_eq!(value(&attributes, name, ty), want, "{name}");
        }
    }
}
