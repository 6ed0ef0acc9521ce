//! Bodies of requests and responses, and the few shapes a response has.

use std::convert::Infallible;

use api::Status;
use bytes::Bytes;
use futures::{FutureExt, Stream, future::BoxFuture};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{
    BodyExt, Collected, Full, LengthLimitError, Limited, StreamBody, combinators::UnsyncBoxBody,
};

/// Error of a streaming body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Body of every response.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Largest request body in bytes (upstream: MaxRequestBodyBytes).
pub const MAX_REQUEST_BYTES: usize = 3 << 20;

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A body that comes in pieces.
pub fn stream<S>(pieces: S) -> Body
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    use futures::TryStreamExt;
    StreamBody::new(pieces.map_ok(hyper::body::Frame::data)).boxed_unsync()
}

/// A response with a JSON body.
pub fn json(code: u16, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// A response with a plain text body.
pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = code;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// A failure as a response.
pub fn failure(status: &Status) -> Response<Body> {
    let mut response = json(status.code, status.to_json());
    let retry = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 && matches!(status.code, 429 | 500..) {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(retry));
    }
    response
}

/// The whole of a body that is not longer than `limit`. (Boxed: the compiler cannot tell that the
/// adapters' future can be sent.)
pub fn short(body: Body, limit: usize) -> BoxFuture<'static, Option<Bytes>> {
    let read = Limited::new(body.map_err(ReadError), limit).collect();
    let read = read.map(|read| read.ok().map(Collected::to_bytes));
    read.boxed()
}

/// A request body that is read only when a verb wants it.
pub struct LazyBody(UnsyncBoxBody<Bytes, ReadError>);

/// The client's body could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ReadError(BoxError);

/// Erases the type of a request body.
pub fn lazy<B>(body: B) -> LazyBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    LazyBody(body.map_err(|error| ReadError(error.into())).boxed_unsync())
}

impl LazyBody {
    /// The whole body, up to [`MAX_REQUEST_BYTES`].
    pub async fn read(self) -> Result<Bytes, Status> {
        match Limited::new(self.0, MAX_REQUEST_BYTES).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Status::too_large(format_args!(
                "limit is {MAX_REQUEST_BYTES}"
            ))),
            Err(error) => Err(Status::bad_request(format!(
                "the body cannot be read: {error}"
            ))),
        }
    }
}
