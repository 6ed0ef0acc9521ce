//! Clients of the API server in the same process: a `kube::Client` over its tower `Service`, with a
//! typed identity in place of credentials. No socket, no TLS, no second code path.

use std::convert::Infallible;
use std::task::{Context, Poll};

use apiserver::{ApiServer, UserInfo};
use http::Request;
use kube::client::Body;
use tower::Service;

/// A client of `server` that acts as `user`.
pub fn client(server: &ApiServer, user: UserInfo) -> kube::Client {
    kube::Client::new(
        Local {
            server: server.clone(),
            user,
        },
        "default",
    )
}

#[derive(Clone)]
struct Local {
    server: ApiServer,
    user: UserInfo,
}

impl Service<Request<Body>> for Local {
    type Response = <ApiServer as Service<Request<Body>>>::Response;
    type Error = Infallible;
    type Future = <ApiServer as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.server, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.user.clone());
        self.server.call(request)
    }
}
