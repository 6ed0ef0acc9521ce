//! Asks a server of the lab whether it is ready: a real request, over TLS, verified by its CA.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::proxy;

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Whether `GET /readyz` is answered with 200. `ca` is the file of the server's CA, `to` its address
/// inside the network namespace.
pub fn is_ready(netns: &Path, to: SocketAddr, ca: &Path) -> bool {
    let (netns, ca) = (netns.to_owned(), ca.to_owned());
    // The thread changes its network namespace, so it is not used for anything else.
    let asked = thread::spawn(move || {
        let answer = ask(&netns, to, &ca)?;
        anyhow::Ok(answer.starts_with("HTTP/1.1 200 "))
    });
    matches!(asked.join(), Ok(Ok(true)))
}

fn ask(netns: &Path, to: SocketAddr, ca: &Path) -> Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(ca)?)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::from(to.ip());
    let tls = ClientConnection::new(Arc::new(config), name)?;
    let socket = proxy::connect_inside(netns, to)?;
    socket.set_read_timeout(Some(ANSWER))?;
    let mut stream = StreamOwned::new(tls, socket);
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
    )?;
    let mut first = [0; 64];
    let length = stream.read(&mut first).context("no answer")?;
    Ok(String::from_utf8_lossy(&first[..length]).into_owned())
}
