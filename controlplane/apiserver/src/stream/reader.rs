//! A body over a WebSocket, for clients that ask for logs so: after an empty message one message per
//! piece, then the end. What the client sends is ignored until it closes.
//!
//! Mechanism of k8s.io/streaming/pkg/httpstream/wsstream/stream.go.

use api::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::body::{self, Body};

/// How pieces become messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Binary,
    /// Text messages.
    Base64,
}

/// Subprotocols, the first one for a client that names none.
const PROTOCOLS: [(&str, Encoding); 3] = [
    ("", Encoding::Binary),
    ("binary.k8s.io", Encoding::Binary),
    ("base64.binary.k8s.io", Encoding::Base64),
];

/// Whether the client's upgrade is one to a WebSocket.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE);
    super::wants_upgrade(headers)
        && upgrade.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Answers 101 and sends `body` over the client's connection.
pub fn serve(
    headers: &HeaderMap,
    upgrade: OnUpgrade,
    body: Body,
) -> Result<Response<Body>, Status> {
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Status::bad_request("Sec-WebSocket-Key is missing"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| Status::bad_request("Sec-WebSocket-Key is not valid"))?;
    let (protocol, encoding) = choose(headers)?;
    let mut response = Response::new(body::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        let protocol = HeaderValue::from_static(protocol);
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        if let Err(error) = send(socket, body, encoding).await {
            tracing::debug!(%error, "stream over WebSocket ended");
        }
    });
    Ok(response)
}

/// The first subprotocol of the client's that is known.
fn choose(headers: &HeaderMap) -> Result<(&'static str, Encoding), Status> {
    let offered: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // a client's credentials
        .filter(|name| !name.starts_with("base64url.bearer.authorization.k8s.io"))
        .collect();
    if offered.is_empty() {
        return Ok(PROTOCOLS[0]);
    }
    let known = |name: &&str| PROTOCOLS.iter().find(|(known, _)| known == name);
    offered.iter().find_map(known).copied().ok_or_else(|| {
        let [_, (binary, _), (base64, _)] = PROTOCOLS;
        Status::bad_request(format!(
            "none of the WebSocket protocols {offered:?} is supported: use {binary} or {base64}"
        ))
    })
}

async fn send(
    mut socket: WebSocketStream<TokioIo<Upgraded>>,
    mut body: Body,
    encoding: Encoding,
) -> Result<(), Error> {
    let message = |piece: &[u8]| match encoding {
        Encoding::Binary => Message::binary(piece.to_vec()),
        Encoding::Base64 => Message::text(STANDARD.encode(piece)),
    };
    socket.send(message(&[])).await?;
    loop {
        tokio::select! {
            frame = body.frame() => match frame {
                Some(Ok(frame)) => {
                    if let Some(piece) = frame.data_ref().filter(|piece| !piece.is_empty()) {
                        socket.send(message(piece)).await?;
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "stream ended early");
                    break;
                }
                None => break,
            },
            received = socket.next() => match received {
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            },
        }
    }
    socket.close(None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offering(protocols: &'static str) -> HeaderMap {
        let protocols = HeaderValue::from_static(protocols);
        HeaderMap::from_iter([(header::SEC_WEBSOCKET_PROTOCOL, protocols)])
    }

    #[test]
    fn the_clients_first_known_protocol_is_taken() {
        assert_eq!(choose(&HeaderMap::new()).unwrap(), PROTOCOLS[0]);
        assert_eq!(
            choose(&offering("x, base64.binary.k8s.io")).unwrap(),
            PROTOCOLS[2]
        );
        let bearer = offering("base64url.bearer.authorization.k8s.io.abc, binary.k8s.io");
        assert_eq!(choose(&bearer).unwrap(), PROTOCOLS[1]);
        assert_eq!(choose(&offering("x")).unwrap_err().code, 400);
    }
}
