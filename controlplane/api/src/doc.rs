//! One document type per request: a tree in an arena that keeps field order and knows its shape.
//!
//! JSON, YAML and protobuf bodies, stored bytes and patches all become a [`Doc`]; everything between
//! decoding and the canonical bytes works on it. It lives for one request and borrows from its input.
//! Values decoded with a schema are already in canonical form (quantities, times, base64); order and
//! omission rules are applied by [`crate::codec::canonical()`].

use bumpalo::Bump;

use crate::schema::{Struct, Type};

/// A list of values.
pub type List<'a> = bumpalo::collections::Vec<'a, Value<'a>>;

/// A value of a document.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// null.
    Null,
    /// true or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number that is not an integer of 64 bits.
    Float(f64),
    /// A string.
    String(&'a str),
    /// A list.
    List(List<'a>),
    /// An object: struct or map.
    Object(Object<'a>),
}

/// The entries of an object in their order; keys are unique.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    entries: bumpalo::collections::Vec<'a, (&'a str, Value<'a>)>,
}

/// A document: a value, its shape and the arena that holds it.
#[derive(Clone, Debug)]
pub struct Doc<'a> {
    root: Value<'a>,
    schema: &'a Type,
    arena: &'a Bump,
}

impl<'a> Doc<'a> {
    /// An empty object of that shape.
    pub fn new(schema: &'a Type, arena: &'a Bump) -> Doc<'a> {
        Doc {
            root: Value::Object(Object::new_in(arena)),
            schema,
            arena,
        }
    }

    /// A document around a value.
    pub fn from_value(root: Value<'a>, schema: &'a Type, arena: &'a Bump) -> Doc<'a> {
        Doc {
            root,
            schema,
            arena,
        }
    }

    /// The arena new values are to be made in.
    pub fn arena(&self) -> &'a Bump {
        self.arena
    }

    /// The shape.
    pub fn schema(&self) -> &'a Type {
        self.schema
    }

    /// The shape of the root.
    pub fn shape(&self) -> Option<&'static Struct> {
        self.schema.as_struct()
    }

    /// The root value.
    pub fn root(&self) -> &Value<'a> {
        &self.root
    }

    /// The root value.
    pub fn root_mut(&mut self) -> &mut Value<'a> {
        &mut self.root
    }

    /// Copies a string into the arena.
    pub fn text(&self, text: &str) -> &'a str {
        self.arena.alloc_str(text)
    }

    /// The value at a path; a segment on a list is its index.
    pub fn get(&self, path: &[&str]) -> Option<&Value<'a>> {
        self.root.at(path)
    }

    /// The value at a path; a segment on a list is its index.
    pub fn get_mut(&mut self, path: &[&str]) -> Option<&mut Value<'a>> {
        self.root.at_mut(path)
    }

    /// The string at a path.
    pub fn str_at(&self, path: &[&str]) -> Option<&'a str> {
        self.get(path)?.as_str()
    }

    /// The integer at a path.
    pub fn int_at(&self, path: &[&str]) -> Option<i64> {
        self.get(path)?.as_int()
    }

    /// The boolean at a path.
    pub fn bool_at(&self, path: &[&str]) -> Option<bool> {
        self.get(path)?.as_bool()
    }

    /// The list at a path; empty when absent.
    pub fn list_at(&self, path: &[&str]) -> &[Value<'a>] {
        self.get(path).and_then(Value::as_list).unwrap_or(&[])
    }

    /// Sets the value at a path, making objects on the way. A parent that is not an object is
    /// replaced by one.
    pub fn set(&mut self, path: &[&str], value: Value<'a>) {
        let arena = self.arena;
        let Some((last, parents)) = path.split_last() else {
            self.root = value;
            return;
        };
        let mut at = &mut self.root;
        for segment in parents {
            at = at.make_object(arena).entry_or_object(segment);
        }
        at.make_object(arena).set_copied(last, value);
    }

    /// Sets a string, copied into the arena.
    pub fn set_str(&mut self, path: &[&str], text: &str) {
        let text = self.text(text);
        self.set(path, Value::String(text));
    }

    /// Sets an integer.
    pub fn set_int(&mut self, path: &[&str], number: i64) {
        self.set(path, Value::Int(number));
    }

    /// Removes the value at a path.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value<'a>> {
        let (last, parents) = path.split_last()?;
        self.root.at_mut(parents)?.as_object_mut()?.remove(last)
    }

    /// `apiVersion`, or "".
    pub fn api_version(&self) -> &'a str {
        self.str_at(&["apiVersion"]).unwrap_or_default()
    }

    /// `kind`, or "".
    pub fn kind(&self) -> &'a str {
        self.str_at(&["kind"]).unwrap_or_default()
    }

    /// A string of the metadata, or "".
    pub fn meta(&self, field: &str) -> &'a str {
        self.str_at(&["metadata", field]).unwrap_or_default()
    }

    /// `metadata.name`, or "".
    pub fn name(&self) -> &'a str {
        self.meta("name")
    }

    /// `metadata.namespace`, or "".
    pub fn namespace(&self) -> &'a str {
        self.meta("namespace")
    }

    /// `metadata.generation`, or 0.
    pub fn generation(&self) -> i64 {
        self.int_at(&["metadata", "generation"]).unwrap_or(0)
    }

    /// A string value of a map such as `metadata.labels`.
    pub fn map_value(&self, path: &[&str], key: &str) -> Option<&'a str> {
        self.get(path)?.as_object()?.get(key)?.as_str()
    }
}

impl<'a> Value<'a> {
    /// A string copied into the arena.
    pub fn string_in(text: &str, arena: &'a Bump) -> Value<'a> {
        Value::String(arena.alloc_str(text))
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&'a str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn as_list(&self) -> Option<&[Value<'a>]> {
        match self {
            Value::List(l) => Some(l),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn as_list_mut(&mut self) -> Option<&mut List<'a>> {
        match self {
            Value::List(l) => Some(l),
            _ => None,
        }
    }

    /// The object, if it is one.
    pub fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Value::Object(o) => Some(o),
            _ => None,
        }
    }

    /// The object, if it is one.
    pub fn as_object_mut(&mut self) -> Option<&mut Object<'a>> {
        match self {
            Value::Object(o) => Some(o),
            _ => None,
        }
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The field of an object.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.as_object()?.get(key)
    }

    /// The string field of an object.
    pub fn str_of(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    /// The integer field of an object.
    pub fn int_of(&self, key: &str) -> Option<i64> {
        self.get(key)?.as_int()
    }

    /// The boolean field of an object.
    pub fn bool_of(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// The list field of an object; empty when absent.
    pub fn list_of(&self, key: &str) -> &[Value<'a>] {
        self.get(key).and_then(Value::as_list).unwrap_or(&[])
    }

    /// The value at a path; a segment on a list is its index.
    pub fn at(&self, path: &[&str]) -> Option<&Value<'a>> {
        let mut at = self;
        for segment in path {
            at = match at {
                Value::Object(o) => o.get(segment)?,
                Value::List(l) => l.get(segment.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(at)
    }

    /// The value at a path; a segment on a list is its index.
    pub fn at_mut(&mut self, path: &[&str]) -> Option<&mut Value<'a>> {
        let mut at = self;
        for segment in path {
            at = match at {
                Value::Object(o) => o.get_mut(segment)?,
                Value::List(l) => l.get_mut(segment.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(at)
    }

    /// The object; anything else is replaced by an empty one.
    pub fn make_object(&mut self, arena: &'a Bump) -> &mut Object<'a> {
        if !matches!(self, Value::Object(_)) {
            *self = Value::Object(Object::new_in(arena));
        }
        match self {
            Value::Object(o) => o,
            _ => unreachable!("it was just made an object"),
        }
    }

    /// A copy in another arena.
    pub fn copy_in<'b>(&self, arena: &'b Bump) -> Value<'b> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(b) => Value::Bool(*b),
            Value::Int(n) => Value::Int(*n),
            Value::Float(f) => Value::Float(*f),
            Value::String(s) => Value::string_in(s, arena),
            Value::List(l) => {
                let mut list = List::with_capacity_in(l.len(), arena);
                list.extend(l.iter().map(|v| v.copy_in(arena)));
                Value::List(list)
            }
            Value::Object(o) => {
                let mut object = Object::new_in(arena);
                for (k, v) in o.iter() {
                    object.push(arena.alloc_str(k), v.copy_in(arena));
                }
                Value::Object(object)
            }
        }
    }
}

/// Deep equality in which the order of an object's entries does not matter.
impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::Int(a), Value::Float(b)) | (Value::Float(b), Value::Int(a)) => *a as f64 == *b,
            (Value::String(a), Value::String(b)) => a == b,
            (Value::List(a), Value::List(b)) => a[..] == b[..],
            (Value::Object(a), Value::Object(b)) => a == b,
            _ => false,
        }
    }
}

impl PartialEq for Object<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(k, v)| other.get(k) == Some(v))
    }
}

impl<'a> Object<'a> {
    /// An empty object.
    pub fn new_in(arena: &'a Bump) -> Object<'a> {
        Object {
            entries: bumpalo::collections::Vec::new_in(arena),
        }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The arena it lives in.
    pub fn arena(&self) -> &'a Bump {
        self.entries.bump()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.entries.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The value of a key.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value<'a>> {
        self.entries
            .iter_mut()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v)
    }

    /// Whether the key is there.
    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a str, &Value<'a>)> {
        self.entries.iter().map(|(k, v)| (*k, v))
    }

    /// The entries in order.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&'a str, &mut Value<'a>)> {
        self.entries.iter_mut().map(|(k, v)| (*k, v))
    }

    /// Sets a key whose text already lives long enough.
    pub fn set(&mut self, key: &'a str, value: Value<'a>) {
        match self.get_mut(key) {
            Some(slot) => *slot = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Sets a key, copying its text when it is new.
    pub fn set_copied(&mut self, key: &str, value: Value<'a>) {
        match self.get_mut(key) {
            Some(slot) => *slot = value,
            None => {
                let key = self.arena().alloc_str(key);
                self.entries.push((key, value));
            }
        }
    }

    /// Adds an entry that is known to be new.
    pub fn push(&mut self, key: &'a str, value: Value<'a>) {
        self.entries.push((key, value));
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) -> Option<Value<'a>> {
        let at = self.entries.iter().position(|(k, _)| *k == key)?;
        Some(self.entries.remove(at).1)
    }

    /// The entries by value, in order.
    pub fn into_entries(self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        self.entries.into_iter()
    }

    /// Keeps the entries for which the function says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut Value<'a>) -> bool) {
        self.entries.retain_mut(|(k, v)| keep(k, v));
    }

    /// The value of a key, an empty object if it is absent.
    pub fn entry_or_object(&mut self, key: &str) -> &mut Value<'a> {
        let at = match self.entries.iter().position(|(k, _)| *k == key) {
            Some(at) => at,
            None => {
                let arena = self.arena();
                self.entries
                    .push((arena.alloc_str(key), Value::Object(Object::new_in(arena))));
                self.entries.len() - 1
            }
        };
        &mut self.entries[at].1
    }
}
