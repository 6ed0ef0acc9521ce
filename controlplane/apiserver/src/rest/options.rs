//! Query parameters of lists and watches.
//!
//! Port of `k8s.io/apimachinery/pkg/apis/meta/internalversion/validation` and of the resource
//! version semantics in `k8s.io/apiserver/pkg/storage`.

use api::{FieldError, Status};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;

/// Which state a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest.
    Newest,
    /// Any state at least as new.
    NotOlderThan(u64),
    /// This state.
    Exact(u64),
}

/// A continue token: where a list goes on, and in which state (negative: the newest).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continue {
    pub v: String,
    pub rv: i64,
    pub start: String,
}

/// A resourceVersion parameter; none for `""` and `"0"`.
pub fn revision(text: Option<&str>) -> Result<Option<u64>, Status> {
    match text {
        None | Some("" | "0") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            let error = FieldError::invalid(
                "resourceVersion",
                text,
                format!(
                    "strconv.ParseUint: parsing {}: invalid syntax",
                    api::status::quote(text)
                ),
            );
            invalid(&[error])
        }),
    }
}

/// The state a list without a continue token is about.
pub fn at(attributes: &Attributes) -> Result<At, Status> {
    let version = attributes.param("resourceVersion").unwrap_or_default();
    let matching = attributes.param("resourceVersionMatch").unwrap_or_default();
    let wanted = revision(Some(version))?;
    let forbidden = |text: &str| {
        let error = FieldError::forbidden("resourceVersionMatch", text);
        Err(invalid(&[error]))
    };
    match (matching, version, wanted) {
        ("", _, None) => Ok(At::Newest),
        // With a limit and no match an explicit version has always meant exactly that one.
        ("", _, Some(wanted)) if limit(attributes)? > 0 => Ok(At::Exact(wanted)),
        ("", _, Some(wanted)) => Ok(At::NotOlderThan(wanted)),
        (_, "", _) => {
            forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided")
        }
        ("NotOlderThan", _, None) => Ok(At::Newest),
        ("NotOlderThan", _, Some(wanted)) => Ok(At::NotOlderThan(wanted)),
        ("Exact", _, None) => {
            forbidden("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"")
        }
        ("Exact", _, Some(wanted)) => Ok(At::Exact(wanted)),
        (other, ..) => {
            let supported = ["Exact", "NotOlderThan", ""];
            Err(invalid(&[FieldError::not_supported(
                "resourceVersionMatch",
                other,
                &supported,
            )]))
        }
    }
}

/// `limit`; 0 is no limit.
pub fn limit(attributes: &Attributes) -> Result<usize, Status> {
    number(attributes, "limit").map(|n| usize::try_from(n).unwrap_or(0))
}

/// A number parameter; absent is 0.
pub fn number(attributes: &Attributes, name: &str) -> Result<i64, Status> {
    match attributes.param(name) {
        None | Some("") => Ok(0),
        Some(text) => text.parse().map_err(|_| {
            Status::bad_request(format!(
                "strconv.ParseInt: parsing {}: invalid syntax",
                api::status::quote(text)
            ))
        }),
    }
}

/// A 422 about list options.
pub fn invalid(errors: &[FieldError]) -> Status {
    Status::invalid("meta.k8s.io", "ListOptions", "", errors)
}

// === impl Continue ===

impl Continue {
    pub fn new(revision: Option<u64>, start: &str) -> Self {
        let rv = revision.map_or(-1, |r| r as i64);
        Self {
            v: "meta.k8s.io/v1".into(),
            rv,
            start: start.into(),
        }
    }

    pub fn parse(token: &str) -> Result<Self, Status> {
        let bad = || Status::bad_request("continue key is not valid: encoded token is malformed");
        let bytes = URL_SAFE_NO_PAD
            .decode(token.trim_end_matches('='))
            .map_err(|_| bad())?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        if token.v != "meta.k8s.io/v1" || token.start.is_empty() {
            return Err(bad());
        }
        Ok(token)
    }

    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("strings and numbers are serializable");
        URL_SAFE_NO_PAD.encode(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_versions_mean_what_upstream_says() {
        let table = [
            ("", Some(At::Newest)),
            ("resourceVersion=0", Some(At::Newest)),
            ("resourceVersion=5", Some(At::NotOlderThan(5))),
            ("resourceVersion=5&limit=3", Some(At::Exact(5))),
            (
                "resourceVersion=5&resourceVersionMatch=Exact",
                Some(At::Exact(5)),
            ),
            (
                "resourceVersion=5&resourceVersionMatch=NotOlderThan",
                Some(At::NotOlderThan(5)),
            ),
            (
                "resourceVersion=0&resourceVersionMatch=NotOlderThan",
                Some(At::Newest),
            ),
            ("resourceVersion=0&resourceVersionMatch=Exact", None),
            ("resourceVersionMatch=Exact", None),
            ("resourceVersion=5&resourceVersionMatch=Foo", None),
            ("resourceVersion=x", None),
        ];
        for (query, want) in table {
            let attributes = Attributes::parse(&http::Method::GET, "/api/v1/pods", Some(query));
            assert_eq!(at(&attributes).ok(), want, "{query}");
        }
    }

    #[test]
    fn continue_tokens_survive_their_encoding() {
        let token = Continue::new(Some(7), "a/b");
        assert_eq!(Continue::parse(&token.encode()).unwrap(), token);
        for bad in ["", "x", "e30"] {
            assert!(Continue::parse(bad).is_err());
        }
    }
}
