//! Defaults: the static ones of the facts, and the small functions of single structs.
//!
//! Upstream applies `SetDefaults_X` wherever a struct X occurs, then the static defaults of its fields;
//! so does the walk here, guided by a table from struct to rules. Runs after every decode (of a request
//! and of stored bytes) and after every mutation by admission. Idempotent.

use std::collections::HashMap;
use std::sync::OnceLock;

use bumpalo::Bump;

use crate::codec::{self, Format};
use crate::doc::{Doc, Object, Value};
use crate::facts::{Facts, Resource};
use crate::kinds;
use crate::quantity::Quantity;
use crate::schema::{Field, Struct, StructId, Type};

/// A default for an absent field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Literal {
    /// A string.
    Str(&'static str),
    /// An integer.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// An empty object.
    Empty,
}

/// What `SetDefaults_X` does.
pub(crate) struct Rules {
    /// The struct by its OpenAPI name.
    pub(crate) name: &'static str,
    /// Defaults that depend on nothing else.
    pub(crate) fields: &'static [(&'static str, Literal)],
    /// The rest, run after the fields.
    pub(crate) code: Option<for<'a> fn(&mut Object<'a>, &'a Bump)>,
}

/// Fills in defaults.
pub fn default(resource: &Resource, doc: &mut Doc<'_>) {
    let _ = resource;
    let (schema, arena) = (doc.schema(), doc.arena());
    walk(doc.root_mut(), schema, arena);
}

fn walk<'a>(value: &mut Value<'a>, ty: &Type, arena: &'a Bump) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(object)) if plan().reaches[usize::from(id.0)] => {
            default_struct(object, *id, arena);
        }
        (Type::List(element), Value::List(list)) if reaches(element) => {
            for item in list.iter_mut() {
                walk(item, element, arena);
            }
        }
        (Type::Map(element), Value::Object(object)) if **element == Type::Quantity => {
            for (_, quantity) in object.iter_mut() {
                round_to_milli(quantity, arena);
            }
        }
        (Type::Map(element), Value::Object(object)) if reaches(element) => {
            for (_, item) in object.iter_mut() {
                walk(item, element, arena);
            }
        }
        _ => {}
    }
}

fn default_struct<'a>(object: &mut Object<'a>, id: StructId, arena: &'a Bump) {
    let plan = plan();
    let shape = id.get();
    if let Some(rules) = plan.rules[usize::from(id.0)] {
        for (name, literal) in rules.fields {
            set_absent(object, name, *literal);
        }
        if let Some(code) = rules.code {
            code(object, arena);
        }
    }
    for field in &shape.fields {
        if !field.default.is_empty() && !object.contains(field.name) {
            set_static(object, field, arena);
        }
        let below = reaches(&field.ty) || is_resource_list(&field.ty);
        if !below {
            continue;
        }
        let by_value = !field.pointer && matches!(field.ty, Type::Struct(_));
        if by_value && !object.contains(field.name) {
            // A struct by value is there even if the text did not say so.
            let mut inner = Value::Object(Object::new_in(arena));
            walk(&mut inner, &field.ty, arena);
            if inner.as_object().is_some_and(|o| !o.is_empty()) {
                object.push(field.name, inner);
            }
        } else if let Some(inner) = object.get_mut(field.name) {
            walk(inner, &field.ty, arena);
        }
    }
}

fn set_static<'a>(object: &mut Object<'a>, field: &Field, arena: &'a Bump) {
    let text: &'a [u8] = arena.alloc_slice_copy(field.default.as_bytes());
    let value = codec::parse(Format::Json, text, arena);
    // The empty string is a value only where absent and empty differ.
    if let Ok(value) = value {
        object.push(field.name, value);
    }
}

/// Sets a field that is absent.
pub(crate) fn set_absent<'a>(object: &mut Object<'a>, name: &'static str, literal: Literal) {
    if object.contains(name) {
        return;
    }
    let arena = object.arena();
    object.push(
        name,
        match literal {
            Literal::Str(s) => Value::String(s),
            Literal::Int(n) => Value::Int(n),
            Literal::Bool(b) => Value::Bool(b),
            Literal::Empty => Value::Object(Object::new_in(arena)),
        },
    );
}

/// Quantities of resource lists have no step below 10^-3.
fn round_to_milli<'a>(value: &mut Value<'a>, arena: &'a Bump) {
    let Some(text) = value.as_str().filter(|t| t.contains(['n', 'u', '.', 'e'])) else {
        return;
    };
    let Ok(quantity) = Quantity::parse(text) else {
        return;
    };
    let rounded = quantity.rounded_to_milli();
    if rounded != quantity {
        *value = Value::string_in(&rounded.to_string(), arena);
    }
}

fn is_resource_list(ty: &Type) -> bool {
    matches!(ty, Type::Map(element) if **element == Type::Quantity)
}

fn innermost(ty: &Type) -> Option<StructId> {
    match ty {
        Type::Struct(id) => Some(*id),
        Type::List(t) | Type::Map(t) => innermost(t),
        _ => None,
    }
}

fn reaches(ty: &Type) -> bool {
    innermost(ty).is_some_and(|id| plan().reaches[usize::from(id.0)])
}

/// Which struct has which rules, and below which structs there is anything to do.
struct Plan {
    rules: Vec<Option<&'static Rules>>,
    reaches: Vec<bool>,
}

fn plan() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| {
        let structs = &Facts::get().structs;
        let by_name: HashMap<&str, &'static Rules> = kinds::defaults::TABLE
            .iter()
            .map(|rules| (rules.name, rules))
            .collect();
        let rules: Vec<Option<&'static Rules>> = structs
            .iter()
            .map(|s| by_name.get(s.openapi).copied())
            .collect();
        let reaches = fixpoint(structs, &rules);
        Plan { rules, reaches }
    })
}

fn fixpoint(structs: &[Struct], rules: &[Option<&'static Rules>]) -> Vec<bool> {
    let own = |(i, s): (usize, &Struct)| {
        rules[i].is_some()
            || s.fields
                .iter()
                .any(|f| !f.default.is_empty() || is_resource_list(&f.ty))
    };
    let mut found: Vec<bool> = structs.iter().enumerate().map(own).collect();
    loop {
        let mut changed = false;
        for (i, s) in structs.iter().enumerate() {
            let below = |f: &Field| innermost(&f.ty).is_some_and(|id| found[usize::from(id.0)]);
            if !found[i] && s.fields.iter().any(below) {
                found[i] = true;
                changed = true;
            }
        }
        if !changed {
            return found;
        }
    }
}
