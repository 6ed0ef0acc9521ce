//! Query parameters of lists and watches.
//!
//! Port of `k8s.io/apimachinery/pkg/apis/meta/internalversion/validation` and of the resource
//! version semantics in `k8s.io/apiserver/pkg/storage`.

use api::{FieldError, Status};
use base64::{DecodeError, Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bumpalo::Bump;
use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;

/// Longest `fieldManager`, in bytes (upstream: FieldManagerMaxLength).
const MAX_MANAGER: usize = 128;

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

/// A resourceVersion parameter; none for `""` and `"0"`. What is no number is upstream's 500 without a
/// reason, but for lists.
pub fn revision(text: Option<&str>) -> Result<Option<u64>, Status> {
    parsed_revision(text).map_err(|error| Status::new(500, "", error.to_string()))
}

fn parsed_revision(text: Option<&str>) -> Result<Option<u64>, FieldError> {
    match text {
        None | Some("" | "0") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            let why = api::status::not_a_number("ParseUint", text);
            FieldError::invalid("resourceVersion", text, why)
        }),
    }
}

/// Port of `ValidateListOptions` for lists.
fn check_list(attributes: &Attributes) -> Result<(), Status> {
    let given = |name: &str| attributes.param(name).unwrap_or_default();
    let (version, matching) = (given("resourceVersion"), given("resourceVersionMatch"));
    let mut errors = Vec::new();
    if !matching.is_empty() {
        let mut forbid =
            |text: &str| errors.push(FieldError::forbidden("resourceVersionMatch", text));
        if version.is_empty() {
            forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !given("continue").is_empty() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if matching == "Exact" && version == "0" {
            forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        let supported = ["Exact", "NotOlderThan", ""];
        if !supported.contains(&matching) {
            let field = "resourceVersionMatch";
            errors.push(FieldError::not_supported(field, matching, &supported));
        }
    }
    if !given("sendInitialEvents").is_empty() {
        let text = "sendInitialEvents is forbidden for list";
        errors.push(FieldError::forbidden("sendInitialEvents", text));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(invalid(&errors))
    }
}

/// The state a list is about unless it continues another.
pub fn at(attributes: &Attributes) -> Result<At, Status> {
    // Its value is the request's affair, but it must be one.
    number(attributes, "timeoutSeconds")?;
    let limited = limit(attributes)? > 0;
    check_list(attributes)?;
    let wanted = parsed_revision(attributes.param("resourceVersion"))
        .map_err(|error| Status::bad_request(format!("invalid resource version: {error}")))?;
    let matching = attributes.param("resourceVersionMatch").unwrap_or_default();
    Ok(match (matching, wanted) {
        (_, None) => At::Newest,
        ("Exact", Some(wanted)) => At::Exact(wanted),
        // With a limit and no match an explicit version has always meant exactly that one.
        ("", Some(wanted)) if limited => At::Exact(wanted),
        (_, Some(wanted)) => At::NotOlderThan(wanted),
    })
}

/// `sendInitialEvents` of a watch, checked against its companions: port of `validateWatchOptions`.
pub fn initial_events(attributes: &Attributes) -> Result<Option<bool>, Status> {
    let matching = attributes.param("resourceVersionMatch").unwrap_or_default();
    let wanted = attributes.param("sendInitialEvents");
    let wanted = wanted.filter(|value| !value.is_empty());
    let field = "resourceVersionMatch";
    let mut errors = Vec::new();
    if wanted.is_some() && matching != "NotOlderThan" {
        let text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(field, text));
    }
    if !matching.is_empty() {
        if wanted.is_none() {
            let text =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(field, text));
        }
        if matching != "NotOlderThan" {
            let supported = ["NotOlderThan"];
            errors.push(FieldError::not_supported(field, matching, &supported));
        }
        if attributes.param("continue").is_some_and(|c| !c.is_empty()) {
            let text = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(field, text));
        }
    }
    if errors.is_empty() {
        Ok(wanted.map(|_| attributes.flag("sendInitialEvents")))
    } else {
        Err(invalid(&errors))
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
        Some(text) => text
            .parse()
            .map_err(|_| Status::bad_request(api::status::not_a_number("ParseInt", text))),
    }
}

/// Checks the options of a write: port of `ValidateCreateOptions`, `ValidateUpdateOptions` and
/// `ValidatePatchOptions` (`k8s.io/apimachinery/pkg/apis/meta/v1/validation/validation.go`).
pub fn check_write(attributes: &Attributes, applies: bool) -> Result<(), Status> {
    let kind = match attributes.verb.as_str() {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => return Ok(()),
    };
    let mut errors = Vec::new();
    if kind == "PatchOptions" && !applies && attributes.param("force").is_some() {
        let text = "may not be specified for non-apply patch";
        errors.push(FieldError::forbidden("force", text));
    }
    let manager = attributes.param("fieldManager").unwrap_or_default();
    if manager.len() > MAX_MANAGER {
        errors.push(FieldError::too_long("fieldManager", MAX_MANAGER));
    }
    let odd = manager
        .char_indices()
        .filter(|(_, c)| !api::status::is_printable(*c));
    errors.extend(odd.map(|(at, c)| {
        let text = format!("invalid character U+{:04X} (at position {at})", c as u32);
        FieldError::invalid("fieldManager", manager, text)
    }));
    errors.extend(dry_run_error(&attributes.params("dryRun")));
    let validation = attributes.param("fieldValidation").unwrap_or_default();
    let supported = ["", "Ignore", "Strict", "Warn"];
    if !supported.contains(&validation) {
        let field = "fieldValidation";
        errors.push(FieldError::not_supported(field, validation, &supported));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid("meta.k8s.io", kind, "", &errors))
}

/// What is wrong with the values of `dryRun`.
pub fn dry_run_error(values: &[&str]) -> Option<FieldError> {
    if values.iter().all(|value| *value == "All") {
        return None;
    }
    let mut error = FieldError::not_supported("dryRun", "", &["All"]);
    error.value = serde_json::json!(values).to_string();
    Some(error)
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

    /// Port of `DecodeContinue` (`k8s.io/apiserver/pkg/storage/continue.go`).
    pub fn parse(token: &str) -> Result<Self, Status> {
        let bad = |why: String| {
            Status::bad_request(format!(
                "invalid continue token: continue key is not valid: {why}"
            ))
        };
        let bytes = URL_SAFE_NO_PAD
            .decode(token.trim_end_matches('='))
            .map_err(|error| {
                let at = match error {
                    DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
                    DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => token.len(),
                };
                bad(format!("illegal base64 data at input byte {at}"))
            })?;
        let arena = Bump::new();
        api::codec::parse(api::Format::Json, &bytes, &arena).map_err(|e| bad(e.to_string()))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        match (token.v.as_str(), token.rv) {
            ("meta.k8s.io/v1", 0) => Err(bad(
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into(),
            )),
            ("meta.k8s.io/v1", _) if token.start.is_empty() => Err(bad(
                "encoded start key empty (version meta.k8s.io/v1)".into(),
            )),
            ("meta.k8s.io/v1", _) => Ok(token),
            (other, _) => Err(bad(format!(
                "server does not recognize this encoded version {other}"
            ))),
        }
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

    fn refused<T: std::fmt::Debug>(
        parse: fn(&Attributes) -> Result<T, Status>,
        query: &str,
    ) -> (u16, String) {
        let attributes = Attributes::parse(&http::Method::GET, "/api/v1/pods", Some(query));
        let status = parse(&attributes).unwrap_err();
        (status.code, status.message)
    }

    #[test]
    fn options_of_lists_and_watches_are_refused_in_upstreams_words() {
        let invalid = "ListOptions.meta.k8s.io \"\" is invalid: ";
        let table = [
            (
                "resourceVersion=x",
                400,
                "invalid resource version: resourceVersion: Invalid value: \"x\": \
                 strconv.ParseUint: parsing \"x\": invalid syntax"
                    .to_owned(),
            ),
            (
                "timeoutSeconds=x",
                400,
                "strconv.ParseInt: parsing \"x\": invalid syntax".to_owned(),
            ),
            (
                "timeoutSeconds=99999999999999999999",
                400,
                "strconv.ParseInt: parsing \"99999999999999999999\": value out of range".to_owned(),
            ),
            (
                "sendInitialEvents=true",
                422,
                format!(
                    "{invalid}sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"
                ),
            ),
            (
                "resourceVersion=0&resourceVersionMatch=Exact",
                422,
                format!(
                    "{invalid}resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is \
                     forbidden for resourceVersion \"0\""
                ),
            ),
        ];
        for (query, code, message) in table {
            assert_eq!(refused(at, query), (code, message), "{query}");
        }
        let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=Exact";
        let message = format!(
            "{invalid}[resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
             resourceVersionMatch to NotOlderThan, resourceVersionMatch: Unsupported value: \
             \"Exact\": supported values: \"NotOlderThan\"]"
        );
        assert_eq!(refused(initial_events, query), (422, message));
        assert_eq!(revision(Some("x")).unwrap_err().code, 500);
    }

    #[test]
    fn options_of_writes_are_refused_in_upstreams_words() {
        let table = [
            (
                "POST",
                "dryRun=Some",
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: \
                 supported values: \"All\"",
            ),
            (
                "PUT",
                "dryRun=All&dryRun=Some&fieldValidation=Nonsense",
                "UpdateOptions.meta.k8s.io \"\" is invalid: [dryRun: Unsupported value: \
                 [\"All\",\"Some\"]: supported values: \"All\", fieldValidation: Unsupported value: \
                 \"Nonsense\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"]",
            ),
            (
                "PATCH",
                "force=true",
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for \
                 non-apply patch",
            ),
            (
                "PATCH",
                "fieldManager=a%01b",
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\x01b\": \
                 invalid character U+0001 (at position 1)",
            ),
        ];
        for (method, query, message) in table {
            let path = if method == "POST" {
                "/api/v1/nodes"
            } else {
                "/api/v1/nodes/a"
            };
            let method: http::Method = method.parse().unwrap();
            let attributes = Attributes::parse(&method, path, Some(query));
            let status = check_write(&attributes, false).unwrap_err();
            assert_eq!(
                (status.code, status.message.as_str()),
                (422, message),
                "{query}"
            );
        }
        let fine = Some("dryRun=All&fieldManager=me&fieldValidation=Strict");
        let attributes = Attributes::parse(&http::Method::POST, "/api/v1/nodes", fine);
        assert!(check_write(&attributes, false).is_ok());
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
