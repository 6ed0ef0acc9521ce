//! Takes fields and items out of an object.
//!
//! Port of `typed/remove.go` of structured-merge-diff.

use bumpalo::Bump;

use super::element::Element;
use super::set::Set;
use super::shape::{Form, Kind, Shape};
use crate::doc::{List, Object, Value};

/// The object without the members of a set. What becomes empty becomes null, as upstream has it.
pub(super) fn remove<'a>(
    shape: Shape<'a>,
    value: &Value<'a>,
    gone: Set<'a>,
    arena: &'a Bump,
) -> Value<'a> {
    match (shape.kind(value), value) {
        (Kind::Scalar, _) => value.clone(),
        (Kind::Map, Value::Object(object)) => from_object(shape, object, gone, arena),
        (Kind::List, Value::List(list)) => from_list(shape, list, gone, arena),
        (Kind::Atomic | Kind::Map | Kind::List, _) => Value::Null,
    }
}

fn from_object<'a>(
    shape: Shape<'a>,
    object: &Object<'a>,
    gone: Set<'a>,
    arena: &'a Bump,
) -> Value<'a> {
    let mut out = Object::with_capacity_in(object.len(), arena);
    for (name, value) in object.iter() {
        let node = gone.get(&Element::Field(name));
        match (node, shape.child(name)) {
            (Some(node), _) if node.member => {}
            (Some(node), Some(child)) => out.push(name, remove(child, value, node.below, arena)),
            (Some(_), None) => out.push(name, Value::Null),
            (None, _) => out.push(name, value.clone()),
        }
    }
    if out.is_empty() {
        return Value::Null;
    }
    Value::Object(out)
}

fn from_list<'a>(
    shape: Shape<'a>,
    list: &[Value<'a>],
    gone: Set<'a>,
    arena: &'a Bump,
) -> Value<'a> {
    let mut out = List::with_capacity_in(list.len(), arena);
    for item in list {
        // The list was checked when it was merged.
        let node = shape
            .name_item(item, Form::Plain, arena)
            .ok()
            .and_then(|name| gone.get(&name));
        match node {
            Some(node) if node.member => {}
            Some(node) => out.push(remove(shape.element(), item, node.below, arena)),
            None => out.push(item.clone()),
        }
    }
    if out.is_empty() {
        return Value::Null;
    }
    Value::List(out)
}
