//! Documents as CEL values, and back.

use std::{collections::HashMap, sync::Arc};

use bumpalo::Bump;
use kube_cel::cel::{
    Value as Cel,
    objects::{Key, Map},
};

use crate::doc::{List, Object, Value};

/// A document's value as CEL sees it: untyped, as upstream's unstructured objects are.
pub fn from_value(value: &Value<'_>) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(b) => Cel::Bool(*b),
        Value::Int(n) => Cel::Int(*n),
        Value::Float(n) => Cel::Float(*n),
        Value::String(text) => Cel::String(Arc::new((*text).to_owned())),
        Value::List(list) => Cel::List(Arc::new(list.iter().map(from_value).collect())),
        Value::Object(object) => map(object.iter().map(|(k, v)| (k, from_value(v)))),
    }
}

/// JSON as CEL sees it.
pub fn from_json(value: &serde_json::Value) -> Cel {
    use serde_json::Value as Json;
    match value {
        Json::Null => Cel::Null,
        Json::Bool(b) => Cel::Bool(*b),
        Json::Number(n) => match n.as_i64() {
            Some(n) => Cel::Int(n),
            None => Cel::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Cel::String(Arc::new(text.clone())),
        Json::Array(list) => Cel::List(Arc::new(list.iter().map(from_json).collect())),
        Json::Object(object) => map(object.iter().map(|(k, v)| (k.as_str(), from_json(v)))),
    }
}

fn map<'k>(entries: impl Iterator<Item = (&'k str, Cel)>) -> Cel {
    let map: HashMap<Key, Cel> = entries.map(|(key, value)| (key.into(), value)).collect();
    Cel::Map(Map { map: Arc::new(map) })
}

/// A CEL value as a document's; none for what JSON has no form of. Entries are in the order of their
/// keys.
pub fn into_value<'a>(value: &Cel, arena: &'a Bump) -> Option<Value<'a>> {
    Some(match value {
        Cel::Null => Value::Null,
        Cel::Bool(b) => Value::Bool(*b),
        Cel::Int(n) => Value::Int(*n),
        Cel::UInt(n) => Value::Int(i64::try_from(*n).ok()?),
        Cel::Float(n) => Value::Float(*n),
        Cel::String(text) => Value::string_in(text, arena),
        Cel::List(items) => {
            let mut list = List::new_in(arena);
            for item in items.iter() {
                list.push(into_value(item, arena)?);
            }
            Value::List(list)
        }
        Cel::Map(map) => {
            let mut entries = map
                .map
                .iter()
                .map(|(key, value)| match key {
                    Key::String(key) => Some((key.as_str(), value)),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>()?;
            entries.sort_unstable_by_key(|(key, _)| *key);
            let mut object = Object::new_in(arena);
            for (key, value) in entries {
                object.set_copied(key, into_value(value, arena)?);
            }
            Value::Object(object)
        }
        _ => return None,
    })
}
