//! The index over an object's canonical bytes: where its identity and links are, without copies.
//!
//! Input: canonical JSON as [`crate::codec::canonical_stored`] writes it (no resourceVersion). All
//! positions are byte offsets, so the header stays valid wherever the bytes are.

use std::borrow::Cow;
use std::io::Write;
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
    /// The end of the type meta: list items are `{` and then the bytes from here.
    pub body: u32,
    /// Where `"resourceVersion":"…"` belongs.
    pub version_at: u32,
    /// Whether a field comes before the resourceVersion, so that it needs a comma.
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
    /// Scans canonical bytes; `None` if they are not an object with metadata.
    pub fn scan(bytes: &[u8]) -> Option<Header> {
        let mut header = Header::default();
        let mut found = false;
        let mut scanner = Scanner { bytes, at: 0 };
        scanner.object(|key, value, at| {
            if matches!(key, "kind" | "apiVersion") {
                header.body = value.end;
            } else {
                if header.body == 0 {
                    header.body = at.start;
                }
                if key == "metadata" {
                    header.metadata = value;
                    found = true;
                    return Some(false);
                }
            }
            Some(true)
        })?;
        // The body begins after the comma that follows the type meta.
        if bytes.get(header.body as usize) == Some(&b',') {
            header.body += 1;
        }
        if !found {
            return None;
        }
        header.scan_metadata(bytes)?;
        Some(header)
    }

    fn scan_metadata(&mut self, bytes: &[u8]) -> Option<()> {
        let start = self.metadata.start;
        let mut scanner = Scanner {
            bytes,
            at: start as usize,
        };
        self.version_at = start + 1;
        scanner.object(|key, value, _| {
            let inner = Span {
                start: value.start + 1,
                end: value.end.saturating_sub(1),
            };
            match key {
                "name" => self.name = inner,
                "namespace" => self.namespace = inner,
                "uid" => self.uid = inner,
                "labels" => self.labels = value,
                "annotations" => self.annotations = value,
                "ownerReferences" => self.owner_references = value,
                "finalizers" => self.finalizers = value,
                "creationTimestamp" if inner.end > inner.start => self.creation_timestamp = inner,
                "deletionTimestamp" => self.deletion_timestamp = inner,
                "managedFields" => self.managed_fields = value,
                "generation" => self.generation = value.text(bytes).parse().ok()?,
                _ => {}
            }
            if matches!(
                key,
                "name" | "generateName" | "namespace" | "selfLink" | "uid"
            ) {
                self.version_at = value.end;
                self.version_comma_before = true;
            }
            Some(true)
        })
    }

    /// The labels in their order.
    pub fn labels<'b>(&self, bytes: &'b [u8]) -> Vec<(Cow<'b, str>, Cow<'b, str>)> {
        serde_json::from_slice::<Pairs<'b>>(bytes.get(self.labels.range()).unwrap_or_default())
            .map(|pairs| pairs.0)
            .unwrap_or_default()
    }

    /// One label. Canonical label keys and values need no escapes.
    pub fn label<'b>(&self, bytes: &'b [u8], key: &str) -> Option<&'b str> {
        let mut found = None;
        let mut scanner = Scanner {
            bytes,
            at: self.labels.start as usize,
        };
        if self.labels.is_empty() {
            return None;
        }
        scanner.object(|k, value, _| {
            if k == key {
                let inner = Span {
                    start: value.start + 1,
                    end: value.end - 1,
                };
                found = std::str::from_utf8(bytes.get(inner.range())?).ok();
                return Some(false);
            }
            Some(true)
        })?;
        found
    }

    /// The owner references.
    pub fn owner_references<'b>(&self, bytes: &'b [u8]) -> Vec<OwnerReference<'b>> {
        let raw: Vec<RawOwner<'b>> =
            serde_json::from_slice(bytes.get(self.owner_references.range()).unwrap_or_default())
                .unwrap_or_default();
        raw.into_iter()
            .map(|o| OwnerReference {
                api_version: o.api_version,
                kind: o.kind,
                name: o.name,
                uid: o.uid,
                controller: o.controller.unwrap_or(false),
                block_owner_deletion: o.block_owner_deletion.unwrap_or(false),
            })
            .collect()
    }

    /// The finalizers.
    pub fn finalizers<'b>(&self, bytes: &'b [u8]) -> Vec<Cow<'b, str>> {
        serde_json::from_slice::<Vec<Text<'b>>>(
            bytes.get(self.finalizers.range()).unwrap_or_default(),
        )
        .map(|list| list.into_iter().map(|t| t.0).collect())
        .unwrap_or_default()
    }

    /// Appends the object with its resourceVersion.
    pub fn splice(&self, bytes: &[u8], revision: u64, out: &mut Vec<u8>) {
        self.splice_from(0, bytes, revision, out);
    }

    /// Appends the object with its resourceVersion but without kind and apiVersion, as list items of
    /// built-in kinds are.
    pub fn splice_item(&self, bytes: &[u8], revision: u64, out: &mut Vec<u8>) {
        out.push(b'{');
        self.splice_from(self.body as usize, bytes, revision, out);
    }

    fn splice_from(&self, from: usize, bytes: &[u8], revision: u64, out: &mut Vec<u8>) {
        let at = self.version_at as usize;
        out.reserve(bytes.len() - from + 48);
        out.extend_from_slice(&bytes[from..at]);
        if self.version_comma_before {
            out.push(b',');
        }
        write!(out, "\"resourceVersion\":\"{revision}\"").expect("writing to memory does not fail");
        if !self.version_comma_before && bytes.get(at) != Some(&b'}') {
            out.push(b',');
        }
        out.extend_from_slice(&bytes[at..]);
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawOwner<'b> {
    #[serde(borrow)]
    api_version: &'b str,
    kind: &'b str,
    name: &'b str,
    uid: &'b str,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

#[derive(serde::Deserialize)]
struct Text<'b>(#[serde(borrow)] Cow<'b, str>);

/// A JSON object of strings, in order.
struct Pairs<'b>(Vec<(Cow<'b, str>, Cow<'b, str>)>);

impl<'de> serde::Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(
                self,
                mut map: M,
            ) -> Result<Pairs<'de>, M::Error> {
                let mut pairs = Vec::new();
                while let Some((key, value)) = map.next_entry::<Text<'de>, Text<'de>>()? {
                    pairs.push((key.0, value.0));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Walks canonical JSON (no spaces) without building anything.
struct Scanner<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Scanner<'b> {
    /// Calls `each` with the key, the value's span and the entry's span; it says whether to go on.
    fn object(&mut self, mut each: impl FnMut(&'b str, Span, Span) -> Option<bool>) -> Option<()> {
        if self.bytes.get(self.at) != Some(&b'{') {
            return None;
        }
        self.at += 1;
        while self.bytes.get(self.at)? != &b'}' {
            let entry = self.at;
            let key = self.string()?;
            if self.bytes.get(self.at) != Some(&b':') {
                return None;
            }
            self.at += 1;
            let start = self.at;
            self.skip_value()?;
            let value = Span {
                start: start as u32,
                end: self.at as u32,
            };
            let whole = Span {
                start: entry as u32,
                end: self.at as u32,
            };
            if !each(key, value, whole)? {
                return Some(());
            }
            if self.bytes.get(self.at) == Some(&b',') {
                self.at += 1;
            }
        }
        self.at += 1;
        Some(())
    }

    fn string(&mut self) -> Option<&'b str> {
        let start = self.at + 1;
        self.skip_string()?;
        std::str::from_utf8(self.bytes.get(start..self.at - 1)?).ok()
    }

    fn skip_string(&mut self) -> Option<()> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return None;
        }
        self.at += 1;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                _ => {
                    while !matches!(self.bytes.get(self.at)?, b',' | b'}' | b']' | b':') {
                        self.at += 1;
                    }
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &[u8] = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"b","uid":"u-1","generation":3,"creationTimestamp":"2024-01-01T00:00:00Z","labels":{"app":"x","z":"y"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"rs","uid":"u-2","controller":true}],"finalizers":["f/1"]},"spec":{"containers":[{"name":"c","args":["}\"{"]}]},"status":{}}"#;

    #[test]
    fn the_header_points_at_the_identity_and_the_links() {
        let h = Header::scan(POD).unwrap();
        assert_eq!(h.name.text(POD), "a");
        assert_eq!(h.namespace.text(POD), "b");
        assert_eq!(h.uid.text(POD), "u-1");
        assert_eq!(h.generation, 3);
        assert_eq!(
            h.labels(POD),
            [("app".into(), "x".into()), ("z".into(), "y".into())]
        );
        assert_eq!(h.label(POD, "z"), Some("y"));
        assert_eq!(h.label(POD, "q"), None);
        assert_eq!(h.finalizers(POD), ["f/1"]);
        let owners = h.owner_references(POD);
        assert_eq!((owners[0].name, owners[0].controller), ("rs", true));
        assert!(h.deletion_timestamp.is_empty());
    }

    #[test]
    fn the_resource_version_is_spliced_where_the_struct_has_it() {
        let h = Header::scan(POD).unwrap();
        let mut out = Vec::new();
        h.splice(POD, 42, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains(r#""uid":"u-1","resourceVersion":"42","generation":3"#),
            "{text}"
        );
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        let mut item = Vec::new();
        h.splice_item(POD, 42, &mut item);
        assert!(item.starts_with(br#"{"metadata":{"name":"a""#));
        assert!(serde_json::from_slice::<serde_json::Value>(&item).is_ok());
    }

    #[test]
    fn an_object_without_identity_gets_its_version_too() {
        let bytes = br#"{"kind":"X","apiVersion":"v1","metadata":{},"data":1}"#;
        let h = Header::scan(bytes).unwrap();
        let mut out = Vec::new();
        h.splice(bytes, 7, &mut out);
        assert_eq!(
            out,
            br#"{"kind":"X","apiVersion":"v1","metadata":{"resourceVersion":"7"},"data":1}"#
        );
    }

    #[test]
    fn what_is_not_an_object_has_no_header() {
        for bytes in [
            &b""[..],
            b"[]",
            b"{",
            b"{}",
            br#"{"a":"#,
            br#"{"metadata":1}"#,
            b"{\"a\":}",
        ] {
            assert!(Header::scan(bytes).is_none(), "{bytes:?}");
        }
    }
}
