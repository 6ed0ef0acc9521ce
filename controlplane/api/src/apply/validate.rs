//! Whether an applied object fits its shape: types, declared fields, no two items of one name.
//!
//! Port of `typed/validate.go` of structured-merge-diff, in its words. Unlike decoding it does not look
//! into formats: a malformed quantity is found later.

use std::collections::BTreeSet;

use bumpalo::Bump;

use super::element::Element;
use super::shape::{Form, Kind, Shape};
use crate::doc::{Object, Value};
use crate::patch::go_text;
use crate::schema::Type;
use crate::status::quote;

/// Checks an object; the error lists every violation.
pub(super) fn validate<'a>(
    shape: Shape<'a>,
    value: &Value<'a>,
    arena: &'a Bump,
) -> Result<(), String> {
    let mut checker = Checker {
        path: Vec::new(),
        errors: Vec::new(),
        arena,
    };
    checker.value(shape, value);
    match &checker.errors[..] {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => {
            let lines: Vec<String> = many.iter().map(|error| format!("\n  {error}")).collect();
            Err(format!("errors:{}", lines.concat()))
        }
    }
}

struct Checker<'a> {
    path: Vec<Element<'a>>,
    errors: Vec<String>,
    arena: &'a Bump,
}

// === impl Checker ===

impl<'a> Checker<'a> {
    fn error(&mut self, text: String) {
        let path = super::set::show_path(&self.path);
        self.errors.push(if path.is_empty() {
            text
        } else {
            format!("{path}: {text}")
        });
    }

    fn value(&mut self, shape: Shape<'a>, value: &Value<'a>) {
        if value.is_null() {
            return;
        }
        match (shape.ty, value) {
            (Type::Struct(_) | Type::Map(_), Value::Object(object)) => self.fields(shape, object),
            (Type::Struct(_) | Type::Map(_), other) => {
                self.error(format!("expected map, got &{{{}}}", go_text(other)));
            }
            (Type::List(_), Value::List(list)) => self.items(shape, list),
            (Type::List(_), other) => {
                self.error(format!("expected list, got &{{{}}}", go_text(other)));
            }
            (Type::Raw | Type::Any | Type::Fields | Type::IntOrString, _) => {}
            (ty, value) => self.scalar(ty, value),
        }
    }

    fn scalar(&mut self, ty: &Type, value: &Value<'a>) {
        match (ty, value) {
            (Type::String | Type::Bytes | Type::Duration, Value::String(_))
            | (Type::Bool, Value::Bool(_))
            | (Type::Int32 | Type::Int64 | Type::Float, Value::Int(_) | Value::Float(_)) => {}
            (Type::String | Type::Bytes | Type::Duration, other) => {
                self.error(format!(
                    "expected string, got &value.valueUnstructured{{Value:{}}}",
                    go_syntax(other)
                ));
            }
            (Type::Bool, other) => {
                self.error(format!("expected boolean, got &{{{}}}", go_text(other)));
            }
            (Type::Int32 | Type::Int64 | Type::Float, other) => {
                self.error(format!(
                    "expected numeric (int or float), got {}",
                    go_type(other)
                ));
            }
            (_, Value::List(_) | Value::Object(_)) => {
                self.error(format!("expected any scalar, got &{{{}}}", go_text(value)));
            }
            _ => {}
        }
    }

    fn fields(&mut self, shape: Shape<'a>, object: &Object<'a>) {
        for entry in shape.entries(object, Form::Plain, self.arena) {
            self.path.push(Element::Field(entry.name));
            match entry.shape {
                Some(child) => self.value(child, entry.value),
                None => self.error("field not declared in schema".to_owned()),
            }
            self.path.pop();
            // One undeclared field ends the walk of its object.
            if entry.shape.is_none() {
                return;
            }
        }
    }

    fn items(&mut self, shape: Shape<'a>, list: &[Value<'a>]) {
        let named = shape.kind(&Value::Null) == Kind::List;
        let mut seen: BTreeSet<Element<'a>> = BTreeSet::new();
        for (i, item) in list.iter().enumerate() {
            let name = if named {
                match shape.name_item(item, Form::Plain, self.arena) {
                    Ok(name) => name,
                    Err(error) => return self.error(format!("element {i}: {error}")),
                }
            } else {
                Element::Index(i as i64)
            };
            if named && !seen.insert(name) {
                self.error(format!("duplicate entries for key {name}"));
            }
            self.path.push(name);
            self.value(shape.element(), item);
            self.path.pop();
        }
    }
}

/// The name of a value's type in Go.
fn go_type(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go prints it with `%#v`.
fn go_syntax(value: &Value<'_>) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => quote(text),
        Value::List(list) => {
            let items: Vec<String> = list.iter().map(go_syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(object) => {
            let mut items: Vec<String> = object
                .iter()
                .map(|(key, value)| format!("{}:{}", quote(key), go_syntax(value)))
                .collect();
            items.sort();
            format!("map[string]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => go_text(value),
    }
}
