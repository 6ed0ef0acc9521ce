//! Merge patch (RFC 7386) on a tree.

use bumpalo::Bump;

use crate::doc::Value;

/// Merges the patch into the target: null removes, objects merge, everything else replaces.
pub fn apply<'a>(target: &mut Value<'a>, patch: Value<'a>, arena: &'a Bump) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    let object = target.make_object(arena);
    for (key, value) in patch.into_entries() {
        if value.is_null() {
            object.remove(key);
        } else if matches!(value, Value::Object(_)) {
            apply(object.entry_or_object(key), value, arena);
        } else {
            object.set(key, value);
        }
    }
}
