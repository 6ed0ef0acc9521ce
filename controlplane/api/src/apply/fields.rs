//! Sets of fields as managedFields has them (`FieldsV1`): an object whose keys are elements, `.` for
//! the member itself.
//!
//! Port of `fieldpath/serialize.go` of structured-merge-diff.

use bumpalo::Bump;

use super::element::{Element, ElementError};
use super::set::{Builder, Set};
use crate::doc::{Object, Value};

/// The key that says that an element with something below it is a member too.
const SELF: &str = ".";

/// Reads a set; what a later release may have added is skipped.
pub fn read<'a>(value: &Value<'a>, arena: &'a Bump) -> Result<Set<'a>, ElementError> {
    level(value, arena).map(|(set, _)| set)
}

/// The set of a level, and whether the element it stands for is a member.
fn level<'a>(value: &Value<'a>, arena: &'a Bump) -> Result<(Set<'a>, bool), ElementError> {
    let object = match value {
        Value::Object(object) => object,
        Value::Null => return Ok((Set::EMPTY, true)),
        _ => return Err(ElementError::Malformed("expect { or n".to_owned())),
    };
    let mut nodes = Builder::new_in(arena, object.len());
    let mut member = false;
    for (key, value) in object.iter() {
        if key == SELF {
            member = true;
            continue;
        }
        match Element::parse(key, arena) {
            Ok(element) => {
                let (below, member) = level(value, arena)?;
                nodes.add(element, member, below);
            }
            Err(ElementError::Unknown) => {}
            Err(error) => return Err(error),
        }
    }
    let set = nodes.finish(arena);
    Ok((set, member || set.is_empty()))
}

/// Writes a set.
pub fn write<'a>(set: Set<'a>, arena: &'a Bump) -> Value<'a> {
    write_level(set, false, arena)
}

fn write_level<'a>(set: Set<'a>, member: bool, arena: &'a Bump) -> Value<'a> {
    let with_self = member && !set.is_empty();
    let mut object = Object::with_capacity_in(set.nodes().len() + usize::from(with_self), arena);
    if with_self {
        object.push(SELF, Value::Object(Object::new_in(arena)));
    }
    for node in set.nodes() {
        object.push(
            node.element.text(arena),
            write_level(node.below, node.member, arena),
        );
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, Format};

    fn rewritten(text: &str) -> Result<String, ElementError> {
        let arena = Bump::new();
        let value = codec::parse(Format::Json, text.as_bytes(), &arena).unwrap();
        let mut out = Vec::new();
        codec::write_value(&write(read(&value, &arena)?, &arena), &mut out);
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn sets_are_written_in_order_and_without_what_is_unknown() {
        let table = [
            ("{}", "{}"),
            (r#"{"f:b":{},"f:a":{}}"#, r#"{"f:a":{},"f:b":{}}"#),
            (
                r#"{"f:a":{"f:b":{},".":{}}}"#,
                r#"{"f:a":{".":{},"f:b":{}}}"#,
            ),
            (r#"{"f:a":null}"#, r#"{"f:a":{}}"#),
            (r#"{"f:a":{"x:b":{}}}"#, r#"{"f:a":{}}"#),
            (
                r#"{"f:a":{},"f:a2":{"f:c":{}}}"#,
                r#"{"f:a":{},"f:a2":{"f:c":{}}}"#,
            ),
            (
                r#"{"k:{\"port\":80,\"name\":\"a\"}":{"f:x":{}},"v:1":{}}"#,
                r#"{"k:{\"name\":\"a\",\"port\":80}":{"f:x":{}},"v:1":{}}"#,
            ),
        ];
        for (given, wanted) in table {
            assert_eq!(rewritten(given).unwrap(), wanted);
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in [
            "1",
            r#"{"f:a":1}"#,
            r#"{"a":{}}"#,
            r#"{"i:x":{}}"#,
            r#"{"k:{":{}}"#,
        ] {
            assert!(rewritten(text).is_err(), "{text}");
        }
    }
}
