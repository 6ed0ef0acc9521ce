//! exec, attach and port-forward.

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::query::Query;
use super::{Api, Body, Refusal};

impl Api {
    pub(super) async fn exec(
        &self,
        _request: Request<Incoming>,
        _query: &Query,
        _id: String,
    ) -> Result<Response<Body>, Refusal> {
        Err(Refusal(StatusCode::NOT_IMPLEMENTED, "exec".to_owned()))
    }

    pub(super) async fn attach(
        &self,
        _request: Request<Incoming>,
        _query: &Query,
        _id: String,
        _tty: bool,
    ) -> Result<Response<Body>, Refusal> {
        Err(Refusal(StatusCode::NOT_IMPLEMENTED, "attach".to_owned()))
    }

    pub(super) async fn port_forward(
        &self,
        _request: Request<Incoming>,
        _query: &Query,
        _sandbox: String,
    ) -> Result<Response<Body>, Refusal> {
        Err(Refusal(
            StatusCode::NOT_IMPLEMENTED,
            "port-forward".to_owned(),
        ))
    }
}
