//! Every field an applied object mentions.
//!
//! Port of `typed/tofieldset.go` of structured-merge-diff.

use bumpalo::Bump;

use super::element::Element;
use super::set::{Builder, Set};
use super::shape::{Form, Kind, Shape};
use crate::doc::{Object, Value};

/// The fields of an object that is taken as it is.
pub(super) fn collect<'a>(
    shape: Shape<'a>,
    value: &Value<'a>,
    arena: &'a Bump,
) -> Result<Set<'a>, String> {
    below(shape, value, arena).map(|(_, set)| set)
}

/// Whether the value is a leaf, and the fields below it.
fn below<'a>(
    shape: Shape<'a>,
    value: &Value<'a>,
    arena: &'a Bump,
) -> Result<(bool, Set<'a>), String> {
    match (shape.kind(value), value) {
        (Kind::Scalar | Kind::Atomic, _) => Ok((true, Set::EMPTY)),
        (Kind::Map, Value::Object(object)) => Ok((false, fields(shape, object, arena)?)),
        (Kind::List, Value::List(list)) => Ok((false, items(shape, list, arena)?)),
        (Kind::Map | Kind::List, _) => Ok((false, Set::EMPTY)),
    }
}

fn fields<'a>(shape: Shape<'a>, object: &Object<'a>, arena: &'a Bump) -> Result<Set<'a>, String> {
    let entries = shape.entries(object, Form::Plain, arena);
    let mut nodes = Builder::new_in(arena, entries.len());
    for entry in entries {
        let child = entry
            .shape
            .ok_or_else(|| format!(".{}: field not declared in schema", entry.name))?;
        let (leaf, set) = below(child, entry.value, arena)?;
        let empty = match entry.value {
            Value::Null => true,
            Value::Object(object) => object.is_empty(),
            Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::String(_)
            | Value::List(_) => false,
        };
        // Keys of maps are members; fields of structs only where nothing is below them.
        let member = leaf || empty || !shape.declared(entry.name);
        nodes.add(Element::Field(entry.name), member, set);
    }
    Ok(nodes.finish(arena))
}

fn items<'a>(shape: Shape<'a>, list: &[Value<'a>], arena: &'a Bump) -> Result<Set<'a>, String> {
    let mut named = Vec::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        let name = shape
            .name_item(item, Form::Plain, arena)
            .map_err(|error| format!("element {i}: {error}"))?;
        named.push((name, item));
    }
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let mut nodes = Builder::new_in(arena, named.len());
    for run in named.chunk_by(|a, b| a.0 == b.0) {
        match run {
            [(name, item)] => nodes.add(*name, true, below(shape.element(), item, arena)?.1),
            // Duplicates are one leaf.
            [(name, _), ..] => nodes.add(*name, true, Set::EMPTY),
            [] => {}
        }
    }
    Ok(nodes.finish(arena))
}
