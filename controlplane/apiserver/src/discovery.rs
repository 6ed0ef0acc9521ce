//! `/api`, `/apis`, `/api/v1`, `/apis/G`, `/apis/G/V`: older lists and aggregated discovery v2.

use bytes::Bytes;

/// The answer, or none when the path is not one of discovery's.
pub fn respond(_path: &str, _headers: &http::HeaderMap) -> Option<http::Response<Bytes>> {
    None
}
