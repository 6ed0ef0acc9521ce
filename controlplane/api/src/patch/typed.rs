//! Merging an apply configuration into an object by its schema, without owners of fields: what mutating
//! admission policies do.
//!
//! Port of `ApplyStructuredMergeDiff` in
//! `k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch/smd.go` and of the rules of
//! `sigs.k8s.io/structured-merge-diff/v6/typed/merge.go` it uses.

use crate::doc::{Doc, Object, Value};
use crate::schema::{Field, ListType, Struct, Type};

/// Merges the configuration; the error says why it is none of the object's kind.
pub fn merge<'a>(doc: &mut Doc<'a>, configuration: Value<'a>) -> Result<(), String> {
    let shape = doc.shape().ok_or("the object has no schema")?;
    let arena = doc.arena();
    let Value::Object(configuration) = configuration else {
        return Err("unsupported return type from ApplyConfiguration expression".into());
    };
    let mut atomics = Vec::new();
    check(shape, &configuration, "", &mut atomics)?;
    if !atomics.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomics.join(", ")
        ));
    }
    let target = doc.root_mut().make_object(arena);
    object(target, configuration, Some(shape));
    Ok(())
}

/// Whether it has only known fields, and which of those are atomic.
fn check(
    shape: &Struct,
    object: &Object<'_>,
    path: &str,
    atomics: &mut Vec<String>,
) -> Result<(), String> {
    for (name, value) in object.iter() {
        let path = format!("{path}.{name}");
        let field = shape.field(name).ok_or_else(|| {
            format!("failed to convert patch object to typed object: {path}: field not declared in schema")
        })?;
        let is_container = match value {
            Value::List(_) => field.list_type == ListType::Atomic,
            Value::Object(_) => field.is_atomic(),
            _ => false,
        };
        if is_container {
            atomics.push(path.clone());
        }
        match (value, &field.ty) {
            (Value::Object(inner), Type::Struct(id)) => check(id.get(), inner, &path, atomics)?,
            (Value::List(items), Type::List(element)) => {
                let Some(shape) = element.as_struct() else {
                    continue;
                };
                for (i, item) in items.iter().enumerate() {
                    if let Value::Object(item) = item {
                        check(shape, item, &format!("{path}[{i}]"), atomics)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn object<'a>(target: &mut Object<'a>, patch: Object<'a>, shape: Option<&Struct>) {
    for (name, value) in patch.into_entries() {
        let field = shape.and_then(|shape| shape.field(name));
        match (target.get_mut(name), value) {
            (Some(Value::Object(old)), Value::Object(new))
                if !field.is_some_and(Field::is_atomic) =>
            {
                object(old, new, field.and_then(|field| field.ty.as_struct()));
            }
            (Some(Value::List(old)), Value::List(new)) => match field {
                Some(field) if field.list_type != ListType::Atomic => {
                    for item in new {
                        element(old, item, field);
                    }
                }
                _ => *old = new,
            },
            (_, value) => target.set(name, value),
        }
    }
}

/// Merges one element of a set or a list with keys; a new one is appended.
fn element<'a>(list: &mut crate::doc::List<'a>, item: Value<'a>, field: &Field) {
    let is_same = |old: &Value<'a>| match field.list_type {
        ListType::Map => field
            .list_keys
            .iter()
            .all(|key| key_of(old, key, field) == key_of(&item, key, field)),
        ListType::Set | ListType::Atomic => *old == item,
    };
    let shape = field.ty.element().and_then(Type::as_struct);
    let found = list.iter().position(is_same);
    match (found.map(|at| &mut list[at]), item) {
        (Some(old), new) if shape.is_some_and(|shape| shape.atomic) => *old = new,
        (Some(Value::Object(old)), Value::Object(new)) => object(old, new, shape),
        (Some(_), _) => {}
        (None, item) => list.push(item),
    }
}

/// A key's value, or its default.
fn key_of(item: &Value<'_>, key: &str, field: &Field) -> Option<String> {
    let shape = field.ty.element().and_then(Type::as_struct);
    let default = shape.and_then(|shape| shape.field(key)).map(|f| f.default);
    match item.get(key) {
        Some(value) => {
            let mut text = Vec::new();
            crate::codec::write_value(value, &mut text);
            String::from_utf8(text).ok()
        }
        None => default.filter(|d| !d.is_empty()).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use bumpalo::Bump;

    use super::*;
    use crate::Facts;

    fn merged(object: &str, configuration: &str) -> Result<String, String> {
        let arena = Bump::new();
        let row = Facts::get()
            .resource("apps", "v1", "deployments")
            .expect("a row");
        let mut doc =
            crate::codec::decode_stored(object.as_bytes(), &row.schema, &arena).expect("decodes");
        let bytes = arena.alloc_str(configuration).as_bytes();
        let value = crate::codec::parse(crate::Format::Json, bytes, &arena).expect("parses");
        merge(&mut doc, value)?;
        Ok(String::from_utf8(crate::canonical(&doc)).expect("text"))
    }

    #[test]
    fn maps_structs_and_keyed_lists_merge() {
        let object = r#"{"metadata":{"annotations":{"a":"1"},"name":"d"},"spec":{"replicas":1,
            "template":{"spec":{"containers":[{"image":"x","name":"c"}]}}}}"#;
        let configuration = r#"{"metadata":{"annotations":{"b":"2"}},"spec":{"replicas":3,
            "template":{"spec":{"containers":[{"name":"c","imagePullPolicy":"Always"},{"name":"d"}]}}}}"#;
        let merged: serde_json::Value =
            serde_json::from_str(&merged(object, configuration).expect("merges")).expect("JSON");
        assert_eq!(
            merged["metadata"]["annotations"],
            serde_json::json!({"a": "1", "b": "2"})
        );
        assert_eq!(merged["spec"]["replicas"], 3);
        let containers = &merged["spec"]["template"]["spec"]["containers"];
        assert_eq!(containers[0]["image"], "x");
        assert_eq!(containers[0]["imagePullPolicy"], "Always");
        assert_eq!(containers[1]["name"], "d");
    }

    #[test]
    fn unknown_and_atomic_fields_are_refused() {
        let error = merged("{}", r#"{"spec":{"nothing":1}}"#).err();
        assert!(error.is_some_and(|e| e.contains(".spec.nothing: field not declared in schema")));
        let atomic = r#"{"spec":{"selector":{"matchLabels":{"a":"b"}}}}"#;
        let error = merged("{}", atomic).err();
        assert!(error.is_some_and(|e| e.contains("may not mutate atomic")));
    }
}
