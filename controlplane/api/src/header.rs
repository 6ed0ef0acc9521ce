//! The index over an object's canonical bytes: where its identity and links are, without copies.
//!
//! Input: canonical JSON as [`crate::codec::canonical_stored`] writes it (no resourceVersion). All
//! positions are byte offsets, so the header stays valid wherever the bytes are.

use std::ops::Range;

/// A span of bytes; empty means absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// Where things are in an object's canonical bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `metadata.name` without quotes.
    pub name: Span,
    /// `metadata.namespace` without quotes.
    pub namespace: Span,
    /// `metadata.uid` without quotes.
    pub uid: Span,
    /// `metadata.labels` with braces.
    pub labels: Span,
    /// `metadata.annotations` with braces.
    pub annotations: Span,
    /// `metadata.ownerReferences` with brackets.
    pub owner_references: Span,
    /// `metadata.finalizers` with brackets.
    pub finalizers: Span,
    /// `metadata.creationTimestamp` without quotes.
    pub creation_timestamp: Span,
    /// `metadata.deletionTimestamp` without quotes.
    pub deletion_timestamp: Span,
    /// `metadata.managedFields` with brackets.
    pub managed_fields: Span,
    /// The whole `metadata` object with braces.
    pub metadata: Span,
    /// `metadata.generation`.
    pub generation: i64,
    /// The end of the type meta: list items start with `{` and then the bytes from here.
    pub body: u32,
    /// Where `"resourceVersion":"…"` belongs.
    pub version_at: u32,
    /// Whether the resourceVersion needs a comma before it (else after it, unless metadata is empty).
    pub version_comma_before: bool,
}

/// An owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerReference<'b> {
    /// The owner's apiVersion.
    pub api_version: &'b str,
    /// The owner's kind.
    pub kind: &'b str,
    /// The owner's name.
    pub name: &'b str,
    /// The owner's uid.
    pub uid: &'b str,
    /// Whether the owner is the controller.
    pub controller: bool,
    /// Whether the owner's foreground deletion waits for this object.
    pub block_owner_deletion: bool,
}

impl Span {
    /// As a range of bytes.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Whether it is absent.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The text in those bytes, as it is in JSON.
    pub fn text(self, bytes: &[u8]) -> &str {
        bytes
            .get(self.range())
            .and_then(|b| std::str::from_utf8(b).ok())
            .unwrap_or_default()
    }
}

impl Header {
    /// Scans canonical bytes; `None` if they are not an object.
    pub fn scan(bytes: &[u8]) -> Option<Header> {
        let _ = bytes;
        None
    }

    /// The labels in their order.
    pub fn labels<'b>(&self, bytes: &'b [u8]) -> Vec<(&'b str, &'b str)> {
        let _ = bytes;
        Vec::new()
    }

    /// The owner references.
    pub fn owner_references<'b>(&self, bytes: &'b [u8]) -> Vec<OwnerReference<'b>> {
        let _ = bytes;
        Vec::new()
    }

    /// The finalizers.
    pub fn finalizers<'b>(&self, bytes: &'b [u8]) -> Vec<&'b str> {
        let _ = bytes;
        Vec::new()
    }

    /// Appends the object with its resourceVersion.
    pub fn splice(&self, bytes: &[u8], revision: u64, out: &mut Vec<u8>) {
        let _ = (bytes, revision, out);
    }

    /// Appends the object with its resourceVersion but without kind and apiVersion, as list items of
    /// built-in kinds are.
    pub fn splice_item(&self, bytes: &[u8], revision: u64, out: &mut Vec<u8>) {
        let _ = (bytes, revision, out);
    }
}
