//! How apply sees a value: as one leaf, as a map of fields or as a list of items with names.
//!
//! Input: the shapes of the facts. A document in memory leaves out what the canonical writer adds (zeros
//! that Go always writes) and may hold what it omits, so the entries of a struct are looked at through
//! the writer's rules; a tree that a client sent or that was merged is looked at as it is ([`Form`]).
//!
//! Port of what `schemaconv` of kube-openapi makes of the published schemas, and of
//! `typed/helpers.go` of structured-merge-diff.

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use super::element::{Element, KeyField};
use crate::codec::{self, Format, canonical::omitted};
use crate::doc::{List, Object, Value};
use crate::schema::{Field, ListType, Omit, Type};

/// What a value may be and how its parts relate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'s> {
    pub(super) ty: &'s Type,
    /// The field that holds it directly: it says how lists and maps are seen.
    pub(super) field: Option<&'s Field>,
}

/// What a value is to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A scalar.
    Scalar,
    /// An object or list that is replaced as a whole.
    Atomic,
    /// An object with fields of their own.
    Map,
    /// A list whose items have names.
    List,
}

/// How the trees of one side are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Every entry is there and nothing else.
    Plain,
    /// What the canonical writer would write is there.
    Canonical,
}

/// An entry of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'v, 'a> {
    pub(super) name: &'a str,
    pub(super) value: &'v Value<'a>,
    /// None: the shape has no such field.
    pub(super) shape: Option<Shape<'a>>,
}

/// The entries two objects have of one name; one of them at least is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'e, 'v, 'a> {
    pub(super) name: &'a str,
    left: Option<&'e Entry<'v, 'a>>,
    right: Option<&'e Entry<'v, 'a>>,
}

/// The type of what is below values without a declared shape.
const ANY: &Type = &Type::Any;

// === impl Shape ===

impl<'a> Shape<'a> {
    pub(super) fn of(ty: &'a Type) -> Shape<'a> {
        Shape { ty, field: None }
    }

    /// What a value is; the value decides only where the type leaves it open.
    pub(super) fn kind(self, value: &Value<'_>) -> Kind {
        match self.ty {
            Type::Struct(id) if self.is_atomic() || id.get().atomic => Kind::Atomic,
            Type::Map(_) if self.is_atomic() => Kind::Atomic,
            Type::Struct(_) | Type::Map(_) => Kind::Map,
            Type::List(_) => match self.field.map(|f| f.list_type) {
                Some(ListType::Set | ListType::Map) => Kind::List,
                Some(ListType::Atomic) | None => Kind::Atomic,
            },
            Type::Raw => Kind::Atomic,
            Type::Any | Type::Fields | Type::IntOrString => match value {
                Value::List(_) => Kind::Atomic,
                Value::Object(_) | Value::Null => Kind::Map,
                Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => Kind::Scalar,
            },
            Type::String
            | Type::Bool
            | Type::Int32
            | Type::Int64
            | Type::Float
            | Type::Bytes
            | Type::Quantity
            | Type::Time
            | Type::MicroTime
            | Type::Duration => Kind::Scalar,
        }
    }

    fn is_atomic(self) -> bool {
        self.field.is_some_and(|field| field.atomic)
    }

    /// Whether the value may be of any kind.
    pub(super) fn is_open(self) -> bool {
        matches!(self.ty, Type::Any | Type::Fields | Type::IntOrString)
    }

    /// The shape of list items, and of map values.
    pub(super) fn element(self) -> Shape<'a> {
        Shape::of(self.ty.element().unwrap_or(ANY))
    }

    /// The shape of a field or map value; none where a struct has no such field.
    pub(super) fn child(self, name: &str) -> Option<Shape<'a>> {
        match self.ty {
            Type::Struct(id) => id.get().field(name).map(Shape::of_field),
            _ => Some(self.element()),
        }
    }

    fn of_field(field: &'a Field) -> Shape<'a> {
        Shape {
            ty: &field.ty,
            field: Some(field),
        }
    }

    /// The declared field of that name, if this is a struct.
    pub(super) fn declared(self, name: &str) -> bool {
        self.ty.as_struct().is_some_and(|s| s.field(name).is_some())
    }

    /// The entries of an object, by name.
    pub(super) fn entries<'v>(
        self,
        object: &'v Object<'a>,
        form: Form,
        arena: &'a Bump,
    ) -> ArenaVec<'v, Entry<'v, 'a>>
    where
        'a: 'v,
    {
        let shorter: &'v Bump = arena;
        let mut out = ArenaVec::with_capacity_in(object.len(), shorter);
        if let (Form::Canonical, Type::Struct(id)) = (form, self.ty) {
            for field in id.get().by_name() {
                let value = object.get(field.name);
                if omitted(field, value) {
                    continue;
                }
                let value = value
                    .filter(|v| !v.is_null())
                    .unwrap_or_else(|| zero(field, arena));
                out.push(Entry {
                    name: field.name,
                    value,
                    shape: Some(Shape::of_field(field)),
                });
            }
            return out;
        }
        out.extend(object.iter().map(|(name, value)| Entry {
            name,
            value,
            shape: self.child(name),
        }));
        if !out.is_sorted_by_key(|entry| entry.name) {
            out.sort_by_key(|entry| entry.name);
        }
        out
    }

    /// What names an item of a list whose items have names.
    pub(super) fn name_item(
        self,
        item: &Value<'a>,
        form: Form,
        arena: &'a Bump,
    ) -> Result<Element<'a>, String> {
        let keys = match self.field {
            Some(field) if field.list_type == ListType::Map => &field.list_keys[..],
            Some(_) | None => return name_in_set(item, arena),
        };
        let object = match item {
            Value::Object(object) => object,
            Value::Null => {
                return Err("associative list with keys may not have a null element".to_owned());
            }
            _ => {
                return Err("associative list with keys may not have non-map elements".to_owned());
            }
        };
        let element = self.element();
        let mut found = ArenaVec::with_capacity_in(keys.len(), arena);
        for name in keys {
            let value = element.key_value(object, name, form, arena);
            found.extend(value.map(|value| KeyField { name, value }));
        }
        if found.is_empty() {
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and \
                 doesn't have default values for any key fields)",
                keys.iter()
                    .map(|key| crate::status::quote(key))
                    .collect::<Vec<_>>()
                    .join(" ")
            ));
        }
        found.sort_by_key(|key: &KeyField<'_>| key.name);
        Ok(Element::Key(found.into_bump_slice()))
    }

    /// The value of a key field of an item, its default if it is absent.
    fn key_value(
        self,
        object: &Object<'a>,
        name: &str,
        form: Form,
        arena: &'a Bump,
    ) -> Option<Value<'a>> {
        let value = object.get(name);
        let Some(field) = self.ty.as_struct().and_then(|s| s.field(name)) else {
            return value.cloned();
        };
        let there = match form {
            Form::Plain => value.is_some(),
            Form::Canonical => !omitted(field, value),
        };
        match (there, value.filter(|v| form == Form::Plain || !v.is_null())) {
            (true, Some(value)) => Some(value.clone()),
            (true, None) => Some(zero(field, arena).clone()),
            (false, _) => default_of(field, arena),
        }
    }
}

// === impl Pair ===

impl<'v, 'a> Pair<'_, 'v, 'a> {
    pub(super) fn left_value(&self) -> Option<&'v Value<'a>> {
        self.left.map(|entry| entry.value)
    }

    pub(super) fn right_value(&self) -> Option<&'v Value<'a>> {
        self.right.map(|entry| entry.value)
    }

    /// The shape of the values.
    pub(super) fn shape(&self) -> Result<Shape<'a>, String> {
        self.left
            .or(self.right)
            .and_then(|entry| entry.shape)
            .ok_or_else(|| format!(".{}: field not declared in schema", self.name))
    }
}

/// The entries of two objects together, by name.
pub(super) fn zip<'e, 'v, 'a>(
    mut left: &'e [Entry<'v, 'a>],
    mut right: &'e [Entry<'v, 'a>],
) -> impl Iterator<Item = Pair<'e, 'v, 'a>> {
    std::iter::from_fn(move || {
        let heads = [left.first(), right.first()];
        let name = heads.into_iter().flatten().map(|entry| entry.name).min()?;
        let take = |side: &mut &'e [Entry<'v, 'a>]| {
            let (first, rest) = side.split_first().filter(|(first, _)| first.name == name)?;
            *side = rest;
            Some(first)
        };
        Some(Pair {
            name,
            left: take(&mut left),
            right: take(&mut right),
        })
    })
}

/// What names an item of a set.
fn name_in_set<'a>(item: &Value<'a>, arena: &'a Bump) -> Result<Element<'a>, String> {
    match item {
        Value::Object(_) => {
            Err("associative list without keys has an element that's a map type".to_owned())
        }
        Value::List(_) => Err("not supported: associative list with lists as elements".to_owned()),
        Value::Null => {
            Err("associative list without keys has an element that's an explicit null".to_owned())
        }
        Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => {
            Ok(Element::Value(arena.alloc(item.clone())))
        }
    }
}

/// The default the published schema has for a field: the fact, or the zero that the generator writes for
/// every field that is always there.
fn default_of<'a>(field: &Field, arena: &'a Bump) -> Option<Value<'a>> {
    if !field.default.is_empty() {
        let text = arena.alloc_str(field.default).as_bytes();
        return codec::parse(Format::Json, text, arena).ok();
    }
    (field.omit == Omit::Never && !field.pointer).then(|| zero(field, arena).clone())
}

/// The zero value Go writes for a field that is always there.
fn zero<'a>(field: &Field, arena: &'a Bump) -> &'a Value<'a> {
    if field.pointer {
        return &Value::Null;
    }
    match &field.ty {
        Type::Struct(_) | Type::Fields => arena.alloc(Value::Object(Object::new_in(arena))),
        Type::String => &Value::String(""),
        Type::Duration => &Value::String("0s"),
        Type::Bool => &Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => &Value::Int(0),
        Type::Quantity => &Value::String("0"),
        Type::Time
        | Type::MicroTime
        | Type::Bytes
        | Type::Raw
        | Type::Any
        | Type::List(_)
        | Type::Map(_) => &Value::Null,
    }
}

/// The tree of a document with exactly the entries the canonical writer would write.
pub(super) fn plain<'a>(value: &Value<'a>, shape: Shape<'a>, arena: &'a Bump) -> Value<'a> {
    match (shape.ty, value) {
        (Type::Struct(_) | Type::Map(_), Value::Object(object)) => {
            let entries = shape.entries(object, Form::Canonical, arena);
            let mut out = Object::with_capacity_in(entries.len(), arena);
            for entry in entries {
                let shape = entry.shape.unwrap_or(Shape::of(ANY));
                out.push(entry.name, plain(entry.value, shape, arena));
            }
            Value::Object(out)
        }
        (Type::List(_), Value::List(list)) => {
            let mut out = List::with_capacity_in(list.len(), arena);
            out.extend(list.iter().map(|v| plain(v, shape.element(), arena)));
            Value::List(out)
        }
        _ => value.clone(),
    }
}

/// Whether two values of one shape are the same.
pub(super) fn same<'a>(
    shape: Shape<'a>,
    left: (&Value<'a>, Form),
    right: (&Value<'a>, Form),
    arena: &'a Bump,
) -> bool {
    let plain = left.1 == Form::Plain && right.1 == Form::Plain;
    match (shape.ty, left.0, right.0) {
        (Type::Struct(_) | Type::Map(_), Value::Object(l), Value::Object(r)) if !plain => {
            let l = shape.entries(l, left.1, arena);
            let r = shape.entries(r, right.1, arena);
            l.len() == r.len()
                && l.iter().zip(&r).all(|(l, r)| {
                    let shape = l.shape.unwrap_or(Shape::of(ANY));
                    l.name == r.name && same(shape, (l.value, left.1), (r.value, right.1), arena)
                })
        }
        (Type::List(_), Value::List(l), Value::List(r)) if !plain => {
            l.len() == r.len()
                && l.iter()
                    .zip(r.iter())
                    .all(|(l, r)| same(shape.element(), (l, left.1), (r, right.1), arena))
        }
        (_, l, r) => l == r,
    }
}
