//! JSON as a tree one can damage: keys in order and as often as one likes, numbers as text.

use std::fmt::Write;

use api::Value;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub fn text(text: &str) -> Node {
        Node::Text(text.to_owned())
    }

    pub fn number(number: impl ToString) -> Node {
        Node::Number(number.to_string())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Node::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Sets a field of the metadata; nothing where that is no object.
    pub fn set_meta(&mut self, key: &str, value: Node) {
        let Node::Map(entries) = self else { return };
        let meta = entries.iter_mut().find(|(k, _)| k == "metadata");
        let Some((_, Node::Map(entries))) = meta else {
            return;
        };
        entries.retain(|(k, _)| k != key);
        entries.push((key.to_owned(), value));
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Items of a list or values of a map.
    pub fn children(&self) -> usize {
        match self {
            Node::List(items) => items.len(),
            Node::Map(entries) => entries.len(),
            _ => 0,
        }
    }

    pub fn child(&self, at: usize) -> Option<&Node> {
        match self {
            Node::List(items) => items.get(at),
            Node::Map(entries) => entries.get(at).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The node at a path of positions.
    pub fn at_mut(&mut self, path: &[usize]) -> Option<&mut Node> {
        let Some((first, rest)) = path.split_first() else {
            return Some(self);
        };
        match self {
            Node::List(items) => items.get_mut(*first)?.at_mut(rest),
            Node::Map(entries) => entries.get_mut(*first)?.1.at_mut(rest),
            _ => None,
        }
    }

    pub fn json(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Node::Null => out.push_str("null"),
            Node::Bool(flag) => write!(out, "{flag}").expect("memory takes it"),
            Node::Number(text) => out.push_str(text),
            Node::Text(text) => write_text(text, out),
            Node::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Node::Map(entries) => {
                out.push('{');
                for (i, (key, value)) in entries.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_text(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

fn write_text(text: &str, out: &mut String) {
    let quoted = serde_json::to_string(text).expect("text is JSON");
    out.push_str(&quoted);
}

impl From<&Value<'_>> for Node {
    fn from(value: &Value<'_>) -> Node {
        match value {
            Value::Null => Node::Null,
            Value::Bool(flag) => Node::Bool(*flag),
            Value::Int(number) => Node::number(number),
            Value::Float(number) => Node::number(number),
            Value::String(text) => Node::text(text),
            Value::List(items) => Node::List(items.iter().map(Node::from).collect()),
            Value::Object(object) => Node::Map(
                object
                    .iter()
                    .map(|(key, value)| (key.to_owned(), Node::from(value)))
                    .collect(),
            ),
        }
    }
}
