//! The text of a document while it is written: JSON by hand, because the documents have hundreds of
//! thousands of values that would each be allocated in a tree.

use super::Format;

/// A JSON document in progress.
pub struct Text {
    pub format: Format,
    out: String,
}

impl Text {
    pub fn new(format: Format) -> Self {
        Self {
            format,
            out: String::new(),
        }
    }

    /// Appends JSON as it is.
    pub fn raw(&mut self, json: &str) {
        self.out.push_str(json);
    }

    /// Appends a comma unless a container was just opened.
    pub fn comma(&mut self) {
        if !self.out.ends_with(['{', '[']) {
            self.out.push(',');
        }
    }

    /// Appends `"key":` with the comma before it.
    pub fn key(&mut self, key: &str) {
        self.comma();
        self.string(key);
        self.out.push(':');
    }

    /// Appends a string. Names and enumerations of the facts need no escapes but quotes.
    pub fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            if matches!(c, '"' | '\\') {
                self.out.push('\\');
            }
            self.out.push(c);
        }
        self.out.push('"');
    }

    /// Appends `"key":"text"`.
    pub fn entry(&mut self, key: &str, text: &str) {
        self.key(key);
        self.string(text);
    }

    /// Appends a list of strings.
    pub fn strings(&mut self, list: &[&str]) {
        self.out.push('[');
        for text in list {
            self.comma();
            self.string(text);
        }
        self.out.push(']');
    }

    /// Appends `"$ref":"…"`.
    pub fn reference(&mut self, schema: &str) {
        self.comma();
        self.out.push_str(match self.format {
            Format::V2 => "\"$ref\":\"#/definitions/",
            Format::V3 => "\"$ref\":\"#/components/schemas/",
        });
        self.out.push_str(schema);
        self.out.push('"');
    }

    /// Appends the extension that names a kind.
    pub fn group_version_kind(&mut self, group: &str, version: &str, kind: &str) {
        self.out.push('{');
        self.entry("group", group);
        self.entry("kind", kind);
        self.entry("version", version);
        self.out.push('}');
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.out.into_bytes()
    }
}
