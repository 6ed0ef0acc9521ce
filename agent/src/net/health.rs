//! `healthCheckNodePort`: load balancers ask each node whether it has endpoints of a Service with
//! externalTrafficPolicy Local. One HTTP listener per Service, as kube-proxy answers
//! (pkg/proxy/healthcheck/service_health.go): 200 with local endpoints, 503 without.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::state::{ObjectKey, State};

/// Connections per listener at the same time.
const CONNECTIONS: usize = 64;
/// A connection that is silent for this long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// Pause before a port is bound again.
const RETRY: Duration = Duration::from_secs(5);

/// A Service to answer for: where, and with how many local endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    service: ObjectKey,
    port: u16,
    local_endpoints: usize,
}

/// Listeners by Service: what they answer, and how they are stopped.
type Running = BTreeMap<ObjectKey, (watch::Sender<Check>, CancellationToken)>;

/// Answers until `shutdown`.
pub async fn run(
    node: String,
    mut states: watch::Receiver<Arc<State>>,
    shutdown: CancellationToken,
) {
    let mut running = Running::new();
    let mut shown = Arc::new(State::default());
    loop {
        let state = states.borrow_and_update().clone();
        if !shown.same_services(&state) {
            follow(&mut running, checks(&state, &node), &shutdown);
            shown = state;
        }
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

/// Listens for these checks and no others.
fn follow(running: &mut Running, checks: BTreeMap<ObjectKey, Check>, shutdown: &CancellationToken) {
    running.retain(|key, (known, stop)| {
        let kept = checks
            .get(key)
            .is_some_and(|c| c.port == known.borrow().port);
        if !kept {
            stop.cancel();
        }
        kept
    });
    for (key, check) in checks {
        match running.get(&key) {
            Some((known, _)) => {
                known.send_if_modified(|old| std::mem::replace(old, check.clone()) != check);
            }
            None => {
                let stop = shutdown.child_token();
                let (sender, receiver) = watch::channel(check);
                tokio::spawn(listen(receiver, stop.clone()));
                running.insert(key, (sender, stop));
            }
        }
    }
}

fn checks(state: &State, node: &str) -> BTreeMap<ObjectKey, Check> {
    let services = state.services.values().filter(|s| s.external_local);
    let check = services.filter_map(|service| {
        let endpoints = state
            .slices_of(&service.key)
            .flat_map(|slice| &slice.endpoints);
        let local = endpoints.filter(|e| e.ready && e.node.as_deref() == Some(node));
        let mut addresses: Vec<_> = local.filter_map(|e| e.addresses.first()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let check = Check {
            service: service.key.clone(),
            port: service.health_check_node_port?,
            local_endpoints: addresses.len(),
        };
        Some((service.key.clone(), check))
    });
    check.collect()
}

async fn listen(check: watch::Receiver<Check>, stop: CancellationToken) {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, check.borrow().port));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            result = accept(address, &check, &stop) => {
                if let Err(error) = result {
                    tracing::warn!(%address, %error, "health check of a Service");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn accept(
    address: SocketAddr,
    check: &watch::Receiver<Check>,
    stop: &CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = permits
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let (stream, _) = listener.accept().await?;
        let (check, stop) = (check.clone(), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(move |_| {
                let answer = answer(&check.borrow());
                async move { Ok::<_, Infallible>(answer) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // A client that breaks off has its answer already, or wants none.
                _ = tokio::time::timeout(IDLE, connection) => {}
                () = stop.cancelled() => {}
            }
            drop(permit);
        });
    }
}

fn answer(check: &Check) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "service": {"namespace": &*check.service.namespace, "name": &*check.service.name},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": true,
    });
    let status = if check.local_endpoints > 0 {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_local_endpoints_is_unavailable() {
        let check = |local_endpoints| Check {
            service: ObjectKey::new("default", "web"),
            port: 32000,
            local_endpoints,
        };
        assert_eq!(answer(&check(0)).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer(&check(2)).status(), StatusCode::OK);
    }
}
