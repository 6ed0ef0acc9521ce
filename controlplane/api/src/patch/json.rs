//! JSON patch (RFC 6902) on a tree.
//!
//! As upstream's library: removing what is not there is an error, `-` appends, `test` of an absent
//! value against null holds.

use bumpalo::Bump;

use super::{MAX_JSON_PATCH_OPERATIONS, PatchError};
use crate::doc::Value;
use crate::status::quote;

/// Applies the operations in order.
pub fn apply<'a>(
    root: &mut Value<'a>,
    operations: &Value<'a>,
    arena: &'a Bump,
) -> Result<(), PatchError> {
    let operations = operations.as_list().unwrap_or_default();
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    for operation in operations {
        apply_one(root, operation, arena)?;
    }
    Ok(())
}

fn unprocessable(text: String) -> PatchError {
    PatchError::Unprocessable(text)
}

fn apply_one<'a>(
    root: &mut Value<'a>,
    operation: &Value<'a>,
    arena: &'a Bump,
) -> Result<(), PatchError> {
    let kind = operation.str_of("op").unwrap_or_default();
    let path = pointer(operation, "path")?;
    let value = || {
        operation
            .get("value")
            .cloned()
            .ok_or_else(|| unprocessable(format!("{kind} operation: missing value")))
    };
    match kind {
        "add" => add(root, &path, value()?, arena),
        "replace" => {
            let slot = find_mut(root, &path).ok_or_else(|| missing("replace", &path))?;
            *slot = value()?;
            Ok(())
        }
        "remove" => remove(root, &path).map(|_| ()),
        "move" => {
            let moved = remove(root, &pointer(operation, "from")?)?;
            add(root, &path, moved, arena)
        }
        "copy" => {
            let from = pointer(operation, "from")?;
            let copied = match from.split_last() {
                // Upstream's library reads an absent key of an object as null.
                Some((last, parents)) => match find_mut(root, parents) {
                    Some(Value::Object(object)) => object.get(last).cloned().unwrap_or(Value::Null),
                    _ => find_mut(root, &from)
                        .ok_or_else(|| missing("copy", &from))?
                        .clone(),
                },
                None => root.clone(),
            };
            add(root, &path, copied, arena)
        }
        "test" => {
            let expected = operation.get("value").cloned().unwrap_or(Value::Null);
            let actual = find_mut(root, &path);
            let holds = actual.map_or(expected.is_null(), |actual| *actual == expected);
            if holds {
                return Ok(());
            }
            Err(unprocessable(format!(
                "testing value {} failed: test failed",
                shown(&path)
            )))
        }
        other => Err(unprocessable(format!("Unexpected kind: {other}"))),
    }
}

fn missing(kind: &str, path: &[String]) -> PatchError {
    unprocessable(format!(
        "{kind} operation does not apply: doc is missing key: {}: missing value",
        shown(path)
    ))
}

fn shown(path: &[String]) -> String {
    path.iter()
        .map(|s| format!("/{}", s.replace('~', "~0").replace('/', "~1")))
        .collect()
}

fn pointer(operation: &Value<'_>, key: &str) -> Result<Vec<String>, PatchError> {
    let Some(text) = operation.str_of(key) else {
        return Err(unprocessable(format!(
            "operation missing {key} field: missing value"
        )));
    };
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = text.strip_prefix('/') else {
        return Err(unprocessable(format!(
            "invalid JSON pointer: {}",
            quote(text)
        )));
    };
    Ok(rest
        .split('/')
        .map(|s| s.replace("~1", "/").replace("~0", "~"))
        .collect())
}

fn find_mut<'v, 'a>(root: &'v mut Value<'a>, path: &[String]) -> Option<&'v mut Value<'a>> {
    let segments: Vec<&str> = path.iter().map(String::as_str).collect();
    root.at_mut(&segments)
}

fn add<'a>(
    root: &mut Value<'a>,
    path: &[String],
    value: Value<'a>,
    arena: &'a Bump,
) -> Result<(), PatchError> {
    let Some((last, parents)) = path.split_last() else {
        *root = value;
        return Ok(());
    };
    match find_mut(root, parents) {
        Some(Value::Object(object)) => {
            object.set(arena.alloc_str(last), value);
            Ok(())
        }
        Some(Value::List(list)) => {
            let index = if last == "-" {
                Some(list.len())
            } else {
                last.parse().ok()
            };
            match index.filter(|i| *i <= list.len()) {
                Some(index) => {
                    list.insert(index, value);
                    Ok(())
                }
                None => Err(unprocessable(format!(
                    "add operation does not apply: Unable to access invalid index: {last}: invalid \
                     index referenced"
                ))),
            }
        }
        _ => Err(missing("add", path)),
    }
}

fn remove<'a>(root: &mut Value<'a>, path: &[String]) -> Result<Value<'a>, PatchError> {
    let removed = path
        .split_last()
        .and_then(|(last, parents)| match find_mut(root, parents)? {
            Value::Object(object) => object.remove(last),
            Value::List(list) => {
                let index: usize = last.parse().ok().filter(|i| *i < list.len())?;
                Some(list.remove(index))
            }
            _ => None,
        });
    removed.ok_or_else(|| missing("remove", path))
}
