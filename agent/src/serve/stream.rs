//! exec, attach and port-forward: an upgraded connection of the client joined to one of the runtime's
//! streaming server.
//!
//! | client speaks | what happens |
//! |---|---|
//! | SPDY/3.1 (older clients) | bytes are copied |
//! | WebSocket `SPDY/3.1+portforward.k8s.io` | the SPDY bytes inside its messages are copied |
//! | WebSocket `v5.channel.k8s.io`, `v4.channel.k8s.io`, `channel.k8s.io` | channels become SPDY streams (`channels`) |

use http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::query::Query;
use super::{Api, Body, Refusal};
use crate::cri;
use crate::cri::messages as m;

mod channels;
mod spdy;
mod tunnel;

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
/// The first one: nothing is said about a command that ended well, else a line of text.
const V1: &str = "channel.k8s.io";
const PORT_FORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// A connection to the runtime's streaming server after its upgrade.
pub type Runtime = TokioIo<Upgraded>;
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Which streams the client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    fn of(query: &Query, tty: bool) -> Self {
        let either = |a: &str, b: &str| query.flag(a) || query.flag(b);
        Self {
            stdin: either("input", "stdin"),
            stdout: either("output", "stdout"),
            stderr: either("error", "stderr") && !tty,
            tty,
        }
    }
}

/// What the client asked to upgrade to.
enum Client {
    Spdy,
    /// A WebSocket with its key and the subprotocols it offers.
    WebSocket {
        key: HeaderValue,
        offers: Vec<String>,
    },
}

impl Api {
    pub(super) async fn exec(
        &self,
        request: Request<Incoming>,
        query: &Query,
        id: String,
    ) -> Result<Response<Body>, Refusal> {
        let wanted = Wanted::of(query, query.flag("tty"));
        let Wanted {
            stdin,
            stdout,
            stderr,
            tty,
        } = wanted;
        let cmd = query.all("command");
        if cmd.is_empty() {
            return Err(Refusal::bad("you must specify at least 1 command"));
        }
        let ask = m::ExecRequest {
            container_id: id,
            cmd,
            tty,
            stdin,
            stdout,
            stderr,
        };
        let url = self.node.runtime.exec(ask).await.map_err(refused)?;
        remote_command(request, &url, wanted).await
    }

    pub(super) async fn attach(
        &self,
        request: Request<Incoming>,
        query: &Query,
        id: String,
        tty: bool,
    ) -> Result<Response<Body>, Refusal> {
        let wanted = Wanted::of(query, tty);
        let Wanted {
            stdin,
            stdout,
            stderr,
            tty,
        } = wanted;
        let ask = m::AttachRequest {
            container_id: id,
            stdin,
            tty,
            stdout,
            stderr,
        };
        let url = self.node.runtime.attach(ask).await.map_err(refused)?;
        remote_command(request, &url, wanted).await
    }

    pub(super) async fn port_forward(
        &self,
        mut request: Request<Incoming>,
        query: &Query,
        sandbox: String,
    ) -> Result<Response<Body>, Refusal> {
        let ports: Vec<u16> = [query.all("port"), query.all("ports")]
            .concat()
            .iter()
            .flat_map(|list| list.split(','))
            .filter_map(|port| port.parse().ok())
            .collect();
        let numbers = ports.iter().map(|port| i32::from(*port)).collect();
        let url = self
            .node
            .runtime
            .port_forward(&sandbox, numbers)
            .await
            .map_err(refused)?;
        let client = client_of(&request)?;
        let upgrade = hyper::upgrade::on(&mut request);
        let (runtime, _) = connect(&url, &[PORT_FORWARD]).await?;
        match client {
            Client::Spdy => copy(&request, upgrade, runtime, PORT_FORWARD),
            Client::WebSocket { key, offers } if offers.iter().any(|offer| offer == TUNNEL) => {
                accept(upgrade, &key, TUNNEL, |socket| tunnel::run(socket, runtime))
            }
            Client::WebSocket { key, offers } => {
                let protocol = channel_protocol(&offers)?;
                accept(upgrade, &key, protocol, |socket| {
                    channels::port_forward(socket, runtime, ports)
                })
            }
        }
    }
}

async fn remote_command(
    mut request: Request<Incoming>,
    url: &str,
    wanted: Wanted,
) -> Result<Response<Body>, Refusal> {
    let client = client_of(&request)?;
    let upgrade = hyper::upgrade::on(&mut request);
    match client {
        Client::Spdy => {
            let offers: Vec<String> = request
                .headers()
                .get_all(STREAM_PROTOCOL)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|list| list.split(','))
                .map(|offer| offer.trim().to_owned())
                .collect();
            let offers: Vec<&str> = offers.iter().map(String::as_str).collect();
            let (runtime, chosen) = connect(url, &offers).await?;
            copy(&request, upgrade, runtime, &chosen)
        }
        Client::WebSocket { key, offers } => {
            let protocol = channel_protocol(&offers)?;
            // The runtime says how the command ended as the protocol wants it.
            let status = if protocol == V1 { V1 } else { V4 };
            let (runtime, _) = connect(url, &[status]).await?;
            let closes = protocol == V5;
            accept(upgrade, &key, protocol, move |socket| {
                channels::remote_command(socket, runtime, wanted, closes)
            })
        }
    }
}

/// The end of a session as kubectl expects it: without the code for a normal end it reports an error.
fn normal_close() -> Message {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    Message::Close(Some(frame))
}

fn refused(error: cri::Error) -> Refusal {
    Refusal::internal(error.detail())
}

fn client_of(request: &Request<Incoming>) -> Result<Client, Refusal> {
    let header = |name: http::HeaderName| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let upgrade = header(UPGRADE);
    if upgrade.eq_ignore_ascii_case(SPDY) {
        return Ok(Client::Spdy);
    }
    let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
    match key {
        Some(key) if upgrade.eq_ignore_ascii_case("websocket") => {
            let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
            let offers = offers.filter_map(|value| value.to_str().ok());
            let offers = offers
                .flat_map(|list| list.split(','))
                .map(|o| o.trim().to_owned());
            Ok(Client::WebSocket {
                key,
                offers: offers.collect(),
            })
        }
        Some(_) | None => Err(Refusal::bad("Upgrade request required")),
    }
}

fn channel_protocol(offers: &[String]) -> Result<&'static str, Refusal> {
    [V5, V4, V1]
        .into_iter()
        .find(|known| offers.iter().any(|offer| offer == known))
        .ok_or_else(|| Refusal::bad(format!("no known WebSocket subprotocol among {offers:?}")))
}

/// Opens the runtime's URL and upgrades to SPDY; returns the protocol it chose.
async fn connect(url: &str, offers: &[&str]) -> Result<(Runtime, String), Refusal> {
    let failed = |what: &str| Refusal::internal(format!("runtime's streaming server: {what}"));
    let uri: Uri = url.parse().map_err(|_| failed("its URL is not valid"))?;
    if uri.scheme_str() != Some("http") {
        return Err(failed("only http is supported"));
    }
    let authority = uri
        .authority()
        .ok_or_else(|| failed("its URL has no host"))?
        .clone();
    let stream = TcpStream::connect(authority.as_str())
        .await
        .map_err(|error| failed(&error.to_string()))?;
    // Single keystrokes must not wait for one another.
    stream
        .set_nodelay(true)
        .map_err(|error| failed(&error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error.to_string()))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to the runtime's streaming server ended");
        }
    });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, authority.as_str())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, SPDY);
    for offer in offers {
        request = request.header(STREAM_PROTOCOL, *offer);
    }
    let request = request
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| failed(&error.to_string()))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| failed(&error.to_string()))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(failed(&format!("it answered {}", response.status())));
    }
    let chosen = response
        .headers()
        .get(STREAM_PROTOCOL)
        .and_then(|v| v.to_str().ok());
    let chosen = chosen.unwrap_or_default().to_owned();
    let upgraded = hyper::upgrade::on(response)
        .await
        .map_err(|error| failed(&error.to_string()))?;
    Ok((TokioIo::new(upgraded), chosen))
}

/// Answers 101 to a SPDY client and copies bytes both ways.
fn copy(
    request: &Request<Incoming>,
    upgrade: OnUpgrade,
    mut runtime: Runtime,
    chosen: &str,
) -> Result<Response<Body>, Refusal> {
    let mut response = switching(SPDY);
    if request.headers().contains_key(STREAM_PROTOCOL)
        && let Ok(value) = HeaderValue::from_str(chosen)
    {
        response.headers_mut().insert(STREAM_PROTOCOL, value);
    }
    tokio::spawn(async move {
        let Ok(client) = upgrade.await else { return };
        let mut client = TokioIo::new(client);
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut runtime).await {
            tracing::debug!(%error, "stream ended");
        }
    });
    Ok(response)
}

/// Answers 101 to a WebSocket client and hands the socket to `serve`.
fn accept<F>(
    upgrade: OnUpgrade,
    key: &HeaderValue,
    protocol: &'static str,
    serve: impl FnOnce(Socket) -> F + Send + 'static,
) -> Result<Response<Body>, Refusal>
where
    F: Future<Output = ()> + Send,
{
    let mut response = switching("websocket");
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| Refusal::bad("Sec-WebSocket-Key is not valid"))?;
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let io = TokioIo::new(upgraded);
        serve(WebSocketStream::from_raw_socket(io, Role::Server, None).await).await;
    });
    Ok(response)
}

fn switching(protocol: &'static str) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}
