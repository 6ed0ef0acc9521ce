//! What a create or update does to an object before validation: resets, generation, system fields.
//!
//! Port of `rest.BeforeCreate`, `rest.BeforeUpdate` and the kinds' `PrepareForCreate`/`PrepareForUpdate`.
//! Ids and times are arguments.

use crate::doc::Doc;
use crate::facts::Resource;

/// What the server adds to a new object.
#[derive(Clone, Copy, Debug)]
pub struct SystemFields<'s> {
    /// The new object's uid.
    pub uid: &'s str,
    /// Now, as RFC 3339 with seconds.
    pub now: &'s str,
}

/// Which part of an object an update is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'s> {
    /// The object's own endpoint.
    Main,
    /// The endpoint of a subresource, for example `status`.
    Subresource(&'s str),
}

/// Prepares a new object: system fields, status cleared, generation 1, what the kind resets.
/// `metadata.name` is already final (generateName is the caller's), as is `metadata.namespace`.
pub fn prepare_create(resource: &Resource, doc: &mut Doc<'_>, system: SystemFields<'_>) {
    let _ = (resource, doc, system);
}

/// Prepares an update: `new` is what the client wants, `old` what is stored. Keeps system fields, keeps
/// the status (or, for the status subresource, everything else), bumps the generation.
pub fn prepare_update<'a>(resource: &Resource, new: &mut Doc<'a>, old: &Doc<'a>, part: Part<'_>) {
    let _ = (resource, new, old, part);
}
