//! Strategic merge patch on a tree, by the patch strategies and merge keys of its shape.
//!
//! Port of `k8s.io/apimachinery/pkg/util/strategicpatch` as the server uses it: parallel lists are
//! merged, unmatched nulls are ignored. Directives: `$patch` (replace, delete), `$retainKeys`,
//! `$setElementOrder/field`, `$deleteFromPrimitiveList/field`.

use bumpalo::Bump;

use super::PatchError;
use crate::codec::write_value;
use crate::doc::{List, Object, Value};
use crate::schema::{Field, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER_PREFIX: &str = "$setElementOrder/";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";

/// Merges the patch into the target as the shape says.
pub fn apply<'a>(
    target: &mut Value<'a>,
    patch: Value<'a>,
    schema: &Type,
    arena: &'a Bump,
) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("invalid JSON document".to_owned()));
    };
    merge_map(target.make_object(arena), patch, schema, arena)
}

fn malformed(text: &str) -> PatchError {
    PatchError::Malformed(text.to_owned())
}

/// What the shape says about a key.
#[derive(Clone, Copy)]
struct Meta<'t> {
    ty: &'t Type,
    merge: bool,
    replace: bool,
    merge_key: &'t str,
}

fn lookup<'t>(schema: &'t Type, key: &str) -> Meta<'t> {
    let plain = |ty| Meta {
        ty,
        merge: false,
        replace: false,
        merge_key: "",
    };
    match schema {
        Type::Struct(id) => match id.get().field(key) {
            Some(Field {
                ty,
                patch,
                merge_key,
                ..
            }) => Meta {
                ty,
                merge: patch.merge,
                replace: patch.replace,
                merge_key,
            },
            None => plain(&Type::Any),
        },
        Type::Map(element) => plain(element),
        _ => plain(&Type::Any),
    }
}

fn merge_map<'a>(
    original: &mut Object<'a>,
    mut patch: Object<'a>,
    schema: &Type,
    arena: &'a Bump,
) -> Result<(), PatchError> {
    if let Some(directive) = patch.remove(PATCH) {
        match directive.as_str() {
            Some("replace") => *original = patch,
            Some("delete") => *original = Object::new_in(arena),
            _ => return Err(bad_directive(&directive)),
        }
        return Ok(());
    }
    retain_keys(original, &mut patch)?;
    set_element_orders(original, &mut patch, schema, arena)?;
    for (key, value) in patch.into_entries() {
        if let Some(name) = key.strip_prefix(DELETE_PREFIX) {
            delete_from_primitives(original, name, &value)?;
        } else if value.is_null() {
            original.remove(key);
        } else {
            merge_key(original, key, value, schema, arena)?;
        }
    }
    Ok(())
}

fn bad_directive(directive: &Value<'_>) -> PatchError {
    let mut text = Vec::new();
    write_value(directive, &mut text);
    PatchError::Malformed(format!(
        "unknown patch type: {}",
        String::from_utf8_lossy(&text)
    ))
}

fn merge_key<'a>(
    original: &mut Object<'a>,
    key: &'a str,
    value: Value<'a>,
    schema: &Type,
    arena: &'a Bump,
) -> Result<(), PatchError> {
    let meta = lookup(schema, key);
    match (original.get_mut(key), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            if meta.replace {
                *old = new;
            } else {
                merge_map(old, new, meta.ty, arena)?;
            }
        }
        (Some(Value::List(old)), Value::List(new)) => {
            if meta.merge {
                let current = std::mem::replace(old, List::new_in(arena));
                *old = merge_list(current, new, meta, arena)?;
            } else {
                *old = new;
            }
        }
        (_, mut value) => {
            drop_nulls(&mut value);
            if strip_directives(&mut value) {
                original.set(key, value);
            } else {
                original.remove(key);
            }
        }
    }
    Ok(())
}

/// Values that meet nothing carry no nulls.
fn drop_nulls(value: &mut Value<'_>) {
    match value {
        Value::Object(object) => object.retain(|_, v| {
            drop_nulls(v);
            !v.is_null()
        }),
        Value::List(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Removes what only means something when merged; says whether the value itself stays.
fn strip_directives(value: &mut Value<'_>) -> bool {
    match value {
        Value::Object(object) => {
            if object.contains(PATCH) {
                return false;
            }
            object.retain(|key, v| {
                let directive = key == RETAIN_KEYS
                    || key.starts_with(ORDER_PREFIX)
                    || key.starts_with(DELETE_PREFIX);
                !directive && strip_directives(v)
            });
            true
        }
        Value::List(list) => {
            list.retain_mut(strip_directives);
            true
        }
        _ => true,
    }
}

/// `$retainKeys`: keys that are not listed go.
fn retain_keys<'a>(original: &mut Object<'a>, patch: &mut Object<'a>) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::List(keys) = keys else {
        return Err(malformed("invalid patch format of retainKeys"));
    };
    let listed = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    for (key, value) in patch.iter() {
        let directive = key.starts_with(ORDER_PREFIX) || key.starts_with(DELETE_PREFIX);
        if !value.is_null() && !directive && !listed(key) {
            return Err(malformed("invalid patch format of retainKeys"));
        }
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

fn delete_from_primitives<'a>(
    original: &mut Object<'a>,
    name: &str,
    gone: &Value<'a>,
) -> Result<(), PatchError> {
    let Some(gone) = gone.as_list() else {
        return Err(malformed("invalid patch format of primitive list"));
    };
    if let Some(Value::List(list)) = original.get_mut(name) {
        list.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// `$setElementOrder/x`: merges x and brings it into that order.
fn set_element_orders<'a>(
    original: &mut Object<'a>,
    patch: &mut Object<'a>,
    schema: &Type,
    arena: &'a Bump,
) -> Result<(), PatchError> {
    let orders: Vec<&'a str> = patch
        .iter()
        .map(|(key, _)| key)
        .filter(|key| key.starts_with(ORDER_PREFIX))
        .collect();
    for order_key in orders {
        let key = &order_key[ORDER_PREFIX.len()..];
        let Some(Value::List(order)) = patch.remove(order_key) else {
            return Err(malformed("invalid patch format of setElementOrder list"));
        };
        let meta = lookup(schema, key);
        let old = match original.get(key) {
            Some(Value::List(list)) => Some(list.clone()),
            Some(_) | None => None,
        };
        let new = match patch.remove(key) {
            Some(Value::List(list)) => Some(list),
            Some(other) => {
                patch.set(key, other);
                None
            }
            None => None,
        };
        check_order(new.as_deref().unwrap_or_default(), &order, meta.merge_key)?;
        let server_order = old.clone().unwrap_or_else(|| List::new_in(arena));
        let merged = match (old, new) {
            (Some(old), None) => old,
            (None, Some(new)) => {
                let mut value = Value::List(new);
                strip_directives(&mut value);
                match value {
                    Value::List(list) => list,
                    _ => continue,
                }
            }
            (Some(old), Some(new)) if meta.merge => merge_list(old, new, meta, arena)?,
            (Some(_), Some(new)) => new,
            (None, None) => continue,
        };
        let ordered = in_order(merged, &order, &server_order, meta.merge_key, arena);
        original.set(key, Value::List(ordered));
    }
    Ok(())
}

/// Everything in the patch must be in the order list.
fn check_order(
    patch: &[Value<'_>],
    order: &[Value<'_>],
    merge_key: &str,
) -> Result<(), PatchError> {
    let listed = |item: &Value<'_>| {
        item.get(PATCH).is_some() || order.iter().any(|o| same_item(o, item, merge_key))
    };
    if order.is_empty() || patch.iter().all(listed) {
        return Ok(());
    }
    Err(malformed(
        "the order in patch list doesn't match the $setElementOrder list",
    ))
}

fn same_item(a: &Value<'_>, b: &Value<'_>, merge_key: &str) -> bool {
    if merge_key.is_empty() {
        return a == b;
    }
    matches!((a.get(merge_key), b.get(merge_key)), (Some(x), Some(y)) if x == y)
}

fn merge_list<'a>(
    original: List<'a>,
    patch: List<'a>,
    meta: Meta<'_>,
    arena: &'a Bump,
) -> Result<List<'a>, PatchError> {
    let of_maps = original
        .iter()
        .chain(patch.iter())
        .any(|v| matches!(v, Value::Object(_)));
    if !of_maps {
        return Ok(merge_scalars(original, patch, arena));
    }
    if meta.merge_key.is_empty() {
        return Err(PatchError::Unprocessable(
            "cannot merge lists without merge key".to_owned(),
        ));
    }
    let element = meta.ty.element().unwrap_or(&Type::Any);
    let (mut original, patch) = special_elements(original, patch, meta.merge_key, arena)?;
    let Some(patch) = patch else {
        return Ok(original);
    };
    let (server_order, patch_order) = (original.clone(), patch.clone());
    for item in patch {
        let Value::Object(item) = item else {
            return Err(PatchError::Unprocessable(
                "expected a list of objects".to_owned(),
            ));
        };
        let Some(key) = item.get(meta.merge_key).cloned() else {
            return Err(no_merge_key(&item, meta.merge_key));
        };
        let found = original
            .iter_mut()
            .find(|v| v.get(meta.merge_key) == Some(&key));
        if let Some(Value::Object(old)) = found {
            merge_map(old, item, element, arena)?;
        } else {
            // Upstream leaves the nulls of a new item to the decoder, which drops them.
            original.push(Value::Object(item));
        }
    }
    Ok(in_order(
        original,
        &patch_order,
        &server_order,
        meta.merge_key,
        arena,
    ))
}

fn no_merge_key(item: &Object<'_>, key: &str) -> PatchError {
    let item = super::go_text(&Value::Object(item.clone()));
    PatchError::Failed(format!(
        "map: {item} does not contain declared merge key: {key}"
    ))
}

fn merge_scalars<'a>(original: List<'a>, patch: List<'a>, arena: &'a Bump) -> List<'a> {
    let mut merged = List::new_in(arena);
    for item in original.iter().chain(patch.iter()) {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    in_order(merged, &patch, &original, "", arena)
}

/// Applies items that are directives. `None` instead of a patch: the list is replaced.
fn special_elements<'a>(
    mut original: List<'a>,
    patch: List<'a>,
    merge_key: &str,
    arena: &'a Bump,
) -> Result<(List<'a>, Option<List<'a>>), PatchError> {
    let mut plain = List::new_in(arena);
    let mut replace = false;
    for item in patch {
        match item.get(PATCH).map(|d| d.as_str()) {
            None => plain.push(item),
            Some(Some("delete")) => {
                let Some(key) = item.get(merge_key) else {
                    return Err(malformed("a deleted item has no merge key"));
                };
                original.retain(|v| v.get(merge_key) != Some(key));
            }
            Some(Some("replace")) => replace = true,
            Some(_) => return Err(bad_directive(item.get(PATCH).unwrap_or(&Value::Null))),
        }
    }
    Ok(if replace {
        (plain, None)
    } else {
        (original, Some(plain))
    })
}

/// Items of the patch in the patch's order, others in the server's, woven together by the server's.
fn in_order<'a>(
    merged: List<'a>,
    patch_order: &[Value<'a>],
    server_order: &[Value<'a>],
    merge_key: &str,
    arena: &'a Bump,
) -> List<'a> {
    let index = |order: &[Value<'a>], item: &Value<'a>| {
        order.iter().position(|o| same_item(o, item, merge_key))
    };
    let mut of_patch: Vec<(usize, Value<'a>)> = Vec::new();
    let mut others: Vec<(usize, Value<'a>)> = Vec::new();
    for item in merged {
        match index(patch_order, &item) {
            Some(at) => of_patch.push((at, item)),
            None => others.push((index(server_order, &item).unwrap_or(usize::MAX), item)),
        }
    }
    of_patch.sort_by_key(|(at, _)| *at);
    others.sort_by_key(|(at, _)| *at);
    let mut out = List::new_in(arena);
    let mut others = others.into_iter().peekable();
    for (_, item) in of_patch {
        let here = index(server_order, &item);
        while let Some((at, _)) = others.peek() {
            if here.is_none_or(|here| *at >= here) {
                break;
            }
            out.extend(others.next().map(|(_, v)| v));
        }
        out.push(item);
    }
    out.extend(others.map(|(_, v)| v));
    out
}
