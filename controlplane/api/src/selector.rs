//! Label and field selectors: parsing of their query syntax and of LabelSelector objects, matching.
//!
//! Port of `k8s.io/apimachinery/pkg/labels` and `pkg/fields`.

use thiserror::Error;

use crate::doc::Value;
use crate::status::quote;
use crate::validate::names::{label_key, label_value};

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
        let mut parser = Parser { text, at: 0 };
        let mut requirements = Vec::new();
        loop {
            match parser.peek(Context::Values) {
                Token::Word(_) | Token::Not => requirements.push(
                    parser
                        .requirement()
                        .map_err(|e| fail(format!("unable to parse requirement: {e}")))?,
                ),
                Token::End => break,
                other => {
                    return Err(fail(format!(
                        "found '{other}', expected: !, identifier, or 'end of string'"
                    )));
                }
            }
            match parser.next(Context::Values) {
                Token::End => break,
                Token::Comma => match parser.peek(Context::Values) {
                    Token::Word(_) | Token::Not => {}
                    other => {
                        return Err(fail(format!(
                            "found '{other}', expected: identifier after ','"
                        )));
                    }
                },
                other => {
                    return Err(fail(format!(
                        "found '{other}', expected: ',' or 'end of string'"
                    )));
                }
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector {
            requirements,
            nothing: false,
        })
    }

    /// Reads a LabelSelector object (matchLabels, matchExpressions); `None` matches nothing.
    pub fn from_value(value: Option<&Value<'_>>) -> Result<LabelSelector, SelectorError> {
        let Some(value) = value.filter(|v| !v.is_null()) else {
            return Ok(LabelSelector {
                requirements: Vec::new(),
                nothing: true,
            });
        };
        let mut requirements = Vec::new();
        if let Some(labels) = value.get("matchLabels").and_then(Value::as_object) {
            for (key, want) in labels.iter() {
                let values = vec![want.as_str().unwrap_or_default().to_owned()];
                requirements.push(Requirement::new(key, Operator::In, values)?);
            }
        }
        for expression in value.list_of("matchExpressions") {
            let operator = match expression.str_of("operator").unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    let text = format!("{} is not a valid label selector operator", quote(other));
                    return Err(fail(text));
                }
            };
            let values = expression
                .list_of("values")
                .iter()
                .map(|v| v.as_str().unwrap_or_default().to_owned())
                .collect();
            let key = expression.str_of("key").unwrap_or_default();
            requirements.push(Requirement::new(key, operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector {
            requirements,
            nothing: false,
        })
    }

    /// Whether labels satisfy it; `get` finds a label's value.
    pub fn matches<'l>(&self, get: impl Fn(&str) -> Option<&'l str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl Requirement {
    /// A requirement, checked.
    pub fn new(
        key: &str,
        operator: Operator,
        values: Vec<String>,
    ) -> Result<Requirement, SelectorError> {
        let mut problems: Vec<String> = Vec::new();
        let joined = label_key(key);
        if !joined.is_empty() {
            problems.push(format!(
                "key: Invalid value: {}: {}",
                quote(key),
                joined.join("; ")
            ));
        }
        let listed = || {
            let list: Vec<String> = values.iter().map(|v| quote(v)).collect();
            format!("[{}]", list.join(","))
        };
        let mut wrong = |why: &str| {
            problems.push(format!("values: Invalid value: {}: {why}", listed()));
        };
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                wrong("for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                wrong("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                wrong("for 'Gt', 'Lt' operators, exactly one value is required");
            }
            Operator::GreaterThan | Operator::LessThan if values[0].parse::<i64>().is_err() => {
                problems.push(format!(
                    "values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an \
                     integer",
                    quote(&values[0])
                ));
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let joined = label_value(value);
            if !joined.is_empty() {
                problems.push(format!(
                    "values[{i}][{key}]: Invalid value: {}: {}",
                    quote(value),
                    joined.join("; ")
                ));
            }
        }
        match problems.len() {
            0 => Ok(Requirement {
                key: key.to_owned(),
                operator,
                values,
            }),
            1 => Err(fail(problems.remove(0))),
            _ => Err(fail(format!("[{}]", problems.join(", ")))),
        }
    }

    /// Whether a label's value satisfies it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|w| w == v);
        let compare = |f: fn(&i64, &i64) -> bool| {
            let left = value.and_then(|v| v.parse().ok());
            let right = self.values.first().and_then(|v| v.parse().ok());
            matches!((left, right), (Some(l), Some(r)) if f(&l, &r))
        };
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compare(i64::gt),
            Operator::LessThan => compare(i64::lt),
        }
    }
}

fn fail(text: String) -> SelectorError {
    SelectorError(text)
}

/// What words mean: `in` and `notin` are values after an operator, operators before.
#[derive(Clone, Copy, PartialEq)]
enum Context {
    Operator,
    Values,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'t> {
    Word(&'t str),
    Not,
    Open,
    Close,
    Comma,
    Equals(&'t str),
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    End,
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Token::Word(word) | Token::Equals(word) => word,
            Token::Not => "!",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::In => "in",
            Token::NotIn => "notin",
            Token::End => "",
        })
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self, context: Context) -> Token<'t> {
        self.token(context).0
    }

    fn next(&mut self, context: Context) -> Token<'t> {
        let (token, end) = self.token(context);
        self.at = end;
        token
    }

    fn token(&self, context: Context) -> (Token<'t>, usize) {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let start = self.text.len() - trimmed.len();
        let symbols = [
            ("!=", Token::NotEquals),
            ("==", Token::Equals("==")),
            ("=", Token::Equals("=")),
            ("!", Token::Not),
            ("(", Token::Open),
            (")", Token::Close),
            (",", Token::Comma),
            (">", Token::Greater),
            ("<", Token::Less),
        ];
        if trimmed.is_empty() {
            return (Token::End, start);
        }
        for (symbol, token) in symbols {
            if trimmed.starts_with(symbol) {
                return (token, start + symbol.len());
            }
        }
        let len = trimmed
            .find(|c| " \t\r\n=!(),><".contains(c))
            .unwrap_or(trimmed.len());
        let word = &trimmed[..len];
        let token = match (word, context) {
            ("in", Context::Operator) => Token::In,
            ("notin", Context::Operator) => Token::NotIn,
            (word, _) => Token::Word(word),
        };
        (token, start + len)
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut token = self.next(Context::Values);
        let negated = token == Token::Not;
        if negated {
            token = self.next(Context::Values);
        }
        let Token::Word(key) = token else {
            return Err(fail(format!("found '{token}', expected: identifier")));
        };
        let problems = label_key(key);
        if !problems.is_empty() {
            let why = problems.join("; ");
            return Err(fail(format!("<nil>: Invalid value: {}: {why}", quote(key))));
        }
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(Context::Values), Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = match self.next(Context::Operator) {
            Token::In => return Requirement::new(key, Operator::In, self.values()?),
            Token::NotIn => return Requirement::new(key, Operator::NotIn, self.values()?),
            Token::Equals(_) => Operator::In,
            Token::NotEquals => Operator::NotIn,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            other => {
                return Err(fail(format!(
                    "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
                )));
            }
        };
        let value = match self.peek(Context::Values) {
            Token::End | Token::Comma => "",
            Token::Word(word) => {
                self.next(Context::Values);
                word
            }
            other => return Err(fail(format!("found '{other}', expected: identifier"))),
        };
        Requirement::new(key, operator, vec![value.to_owned()])
    }

    /// `(a,b,c)`; an empty place is the empty value.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let open = self.next(Context::Values);
        if open != Token::Open {
            return Err(fail(format!("found '{open}' expected: '('")));
        }
        let mut values: Vec<String> = Vec::new();
        let mut pending = "";
        loop {
            match self.next(Context::Values) {
                Token::Word(word) if pending.is_empty() => pending = word,
                end @ (Token::Comma | Token::Close) => {
                    if !values.iter().any(|v| v == pending) {
                        values.push(pending.to_owned());
                    }
                    pending = "";
                    if end == Token::Close {
                        values.sort();
                        return Ok(values);
                    }
                }
                other => {
                    return Err(fail(format!("found '{other}', expected: ',' or ')'")));
                }
            }
        }
    }
}

impl FieldSelector {
    /// Parses the query syntax: `a=b,c==d,e!=f`.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let found = part.char_indices().find_map(|(i, _)| {
                ["!=", "==", "="]
                    .into_iter()
                    .find(|op| part[i..].starts_with(op))
                    .map(|op| (&part[..i], op, &part[i + op.len()..]))
            });
            let Some((field, operator, value)) = found else {
                return Err(fail(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            terms.push(FieldTerm {
                field: field.to_owned(),
                value: unescape(value)?,
                equal: operator != "!=",
            });
        }
        Ok(FieldSelector { terms })
    }

    /// Whether fields satisfy it; `get` gives a field's value ("" when absent).
    pub fn matches<'l>(&self, get: impl Fn(&str) -> &'l str) -> bool {
        self.terms
            .iter()
            .all(|t| (get(&t.field) == t.value) == t.equal)
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

/// Splits at commas that are not escaped.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(fail(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(fail(format!(
                    "invalid field selector: unescaped character in value: {c}"
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(selector: &str, labels: &[(&'static str, &'static str)]) -> bool {
        let find = |key: &str| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        LabelSelector::parse(selector).unwrap().matches(find)
    }

    #[test]
    fn label_selectors_match_as_upstreams_do() {
        let labels = [("app", "web"), ("tier", "front"), ("n", "5"), ("empty", "")];
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (web,db)", true),
            ("app notin (web)", false),
            ("missing notin (x)", true),
            ("missing!=x", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("empty=", true),
            ("empty in ()", true),
            ("in=x", false),
            (" app = web ", true),
        ] {
            assert_eq!(holds(selector, &labels), expected, "{selector}");
        }
    }

    #[test]
    fn malformed_label_selectors_are_refused() {
        for selector in [
            "a=b=c", "a,,b", "a in x", "a in (x", "=x", "a b", "a>x", "-a=b", "a,",
        ] {
            assert!(LabelSelector::parse(selector).is_err(), "{selector}");
        }
    }

    #[test]
    fn field_selectors_compare_strings() {
        let get = |f: &str| if f == "spec.nodeName" { "n1" } else { "" };
        let parse = |s| FieldSelector::parse(s).unwrap();
        assert!(parse("spec.nodeName=n1,status.phase!=Running").matches(get));
        assert!(!parse("spec.nodeName==n2").matches(get));
        assert_eq!(parse("a=x\\,y").required_value("a"), Some("x,y"));
        assert!(FieldSelector::parse("nonsense").is_err());
    }
}
