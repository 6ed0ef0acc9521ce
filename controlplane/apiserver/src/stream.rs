//! Streams between a client and a pod: logs, exec, attach, port-forward, and what is asked through `proxy`
//! (`proxy`). For the first the server finds the pod's kubelet, authenticates to it with its own certificate and then copies bytes; the protocol inside
//! an upgraded connection (WebSocket channels, SPDY) is the client's and the kubelet's affair.
//!
//! Port of the locations in `pkg/registry/core/pod/strategy.go` (LogLocation, StreamLocation).

mod admit;
mod any_certificate;
mod kubelet;
mod links;
pub mod proxy;
mod reader;

use api::Status;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::{
    body::Incoming,
    client::conn::http1,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

pub use admit::admit;
pub use kubelet::{KubeletError, Kubelets};

use crate::{
    ResourceId,
    body::{self, Body, BoxError},
    cache::Object,
    call::Call,
};

/// Longest error of a kubelet that is handed on, in bytes (upstream: maxReadLength); longer ones are
/// left out.
const MAX_ERROR_BYTES: usize = 50_000;
/// Query parameters of `log` that the kubelet understands.
const LOG_PARAMETERS: [&str; 8] = [
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
];

/// Answers `pods/{log,exec,attach,portforward}`.
pub async fn pod(mut call: Call, sub: &str) -> Result<Response<Body>, Status> {
    let pods = ResourceId::named("", "pods");
    let (namespace, name) = (&call.attributes.namespace, &call.attributes.name);
    let pod = call
        .server
        .cache()
        .get(pods, namespace, name)
        .ok_or_else(|| call.not_found())?;
    let node = pod.node_name().unwrap_or_default().to_owned();
    if node.is_empty() {
        if sub == "log" {
            let mut nothing = Response::new(body::full(Bytes::new()));
            *nothing.status_mut() = StatusCode::NO_CONTENT;
            return Ok(nothing);
        }
        return Err(Status::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    let path = location(&call, &pod, sub)?;
    let address = kubelet::address_of(call.server.cache(), &node)?;
    if sub == "log" {
        return log(&mut call, &address, &path).await;
    }
    let Some(upgrade) = upgrade_of(&mut call) else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let headers = passed_headers(&call.parts.headers);
    let kubelets = call.server.kubelets();
    let (response, far) = kubelets
        .upgrade(&address, call.parts.method.clone(), &path, headers)
        .await?;
    if let Some(far) = far {
        join(upgrade, far);
    }
    Ok(response)
}

/// Sends the one request of a connection.
async fn exchange<I, B>(io: I, request: Request<B>) -> hyper::Result<Response<Incoming>>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(async move {
        // Its end shows in the body or the upgraded stream.
        let _ = connection.with_upgrades().await;
    });
    sender.send_request(request).await
}

/// The client's connection, if it wants another protocol on it.
fn upgrade_of(call: &mut Call) -> Option<OnUpgrade> {
    let upgrade = call.parts.extensions.remove::<OnUpgrade>();
    upgrade.filter(|_| wants_upgrade(&call.parts.headers))
}

/// Copies between two upgraded connections until one of them ends.
fn join(near: OnUpgrade, far: Upgraded) {
    tokio::spawn(async move {
        let Ok(near) = near.await else { return };
        let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
        // Either side may end the stream; how is in the protocol they speak.
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
}

async fn log(
    call: &mut Call,
    address: &kubelet::Address,
    path: &str,
) -> Result<Response<Body>, Status> {
    let response = call.server.kubelets().get(address, path).await?;
    let (parts, far) = response.into_parts();
    if !parts.status.is_success() {
        let text = body::short(far, MAX_ERROR_BYTES).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        return Err(match parts.status.as_u16() {
            400 => Status::new(400, "BadRequest", text),
            404 => Status::new(404, "NotFound", text),
            _ => Status::internal(text),
        });
    }
    if reader::is_wanted(&call.parts.headers)
        && let Some(upgrade) = upgrade_of(call)
    {
        return reader::serve(&call.parts.headers, upgrade, far);
    }
    let mut response = Response::new(far);
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    Ok(response)
}

/// Path and query on the kubelet.
fn location(call: &Call, pod: &Object, sub: &str) -> Result<String, Status> {
    let (namespace, name) = (pod.namespace(), pod.name());
    let mut query: Vec<(&str, &str)> = Vec::new();
    let path = match sub {
        "log" => {
            for key in LOG_PARAMETERS {
                query.extend(call.attributes.param(key).map(|value| (key, value)));
            }
            format!(
                "/containerLogs/{namespace}/{name}/{}",
                container(call, pod)?
            )
        }
        "exec" | "attach" => {
            for (key, value) in &call.attributes.query {
                match key.as_str() {
                    "command" if sub == "exec" => query.push(("command", value)),
                    // The kubelet's own names (k8s.io/kubelet/pkg/cri/streaming/remotecommand).
                    "stdin" if is_true(value) => query.push(("input", "1")),
                    "stdout" if is_true(value) => query.push(("output", "1")),
                    "stderr" if is_true(value) => query.push(("error", "1")),
                    "tty" if is_true(value) => query.push(("tty", "1")),
                    _ => {}
                }
            }
            format!("/{sub}/{namespace}/{name}/{}", container(call, pod)?)
        }
        _ => {
            for (key, value) in call.attributes.query.iter().filter(|(k, _)| k == "ports") {
                query.push((key, value));
            }
            format!("/portForward/{namespace}/{name}")
        }
    };
    let query: Vec<String> = query
        .iter()
        .map(|(k, v)| format!("{k}={}", percent_encode(v)))
        .collect();
    Ok(if query.is_empty() {
        path
    } else {
        format!("{path}?{}", query.join("&"))
    })
}

fn is_true(text: &str) -> bool {
    !matches!(text, "0" | "false" | "False" | "FALSE")
}

/// The container the client names, or the only one.
fn container(call: &Call, pod: &Object) -> Result<String, Status> {
    let names = |field: &str| -> Vec<String> {
        let raw = pod.field(&format!("spec.{field}")).unwrap_or("[]");
        let list: serde_json::Value = serde_json::from_str(raw).unwrap_or_default();
        let list = list.as_array().cloned().unwrap_or_default();
        list.iter()
            .filter_map(|c| c["name"].as_str().map(str::to_owned))
            .collect()
    };
    let containers = names("containers");
    match call.attributes.param("container").filter(|c| !c.is_empty()) {
        Some(wanted) => {
            let all = [
                containers,
                names("initContainers"),
                names("ephemeralContainers"),
            ]
            .concat();
            if all.iter().any(|n| n == wanted) {
                return Ok(wanted.to_owned());
            }
            Err(Status::bad_request(format!(
                "container {wanted} is not valid for pod {}",
                pod.name()
            )))
        }
        None if containers.len() == 1 => Ok(containers[0].clone()),
        None => {
            let mut text = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                pod.name(),
                containers.join(" ")
            );
            let init = names("initContainers");
            if !init.is_empty() {
                text.push_str(&format!(
                    " or one of the init containers: [{}]",
                    init.join(" ")
                ));
            }
            Err(Status::bad_request(text))
        }
    }
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.to_ascii_lowercase().contains("upgrade"))
}

/// The headers of the upgrade itself; credentials stay here.
fn passed_headers(headers: &HeaderMap) -> HeaderMap {
    let passed = |name: &str| {
        matches!(name, "connection" | "upgrade" | "content-length")
            || name.starts_with("sec-websocket-")
            || name.starts_with("x-stream-protocol-")
    };
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        let is_bearer = name == header::SEC_WEBSOCKET_PROTOCOL
            && value
                .to_str()
                .is_ok_and(|v| v.contains("base64url.bearer.authorization.k8s.io"));
        if passed(name.as_str()) && !is_bearer {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
