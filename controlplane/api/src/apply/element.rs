//! How a set of fields names a child: by its field name, by the keys of a list item, by a value or by
//! an index. Owns their order, their text in managedFields and their text in messages.
//!
//! Port of `fieldpath/{element,serialize-pe}.go` and of the order in `value/{value,fields}.go` of
//! structured-merge-diff. Elements borrow from the arena of the request.

use std::cmp::Ordering;
use std::fmt;

use bumpalo::Bump;
use thiserror::Error;

use crate::codec::{self, Format};
use crate::doc::Value;
use crate::status::quote;

/// A child of an object or list.
#[derive(Clone, Copy, Debug)]
pub enum Element<'a> {
    /// A field of a struct or a key of a map.
    Field(&'a str),
    /// The list item with these key fields, ordered by name.
    Key(&'a [KeyField<'a>]),
    /// The item of a set with this value.
    Value(&'a Value<'a>),
    /// The list item at this index.
    Index(i64),
}

/// One key field of a list item.
#[derive(Clone, Debug)]
pub struct KeyField<'a> {
    /// The field's name.
    pub name: &'a str,
    /// Its value, a scalar in every object that can be written.
    pub value: Value<'a>,
}

/// Why a text names no element.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ElementError {
    /// A kind of element of a later release; such entries are skipped.
    #[error("unknown path element type")]
    Unknown,
    /// Not an element.
    #[error("{0}")]
    Malformed(String),
}

// === impl Element ===

impl<'a> Element<'a> {
    /// Reads the text of managedFields: `f:name`, `k:{…}`, `v:…` or `i:3`.
    pub fn parse(text: &'a str, arena: &'a Bump) -> Result<Element<'a>, ElementError> {
        let malformed = |text: &str| ElementError::Malformed(text.to_owned());
        if text.len() < 2 {
            return Err(malformed("key must be 2 characters long:"));
        }
        let Some(rest) = text.get(2..).filter(|_| text.as_bytes()[1] == b':') else {
            return Err(ElementError::Malformed(format!("missing colon: {text}")));
        };
        match text.as_bytes()[0] {
            b'f' => Ok(Element::Field(rest)),
            b'v' => Ok(Element::Value(arena.alloc(json(rest, arena)?))),
            b'k' => match json(rest, arena)? {
                Value::Object(object) => {
                    let fields = object.iter().map(|(name, value)| KeyField {
                        name,
                        value: value.clone(),
                    });
                    let fields = arena.alloc_slice_fill_iter(fields);
                    fields.sort_by_key(|field| field.name);
                    Ok(Element::Key(fields))
                }
                _ => Err(malformed("expect { or n")),
            },
            b'i' => rest
                .parse()
                .map(Element::Index)
                .map_err(|_| ElementError::Malformed(format!("invalid index: {}", quote(rest)))),
            _ => Err(ElementError::Unknown),
        }
    }

    /// The text of managedFields, in the arena.
    pub fn text(&self, arena: &'a Bump) -> &'a str {
        let mut out = bumpalo::collections::String::new_in(arena);
        match self {
            Element::Field(name) => {
                out.reserve_exact(name.len() + 2);
                out.push_str("f:");
                out.push_str(name);
            }
            Element::Key(fields) => {
                let mut json = vec![b'{'];
                for (i, field) in fields.iter().enumerate() {
                    if i > 0 {
                        json.push(b',');
                    }
                    codec::write_value(&Value::String(field.name), &mut json);
                    json.push(b':');
                    codec::write_value(&field.value, &mut json);
                }
                json.push(b'}');
                out.push_str("k:");
                out.push_str(&String::from_utf8_lossy(&json));
            }
            Element::Value(value) => {
                let mut json = Vec::new();
                codec::write_value(value, &mut json);
                out.push_str("v:");
                out.push_str(&String::from_utf8_lossy(&json));
            }
            Element::Index(index) => {
                out.push_str("i:");
                out.push_str(&index.to_string());
            }
        }
        out.into_bump_str()
    }

    /// The field name, if it is one.
    pub fn field(&self) -> Option<&'a str> {
        match self {
            Element::Field(name) => Some(name),
            Element::Key(_) | Element::Value(_) | Element::Index(_) => None,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Element::Field(_) => 0,
            Element::Key(_) => 1,
            Element::Value(_) => 2,
            Element::Index(_) => 3,
        }
    }
}

fn json<'a>(text: &'a str, arena: &'a Bump) -> Result<Value<'a>, ElementError> {
    codec::parse(Format::Json, text.as_bytes(), arena)
        .map_err(|error| ElementError::Malformed(error.to_string()))
}

impl Ord for Element<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Element::Field(a), Element::Field(b)) => a.cmp(b),
            (Element::Key(a), Element::Key(b)) => compare_keys(a, b),
            (Element::Value(a), Element::Value(b)) => compare(a, b),
            (Element::Index(a), Element::Index(b)) => a.cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

impl PartialOrd for Element<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Element<'_> {}

fn compare_keys(a: &[KeyField<'_>], b: &[KeyField<'_>]) -> Ordering {
    for (a, b) in a.iter().zip(b) {
        let order = a.name.cmp(b.name).then_with(|| compare(&a.value, &b.value));
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// A total order of values: numbers, strings, booleans, lists, objects, null.
pub(super) fn compare(a: &Value<'_>, b: &Value<'_>) -> Ordering {
    let number = |value: &Value<'_>| match value {
        Value::Int(n) => *n as f64,
        Value::Float(f) => *f,
        _ => f64::NAN,
    };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
            number(a).total_cmp(&number(b))
        }
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::List(a), Value::List(b)) => a
            .iter()
            .zip(b)
            .map(|(a, b)| compare(a, b))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| a.len().cmp(&b.len())),
        (Value::Object(a), Value::Object(b)) => {
            let sorted = |object: &crate::doc::Object<'_>| {
                let mut out = Vec::new();
                codec::write_value(&Value::Object(object.clone()), &mut out);
                out
            };
            // Objects name no element of an object that can be written; any order will do.
            sorted(a).cmp(&sorted(b))
        }
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

fn rank(value: &Value<'_>) -> u8 {
    match value {
        Value::Int(_) | Value::Float(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::List(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

/// As messages show it: `.name`, `[name="x"]`, `[="x"]`, `[3]`.
impl fmt::Display for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Key(fields) => {
                f.write_str("[")?;
                for (i, field) in fields.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{}={}", field.name, Shown(&field.value))?;
                }
                f.write_str("]")
            }
            Element::Value(value) => write!(f, "[={}]", Shown(value)),
            Element::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A value as messages show it.
struct Shown<'v, 'a>(&'v Value<'a>);

impl fmt::Display for Shown<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) => f.write_str(&quote(text)),
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::List(_)
            | Value::Object(_) => {
                let mut out = Vec::new();
                codec::write_value(self.0, &mut out);
                f.write_str(&String::from_utf8_lossy(&out))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_survive_their_text() {
        let arena = Bump::new();
        for text in [
            "f:a",
            "f:",
            "f:kubernetes.io/x",
            "k:{\"name\":\"x\"}",
            "k:{\"containerPort\":80,\"protocol\":\"TCP\"}",
            "v:\"x\"",
            "v:1",
            "v:true",
            "v:null",
            "i:0",
            "i:12",
        ] {
            let element = Element::parse(text, &arena).unwrap();
            assert_eq!(element.text(&arena), text);
        }
        for text in ["", "f", "fa", "k:1", "k:{", "v:", "v:1 2", "i:x"] {
            assert!(
                matches!(
                    Element::parse(text, &arena),
                    Err(ElementError::Malformed(_))
                ),
                "{text}"
            );
        }
        assert_eq!(Element::parse("x:1", &arena), Err(ElementError::Unknown));
    }

    #[test]
    fn elements_have_upstreams_order() {
        let arena = Bump::new();
        let ordered = [
            "f:a",
            "f:b",
            "k:{\"name\":\"a\"}",
            "k:{\"name\":\"a\",\"port\":1}",
            "k:{\"name\":\"b\"}",
            "k:{\"port\":1}",
            "k:{\"port\":2}",
            "k:{\"port\":\"1\"}",
            "v:1",
            "v:1.5",
            "v:2",
            "v:\"1\"",
            "v:false",
            "v:true",
            "v:null",
            "i:1",
            "i:2",
        ];
        let elements: Vec<Element<'_>> = ordered
            .iter()
            .map(|text| Element::parse(text, &arena).unwrap())
            .collect();
        for (i, a) in elements.iter().enumerate() {
            for (j, b) in elements.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a} {b}");
            }
        }
    }

    #[test]
    fn messages_name_elements_as_upstream_does() {
        let arena = Bump::new();
        let table = [
            ("f:a", ".a"),
            (
                "k:{\"protocol\":\"TCP\",\"containerPort\":80}",
                "[containerPort=80,protocol=\"TCP\"]",
            ),
            ("v:\"x\"", "[=\"x\"]"),
            ("i:3", "[3]"),
        ];
        for (text, shown) in table {
            assert_eq!(Element::parse(text, &arena).unwrap().to_string(), shown);
        }
    }
}
