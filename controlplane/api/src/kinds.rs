//! What is particular to single kinds: defaults that depend on other fields, strategy and validation.

use crate::doc::Doc;
use crate::facts::Resource;
use crate::strategy::Part;
use crate::validate::path::Errors;

pub(crate) mod certificate;
pub(crate) mod defaults;
pub(crate) mod namespace;
pub(crate) mod pod;
pub(crate) mod service;
pub(crate) mod workload;

/// The rules of the kind for a new object.
pub(crate) fn validate_create(resource: &Resource, doc: &Doc<'_>, errors: &mut Errors) {
    match (resource.group, resource.kind) {
        ("", "Pod") => pod::validate::create(doc, errors),
        _ => {}
    }
}

/// The rules of the kind for an update.
pub(crate) fn validate_update(
    resource: &Resource,
    new: &Doc<'_>,
    old: &Doc<'_>,
    part: Part<'_>,
    errors: &mut Errors,
) {
    match (resource.group, resource.kind, part) {
        ("", "Pod", Part::Main) => pod::update::update(new, old, errors),
        ("", "Pod", Part::Subresource("status")) => pod::update::status(new, old, errors),
        _ => {}
    }
}
