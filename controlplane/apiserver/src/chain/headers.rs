//! The headers that every answer has, whoever made it: the request's audit id, and that nothing between
//! server and client may keep the answer.
//!
//! Port of `k8s.io/apiserver/pkg/endpoints/filters/audit_init.go` and `cachecontrol.go`.

use api::Status;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{
    body::{self, Body},
    clock,
    negotiate::Output,
};

/// Names a request in logs on both sides; the client may choose it.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Everything here is behind authentication and authorization.
const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-cache, private");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The id of a request: the client's, as it is, or a new one.
pub fn audit_id(request: &HeaderMap) -> HeaderValue {
    let given = request.get(AUDIT_ID).filter(|id| !id.is_empty());
    given.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&clock::new_uid()).expect("a uid is letters, digits and dashes")
    })
}

/// Completes an answer; what it has already stays.
pub fn complete(response: &mut Response<Body>, audit_id: HeaderValue) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // The answer of whoever the connection leads to, untouched.
        return;
    }
    let headers = response.headers_mut();
    headers.entry(AUDIT_ID).or_insert(audit_id);
    headers.entry(header::CACHE_CONTROL).or_insert(NOT_KEPT);
}

/// A failure in the encoding that the client reads.
pub fn failure(status: &Status, accept: Option<&HeaderValue>) -> Response<Body> {
    let mut response = body::failure(status);
    let accept = accept.and_then(|v| v.to_str().ok());
    let media_type = HeaderValue::from_static(Output::of_error(accept).media_type());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    let warnings = status.warnings.iter();
    warnings.fold(response, |response, warning| warned(response, warning))
}

/// A refusal by impersonation or authorization; its text is not to be taken for HTML.
/// (`RespondWithError` of `k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go`.)
pub fn refusal(status: &Status, accept: Option<&HeaderValue>) -> Response<Body> {
    nosniff(failure(status, accept))
}

/// An answer with a warning for the people behind the client (RFC 7234 5.5, without a date).
pub fn warned(mut response: Response<Body>, warning: &str) -> Response<Body> {
    let quoted = warning
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', " ");
    if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
        response.headers_mut().append(header::WARNING, value);
    }
    response
}

/// Marks an answer as text that no browser may interpret.
pub fn nosniff(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(mut response: Response<Body>) -> HeaderMap {
        complete(&mut response, HeaderValue::from_static("mine"));
        response.into_parts().0.headers
    }

    #[test]
    fn the_audit_id_is_the_clients_or_a_new_one() {
        let mut request = HeaderMap::new();
        let (first, second) = (audit_id(&request), audit_id(&request));
        assert_eq!(first.len(), 36);
        assert_ne!(first, second);
        request.insert(AUDIT_ID, HeaderValue::from_static(""));
        assert_eq!(audit_id(&request).len(), 36);
        request.insert(AUDIT_ID, HeaderValue::from_static("not a uid"));
        assert_eq!(audit_id(&request), "not a uid");
    }

    #[test]
    fn every_answer_has_the_id_and_may_not_be_kept() {
        let headers = completed(body::failure(&Status::page_not_found()));
        assert_eq!(headers[AUDIT_ID], "mine");
        assert_eq!(headers[header::CACHE_CONTROL], "no-cache, private");
    }

    #[test]
    fn what_an_answer_says_of_itself_stays() {
        let mut response = body::json(200, "{}");
        let public = HeaderValue::from_static("public");
        response.headers_mut().insert(header::CACHE_CONTROL, public);
        let theirs = HeaderValue::from_static("theirs");
        response.headers_mut().insert(AUDIT_ID, theirs);
        let headers = completed(response);
        assert_eq!(headers[header::CACHE_CONTROL], "public");
        assert_eq!(headers[AUDIT_ID], "theirs");
    }

    #[test]
    fn failures_are_written_as_the_client_reads() {
        let status = Status::page_not_found();
        let media_type = |accept: Option<&HeaderValue>| {
            let headers = failure(&status, accept).into_parts().0.headers;
            headers[header::CONTENT_TYPE].clone()
        };
        assert_eq!(media_type(None), "application/json");
        let yaml = HeaderValue::from_static("application/yaml");
        assert_eq!(media_type(Some(&yaml)), yaml);
    }

    #[test]
    fn an_upgraded_connection_answers_for_itself() {
        let mut response = Response::new(body::full(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        assert!(completed(response).is_empty());
    }
}
