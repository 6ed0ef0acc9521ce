//! `/openapi/v2` and `/openapi/v3`, published from the facts.

use bytes::Bytes;

/// The answer, or none when the path is not one of OpenAPI's.
pub fn respond(
    _path: &str,
    _query: &[(String, String)],
    _headers: &http::HeaderMap,
) -> Option<http::Response<Bytes>> {
    None
}
