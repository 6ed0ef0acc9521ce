//! JSON text to an untyped tree. Strings without escapes are borrowed from the input.
//!
//! Errors are in the words of Go's decoder. Duplicate keys keep the last value and are noted with
//! their path.

use std::collections::HashSet;

use bumpalo::Bump;

use super::{DecodeError, MAX_DEPTH, Problem};
use crate::doc::{List, Object, Value};
use crate::status::quote;

/// Objects with more keys than this find duplicates through a set instead of by scanning.
const SCAN_LIMIT: usize = 24;

/// Parses one JSON value and nothing after it.
pub(super) fn parse<'a>(
    bytes: &'a [u8],
    arena: &'a Bump,
    problems: &mut Vec<Problem>,
) -> Result<Value<'a>, DecodeError> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // Go replaces what is not UTF-8 with U+FFFD instead of refusing it.
        Err(_) => arena.alloc_str(&String::from_utf8_lossy(bytes)),
    };
    let mut parser = Parser {
        text,
        first: bytes.first().copied(),
        at: 0,
        depth: 0,
        arena,
        path: Vec::new(),
        problems,
    };
    let value = parser.value()?;
    parser.space();
    match parser.text.as_bytes().get(parser.at) {
        None => Ok(value),
        Some(_) => Err(parser.unexpected("after top-level value")),
    }
}

enum Segment<'a> {
    Key(&'a str),
    Index(usize),
}

struct Parser<'a, 'p> {
    text: &'a str,
    /// The first byte, which may not be UTF-8.
    first: Option<u8>,
    at: usize,
    depth: usize,
    arena: &'a Bump,
    path: Vec<Segment<'a>>,
    problems: &'p mut Vec<Problem>,
}

impl<'a> Parser<'a, '_> {
    fn space(&mut self) {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn unexpected(&self, context: &str) -> DecodeError {
        if let (0, Some(byte @ 0x80..)) = (self.at, self.first) {
            // Go shows the byte as if it were a character.
            let shown = quote(&char::from(byte).to_string());
            let shown = shown.trim_matches('"');
            return DecodeError::Syntax(format!("invalid character '{shown}' {context}"));
        }
        match self
            .text
            .get(self.at..)
            .and_then(|rest| rest.chars().next())
        {
            None => DecodeError::Syntax("unexpected end of JSON input".to_owned()),
            Some(c) => {
                let shown = match c {
                    '\'' => "'\\''".to_owned(),
                    '"' => "'\"'".to_owned(),
                    c => format!("'{}'", c.escape_debug()),
                };
                DecodeError::Syntax(format!("invalid character {shown} {context}"))
            }
        }
    }

    fn value(&mut self) -> Result<Value<'a>, DecodeError> {
        self.space();
        match self.text.as_bytes().get(self.at) {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::list),
            Some(b'"') => self.string().map(Value::String),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) | None => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value<'a>, DecodeError>,
    ) -> Result<Value<'a>, DecodeError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(DecodeError::Syntax("exceeded max depth".to_owned()));
        }
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, DecodeError> {
        for (i, expected) in word.bytes().enumerate() {
            if self.text.as_bytes().get(self.at) != Some(&expected) {
                let context = format!("in literal {word} (expecting '{}')", &word[i..=i]);
                return Err(self.unexpected(&context));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<Value<'a>, DecodeError> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        if bytes[self.at] == b'-' {
            self.at += 1;
        }
        match bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            Some(_) | None => return Err(self.unexpected("in numeric literal")),
        }
        let mut integer = true;
        if bytes.get(self.at) == Some(&b'.') {
            integer = false;
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            integer = false;
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        let text = &self.text[start..self.at];
        if let (true, Ok(number)) = (integer, text.parse()) {
            return Ok(Value::Int(number));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            Ok(_) | Err(_) => Err(DecodeError::Syntax(format!(
                "json: cannot unmarshal number {text} into Go value of type float64"
            ))),
        }
    }

    fn digits(&mut self) {
        while matches!(self.text.as_bytes().get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, context: &str) -> Result<(), DecodeError> {
        if !matches!(self.text.as_bytes().get(self.at), Some(b'0'..=b'9')) {
            return Err(self.unexpected(context));
        }
        self.digits();
        Ok(())
    }

    fn list(&mut self) -> Result<Value<'a>, DecodeError> {
        let mut list = List::new_in(self.arena);
        self.space();
        if self.text.as_bytes().get(self.at) == Some(&b']') {
            self.at += 1;
            return Ok(Value::List(list));
        }
        loop {
            self.path.push(Segment::Index(list.len()));
            list.push(self.value()?);
            self.path.pop();
            self.space();
            match self.text.as_bytes().get(self.at) {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::List(list));
                }
                Some(_) | None => return Err(self.unexpected("after array element")),
            }
        }
    }

    fn object(&mut self) -> Result<Value<'a>, DecodeError> {
        let mut object = Object::new_in(self.arena);
        let mut seen: HashSet<&'a str> = HashSet::new();
        self.space();
        if self.text.as_bytes().get(self.at) == Some(&b'}') {
            self.at += 1;
            return Ok(Value::Object(object));
        }
        loop {
            self.space();
            if self.text.as_bytes().get(self.at) != Some(&b'"') {
                return Err(self.unexpected("looking for beginning of object key string"));
            }
            let key = self.string()?;
            self.space();
            if self.text.as_bytes().get(self.at) != Some(&b':') {
                return Err(self.unexpected("after object key"));
            }
            self.at += 1;
            self.path.push(Segment::Key(key));
            let value = self.value()?;
            if is_new(&object, &mut seen, key) {
                object.push(key, value);
            } else {
                let path = self.shown_path();
                self.problems.push(Problem {
                    place: key.as_ptr().addr(),
                    text: format!("duplicate field {}", crate::status::quote(&path)),
                });
                object.set(key, value);
            }
            self.path.pop();
            self.space();
            match self.text.as_bytes().get(self.at) {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(object));
                }
                Some(_) | None => return Err(self.unexpected("after object key:value pair")),
            }
        }
    }

    fn shown_path(&self) -> String {
        let mut out = String::new();
        for segment in &self.path {
            match segment {
                Segment::Key(key) => {
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(key);
                }
                Segment::Index(i) => out.push_str(&format!("[{i}]")),
            }
        }
        out
    }

    fn string(&mut self) -> Result<&'a str, DecodeError> {
        self.at += 1;
        let start = self.at;
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    let text = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => return self.escaped_string(start),
                Some(0..=0x1f) => return Err(self.unexpected("in string literal")),
                Some(_) => self.at += 1,
                None => return Err(self.unexpected("in string literal")),
            }
        }
    }

    fn escaped_string(&mut self, start: usize) -> Result<&'a str, DecodeError> {
        let mut out =
            bumpalo::collections::String::from_str_in(&self.text[start..self.at], self.arena);
        loop {
            let from = self.at;
            let bytes = self.text.as_bytes();
            while !matches!(bytes.get(self.at), Some(b'"' | b'\\' | 0..=0x1f) | None) {
                self.at += 1;
            }
            out.push_str(&self.text[from..self.at]);
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out.into_bump_str());
                }
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    out.push(c);
                }
                Some(_) | None => return Err(self.unexpected("in string literal")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, DecodeError> {
        let c = match self.text.as_bytes().get(self.at) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape();
            }
            Some(_) | None => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        Ok(c)
    }

    fn unicode_escape(&mut self) -> Result<char, DecodeError> {
        let first = self.hex4()?;
        if let Some(c) = char::from_u32(first) {
            return Ok(c);
        }
        let is_high = (0xd800..0xdc00).contains(&first);
        if is_high && self.text[self.at..].starts_with("\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Result<u32, DecodeError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self
                .text
                .as_bytes()
                .get(self.at)
                .and_then(|b| (*b as char).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.unexpected("in \\u hexadecimal character escape"));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

fn is_new<'a>(object: &Object<'a>, seen: &mut HashSet<&'a str>, key: &'a str) -> bool {
    if object.len() < SCAN_LIMIT {
        return !object.contains(key);
    }
    if seen.is_empty() {
        seen.extend(object.iter().map(|(k, _)| k));
    }
    seen.insert(key)
}
