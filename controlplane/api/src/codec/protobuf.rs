//! Protobuf: the `k8s\0` envelope and a transcoder guided by the shapes' field numbers.
//!
//! Messages are decoded straight into the documents JSON would give: bytes as base64, times as RFC 3339,
//! inlined structs (messages of their own on the wire) flattened. Unknown field numbers are skipped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bumpalo::Bump;
use time::OffsetDateTime;

use super::{DecodeError, Format, MAX_DEPTH, canonical, coerce, json};
use crate::doc::{Doc, List, Object, Value};
use crate::quantity::Quantity;
use crate::schema::{Field, Struct, Type};
use crate::time::{format_micros, format_seconds, parse_time};

const MAGIC: &[u8] = b"k8s\0";
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED32: u32 = 5;

/// What the envelope says about its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'b> {
    /// The content's apiVersion.
    pub api_version: &'b str,
    /// The content's kind.
    pub kind: &'b str,
    /// The content: a protobuf message of that kind.
    pub raw: &'b [u8],
    /// The content's media type; "" means protobuf.
    pub content_type: &'b str,
}

/// What upstream says of a body without [`MAGIC`].
pub(super) const NO_ENVELOPE: &str = "provided data does not appear to be a protobuf message, \
    expected prefix [107 56 115 0]";

/// Opens the envelope of a protobuf body.
pub fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, DecodeError> {
    let Some(message) = bytes.strip_prefix(MAGIC) else {
        return Err(syntax(NO_ENVELOPE));
    };
    let mut out = Envelope {
        api_version: "",
        kind: "",
        raw: &[],
        content_type: "",
    };
    let mut reader = Reader { bytes: message };
    while let Some((number, wire)) = reader.tag()? {
        match (number, wire) {
            (1, LENGTH) => {
                let mut meta = Reader {
                    bytes: reader.block()?,
                };
                while let Some((number, wire)) = meta.tag()? {
                    match (number, wire) {
                        (1, LENGTH) => out.api_version = meta.text()?,
                        (2, LENGTH) => out.kind = meta.text()?,
                        (_, wire) => meta.skip(wire)?,
                    }
                }
            }
            (2, LENGTH) => out.raw = reader.block()?,
            (4, LENGTH) => out.content_type = reader.text()?,
            (_, wire) => reader.skip(wire)?,
        }
    }
    Ok(out)
}

/// Decodes an enveloped message into a document of that shape.
pub(super) fn decode<'a>(
    bytes: &'a [u8],
    schema: &'a Type,
    arena: &'a Bump,
) -> Result<Doc<'a>, DecodeError> {
    let envelope = envelope(bytes)?;
    if Format::of_media_type(envelope.content_type) == Some(Format::Json)
        && !envelope.content_type.is_empty()
    {
        return super::decode_stored(envelope.raw, schema, arena);
    }
    let Some(shape) = schema.as_struct() else {
        return Err(syntax("the kind has no protobuf form"));
    };
    let mut object = Object::new_in(arena);
    for (key, text) in [
        ("kind", envelope.kind),
        ("apiVersion", envelope.api_version),
    ] {
        if shape.field(key).is_some() && !text.is_empty() {
            object.push(key, Value::String(text));
        }
    }
    Decoder { arena }.message(envelope.raw, shape, &mut object, 0)?;
    Ok(Doc::from_value(Value::Object(object), schema, arena))
}

fn syntax(text: &str) -> DecodeError {
    DecodeError::Syntax(text.to_owned())
}

struct Reader<'b> {
    bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    /// The next field's number and wire type.
    fn tag(&mut self) -> Result<Option<(u32, u32)>, DecodeError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| *n > 0);
        match number {
            Some(number) => Ok(Some((number, (tag & 7) as u32))),
            None => Err(syntax("proto: illegal tag")),
        }
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (i, byte) in self.bytes.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.bytes = &self.bytes[i + 1..];
                return Ok(value);
            }
        }
        Err(syntax("unexpected EOF"))
    }

    fn block(&mut self) -> Result<&'b [u8], DecodeError> {
        let len = self.varint()?;
        let len = usize::try_from(len).map_err(|_| syntax("proto: negative length"))?;
        let block = self
            .bytes
            .get(..len)
            .ok_or_else(|| syntax("unexpected EOF"))?;
        self.bytes = &self.bytes[len..];
        Ok(block)
    }

    fn text(&mut self) -> Result<&'b str, DecodeError> {
        std::str::from_utf8(self.block()?).map_err(|_| syntax("proto: invalid UTF-8 in a string"))
    }

    fn fixed(&mut self, len: usize) -> Result<&'b [u8], DecodeError> {
        let block = self
            .bytes
            .get(..len)
            .ok_or_else(|| syntax("unexpected EOF"))?;
        self.bytes = &self.bytes[len..];
        Ok(block)
    }

    fn skip(&mut self, wire: u32) -> Result<(), DecodeError> {
        match wire {
            VARINT => self.varint().map(|_| ()),
            FIXED64 => self.fixed(8).map(|_| ()),
            LENGTH => self.block().map(|_| ()),
            FIXED32 => self.fixed(4).map(|_| ()),
            other => Err(DecodeError::Syntax(format!(
                "proto: illegal wireType {other}"
            ))),
        }
    }
}

struct Decoder<'a> {
    arena: &'a Bump,
}

impl<'a> Decoder<'a> {
    fn message(
        &self,
        bytes: &'a [u8],
        shape: &'static Struct,
        into: &mut Object<'a>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        if depth > MAX_DEPTH {
            return Err(syntax("exceeded max depth"));
        }
        let mut reader = Reader { bytes };
        while let Some((number, wire)) = reader.tag()? {
            let Some(field) = shape.declared.iter().find(|f| f.proto == number) else {
                reader.skip(wire)?;
                continue;
            };
            match (&field.ty, field.inline) {
                (Type::Struct(id), true) => {
                    self.message(reader.block()?, id.get(), into, depth + 1)?;
                }
                (Type::List(element), _) => {
                    self.item(&mut reader, wire, field, element, into, depth)?;
                }
                (Type::Map(element), _) => {
                    let (key, value) = self.entry(reader.block()?, element, depth)?;
                    into.entry_or_object(field.name)
                        .make_object(self.arena)
                        .set(key, value);
                }
                (ty, _) => {
                    let value = self.value(&mut reader, wire, ty, depth)?;
                    if value.is_null() || coerce::is_dropped(field, &value) {
                        into.remove(field.name);
                    } else {
                        into.set(field.name, value);
                    }
                }
            }
        }
        Ok(())
    }

    fn item(
        &self,
        reader: &mut Reader<'a>,
        wire: u32,
        field: &'static Field,
        element: &Type,
        into: &mut Object<'a>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        if !matches!(into.get(field.name), Some(Value::List(_))) {
            into.set(field.name, Value::List(List::new_in(self.arena)));
        }
        let Some(Value::List(list)) = into.get_mut(field.name) else {
            return Ok(());
        };
        let packed = wire == LENGTH && matches!(element, Type::Int32 | Type::Int64 | Type::Bool);
        if packed {
            let mut inner = Reader {
                bytes: reader.block()?,
            };
            while !inner.bytes.is_empty() {
                list.push(self.value(&mut inner, VARINT, element, depth)?);
            }
        } else {
            list.push(self.value(reader, wire, element, depth)?);
        }
        Ok(())
    }

    /// An entry of a map; a value that is a list is wrapped in a message of its own.
    fn entry(
        &self,
        bytes: &'a [u8],
        element: &Type,
        depth: usize,
    ) -> Result<(&'a str, Value<'a>), DecodeError> {
        let (mut key, mut value) = ("", None);
        let mut reader = Reader { bytes };
        while let Some((number, wire)) = reader.tag()? {
            match (number, element) {
                (1, _) => key = reader.text()?,
                (2, Type::List(inner)) => {
                    let mut list = List::new_in(self.arena);
                    let mut wrapped = Reader {
                        bytes: reader.block()?,
                    };
                    while let Some((number, wire)) = wrapped.tag()? {
                        match number {
                            1 => list.push(self.value(&mut wrapped, wire, inner, depth + 1)?),
                            _ => wrapped.skip(wire)?,
                        }
                    }
                    value = Some(Value::List(list));
                }
                (2, _) => value = Some(self.value(&mut reader, wire, element, depth)?),
                _ => reader.skip(wire)?,
            }
        }
        let zero = || match element {
            Type::String | Type::Bytes => Value::String(""),
            Type::Quantity => Value::String("0"),
            Type::Struct(_) => Value::Object(Object::new_in(self.arena)),
            _ => Value::Null,
        };
        Ok((key, value.unwrap_or_else(zero)))
    }

    fn value(
        &self,
        reader: &mut Reader<'a>,
        wire: u32,
        ty: &Type,
        depth: usize,
    ) -> Result<Value<'a>, DecodeError> {
        match (ty, wire) {
            (Type::String, LENGTH) => reader.text().map(Value::String),
            (Type::Bool, VARINT) => reader.varint().map(|n| Value::Bool(n != 0)),
            (Type::Int32, VARINT) => reader.varint().map(|n| Value::Int(i64::from(n as i32))),
            (Type::Int64, VARINT) => reader.varint().map(|n| Value::Int(n as i64)),
            (Type::Float, FIXED64) => {
                let mut bits = [0; 8];
                bits.copy_from_slice(reader.fixed(8)?);
                Ok(Value::Float(f64::from_le_bytes(bits)))
            }
            (Type::Bytes, LENGTH) => Ok(Value::string_in(
                &STANDARD.encode(reader.block()?),
                self.arena,
            )),
            (Type::Struct(id), LENGTH) => {
                let mut object = Object::new_in(self.arena);
                self.message(reader.block()?, id.get(), &mut object, depth + 1)?;
                Ok(Value::Object(object))
            }
            (_, LENGTH) => self.special(reader.block()?, ty),
            (ty, wire) => Err(DecodeError::Syntax(format!(
                "proto: wrong wireType = {wire} for a {ty:?}"
            ))),
        }
    }

    /// Types with a JSON form of their own: small messages.
    fn special(&self, bytes: &'a [u8], ty: &Type) -> Result<Value<'a>, DecodeError> {
        let (mut numbers, mut block): ([i64; 4], &'a [u8]) = ([0; 4], &[]);
        let mut reader = Reader { bytes };
        while let Some((number, wire)) = reader.tag()? {
            match wire {
                VARINT if number < 4 => numbers[number as usize] = reader.varint()? as i64,
                LENGTH => block = reader.block()?,
                _ => reader.skip(wire)?,
            }
        }
        let text = || std::str::from_utf8(block).map_err(|_| syntax("proto: invalid UTF-8"));
        match ty {
            Type::IntOrString if numbers[1] == 0 => Ok(Value::Int(i64::from(numbers[2] as i32))),
            Type::IntOrString => text().map(Value::String),
            Type::Quantity => {
                let canonical = Quantity::canonical_text(text()?)
                    .map_err(|error| DecodeError::Value(error.to_string()))?;
                Ok(Value::string_in(&canonical, self.arena))
            }
            Type::Time | Type::MicroTime => Ok(self.time(numbers[1], numbers[2], ty)),
            Type::Duration => Ok(Value::string_in(&format_duration(numbers[1]), self.arena)),
            _ if block.is_empty() => Ok(Value::Null),
            _ => json::parse(block, self.arena, &mut Vec::new()),
        }
    }

    /// Zero is the zero time of Go, which is no time.
    fn time(&self, seconds: i64, nanos: i64, ty: &Type) -> Value<'a> {
        if seconds == 0 && nanos == 0 {
            return Value::Null;
        }
        let at = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        match OffsetDateTime::from_unix_timestamp_nanos(at) {
            Ok(at) if *ty == Type::MicroTime => Value::string_in(&format_micros(at), self.arena),
            Ok(at) => Value::string_in(&format_seconds(at), self.arena),
            Err(_) => Value::Null,
        }
    }
}

fn format_duration(nanos: i64) -> String {
    let (seconds, rest) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).abs());
    if rest == 0 {
        return format!("{seconds}s");
    }
    let fraction = format!("{rest:09}");
    format!("{seconds}.{}s", fraction.trim_end_matches('0'))
}

/// Encodes a document as an enveloped protobuf message; `None` if its shape has no protobuf form.
pub fn to_protobuf(doc: &Doc<'_>) -> Option<Vec<u8>> {
    let shape = doc.shape()?;
    let mut raw = Vec::with_capacity(1024);
    encode_struct(doc.root().as_object()?, shape, &mut raw);
    let mut meta = Vec::new();
    put_block(1, doc.api_version().as_bytes(), &mut meta);
    put_block(2, doc.kind().as_bytes(), &mut meta);
    let mut out = MAGIC.to_vec();
    put_block(1, &meta, &mut out);
    put_block(2, &raw, &mut out);
    put_block(3, b"", &mut out);
    put_block(4, b"", &mut out);
    Some(out)
}

fn put_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_tag(number: u32, wire: u32, out: &mut Vec<u8>) {
    put_varint(u64::from(number << 3 | wire), out);
}

fn put_block(number: u32, block: &[u8], out: &mut Vec<u8>) {
    put_tag(number, LENGTH, out);
    put_varint(block.len() as u64, out);
    out.extend_from_slice(block);
}

fn put_number(number: u32, value: i64, out: &mut Vec<u8>) {
    put_tag(number, VARINT, out);
    put_varint(value as u64, out);
}

fn encode_struct(object: &Object<'_>, shape: &Struct, out: &mut Vec<u8>) {
    for field in shape.declared.iter().filter(|f| f.proto > 0) {
        if let (Type::Struct(id), true) = (&field.ty, field.inline) {
            let mut inner = Vec::new();
            encode_struct(object, id.get(), &mut inner);
            put_block(field.proto, &inner, out);
            continue;
        }
        let Some(value) = object.get(field.name).filter(|v| !v.is_null()) else {
            continue;
        };
        match (&field.ty, value) {
            (Type::List(element), Value::List(list)) => {
                list.iter()
                    .for_each(|item| encode_value(field.proto, item, element, out));
            }
            (Type::Map(element), Value::Object(map)) => {
                for (key, item) in map.iter() {
                    let mut entry = Vec::new();
                    put_block(1, key.as_bytes(), &mut entry);
                    encode_value(2, item, element, &mut entry);
                    put_block(field.proto, &entry, out);
                }
            }
            (ty, value) => encode_value(field.proto, value, ty, out),
        }
    }
}

fn encode_value(number: u32, value: &Value<'_>, ty: &Type, out: &mut Vec<u8>) {
    let mut block = Vec::new();
    match (ty, value) {
        (Type::String, Value::String(text)) => block.extend_from_slice(text.as_bytes()),
        (Type::Bool, Value::Bool(flag)) => return put_number(number, i64::from(*flag), out),
        (Type::Int32 | Type::Int64, Value::Int(n)) => return put_number(number, *n, out),
        (Type::Float, Value::Int(_) | Value::Float(_)) => {
            let float = match value {
                Value::Float(f) => *f,
                _ => value.as_int().unwrap_or(0) as f64,
            };
            put_tag(number, FIXED64, out);
            out.extend_from_slice(&float.to_le_bytes());
            return;
        }
        (Type::Bytes, Value::String(text)) => block = STANDARD.decode(text).unwrap_or_default(),
        (Type::Struct(id), Value::Object(object)) => encode_struct(object, id.get(), &mut block),
        (Type::List(element), Value::List(list)) => {
            list.iter()
                .for_each(|item| encode_value(1, item, element, &mut block));
        }
        (Type::Quantity, Value::String(text)) => put_block(1, text.as_bytes(), &mut block),
        (Type::IntOrString, Value::Int(n)) => {
            put_number(1, 0, &mut block);
            put_number(2, *n, &mut block);
        }
        (Type::IntOrString, Value::String(text)) => {
            put_number(1, 1, &mut block);
            put_block(3, text.as_bytes(), &mut block);
        }
        (Type::Time | Type::MicroTime, Value::String(text)) => {
            if let Some(at) = parse_time(text) {
                put_number(1, at.unix_timestamp(), &mut block);
                put_number(2, i64::from(at.nanosecond()), &mut block);
            }
        }
        (Type::Raw | Type::Fields | Type::Any, value) => {
            let mut text = Vec::new();
            canonical::write_value(value, &mut text);
            put_block(1, &text, &mut block);
        }
        _ => {}
    }
    put_block(number, &block, out);
}
