//! Names, labels and keys: what their characters may be, with upstream's explanations.
//!
//! Port of `k8s.io/apimachinery/pkg/util/validation` and `pkg/api/validate/content`. Each function
//! returns explanations; none means valid.

/// The longest DNS label.
pub const DNS_LABEL_MAX: usize = 63;
/// The longest DNS subdomain.
pub const DNS_SUBDOMAIN_MAX: usize = 253;
/// The longest label value, and the longest name part of a label key.
pub const LABEL_MAX: usize = 63;
/// The longest name of a port.
pub const PORT_NAME_MAX: usize = 15;

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case \
                                 alphanumeric characters, '-' or '.', and must start and end with \
                                 an alphanumeric character";
const KEY_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// Explanations of what is wrong with a text.
pub type Problems = Vec<String>;

fn regex_error(message: &str, examples: &[&str], format: &str) -> String {
    let mut text = format!("{message} (e.g. ");
    for (i, example) in examples.iter().enumerate() {
        if i > 0 {
            text.push_str(" or ");
        }
        text.push_str(&format!("'{example}', "));
    }
    text.push_str(&format!("regex used for validation is '{format}')"));
    text
}

fn max_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn max_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn is_label_text(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn is_subdomain_text(text: &str) -> bool {
    text.split('.').all(is_label_text)
}

/// A DNS-1123 label.
pub fn dns_label(text: &str) -> Problems {
    let mut out = Vec::new();
    if text.len() > DNS_LABEL_MAX {
        out.push(max_characters(DNS_LABEL_MAX));
    }
    if !is_label_text(text) {
        if is_subdomain_text(text) {
            out.push("must not contain dots".to_owned());
        } else {
            out.push(regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
                 '-', and must start and end with an alphanumeric character",
                &["my-name", "123-abc"],
                LABEL_FORMAT,
            ));
        }
    }
    out
}

/// A DNS-1123 subdomain.
pub fn dns_subdomain(text: &str) -> Problems {
    let mut out = Vec::new();
    if text.len() > DNS_SUBDOMAIN_MAX {
        out.push(max_characters(DNS_SUBDOMAIN_MAX));
    }
    if !is_subdomain_text(text) {
        out.push(regex_error(
            SUBDOMAIN_MESSAGE,
            &["example.com"],
            SUBDOMAIN_FORMAT,
        ));
    }
    out
}

/// A DNS-1123 subdomain whose labels may hold underscores, as search domains of resolvers do.
pub fn dns_subdomain_with_underscore(text: &str) -> Problems {
    const MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                           characters, '_', '-' or '.', and must start and end with an alphanumeric \
                           character";
    const FORMAT: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
    let label = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label);
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
        edge(label.as_bytes().first()) && edge(label.as_bytes().last()) && label.bytes().all(inner)
    };
    let mut out = Vec::new();
    if text.len() > DNS_SUBDOMAIN_MAX {
        out.push(max_characters(DNS_SUBDOMAIN_MAX));
    }
    if !text.split('.').all(label) {
        out.push(regex_error(MESSAGE, &["example.com"], FORMAT));
    }
    out
}

/// The name of an HTTP header.
pub fn http_header(text: &str) -> Problems {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        &["X-Header-Name"],
        "[-A-Za-z0-9]+",
    )]
}

/// A DNS-1035 label: as a DNS-1123 label, but it begins with a letter.
pub fn dns_1035_label(text: &str) -> Problems {
    let mut out = Vec::new();
    if text.len() > DNS_LABEL_MAX {
        out.push(max_characters(DNS_LABEL_MAX));
    }
    if !is_label_text(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        out.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
             an alphabetic character, and end with an alphanumeric character",
            &["my-name", "abc-123"],
            "[a-z]([-a-z0-9]*[a-z0-9])?",
        ));
    }
    out
}

/// A name that is one segment of a path, as RBAC objects have.
pub fn path_segment(text: &str) -> Problems {
    match text {
        "." => vec!["may not be '.'".to_owned()],
        ".." => vec!["may not be '..'".to_owned()],
        _ => path_segment_prefix(text),
    }
}

/// What such a name may begin with.
pub fn path_segment_prefix(text: &str) -> Problems {
    ["/", "%"]
        .iter()
        .filter(|c| text.contains(**c))
        .map(|c| format!("may not contain '{c}'"))
        .collect()
}

fn is_key_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// A label key: an optional DNS subdomain, a slash, a name.
pub fn label_key(text: &str) -> Problems {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start \
                           and end with an alphanumeric character";
    let examples = ["MyName", "my.name", "123-abc"];
    let mut out = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                if prefix.len() > DNS_SUBDOMAIN_MAX {
                    out.push(format!("prefix part {}", max_bytes(DNS_SUBDOMAIN_MAX)));
                }
                let rest = dns_subdomain(prefix)
                    .into_iter()
                    .filter(|m| m.contains("regex"));
                out.extend(rest.map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            let inner = regex_error(MESSAGE, &examples, KEY_FORMAT);
            return vec![format!(
                "a valid label key {inner} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        out.push(format!("name part {}", max_bytes(LABEL_MAX)));
    }
    if !is_key_text(name) {
        out.push(format!(
            "name part {}",
            regex_error(MESSAGE, &examples, KEY_FORMAT)
        ));
    }
    out
}

/// A label value.
pub fn label_value(text: &str) -> Problems {
    let mut out = Vec::new();
    if text.len() > LABEL_MAX {
        out.push(max_bytes(LABEL_MAX));
    }
    if !text.is_empty() && !is_key_text(text) {
        out.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' \
             or '.', and must start and end with an alphanumeric character",
            &["MyValue", "my_value", "12345"],
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
        ));
    }
    out
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Problems {
    let mut out = Vec::new();
    if text.len() > DNS_SUBDOMAIN_MAX {
        out.push(max_characters(DNS_SUBDOMAIN_MAX));
    }
    if text.is_empty()
        || !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    {
        out.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            &["key.name", "KEY_NAME", "key-name"],
            "[-._a-zA-Z0-9]+",
        ));
    }
    match text {
        "." => out.push("must not be '.'".to_owned()),
        ".." => out.push("must not be '..'".to_owned()),
        t if t.starts_with("..") => out.push("must not start with '..'".to_owned()),
        _ => {}
    }
    out
}

/// The name of an environment variable.
pub fn env_var(text: &str) -> Problems {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.chars().any(|c| !(' '..='~').contains(&c) || c == '=') {
        return vec![
            "a valid environment variable name must consist only of printable ASCII characters \
             other than '='"
                .to_owned(),
        ];
    }
    Vec::new()
}

/// The name of a port, as IANA service names are.
pub fn port_name(text: &str) -> Problems {
    let mut out = Vec::new();
    if text.len() > PORT_NAME_MAX {
        out.push(max_characters(PORT_NAME_MAX));
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || !text.bytes().all(allowed) {
        out.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// A number of a port.
pub fn port_number(number: i64) -> Problems {
    in_range(number, 1, 65535)
}

/// A number between two others.
pub fn in_range(number: i64, low: i64, high: i64) -> Problems {
    if (low..=high).contains(&number) {
        Vec::new()
    } else {
        vec![format!("must be between {low} and {high}, inclusive")]
    }
}

/// A percentage such as `25%`.
pub fn percent(text: &str) -> Problems {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![regex_error(
        "a valid percent string must be a numeric string followed by an ending '%'",
        &["1%", "93%"],
        "[0-9]+%",
    )]
}

/// A name that generateName may still extend: a dash at its end is not looked at.
pub fn masked_prefix(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(head) if !head.is_empty() => {
            let mut masked: String = head.to_owned();
            masked.pop();
            masked.push('a');
            masked
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_dns_rules() {
        assert!(dns_label("a-1").is_empty());
        assert!(!dns_label("A_b").is_empty());
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        assert!(dns_subdomain("a.b-c.d").is_empty());
        assert!(!dns_subdomain("a..b").is_empty());
        assert!(!dns_1035_label("1a").is_empty());
        assert_eq!(
            dns_subdomain("A_b"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
                 '-' or '.', and must start and end with an alphanumeric character (e.g. \
                 'example.com', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
    }

    #[test]
    fn label_keys_have_an_optional_prefix() {
        assert!(label_key("app.kubernetes.io/name").is_empty());
        assert!(label_key("a").is_empty());
        assert!(!label_key("/a").is_empty());
        assert!(!label_key("a/b/c").is_empty());
        assert!(!label_key("").is_empty());
        assert!(label_value("").is_empty());
        assert!(!label_value("-a").is_empty());
    }

    #[test]
    fn generated_names_may_end_with_a_dash_before_their_suffix() {
        assert_eq!(masked_prefix("web-"), "wea");
        assert!(dns_subdomain(&masked_prefix("web-")).is_empty());
    }
}
