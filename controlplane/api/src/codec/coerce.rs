//! Fits an untyped tree to a shape: types checked, unknown fields reported and dropped, scalars brought
//! into canonical form.
//!
//! After it, absent and zero are the same for fields that are not pointers: zeros are dropped here and
//! written back by the canonical writer where Go would write them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bumpalo::Bump;
use serde_json::value::RawValue;

use super::{DecodeError, FieldValidation, Problem, canonical, json_kind};
use crate::doc::{Doc, Object, Value};
use crate::quantity::{Quantity, QuantityError};
use crate::schema::{Field, Struct, Type};
use crate::status::quote;
use crate::time::{canonical_micro_time, canonical_time};

const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Base64 as Go decodes it: padding required, stray bits in the last character allowed.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

/// Fits a tree that was parsed elsewhere (or patched) to a shape; the strings are warnings.
pub fn coerce<'a>(
    value: Value<'a>,
    schema: &'a Type,
    validation: FieldValidation,
    arena: &'a Bump,
) -> Result<(Doc<'a>, Vec<String>), DecodeError> {
    fit(value, schema, validation, Noted::default(), arena)
}

/// What is known of a text from its parser.
#[derive(Default)]
pub(super) struct Noted<'t> {
    pub(super) problems: Vec<Problem>,
    /// JSON, for numbers as they were written.
    pub(super) text: &'t [u8],
}

/// As [`coerce`], with what the parser noted.
pub(super) fn fit<'a>(
    mut value: Value<'a>,
    schema: &'a Type,
    validation: FieldValidation,
    noted: Noted<'_>,
    arena: &'a Bump,
) -> Result<(Doc<'a>, Vec<String>), DecodeError> {
    let mut fitter = Fitter {
        arena,
        path: Vec::new(),
        problems: noted.problems,
        text: noted.text,
        first: None,
    };
    if value.is_null() {
        value = Value::Object(Object::new_in(arena));
    }
    fitter.value(&mut value, schema, "")?;
    if let Some(error) = fitter.first {
        return Err(error);
    }
    let problems = Problem::in_order(fitter.problems);
    let doc = Doc::from_value(value, schema, arena);
    match validation {
        FieldValidation::Ignore => Ok((doc, Vec::new())),
        FieldValidation::Warn => Ok((doc, problems)),
        FieldValidation::Strict if problems.is_empty() => Ok((doc, problems)),
        FieldValidation::Strict => Err(DecodeError::Strict(problems)),
    }
}

enum Segment<'a> {
    /// A field, with the name of its struct in Go.
    Field(&'static Field, &'static str),
    Key(&'a str),
    Index(usize),
}

/// As Go's decoder: it goes on after a value of the wrong type and tells the first, unless a type that
/// reads itself (a time, a quantity) fails, which ends it.
struct Fitter<'a, 't> {
    arena: &'a Bump,
    path: Vec<Segment<'a>>,
    problems: Vec<Problem>,
    text: &'t [u8],
    first: Option<DecodeError>,
}

impl<'a> Fitter<'a, '_> {
    fn value(
        &mut self,
        value: &mut Value<'a>,
        ty: &Type,
        go_type: &'static str,
    ) -> Result<(), DecodeError> {
        match (ty, &mut *value) {
            (Type::Struct(id), Value::Object(object)) => self.fields(object, id.get()),
            (Type::List(element), Value::List(list)) => {
                for (i, item) in list.iter_mut().enumerate() {
                    self.path.push(Segment::Index(i));
                    self.element(item, element, element_name(go_type))?;
                    self.path.pop();
                }
                Ok(())
            }
            (Type::Map(element), Value::Object(object)) => {
                for (key, item) in object.iter_mut() {
                    self.path.push(Segment::Key(key));
                    self.element(item, element, element_name(go_type))?;
                    self.path.pop();
                }
                Ok(())
            }
            (Type::Any | Type::Raw | Type::Fields, _)
            | (Type::String, Value::String(_))
            | (Type::Duration, Value::String(_))
            | (Type::Bool, Value::Bool(_))
            | (Type::Int64, Value::Int(_))
            | (Type::Float, Value::Int(_) | Value::Float(_))
            | (Type::IntOrString, Value::String(_)) => Ok(()),
            (Type::Int32 | Type::IntOrString, Value::Int(n)) if i32::try_from(*n).is_ok() => Ok(()),
            (Type::Quantity, Value::String(text)) => {
                let text = *text;
                self.canonical_text(value, text, Quantity::canonical_text(text))
            }
            (Type::Quantity, Value::Int(_) | Value::Float(_)) => self.number_quantity(value),
            (Type::Time, Value::String(text)) => {
                let text = *text;
                self.canonical_text(value, text, canonical_time(text))?;
                null_if_zero(value);
                Ok(())
            }
            (Type::MicroTime, Value::String(text)) => {
                let text = *text;
                self.canonical_text(value, text, canonical_micro_time(text))
            }
            (Type::Bytes, Value::String(text)) => {
                let text = *text;
                self.bytes(value, text);
                Ok(())
            }
            // A quantity reads whatever text it is given.
            (Type::Quantity, _) => Err(DecodeError::Value(QuantityError::Format.to_string())),
            (Type::IntOrString | Type::Time | Type::MicroTime | Type::Duration, value) => {
                Err(self.mismatch(value, ty, go_type))
            }
            (ty, value) => {
                if self.first.is_none() {
                    self.first = Some(self.mismatch(value, ty, go_type));
                }
                Ok(())
            }
        }
    }

    /// An item of a list or map: null is the zero value.
    fn element(
        &mut self,
        value: &mut Value<'a>,
        ty: &Type,
        go_type: &'static str,
    ) -> Result<(), DecodeError> {
        if value.is_null() {
            *value = match ty {
                Type::String | Type::Duration | Type::Bytes => Value::String(""),
                Type::Bool => Value::Bool(false),
                Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => Value::Int(0),
                Type::Quantity => Value::String("0"),
                Type::Struct(_) => Value::Object(Object::new_in(self.arena)),
                Type::Time
                | Type::MicroTime
                | Type::Raw
                | Type::Fields
                | Type::Any
                | Type::List(_)
                | Type::Map(_) => return Ok(()),
            };
        }
        self.value(value, ty, go_type)
    }

    fn fields(
        &mut self,
        object: &mut Object<'a>,
        shape: &'static Struct,
    ) -> Result<(), DecodeError> {
        let mut failed = None;
        object.retain(|key, value| {
            if failed.is_some() {
                return true;
            }
            let Some(field) = shape.field(key) else {
                self.unknown(key);
                return false;
            };
            if value.is_null() {
                return false;
            }
            self.path.push(Segment::Field(field, shape.name));
            if let Err(error) = self.value(value, &field.ty, field.go_type) {
                failed = Some(error);
            }
            self.path.pop();
            !is_dropped(field, value)
        });
        failed.map_or(Ok(()), Err)
    }

    fn unknown(&mut self, key: &str) {
        let mut path = String::new();
        for segment in &self.path {
            match segment {
                Segment::Field(..) | Segment::Key(_) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(match segment {
                        Segment::Field(field, _) => field.name,
                        Segment::Key(key) => key,
                        Segment::Index(_) => "",
                    });
                }
                Segment::Index(i) => {
                    let _ = write!(path, "[{i}]");
                }
            }
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
        self.problems.push(Problem {
            place: key.as_ptr().addr(),
            text: format!("unknown field {}", quote(&path)),
        });
    }

    fn canonical_text<E: ToString>(
        &self,
        value: &mut Value<'a>,
        old: &'a str,
        new: Result<Cow<'_, str>, E>,
    ) -> Result<(), DecodeError> {
        let new = new.map_err(|error| DecodeError::Value(error.to_string()))?;
        if new != old {
            *value = Value::string_in(&new, self.arena);
        }
        Ok(())
    }

    fn bytes(&mut self, value: &mut Value<'a>, text: &'a str) {
        match canonical_base64(text) {
            Ok(new) if new != text => *value = Value::string_in(&new, self.arena),
            Ok(_) => {}
            Err(error) => {
                self.first.get_or_insert(DecodeError::Value(error));
            }
        }
    }

    fn number_quantity(&self, value: &mut Value<'a>) -> Result<(), DecodeError> {
        let mut text = Vec::new();
        canonical::write_value(value, &mut text);
        let text = String::from_utf8_lossy(&text);
        let canonical = Quantity::canonical_text(&text)
            .map_err(|error| DecodeError::Value(error.to_string()))?;
        *value = Value::string_in(&canonical, self.arena);
        Ok(())
    }

    /// What stands at this place of the text.
    fn written(&self) -> Option<String> {
        let mut raw: &RawValue = serde_json::from_slice(self.text).ok()?;
        for segment in &self.path {
            let key = match segment {
                Segment::Field(field, _) => field.name,
                Segment::Key(key) => key,
                Segment::Index(i) => {
                    let items: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
                    raw = items.get(*i)?;
                    continue;
                }
            };
            let entries: HashMap<String, &RawValue> = serde_json::from_str(raw.get()).ok()?;
            raw = entries.get(key)?;
        }
        Some(raw.get().to_owned())
    }

    /// The error of Go's decoder for a value of the wrong type.
    fn mismatch(&self, value: &Value<'_>, ty: &Type, go_type: &'static str) -> DecodeError {
        let mut what = json_kind(value).to_owned();
        let integer = matches!(ty, Type::Int32 | Type::Int64 | Type::IntOrString);
        if integer && matches!(value, Value::Int(_) | Value::Float(_)) {
            let number = self.written().unwrap_or_else(|| {
                let mut number = Vec::new();
                canonical::write_value(value, &mut number);
                String::from_utf8_lossy(&number).into_owned()
            });
            let _ = write!(what, " {number}");
        }
        let target = if go_type.is_empty() {
            go_name(ty)
        } else {
            go_type.to_owned()
        };
        let fields: Vec<(&Field, &str)> = self
            .path
            .iter()
            .filter_map(|segment| match segment {
                Segment::Field(field, of) => Some((*field, *of)),
                Segment::Key(_) | Segment::Index(_) => None,
            })
            .collect();
        DecodeError::Value(match fields.last() {
            Some((_, of)) => {
                let mut path = String::new();
                for (field, _) in &fields {
                    for name in [field.via, field.name].iter().filter(|n| !n.is_empty()) {
                        if !path.is_empty() {
                            path.push('.');
                        }
                        path.push_str(name);
                    }
                }
                format!(
                    "json: cannot unmarshal {what} into Go struct field {of}.{path} of type {target}"
                )
            }
            None => format!("json: cannot unmarshal {what} into Go value of type {target}"),
        })
    }
}

/// Whether a value is the same as its absence: zeros of fields that are not pointers.
pub(super) fn is_dropped(field: &Field, value: &Value<'_>) -> bool {
    if field.pointer {
        return false;
    }
    match value {
        Value::String(s) => {
            s.is_empty() && !matches!(field.ty, Type::IntOrString | Type::Any | Type::Raw)
        }
        Value::Bool(b) => !b && matches!(field.ty, Type::Bool),
        Value::Int(n) => *n == 0 && matches!(field.ty, Type::Int32 | Type::Int64 | Type::Float),
        Value::List(l) => l.is_empty() && canonical::omitted(field, Some(value)),
        Value::Object(o) => {
            o.is_empty()
                && matches!(field.ty, Type::Map(_))
                && canonical::omitted(field, Some(value))
        }
        Value::Null => true,
        Value::Float(_) => false,
    }
}

/// Go's zero time is written as null.
fn null_if_zero(time: &mut Value<'_>) {
    if time.as_str() == Some(ZERO_TIME) {
        *time = Value::Null;
    }
}

/// The Go name of a list's or map's element, where the name of the whole says it.
fn element_name(go_type: &'static str) -> &'static str {
    match go_type.strip_prefix("[]") {
        Some(element) => element,
        None if go_type.starts_with("map[") => go_type.split_once(']').map_or("", |(_, e)| e),
        None => "",
    }
}

/// The name of a type in Go.
fn go_name(ty: &Type) -> String {
    match ty {
        Type::String | Type::Time | Type::MicroTime | Type::Duration => "string".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Int32 | Type::IntOrString => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Float => "float64".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::Raw => "runtime.RawExtension".to_owned(),
        Type::Fields => "v1.FieldsV1".to_owned(),
        Type::Any => "interface {}".to_owned(),
        Type::Struct(id) => format!("{}.{}", id.get().package, id.get().name),
        Type::List(element) => format!("[]{}", go_name(element)),
        Type::Map(element) => format!("map[string]{}", go_name(element)),
    }
}

fn canonical_base64(text: &str) -> Result<Cow<'_, str>, String> {
    let cleaned: Cow<'_, str> = if text.contains(['\n', '\r']) {
        Cow::Owned(text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect())
    } else {
        Cow::Borrowed(text)
    };
    let bytes = BASE64.decode(cleaned.as_bytes()).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _)
            | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                cleaned.len() / 4 * 4
            }
        };
        format!("illegal base64 data at input byte {at}")
    })?;
    Ok(Cow::Owned(BASE64.encode(bytes)))
}
