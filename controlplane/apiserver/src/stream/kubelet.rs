//! Connections to the kubelets: TLS with the server's client certificate, HTTP/1.1 for the sake of
//! upgrades, one connection per request.

use std::{net::IpAddr, sync::Arc, time::Duration};

use api::Status;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{ResourceId, body::Body, cache::Cache, options::KubeletOptions};

/// Time to reach a kubelet.
const CONNECT: Duration = Duration::from_secs(10);
/// Port of a kubelet that does not publish one.
const DEFAULT_PORT: u16 = 10250;

/// Why the client side cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("read a PEM of the kubelet client")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("set up TLS to the kubelets")]
    Tls(#[from] rustls::Error),
}

/// Where a kubelet listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub node: String,
    pub ip: IpAddr,
    pub port: u16,
}

/// The client side of all kubelets.
pub struct Kubelets {
    tls: Option<TlsConnector>,
}

/// Finds a node's kubelet.
pub fn address_of(cache: &Cache, node: &str) -> Result<Address, Status> {
    let nodes = ResourceId::named("", "nodes");
    let object = cache
        .get(nodes, "", node)
        .ok_or_else(|| Status::not_found("", "nodes", node))?;
    let addresses: serde_json::Value = object
        .field("status.addresses")
        .and_then(|raw| serde_json::from_str(raw).ok())
        .unwrap_or_default();
    let addresses = addresses.as_array().cloned().unwrap_or_default();
    let of_type = |wanted: &str| {
        addresses
            .iter()
            .filter(|a| a["type"] == wanted)
            .find_map(|a| a["address"].as_str()?.parse::<IpAddr>().ok())
    };
    // kubelet-preferred-address-types, less the names: they need not resolve here.
    let ip = of_type("InternalIP").or_else(|| of_type("ExternalIP"));
    let Some(ip) = ip else {
        return Err(Status::internal(format_args!("node {node} has no address")));
    };
    let port = object
        .field("status.daemonEndpoints.kubeletEndpoint.Port")
        .and_then(|p| p.parse().ok())
        .filter(|p| *p != 0)
        .unwrap_or(DEFAULT_PORT);
    Ok(Address {
        node: node.to_owned(),
        ip,
        port,
    })
}

// === impl Kubelets ===

impl Kubelets {
    /// Without a CA there is no connection to any kubelet.
    pub fn new(options: &KubeletOptions) -> Result<Self, KubeletError> {
        if options.ca_pem.is_empty() {
            return Ok(Self { tls: None });
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(options.ca_pem.as_bytes()) {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(options.cert_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(options.key_pem.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self {
            tls: Some(TlsConnector::from(Arc::new(config))),
        })
    }

    /// GET with a streamed answer.
    pub async fn get(&self, address: &Address, path: &str) -> Result<Response<Body>, Status> {
        let request = request(address, Method::GET, path, HeaderMap::new())?;
        let response = self.send(address, request).await?;
        Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
    }

    /// Asks for an upgrade. With 101 the second value is the connection that carries the stream.
    pub async fn upgrade(
        &self,
        address: &Address,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<(Response<Body>, Option<Upgraded>), Status> {
        let request = request(address, method, path, headers)?;
        let mut response = self.send(address, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok((response.map(|b| b.map_err(Into::into).boxed_unsync()), None));
        }
        let far = hyper::upgrade::on(&mut response)
            .await
            .map_err(|e| unreachable(address, &e))?;
        let (parts, _) = response.into_parts();
        Ok((
            Response::from_parts(parts, crate::body::full(Bytes::new())),
            Some(far),
        ))
    }

    /// A connection to a kubelet.
    pub async fn connect(&self, address: &Address) -> Result<TlsStream<TcpStream>, Status> {
        let Some(tls) = &self.tls else {
            return Err(Status::internal(
                "the server has no client certificate for kubelets",
            ));
        };
        let connect = async {
            let socket = TcpStream::connect((address.ip, address.port)).await?;
            socket.set_nodelay(true)?;
            tls.connect(ServerName::from(address.ip), socket).await
        };
        match tokio::time::timeout(CONNECT, connect).await {
            Ok(connected) => connected.map_err(|e| unreachable(address, &e)),
            Err(elapsed) => Err(unreachable(address, &elapsed)),
        }
    }

    async fn send(
        &self,
        address: &Address,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<hyper::body::Incoming>, Status> {
        let stream = self.connect(address).await?;
        super::exchange(stream, request)
            .await
            .map_err(|e| unreachable(address, &e))
    }
}

fn request(
    address: &Address,
    method: Method,
    path: &str,
    headers: HeaderMap,
) -> Result<Request<Empty<Bytes>>, Status> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, format!("{}:{}", address.node, address.port))
        .body(Empty::new())
        .map_err(Status::internal)?;
    request.headers_mut().extend(headers);
    Ok(request)
}

fn unreachable(address: &Address, error: &dyn std::error::Error) -> Status {
    let Address { node, ip, port } = address;
    Status::internal(format_args!(
        "error dialing the kubelet of {node} ({ip}:{port}): {error}"
    ))
}
