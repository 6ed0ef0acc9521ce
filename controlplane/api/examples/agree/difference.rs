//! Two verdicts that are not the same, said in words that group what has one cause.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::judge::{Answer, Verdict};

/// Signatures of all differences between our verdict and upstream's; none when they agree.
pub fn signatures(ours: &Verdict, theirs: &Verdict) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    match (&ours.answer, &theirs.answer) {
        (Answer::Object(a), Answer::Object(b)) => objects(a, b, &mut found),
        (Answer::Error(a), Answer::Error(b)) if a != b => {
            found.insert(format!(
                "decoding: ours `{}`, upstream `{}`",
                masked(a),
                masked(b)
            ));
        }
        (Answer::Error(_), Answer::Error(_)) => {}
        (ours, theirs) => {
            let (a, b) = (causes(ours), causes(theirs));
            sides(&a, &b, "error", &mut found);
            if found.is_empty() && ours != theirs {
                found.insert("the same error, not as often".to_owned());
            }
        }
    }
    if ours.warnings != theirs.warnings {
        let before = found.len();
        sides(&ours.warnings, &theirs.warnings, "warning", &mut found);
        if found.len() == before {
            found.insert("warnings in another order".to_owned());
        }
    }
    found
}

fn sides(ours: &[String], theirs: &[String], what: &str, found: &mut BTreeSet<String>) {
    for (side, have, miss) in [("ours", ours, theirs), ("upstream", theirs, ours)] {
        for text in have.iter().filter(|text| !miss.contains(text)) {
            found.insert(format!("{what} only {side}: `{}`", masked(text)));
        }
    }
}

fn causes(answer: &Answer) -> Vec<String> {
    match answer {
        Answer::Object(_) => Vec::new(),
        Answer::Error(text) => vec![format!("(decoding) {text}")],
        Answer::Status(status) => match status["causes"].as_array() {
            Some(list) if !list.is_empty() => {
                let text = |part: &Value| part.as_str().unwrap_or_default().to_owned();
                let line = |cause: &Value| format!("{} {}", text(&cause[0]), text(&cause[1]));
                list.iter().map(line).collect()
            }
            _ => vec![format!("Status {}", status["code"])],
        },
    }
}

fn objects(ours: &str, theirs: &str, found: &mut BTreeSet<String>) {
    if ours == theirs {
        return;
    }
    let parse = |text| serde_json::from_str::<Value>(text).unwrap_or_default();
    let before = found.len();
    values("", &parse(ours), &parse(theirs), found);
    if found.len() == before {
        found.insert("object: order of fields".to_owned());
    }
}

fn values(path: &str, ours: &Value, theirs: &Value, found: &mut BTreeSet<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                values(
                    &format!("{path}.{key}"),
                    value,
                    b.get(key).unwrap_or(&Value::Null),
                    found,
                );
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                values(&format!("{path}.{key}"), &Value::Null, value, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (a, b) in a.iter().zip(b) {
                values(&format!("{path}[]"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => {
            let (a, b) = (masked(&a.to_string()), masked(&b.to_string()));
            found.insert(format!("object {path}: ours {a}, upstream {b}"));
        }
    }
}

/// A text without its particulars: numbers are N, quoted texts “…”, keys of maps […].
fn masked(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                out.push_str("“…”");
            }
            '[' if out.ends_with(|c: char| c.is_ascii_alphanumeric()) => {
                for c in chars.by_ref() {
                    if c == ']' {
                        break;
                    }
                }
                out.push_str("[…]");
            }
            c if c.is_ascii_digit()
                && !out.ends_with(|c: char| c.is_ascii_alphabetic() || c == 'N') =>
            {
                out.push('N');
            }
            c if c.is_ascii_digit() && out.ends_with('N') => {}
            c => out.push(c),
        }
        if out.len() > LONGEST {
            out.push('…');
            break;
        }
    }
    out
}
