//! An object: canonical bytes, a header of offsets into them, and the revision of its last write.

use std::sync::Arc;

use api::{Header, header::Span};
use bytes::Bytes;

/// `namespace/name`; cluster-scoped objects begin with the slash. Orders as upstream lists.
pub type Key = Arc<str>;

/// One version of one object. Never changes.
#[derive(Clone, Debug)]
pub struct Object {
    pub key: Key,
    /// Canonical JSON without resourceVersion.
    pub bytes: Bytes,
    pub header: Header,
    /// The revision that wrote this version: its resourceVersion.
    pub revision: u64,
    /// `spec.nodeName` of pods.
    node_name: Span,
}

/// The key of an object.
pub fn key(namespace: &str, name: &str) -> String {
    let mut key = String::with_capacity(namespace.len() + 1 + name.len());
    key.push_str(namespace);
    key.push('/');
    key.push_str(name);
    key
}

// === impl Object ===

impl Object {
    /// None when the bytes are not an object with metadata.
    pub fn new(key: Key, bytes: Bytes, revision: u64, is_pod: bool) -> Option<Self> {
        let header = Header::scan(&bytes)?;
        let node_name = if is_pod {
            field(&bytes, "spec.nodeName")
                .map(|raw| inner_span(&bytes, raw))
                .unwrap_or_default()
        } else {
            Span::default()
        };
        Some(Self {
            key,
            bytes,
            header,
            revision,
            node_name,
        })
    }

    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or("", |(_, name)| name)
    }

    /// `""` for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.key
            .split_once('/')
            .map_or("", |(namespace, _)| namespace)
    }

    pub fn uid(&self) -> &str {
        self.header.uid.text(&self.bytes)
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.header.label(&self.bytes, name)
    }

    /// Whether `metadata.deletionTimestamp` is set.
    pub fn is_terminating(&self) -> bool {
        !self.header.deletion_timestamp.is_empty()
    }

    /// `spec.nodeName` of a pod that is bound.
    pub fn node_name(&self) -> Option<&str> {
        (!self.node_name.is_empty()).then(|| self.node_name.text(&self.bytes))
    }

    /// The raw JSON at a dotted path of object fields.
    pub fn field(&self, path: &str) -> Option<&str> {
        field(&self.bytes, path).and_then(|raw| std::str::from_utf8(raw).ok())
    }

    /// Complete JSON, resourceVersion included.
    pub fn json(&self) -> Vec<u8> {
        self.json_at(self.revision)
    }

    /// Complete JSON with another resourceVersion: deletions carry that of their own commit.
    pub fn json_at(&self, revision: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + 40);
        self.header.splice(&self.bytes, revision, &mut out);
        out
    }
}

/// The span of a string's inside, given its raw JSON (a subslice of `bytes`).
fn inner_span(bytes: &[u8], raw: &[u8]) -> Span {
    let start = raw.as_ptr() as usize - bytes.as_ptr() as usize;
    if raw.len() < 2 || raw[0] != b'"' {
        return Span::default();
    }
    Span {
        start: start as u32 + 1,
        end: (start + raw.len()) as u32 - 1,
    }
}

/// Finds the raw JSON value at a dotted path in well-formed compact JSON.
fn field<'b>(bytes: &'b [u8], path: &str) -> Option<&'b [u8]> {
    let mut at = 0;
    for segment in path.split('.') {
        at = enter(bytes, at, segment)?;
    }
    Some(&bytes[at..skip(bytes, at)?])
}

/// The position of the value of `name` in the object that starts at `at`.
fn enter(bytes: &[u8], at: usize, name: &str) -> Option<usize> {
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    let mut at = at + 1;
    while bytes.get(at) == Some(&b'"') {
        let end = skip(bytes, at)?;
        let value = end + 1; // past the colon
        if &bytes[at + 1..end - 1] == name.as_bytes() {
            return Some(value);
        }
        at = skip(bytes, value)?;
        if bytes.get(at) == Some(&b',') {
            at += 1;
        }
    }
    None
}

/// The position after the value that starts at `at`.
fn skip(bytes: &[u8], at: usize) -> Option<usize> {
    match *bytes.get(at)? {
        b'"' => skip_string(bytes, at),
        b'{' | b'[' => {
            let (mut depth, mut i) = (0usize, at);
            loop {
                match *bytes.get(i)? {
                    b'"' => {
                        i = skip_string(bytes, i)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                i += 1;
                if depth == 0 {
                    return Some(i);
                }
            }
        }
        _ => {
            let rest = &bytes[at..];
            let len = rest.iter().position(|b| matches!(b, b',' | b'}' | b']'));
            Some(at + len.unwrap_or(rest.len()))
        }
    }
}

fn skip_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut i = at + 1;
    loop {
        match *bytes.get(i)? {
            b'\\' => i += 2,
            b'"' => return Some(i + 1),
            _ => i += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_path() {
        let json = br#"{"a":{"x":[1,{"b":"no"}],"b":"y\"es","n":12},"s":true}"#;
        let table = [
            ("a.b", Some(r#""y\"es""#)),
            ("a.n", Some("12")),
            ("s", Some("true")),
            ("a.x", Some(r#"[1,{"b":"no"}]"#)),
            ("a.q", None),
            ("s.q", None),
        ];
        for (path, want) in table {
            assert_eq!(
                field(json, path).map(|b| std::str::from_utf8(b).unwrap()),
                want,
                "{path}"
            );
        }
    }
}
