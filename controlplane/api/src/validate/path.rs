//! Paths of fields and the list errors are collected in.
//!
//! A path is a chain of borrowed segments on the stack: valid objects allocate nothing for it.

use std::fmt;

use super::names::Problems;
use crate::codec::write_value;
use crate::doc::Value;
use crate::status::FieldError;

/// A path from the root of an object to a value.
#[derive(Clone, Copy)]
pub(crate) struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    segment: Segment<'p>,
}

#[derive(Clone, Copy)]
enum Segment<'p> {
    Field(&'p str),
    Index(usize),
    Key(&'p str),
}

impl<'p> Path<'p> {
    /// A top-level field.
    pub(crate) fn new(field: &'p str) -> Path<'p> {
        Path {
            parent: None,
            segment: Segment::Field(field),
        }
    }

    /// A field of this.
    pub(crate) fn child(&'p self, field: &'p str) -> Path<'p> {
        Path {
            parent: Some(self),
            segment: Segment::Field(field),
        }
    }

    /// Another field of the same parent.
    pub(crate) fn sibling(&self, field: &'p str) -> Path<'p> {
        Path {
            parent: self.parent,
            segment: Segment::Field(field),
        }
    }

    /// An item of this list.
    pub(crate) fn index(&'p self, index: usize) -> Path<'p> {
        Path {
            parent: Some(self),
            segment: Segment::Index(index),
        }
    }

    /// A value of this map.
    pub(crate) fn key(&'p self, key: &'p str) -> Path<'p> {
        Path {
            parent: Some(self),
            segment: Segment::Key(key),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Field(name) if self.parent.is_some() => write!(f, ".{name}"),
            Segment::Field(name) => f.write_str(name),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// The errors found so far.
#[derive(Default)]
pub(crate) struct Errors(pub(crate) Vec<FieldError>);

impl Errors {
    pub(crate) fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.0.push(FieldError::required(path.to_string(), detail));
    }

    pub(crate) fn invalid(&mut self, path: &Path<'_>, value: &str, detail: impl Into<String>) {
        self.0
            .push(FieldError::invalid(path.to_string(), value, detail));
    }

    pub(crate) fn invalid_number(
        &mut self,
        path: &Path<'_>,
        value: i64,
        detail: impl Into<String>,
    ) {
        self.0
            .push(FieldError::invalid_raw(path.to_string(), value, detail));
    }

    /// An invalid value of any type, shown as it is in JSON.
    pub(crate) fn invalid_value(
        &mut self,
        path: &Path<'_>,
        value: Option<&Value<'_>>,
        detail: impl Into<String>,
    ) {
        let mut text = Vec::new();
        write_value(value.unwrap_or(&Value::Null), &mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        self.0
            .push(FieldError::invalid_raw(path.to_string(), text, detail));
    }

    /// An invalid value that is not shown.
    pub(crate) fn invalid_omitted(&mut self, path: &Path<'_>, detail: &str) {
        self.0
            .push(FieldError::invalid_raw(path.to_string(), "", detail));
    }

    pub(crate) fn not_supported(&mut self, path: &Path<'_>, value: &str, valid: &[&str]) {
        self.0
            .push(FieldError::not_supported(path.to_string(), value, valid));
    }

    pub(crate) fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.0.push(FieldError::forbidden(path.to_string(), detail));
    }

    pub(crate) fn duplicate(&mut self, path: &Path<'_>, value: &str) {
        self.0.push(FieldError::duplicate(path.to_string(), value));
    }

    pub(crate) fn internal(&mut self, path: &Path<'_>, detail: &str) {
        self.0.push(FieldError::internal(path.to_string(), detail));
    }

    pub(crate) fn not_found(&mut self, path: &Path<'_>, value: &str) {
        self.0.push(FieldError::not_found(path.to_string(), value));
    }

    pub(crate) fn too_long(&mut self, path: &Path<'_>, max: usize) {
        self.0.push(FieldError::too_long(path.to_string(), max));
    }

    pub(crate) fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        self.0
            .push(FieldError::too_many(path.to_string(), actual, max));
    }

    pub(crate) fn duplicate_raw(&mut self, path: &Path<'_>, value: impl fmt::Display) {
        self.0
            .push(FieldError::duplicate_raw(path.to_string(), value));
    }

    /// One error for each problem of a text.
    pub(crate) fn each(&mut self, path: &Path<'_>, value: &str, problems: Problems) {
        for problem in problems {
            self.invalid(path, value, problem);
        }
    }

    /// One error for each problem of a number.
    pub(crate) fn each_number(&mut self, path: &Path<'_>, value: i64, problems: Problems) {
        for problem in problems {
            self.invalid_number(path, value, problem);
        }
    }

    /// A number that may not be negative.
    pub(crate) fn non_negative(&mut self, path: &Path<'_>, value: Option<i64>) {
        if let Some(value) = value.filter(|v| *v < 0) {
            self.invalid_number(path, value, "must be greater than or equal to 0");
        }
    }

    /// A value of an enumeration; an absent one is an error of its own when `required`.
    pub(crate) fn one_of(
        &mut self,
        path: &Path<'_>,
        value: Option<&str>,
        valid: &[&str],
        required: bool,
    ) {
        match value {
            None | Some("") if required => self.required(path, ""),
            Some(value) if !valid.contains(&value) => self.not_supported(path, value, valid),
            _ => {}
        }
    }

    /// A text that must be there and well-formed.
    pub(crate) fn named(
        &mut self,
        path: &Path<'_>,
        value: Option<&str>,
        check: fn(&str) -> Problems,
    ) {
        match value.filter(|v| !v.is_empty()) {
            Some(value) => self.each(path, value, check(value)),
            None => self.required(path, ""),
        }
    }
}
