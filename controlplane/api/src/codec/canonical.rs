//! Documents to canonical JSON bytes: struct order, omission rules, sorted maps.
//!
//! What is written is what upstream's structs would re-encode. Two documents with the same canonical
//! bytes are the same object. Strings are escaped as Go's encoder with HTML escaping does, since that
//! is what upstream sends.

use std::io::Write;

use crate::doc::{Doc, Object, Value};
use crate::schema::{Field, Omit, Struct, Type};

/// The canonical bytes of a document.
pub fn canonical(doc: &Doc<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    write_typed(doc.root(), doc.schema(), &mut out);
    out
}

/// The canonical bytes as they are stored: without `metadata.resourceVersion`, which the commit gives.
pub fn canonical_stored(doc: &mut Doc<'_>) -> Vec<u8> {
    doc.remove(&["metadata", "resourceVersion"]);
    canonical(doc)
}

/// Appends a value as plain JSON, in its own order.
pub fn write_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(n) => write_int(*n, out),
        Value::Float(f) => write_float(*f, out),
        Value::String(s) => write_string(s, out),
        Value::List(list) => write_sequence(list, out, write_value),
        Value::Object(object) => {
            out.push(b'{');
            for (i, (key, value)) in object.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write_value(value, out);
            }
            out.push(b'}');
        }
    }
}

/// Appends a value by its shape.
pub(crate) fn write_typed(value: &Value<'_>, ty: &Type, out: &mut Vec<u8>) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(object)) => write_struct(object, id.get(), out),
        (Type::Struct(id), Value::Null) => write_zero_struct(id.get(), out),
        (Type::List(element), Value::List(list)) => {
            write_sequence(list, out, |v, out| write_typed(v, element, out));
        }
        (Type::Map(element), Value::Object(object)) => write_map(object, element, out),
        // Raw parts (Any, Raw, Fields) keep their own order, as upstream keeps their bytes.
        _ => write_value(value, out),
    }
}

fn write_sequence<'v, 'a: 'v>(
    list: &'v [Value<'a>],
    out: &mut Vec<u8>,
    mut write: impl FnMut(&'v Value<'a>, &mut Vec<u8>),
) {
    out.push(b'[');
    for (i, value) in list.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(value, out);
    }
    out.push(b']');
}

fn write_struct(object: &Object<'_>, shape: &Struct, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for field in &shape.fields {
        let value = object.get(field.name);
        if omitted(field, value) {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        write_key(field.name, out);
        match value {
            Some(value) if !value.is_null() => write_typed(value, &field.ty, out),
            Some(_) | None => write_zero(field, out),
        }
    }
    out.push(b'}');
}

fn write_key(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Whether Go's encoder would leave the field out.
pub(crate) fn omitted(field: &Field, value: Option<&Value<'_>>) -> bool {
    let Some(value) = value.filter(|v| !v.is_null()) else {
        return match field.omit {
            Omit::Never => false,
            Omit::Zero => true,
            Omit::Empty => field.pointer || !always_written(&field.ty),
        };
    };
    if field.pointer {
        return false;
    }
    match field.omit {
        Omit::Never => false,
        Omit::Empty => !always_written(&field.ty) && is_empty(value),
        Omit::Zero => is_empty(value) || is_zero_struct(value, &field.ty),
    }
}

/// Types that omitempty does not leave out: structs by value.
fn always_written(ty: &Type) -> bool {
    match ty {
        Type::Struct(_)
        | Type::IntOrString
        | Type::Quantity
        | Type::Time
        | Type::MicroTime
        | Type::Duration
        | Type::Raw
        | Type::Fields
        | Type::Any => true,
        Type::String
        | Type::Bool
        | Type::Int32
        | Type::Int64
        | Type::Float
        | Type::Bytes
        | Type::List(_)
        | Type::Map(_) => false,
    }
}

fn is_empty(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Int(n) => *n == 0,
        Value::Float(f) => *f == 0.0,
        Value::String(s) => s.is_empty(),
        Value::List(l) => l.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// Whether a struct by value holds nothing but zeros.
fn is_zero_struct(value: &Value<'_>, ty: &Type) -> bool {
    let (Some(shape), Value::Object(object)) = (ty.as_struct(), value) else {
        return false;
    };
    object.iter().all(|(key, value)| {
        let Some(field) = shape.field(key) else {
            return true;
        };
        if field.pointer {
            return value.is_null();
        }
        is_empty(value) || is_zero_struct(value, &field.ty)
    })
}

/// The zero value of a field that is always written.
fn write_zero(field: &Field, out: &mut Vec<u8>) {
    if field.pointer {
        out.extend_from_slice(b"null");
        return;
    }
    let text: &[u8] = match &field.ty {
        Type::Struct(id) => return write_zero_struct(id.get(), out),
        Type::String | Type::Duration => {
            if matches!(field.ty, Type::Duration) {
                b"\"0s\""
            } else {
                b"\"\""
            }
        }
        Type::Bool => b"false",
        Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => b"0",
        Type::Quantity => b"\"0\"",
        Type::Time
        | Type::MicroTime
        | Type::Bytes
        | Type::Raw
        | Type::Any
        | Type::List(_)
        | Type::Map(_) => b"null",
        Type::Fields => b"{}",
    };
    out.extend_from_slice(text);
}

fn write_zero_struct(shape: &Struct, out: &mut Vec<u8>) {
    let arena = bumpalo::Bump::new();
    write_struct(&Object::new_in(&arena), shape, out);
}

fn write_map(object: &Object<'_>, element: &Type, out: &mut Vec<u8>) {
    write_by_key(object, out, |value, out| match value {
        Value::Null => write_null_element(element, out),
        value => write_typed(value, element, out),
    });
}

/// A null map value is the element type's zero value in Go.
fn write_null_element(element: &Type, out: &mut Vec<u8>) {
    match element {
        Type::String => out.extend_from_slice(b"\"\""),
        Type::Quantity => out.extend_from_slice(b"\"0\""),
        Type::Struct(id) => write_zero_struct(id.get(), out),
        Type::Bool => out.extend_from_slice(b"false"),
        Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => out.push(b'0'),
        _ => out.extend_from_slice(b"null"),
    }
}

fn write_by_key<'v, 'a: 'v>(
    object: &'v Object<'a>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(&'v Value<'a>, &mut Vec<u8>),
) {
    let mut entry = |i: usize, key: &str, value: &'v Value<'a>, out: &mut Vec<u8>| {
        if i > 0 {
            out.push(b',');
        }
        write_string(key, out);
        out.push(b':');
        write(value, out);
    };
    out.push(b'{');
    let mut previous = "";
    let sorted = object.iter().all(|(key, _)| {
        let ordered = previous <= key;
        previous = key;
        ordered
    });
    if sorted {
        for (i, (key, value)) in object.iter().enumerate() {
            entry(i, key, value, out);
        }
    } else {
        let mut entries: Vec<(&str, &Value<'a>)> = object.iter().collect();
        entries.sort_by_key(|(key, _)| *key);
        for (i, (key, value)) in entries.into_iter().enumerate() {
            entry(i, key, value, out);
        }
    }
    out.push(b'}');
}

fn write_int(n: i64, out: &mut Vec<u8>) {
    write!(out, "{n}").expect("writing to memory does not fail");
}

/// As Go's encoder: shortest digits, exponents only for very small and very large numbers.
fn write_float(f: f64, out: &mut Vec<u8>) {
    let magnitude = f.abs();
    let result = if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        let text = format!("{f:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => {
                write!(out, "{digits}e+{exponent}")
            }
            _ => write!(out, "{text}"),
        }
    } else {
        write!(out, "{f}")
    };
    result.expect("writing to memory does not fail");
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends a JSON string, escaped as Go does with HTML escaping.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (i, &b) in bytes.iter().enumerate() {
        let plain = match b {
            b'"' | b'\\' | b'<' | b'>' | b'&' | 0..=0x1f => false,
            // U+2028 and U+2029 are E2 80 A8 and E2 80 A9.
            0xe2 => {
                !(bytes.get(i + 1) == Some(&0x80) && matches!(bytes.get(i + 2), Some(0xa8 | 0xa9)))
            }
            _ => true,
        };
        if plain {
            continue;
        }
        out.extend_from_slice(&bytes[from..i]);
        from = i + 1;
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            0xe2 => {
                out.extend_from_slice(b"\\u202");
                out.push(HEX[usize::from(bytes[i + 2] & 0xf)]);
                from = i + 3;
            }
            b => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(b >> 4)]);
                out.push(HEX[usize::from(b & 0xf)]);
            }
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}
