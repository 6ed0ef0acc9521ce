//! YAML text to an untyped tree, as upstream's YAML-to-JSON step reads it.
//!
//! Plain scalars follow YAML 1.1 where upstream's parser does: `yes` and `on` are booleans, `0644` is
//! octal, keys become strings, `<<` merges. Only the first document is read.

use std::collections::HashMap;

use bumpalo::Bump;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::{DecodeError, MAX_DEPTH, Problem};
use crate::doc::{List, Object, Value};
use crate::status::quote;

/// How many nodes aliases may add to a document.
const MAX_ALIAS_NODES: usize = 100_000;

/// Parses the first document.
pub(super) fn parse<'a>(
    bytes: &'a [u8],
    arena: &'a Bump,
    problems: &mut Vec<Problem>,
) -> Result<Value<'a>, DecodeError> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first == Some(&b'{') {
        // JSON is YAML, and far cheaper to read as JSON.
        let mut json_problems = Vec::new();
        if let Ok(value) = super::json::parse(bytes, arena, &mut json_problems) {
            problems.append(&mut json_problems);
            return Ok(value);
        }
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| DecodeError::Syntax("yaml: invalid leading UTF-8 octet".to_owned()))?;
    let mut reader = Reader {
        events: Parser::new_from_str(text),
        arena,
        anchors: HashMap::new(),
        alias_nodes: 0,
        problems,
    };
    reader.document()
}

struct Reader<'a, 'p> {
    events: Parser<'a, StrInput<'a>>,
    arena: &'a Bump,
    anchors: HashMap<usize, Value<'a>>,
    alias_nodes: usize,
    problems: &'p mut Vec<Problem>,
}

fn syntax(error: &ScanError) -> DecodeError {
    in_line(error.marker().line(), error.info())
}

fn at(span: Span, text: &str) -> DecodeError {
    in_line(span.start.line(), text)
}

/// Upstream's parser does not name the first line.
fn in_line(line: usize, text: &str) -> DecodeError {
    DecodeError::Syntax(match line {
        0 | 1 => format!("yaml: {text}"),
        line => format!("yaml: line {line}: {text}"),
    })
}

impl<'a> Reader<'a, '_> {
    fn next(&mut self) -> Result<(Event<'a>, Span), DecodeError> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error)),
            None => Err(DecodeError::Syntax(
                "yaml: unexpected end of the text".to_owned(),
            )),
        }
    }

    fn document(&mut self) -> Result<Value<'a>, DecodeError> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => {}
                Event::StreamEnd | Event::DocumentEnd => return Ok(Value::Null),
                event => {
                    let value = self.node(event, span, 0)?;
                    // An error right after the document is an error of the document.
                    self.next()?;
                    return Ok(value);
                }
            }
        }
    }

    fn node(
        &mut self,
        event: Event<'a>,
        span: Span,
        depth: usize,
    ) -> Result<Value<'a>, DecodeError> {
        if depth > MAX_DEPTH {
            return Err(at(span, "exceeded max depth"));
        }
        let (value, anchor) = match event {
            Event::Alias(id) => return self.alias(id, span),
            Event::Scalar(text, style, anchor, tag) => {
                let text: &'a str = self.arena.alloc_str(&text);
                (scalar(text, style, tag.as_deref()), anchor)
            }
            Event::SequenceStart(anchor, _) => {
                let mut list = List::new_in(self.arena);
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => list.push(self.node(event, span, depth + 1)?),
                    }
                }
                (Value::List(list), anchor)
            }
            Event::MappingStart(anchor, _) => (self.mapping(depth)?, anchor),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return Err(at(span, "did not find expected node content")),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<Value<'a>, DecodeError> {
        let Some(value) = self.anchors.get(&id).cloned() else {
            return Err(at(span, "unknown anchor referenced"));
        };
        self.alias_nodes = self.alias_nodes.saturating_add(count(&value));
        if self.alias_nodes > MAX_ALIAS_NODES {
            return Err(DecodeError::Syntax(
                "yaml: document contains excessive aliasing".to_owned(),
            ));
        }
        Ok(value)
    }

    fn mapping(&mut self, depth: usize) -> Result<Value<'a>, DecodeError> {
        let mut object = Object::new_in(self.arena);
        let mut merged: Vec<Value<'a>> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let is_merge = match &event {
                Event::MappingEnd => break,
                Event::Scalar(text, ScalarStyle::Plain, _, _) => text == "<<",
                _ => false,
            };
            let key = self.node(event, span, depth + 1)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth + 1)?;
            if is_merge {
                merged.push(value);
                continue;
            }
            let key = self.key(&key, span)?;
            if object.contains(key) {
                self.problems.push(Problem {
                    place: 0,
                    text: format!(
                        "yaml: unmarshal errors:\n  line {}: key {} already set in map",
                        span.start.line(),
                        quote(key)
                    ),
                });
            }
            object.set(key, value);
        }
        for value in merged {
            merge(&mut object, value);
        }
        Ok(Value::Object(object))
    }

    /// Keys of JSON objects are strings.
    fn key(&self, key: &Value<'a>, span: Span) -> Result<&'a str, DecodeError> {
        Ok(match key {
            Value::String(text) => text,
            Value::Bool(true) => "true",
            Value::Bool(false) => "false",
            Value::Int(_) | Value::Float(_) => {
                let mut text = Vec::new();
                super::canonical::write_value(key, &mut text);
                self.arena.alloc_str(&String::from_utf8_lossy(&text))
            }
            Value::Null | Value::List(_) | Value::Object(_) => {
                return Err(at(span, "unsupported map key"));
            }
        })
    }
}

/// `<<`: keys of the merged mappings that are not there yet.
fn merge<'a>(object: &mut Object<'a>, value: Value<'a>) {
    match value {
        Value::Object(from) => {
            for (key, value) in from.into_entries() {
                if !object.contains(key) {
                    object.push(key, value);
                }
            }
        }
        Value::List(list) => {
            for value in list {
                merge(object, value);
            }
        }
        _ => {}
    }
}

fn count(value: &Value<'_>) -> usize {
    match value {
        Value::List(list) => 1 + list.iter().map(count).sum::<usize>(),
        Value::Object(object) => 1 + object.iter().map(|(_, v)| count(v)).sum::<usize>(),
        _ => 1,
    }
}

fn scalar<'a>(text: &'a str, style: ScalarStyle, tag: Option<&Tag>) -> Value<'a> {
    match tag
        .filter(|t| t.is_yaml_core_schema())
        .map(|t| t.suffix.as_str())
    {
        Some("str" | "binary" | "timestamp") => return Value::String(text),
        Some(_) => return plain(text),
        None => {}
    }
    match style {
        ScalarStyle::Plain => plain(text),
        ScalarStyle::SingleQuoted
        | ScalarStyle::DoubleQuoted
        | ScalarStyle::Literal
        | ScalarStyle::Folded => Value::String(text),
    }
}

/// What a plain scalar means.
fn plain(text: &str) -> Value<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let first = text.as_bytes()[0];
    if !(first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.')) {
        return Value::String(text);
    }
    if let Some(number) = integer(&text.replace('_', "")) {
        return Value::Int(number);
    }
    match float(text) {
        Some(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => Value::Int(number as i64),
        Some(number) => Value::Float(number),
        None => Value::String(text),
    }
}

fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let number = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

/// Digits with an optional fraction and exponent; nothing else that Rust would read as a number.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let allowed = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
    let starts = unsigned
        .as_bytes()
        .first()
        .is_some_and(|b| b.is_ascii_digit() || *b == b'.');
    if !starts || !unsigned.bytes().all(allowed) || !unsigned.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse::<f64>().ok().filter(|f| f.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<String, DecodeError> {
        let arena = Bump::new();
        let mut problems = Vec::new();
        let value = parse(
            arena.alloc_slice_copy(text.as_bytes()),
            &arena,
            &mut problems,
        )?;
        let mut out = Vec::new();
        super::super::canonical::write_value(&value, &mut out);
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn yaml_reads_as_upstream_reads_it() {
        for (text, expected) in [
            ("a: 1\nb: [x, 'y']\n", r#"{"a":1,"b":["x","y"]}"#),
            (
                "a: yes\nb: 'yes'\nc: off\n",
                r#"{"a":true,"b":"yes","c":false}"#,
            ),
            ("mode: 0644\nhex: 0x10\n", r#"{"mode":420,"hex":16}"#),
            ("v: 1.10\nw: 1.0\nx: 1e3\n", r#"{"v":1.1,"w":1,"x":1000}"#),
            ("a:\nb: ~\n", r#"{"a":null,"b":null}"#),
            ("1: a\ntrue: b\n", r#"{"1":"a","true":"b"}"#),
            ("a: |\n  x\n  y\n", r#"{"a":"x\ny\n"}"#),
            (
                "d: 2001-01-01\nip: 10.0.0.1\n",
                r#"{"d":"2001-01-01","ip":"10.0.0.1"}"#,
            ),
            (
                "a: &x {k: 1}\nb: *x\nc:\n  <<: *x\n  l: 2\n",
                r#"{"a":{"k":1},"b":{"k":1},"c":{"l":2,"k":1}}"#,
            ),
            ("---\na: 1\n---\nb: 2\n", r#"{"a":1}"#),
            ("", "null"),
            ("a: !!str 5\n", r#"{"a":"5"}"#),
        ] {
            assert_eq!(json(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn malformed_yaml_says_where() {
        let error = |text: &str| json(text).unwrap_err().to_string();
        for text in ["a: [1\n", "a: 'x\n", "- a\nb: 1\n", "a: *nope\n"] {
            assert!(
                error(text).starts_with("yaml: "),
                "{text:?}: {}",
                error(text)
            );
        }
        let text = "mapping values are not allowed in this context";
        assert_eq!(error("a: b: c\n"), format!("yaml: {text}"));
        assert_eq!(error("x: y\na: b: c\n"), format!("yaml: line 2: {text}"));
    }

    #[test]
    fn aliases_cannot_explode() {
        let mut text = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (name, of) in ["b", "c", "d", "e", "f", "g"]
            .iter()
            .zip(["a", "b", "c", "d", "e", "f"])
        {
            let items = vec![format!("*{of}"); 10].join(",");
            text.push_str(&format!("{name}: &{name} [{items}]\n"));
        }
        assert!(
            json(&text)
                .unwrap_err()
                .to_string()
                .contains("excessive aliasing")
        );
    }
}
