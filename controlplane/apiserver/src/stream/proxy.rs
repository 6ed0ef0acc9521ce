//! `pods/proxy`, `services/proxy` and `nodes/proxy`: the request goes on to the pod, to an endpoint of the
//! service, or to the node, and the answer comes back as it is, but for its links (`links`).
//!
//! Port of ResourceLocation in `pkg/registry/core/{pod,node}/strategy.go` and
//! `pkg/registry/core/service/storage/storage.go`, of `k8s.io/apiserver/pkg/util/proxy/proxy.go`
//! (RandomEndpoint) and `k8s.io/apimachinery/pkg/util/proxy/{upgradeaware,transport}.go`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use api::Status;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{any_certificate, exchange, join, kubelet, links::Links, upgrade_of};
use crate::{
    ResourceId,
    body::{self, Body},
    cache::Object,
    call::Call,
    endpoint::{self, ServicePort},
};

/// Time to reach a pod.
const CONNECT: Duration = Duration::from_secs(30);
/// Longest page whose links are changed, bytes.
const PAGE_LIMIT: usize = 64 << 20;
/// Headers of one connection (RFC 9110, 7.6.1), and the client's credentials.
const NOT_PASSED: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
];

/// `[scheme:]name[:port]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

/// Where a request goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Kubelet(kubelet::Address),
    Server { ip: IpAddr, port: u16, tls: bool },
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Answers `proxy` of a pod, a service or a node.
pub async fn proxy(mut call: Call) -> Result<Response<Body>, Status> {
    let path = path_after_proxy(call.parts.uri.path()).to_owned();
    if path.is_empty() && matches!(call.parts.method, Method::GET | Method::HEAD) {
        return redirect(&call);
    }
    let target = target(&call)?;
    let upgrade = upgrade_of(&mut call);
    let request = request(&call, &path, &target, upgrade.is_some())?;
    let unreachable = |error: &dyn std::error::Error| {
        Status::unavailable(format!("error trying to reach service: {error}"))
    };
    let connection: Box<dyn Io> = match &target {
        Target::Kubelet(address) => Box::new(call.server.kubelets().connect(address).await?),
        Target::Server { ip, port, tls } => {
            let connect = TcpStream::connect((*ip, *port));
            let stream = match tokio::time::timeout(CONNECT, connect).await {
                Ok(connected) => connected.map_err(|error| unreachable(&error))?,
                Err(elapsed) => return Err(unreachable(&elapsed)),
            };
            if *tls {
                let encrypted = any_certificate::connect(*ip, stream).await;
                Box::new(encrypted.map_err(|error| unreachable(&error))?)
            } else {
                Box::new(stream)
            }
        }
    };
    let mut response = exchange(connection, request)
        .await
        .map_err(|error| unreachable(&error))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(near) = upgrade
    {
        let far = hyper::upgrade::on(&mut response)
            .await
            .map_err(|error| unreachable(&error))?;
        join(near, far);
        return Ok(response.map(|_| body::full(Bytes::new())));
    }
    clean(response.headers_mut());
    linked(response, &call, &target).await
}

/// The answer with its links leading through the proxy: a redirection's, or those of a page.
async fn linked(
    mut response: Response<Incoming>,
    call: &Call,
    target: &Target,
) -> Result<Response<Body>, Status> {
    let whole = call.parts.uri.path();
    let links = Links {
        base: whole.strip_suffix(path_after_proxy(whole)).unwrap_or(whole),
        target: &target.host(),
        requested: call.header(&header::HOST).unwrap_or_default(),
    };
    let headers = response.headers_mut();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(location) = text(header::LOCATION) {
        let moved = links
            .moved(location)
            .and_then(|to| HeaderValue::from_str(&to).ok());
        if let Some(moved) = moved {
            headers.insert(header::LOCATION, moved);
        }
    } else if text(header::CONTENT_TYPE).is_some_and(is_html)
        && !headers.contains_key(header::CONTENT_ENCODING)
    {
        let (parts, body) = response.into_parts();
        let page = Limited::new(body, PAGE_LIMIT).collect().await;
        let page = page.map_err(|error| {
            Status::unavailable(format!(
                "error trying to read a page of at most {PAGE_LIMIT} bytes: {error}"
            ))
        })?;
        let page = links.page(&page.to_bytes());
        return Ok(Response::from_parts(parts, body::full(page)));
    }
    Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
}

fn is_html(media: &str) -> bool {
    let kind = media.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("text/html")
}

/// What follows `…/NAME/proxy` in a path, as it was sent; empty, or beginning with a slash.
fn path_after_proxy(path: &str) -> &str {
    let segments = if path.starts_with("/api/v1/namespaces/") {
        7
    } else {
        5
    };
    let slash = path.match_indices('/').nth(segments);
    slash.map_or("", |(at, _)| &path[at..])
}

/// An empty path could not be the base of relative links.
fn redirect(call: &Call) -> Result<Response<Body>, Status> {
    let query = call.parts.uri.query();
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    let location = format!("{}/{query}", call.parts.uri.path());
    let location = HeaderValue::from_str(&location).map_err(Status::internal)?;
    let mut response = Response::new(body::full(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

fn target(call: &Call) -> Result<Target, Status> {
    let id = &call.attributes.name;
    let kind = call.resource.plural.trim_end_matches('s');
    let parsed =
        split(id).ok_or_else(|| Status::bad_request(format!("invalid {kind} request {id:?}")))?;
    match kind {
        "pod" => pod(call, parsed),
        "service" => service(call, parsed),
        _ => node(call, parsed),
    }
}

fn split(id: &str) -> Option<Id<'_>> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts[..] {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => return None,
    };
    let known = matches!(scheme, "" | "http" | "https");
    (known && !name.is_empty()).then_some(Id {
        tls: scheme == "https",
        name,
        port,
    })
}

fn pod(call: &Call, id: Id<'_>) -> Result<Target, Status> {
    let pod = find(call, "pods", id.name)?;
    let declared = || {
        let containers = json(&pod, "spec.containers");
        let ports = containers.as_array()?.iter().find_map(|container| {
            let port = &container["ports"].as_array()?.first()?["containerPort"];
            port.as_u64()
        });
        ports.and_then(|port| u16::try_from(port).ok())
    };
    let port = match id.port {
        "" => declared().unwrap_or(if id.tls { 443 } else { 80 }),
        port => number(port)?,
    };
    let ip = json(&pod, "status.podIP");
    server(ip.as_str(), port, id.tls)
}

/// A random ready endpoint that is a pod of the service's namespace.
fn service(call: &Call, id: Id<'_>) -> Result<Target, Status> {
    let service = ServicePort {
        namespace: &call.attributes.namespace,
        name: id.name,
        port: id.port,
    };
    let accepts = |endpoint: &Value| is_pod(call, &endpoint["targetRef"]);
    let (ip, port) = endpoint::random(call.server.cache(), service, accepts)?;
    allowed(Some(ip), port, id.tls)
}

fn is_pod(call: &Call, reference: &Value) -> bool {
    let namespace = &call.attributes.namespace;
    let name = reference["name"].as_str().unwrap_or_default();
    let pods = ResourceId::named("", "pods");
    reference["namespace"] == **namespace
        && call.server.cache().get(pods, namespace, name).is_some()
}

fn node(call: &Call, id: Id<'_>) -> Result<Target, Status> {
    let address = kubelet::address_of(call.server.cache(), id.name)?;
    match id.port {
        "" => Ok(Target::Kubelet(address)),
        port => match number(port)? {
            port if port == address.port => Ok(Target::Kubelet(address)),
            port => Ok(Target::Server {
                ip: address.ip,
                port,
                tls: id.tls,
            }),
        },
    }
}

fn find(call: &Call, plural: &'static str, name: &str) -> Result<Arc<Object>, Status> {
    let id = ResourceId::named("", plural);
    let object = call
        .server
        .cache()
        .get(id, &call.attributes.namespace, name);
    object.ok_or_else(|| Status::not_found("", plural, name))
}

fn json(object: &Object, path: &str) -> Value {
    let raw = object.field(path).unwrap_or("null");
    serde_json::from_str(raw).unwrap_or_default()
}

fn number(port: &str) -> Result<u16, Status> {
    let error = |_| Status::bad_request(format!("invalid port {port:?}"));
    port.parse().map_err(error)
}

/// Only addresses of the network: nothing is to be reached on the server's own machine this way.
fn server(ip: Option<&str>, port: u16, tls: bool) -> Result<Target, Status> {
    allowed(ip.and_then(|ip| ip.parse().ok()), port, tls)
}

fn allowed(ip: Option<IpAddr>, port: u16, tls: bool) -> Result<Target, Status> {
    let is_allowed = |ip: &IpAddr| {
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !link_local && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
    };
    match ip.filter(is_allowed) {
        Some(ip) => Ok(Target::Server { ip, port, tls }),
        None => Err(Status::bad_request("address not allowed")),
    }
}

fn request(
    call: &Call,
    path: &str,
    target: &Target,
    upgrade: bool,
) -> Result<Request<Full<Bytes>>, Status> {
    let path = if path.is_empty() { "/" } else { path };
    let uri = match call.parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut request = Request::builder()
        .method(call.parts.method.clone())
        .uri(uri)
        .body(Full::new(call.body.clone()))
        .map_err(Status::internal)?;
    let headers = request.headers_mut();
    headers.extend(call.parts.headers.clone());
    clean(headers);
    if call
        .header(&header::ACCEPT)
        .is_some_and(|accept| accept.contains("text/html"))
    {
        // the links of a compressed page could not be changed
        headers.remove(header::ACCEPT_ENCODING);
    }
    if upgrade {
        for name in [header::CONNECTION, header::UPGRADE] {
            headers.extend(call.parts.headers.get(&name).map(|v| (name, v.clone())));
        }
    }
    let forwarded = [
        ("x-forwarded-uri", call.parts.uri.path()),
        ("x-forwarded-proto", "https"),
        (
            "x-forwarded-host",
            call.header(&header::HOST).unwrap_or_default(),
        ),
    ];
    for (name, value) in forwarded {
        let value = HeaderValue::from_str(value).map_err(Status::internal)?;
        headers.insert(name, value);
    }
    let host = HeaderValue::from_str(&target.host()).map_err(Status::internal)?;
    headers.insert(header::HOST, host);
    Ok(request)
}

impl Target {
    fn host(&self) -> String {
        let (ip, port) = match self {
            Self::Kubelet(address) => (address.ip, address.port),
            Self::Server { ip, port, .. } => (*ip, *port),
        };
        std::net::SocketAddr::new(ip, port).to_string()
    }
}

/// Takes out what is between the server and one of its sides.
fn clean(headers: &mut HeaderMap) {
    for name in NOT_PASSED {
        headers.remove(name);
    }
    let cors: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("access-control-allow-"))
        .cloned()
        .collect();
    for name in cors {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_have_a_scheme_and_a_port() {
        let id = |tls, name, port| Some(Id { tls, name, port });
        assert_eq!(split("p"), id(false, "p", ""));
        assert_eq!(split("p:80"), id(false, "p", "80"));
        assert_eq!(split("https:p:tls"), id(true, "p", "tls"));
        assert_eq!(split("https:p:"), id(true, "p", ""));
        for bad in ["", ":80", "ftp:p:80", "a:b:c:d"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_rest_of_the_path_goes_on_as_it_was_sent() {
        let table = [
            ("/api/v1/namespaces/n/pods/p:80/proxy", ""),
            ("/api/v1/namespaces/n/pods/p:80/proxy/", "/"),
            (
                "/api/v1/namespaces/n/services/s/proxy/a%20b//c/",
                "/a%20b//c/",
            ),
            ("/api/v1/nodes/n/proxy", ""),
            ("/api/v1/nodes/n/proxy/logs/", "/logs/"),
        ];
        for (path, rest) in table {
            assert_eq!(path_after_proxy(path), rest, "{path}");
        }
    }

    #[test]
    fn only_addresses_of_the_network_are_reached() {
        for bad in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "fe80::1",
            "",
        ] {
            assert!(server(Some(bad), 80, false).is_err(), "{bad}");
        }
        assert!(server(Some("10.244.0.5"), 80, false).is_ok());
        assert!(server(None, 80, false).is_err());
    }
}
