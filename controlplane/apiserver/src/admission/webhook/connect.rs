//! Connections to webhooks: TCP, then TLS that is verified against the webhook's own CA bundle, or
//! against the system's roots where it has none.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::trust;

const HTTPS_PORT: u16 = 443;
/// Connects to whatever address a URI has, and expects one name there.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    name: ServerName<'static>,
}

/// An encrypted connection.
pub struct Stream(TokioIo<TlsStream<TcpStream>>);

// === impl Connector ===

impl Connector {
    /// `host` is what the certificate must be for; without a CA the system's roots vouch for it.
    pub fn new(host: &str, ca: &[u8]) -> Result<Self, String> {
        let host = host.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(trust::verifier(ca, provider)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { tls, name })
    }

    async fn connect(self, uri: Uri) -> io::Result<Stream> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(HTTPS_PORT);
        let socket = TcpStream::connect((host, port)).await.map_err(|error| {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            let text = text.to_lowercase();
            io::Error::other(format!("dial tcp {host}:{port}: connect: {text}"))
        })?;
        socket.set_nodelay(true)?;
        let tls = self
            .tls
            .connect(self.name, socket)
            .await
            .map_err(unverified)?;
        Ok(Stream(TokioIo::new(tls)))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Stream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.clone().connect(uri).boxed()
    }
}

/// What Go says of a certificate nobody vouches for.
fn unverified(error: io::Error) -> io::Error {
    let text = error.to_string();
    match text.strip_prefix("invalid peer certificate: ") {
        Some("UnknownIssuer") => io::Error::other(
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        ),
        Some(why) => io::Error::other(format!("tls: failed to verify certificate: x509: {why}")),
        None => io::Error::other(text),
    }
}

// === impl Stream ===

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
