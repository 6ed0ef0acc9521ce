//! Asking once: exec, HTTP, TCP or gRPC. Input: a container and its probe; output: an `Outcome`. The
//! rules of what counts as success are upstream's (`pkg/probe`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::cri;

/// Bytes of an HTTP answer or exec output that go into an event.
const MAX_OUTPUT: usize = 10 << 10;
const DEFAULT_TIMEOUT_SECONDS: i32 = 1;
const USER_AGENT: &str = "kube-probe/1.37";

pub enum Outcome {
    Success,
    Failure(String),
    /// The question could not be asked; says nothing about the container.
    Unknown(String),
}

/// Who is asked.
pub struct Target {
    pub runtime: cri::Client,
    pub container_id: String,
    pub container: Container,
    pub ip: Option<IpAddr>,
}

pub async fn check(target: &Target, probe: &Probe) -> Outcome {
    let seconds = probe
        .timeout_seconds
        .unwrap_or(DEFAULT_TIMEOUT_SECONDS)
        .max(1);
    let timeout = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return self::exec(target, command, timeout).await;
    }
    let asked = async {
        if let Some(get) = &probe.http_get {
            http(target, get).await
        } else if let Some(tcp) = &probe.tcp_socket {
            tcp_socket(target, tcp.host.as_deref(), &tcp.port).await
        } else if let Some(grpc) = &probe.grpc {
            self::grpc(
                target,
                grpc.port,
                grpc.service.as_deref().unwrap_or_default(),
            )
            .await
        } else {
            Outcome::Unknown("missing probe handler".to_owned())
        }
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure(format!("command timed out after {}s", timeout.as_secs())),
    }
}

async fn exec(target: &Target, command: Vec<String>, timeout: Duration) -> Outcome {
    match target
        .runtime
        .exec_sync(&target.container_id, command, timeout)
        .await
    {
        Ok(answer) if answer.exit_code == 0 => Outcome::Success,
        Ok(answer) => {
            let output = [answer.stdout, answer.stderr].concat();
            Outcome::Failure(text(&output))
        }
        Err(error)
            if error.detail().contains("DeadlineExceeded")
                || error.detail().contains("timeout") =>
        {
            Outcome::Failure(error.detail())
        }
        Err(error) => Outcome::Unknown(error.detail()),
    }
}

async fn tcp_socket(target: &Target, host: Option<&str>, port: &IntOrString) -> Outcome {
    let Some(port) = resolve_port(&target.container, port) else {
        return Outcome::Unknown("couldn't find the named port".to_owned());
    };
    match connect(target, host, port).await {
        Ok(_) => Outcome::Success,
        Err(error) => Outcome::Failure(error),
    }
}

async fn http(target: &Target, get: &HTTPGetAction) -> Outcome {
    let Some(port) = resolve_port(&target.container, &get.port) else {
        return Outcome::Unknown("couldn't find the named port".to_owned());
    };
    let stream = match connect(target, get.host.as_deref(), port).await {
        Ok(stream) => stream,
        Err(error) => return Outcome::Failure(error),
    };
    let request = match http_request(target, get, port) {
        Ok(request) => request,
        Err(error) => return Outcome::Unknown(error),
    };
    let answer = if get.scheme.as_deref() == Some("HTTPS") {
        match insecure_tls(stream).await {
            Ok(stream) => send(stream, request).await,
            Err(error) => Err(error),
        }
    } else {
        send(stream, request).await
    };
    match answer {
        Ok((status, _)) if (200..400).contains(&status) => Outcome::Success,
        Ok((status, _)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Err(error) => Outcome::Failure(error),
    }
}

fn http_request(
    target: &Target,
    get: &HTTPGetAction,
    port: u16,
) -> Result<http::Request<Empty<Bytes>>, String> {
    let path = get.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let mut builder = http::Request::get(path);
    let mut has = (false, false, false);
    for header in get.http_headers.iter().flatten() {
        has.0 |= header.name.eq_ignore_ascii_case("host");
        has.1 |= header.name.eq_ignore_ascii_case("user-agent");
        has.2 |= header.name.eq_ignore_ascii_case("accept");
        builder = builder.header(header.name.as_str(), header.value.as_str());
    }
    if !has.0 {
        builder = builder.header("Host", authority(target, get.host.as_deref(), port));
    }
    if !has.1 {
        builder = builder.header("User-Agent", USER_AGENT);
    }
    if !has.2 {
        builder = builder.header("Accept", "*/*");
    }
    builder
        .header("Connection", "close")
        .body(Empty::new())
        .map_err(|error| error.to_string())
}

/// Sends the request over one HTTP/1 connection; returns status and the beginning of the body.
pub async fn send<S, B>(stream: S, request: http::Request<B>) -> Result<(u16, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let exchange = async move {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_OUTPUT).collect().await;
        Ok((status, body.map(|body| body.to_bytes()).unwrap_or_default()))
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut exchange => answer,
        closed = &mut connection => match closed {
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

async fn insecure_tls(
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
        .with_no_client_auth();
    let name =
        rustls::pki_types::ServerName::try_from("probe").map_err(|error| error.to_string())?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())
}

/// HTTPS probes do not verify the certificate: upstream's documented behaviour, the pod is asked about
/// its health, nothing secret is sent.
#[derive(Debug)]
struct AcceptAny(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `grpc.health.v1.Health/Check`; 1 is SERVING.
async fn grpc(target: &Target, port: i32, service: &str) -> Outcome {
    const SERVING: i32 = 1;
    let port = u16::try_from(port).unwrap_or_default();
    let uri = format!("http://{}", authority(target, None, port));
    let endpoint = match tonic::transport::Endpoint::from_shared(uri) {
        Ok(endpoint) => endpoint,
        Err(error) => return Outcome::Unknown(error.to_string()),
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return Outcome::Failure(format!("failed to connect service: {error}")),
    };
    let mut client = tonic::client::Grpc::new(channel);
    if let Err(error) = client.ready().await {
        return Outcome::Failure(error.to_string());
    }
    let request = tonic::Request::new(HealthCheckRequest {
        service: service.to_owned(),
    });
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    match client.unary(request, path, codec).await {
        Ok(answer) if answer.get_ref().status == SERVING => Outcome::Success,
        Ok(answer) => Outcome::Failure(format!(
            "service unhealthy (status {})",
            answer.get_ref().status
        )),
        Err(status) => Outcome::Failure(status.message().to_owned()),
    }
}

/// The port's number: given, or that of the container's port of this name.
pub fn resolve_port(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let ports = container.ports.as_deref().unwrap_or_default();
            let named = ports.iter().find(|p| p.name.as_ref() == Some(name));
            named
                .and_then(|p| u16::try_from(p.container_port).ok())
                .or_else(|| name.parse().ok())
        }
    }
}

async fn connect(target: &Target, host: Option<&str>, port: u16) -> Result<TcpStream, String> {
    let describe =
        |error: std::io::Error| format!("dial tcp {}: {error}", authority(target, host, port));
    match (host.filter(|h| !h.is_empty()), target.ip) {
        (Some(host), _) => TcpStream::connect((host, port)).await.map_err(describe),
        (None, Some(ip)) => TcpStream::connect((ip, port)).await.map_err(describe),
        (None, None) => Err("the pod has no address".to_owned()),
    }
}

fn authority(target: &Target, host: Option<&str>, port: u16) -> String {
    match (host.filter(|h| !h.is_empty()), target.ip) {
        (Some(host), _) => format!("{host}:{port}"),
        (None, Some(IpAddr::V6(ip))) => format!("[{ip}]:{port}"),
        (None, Some(IpAddr::V4(ip))) => format!("{ip}:{port}"),
        (None, None) => format!("localhost:{port}"),
    }
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(&output[..output.len().min(MAX_OUTPUT)]).into_owned()
}

/// An HTTP hook (postStart, preStop): any answer counts as success, as upstream.
pub async fn http_hook(target: &Target, get: &HTTPGetAction) -> Result<(), String> {
    let port = resolve_port(&target.container, &get.port).ok_or("couldn't find the named port")?;
    let stream = connect(target, get.host.as_deref(), port).await?;
    let request = http_request(target, get, port)?;
    let (parts, _) = request.into_parts();
    send(
        stream,
        http::Request::from_parts(parts, Full::<Bytes>::default()),
    )
    .await
    .map(drop)
}
