//! The limit of requests in flight: beyond it a client is told to come back instead of being queued.
//!
//! Long-running requests (watches, streams) are not counted; they hold no work. Neither are callers
//! in this process: the control plane's own parts must not be locked out by clients.

use std::sync::Arc;

use api::Status;
use http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{ApiServer, attributes::Attributes, identity::UserInfo};

/// Requests that are being answered at the same time (upstream: 400 reading and 200 writing).
pub const MAX_IN_FLIGHT: usize = 600;

/// Takes a slot; it is given back when the answer is made.
pub fn enter(
    server: &ApiServer,
    attributes: &Attributes,
    parts: &Parts,
) -> Result<Option<OwnedSemaphorePermit>, Status> {
    if is_long_running(attributes) || parts.extensions.get::<UserInfo>().is_some() {
        return Ok(None);
    }
    slot(server.in_flight()).map(Some)
}

fn slot(slots: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    slots
        .clone()
        .try_acquire_owned()
        .map_err(|_| Status::too_many_requests("too many requests, please try again later.", 1))
}

fn is_long_running(attributes: &Attributes) -> bool {
    attributes.verb == "watch"
        || !attributes.is_resource
        || matches!(
            attributes.subresource.as_str(),
            "log" | "exec" | "attach" | "portforward" | "proxy"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_beyond_the_limit_is_refused_with_advice() {
        let slots = Arc::new(Semaphore::new(1));
        let first = slot(&slots).unwrap();
        let refused = slot(&slots).unwrap_err();
        assert_eq!((refused.code, &*refused.reason), (429, "TooManyRequests"));
        drop(first);
        assert!(slot(&slots).is_ok());
    }
}
