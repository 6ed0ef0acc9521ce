//! Validation: metadata rules for every kind, then rules by kind, in upstream's words.
//!
//! Runs on prepared, defaulted documents. Output: errors with paths; an empty list means valid.

use crate::doc::Doc;
use crate::facts::Resource;
use crate::status::FieldError;
use crate::strategy::Part;

pub mod names;

/// Validates a new object.
pub fn validate_create(resource: &Resource, doc: &Doc<'_>) -> Vec<FieldError> {
    let _ = (resource, doc);
    Vec::new()
}

/// Validates an update of an object or of one of its subresources.
pub fn validate_update(
    resource: &Resource,
    new: &Doc<'_>,
    old: &Doc<'_>,
    part: Part<'_>,
) -> Vec<FieldError> {
    let _ = (resource, new, old, part);
    Vec::new()
}
