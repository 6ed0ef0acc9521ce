//! How a machine becomes a node: a join token verifies the server by the hash of its CA and lets
//! the machine ask for three certificates by CertificateSigningRequest: the pod half's client
//! certificate (`system:node:NAME`), the net half's (`windlass:net:NAME`) and the kubelet API's
//! serving certificate. They are kept in `ROOT/pki` and asked for again only near their end.
//!
//! The protocol is kubeadm's TLS bootstrap; the CA travels in the server's certificate chain, so no
//! object has to be readable without authentication. Another Kubernetes is joined by `stock`.

mod ca;
mod csr;
pub mod stock;
mod token;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;
use tracing::{info, warn};

pub use token::{JoinToken, ParseTokenError};

use crate::client;
use crate::config::KeyPair;
use csr::Request;

/// First and last pause between attempts to reach the server.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Ca(#[from] ca::Error),
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error(transparent)]
    Csr(#[from] csr::Error),
    #[error("the server refuses the join token: {0}; get a valid one from DATA/join-token there")]
    TokenRefused(String),
    #[error("no join token: this machine is not a member yet, pass --token")]
    NoToken,
    #[error("the server refuses the bootstrap token of the kubeconfig: {0}")]
    BootstrapRefused(String),
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        path: PathBuf,
        source: Box<kube::config::KubeconfigError>,
    },
    #[error("kubeconfig {path} names no certificate authority")]
    NoCa { path: PathBuf },
    #[error("{action} {path}: {source}")]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

/// What a member of the cluster holds.
pub struct Credentials {
    pub ca_pem: Vec<u8>,
    pub node: KeyPair,
    pub net: KeyPair,
    pub serving: KeyPair,
}

/// Who asks to join, and where.
pub struct Applicant<'a> {
    pub server: &'a str,
    pub token: Option<&'a JoinToken>,
    pub node_name: &'a str,
    pub node_ips: &'a [IpAddr],
    /// Directory the credentials are kept in.
    pub pki_dir: &'a Path,
}

/// Credentials from disk while they are good, else from the server. Waits for a server that does
/// not answer yet; ends with an error where waiting cannot help.
pub async fn join(applicant: &Applicant<'_>) -> Result<Credentials, Error> {
    if let Some(credentials) = load(applicant.pki_dir)? {
        return Ok(credentials);
    }
    let token = applicant.token.ok_or(Error::NoToken)?;
    let ca_pem = reach(applicant.server, token).await?;
    let bootstrap = client::with_token(applicant.server, &ca_pem, &token.bearer())?;
    let node = request(&bootstrap, Request::node(applicant.node_name)).await?;
    let as_node = client::with_certificate(applicant.server, &ca_pem, &node)?;
    let serving = Request::serving(applicant.node_name, applicant.node_ips);
    let (net, serving) = tokio::try_join!(
        request(&as_node, Request::net(applicant.node_name)),
        request(&as_node, serving),
    )?;
    let credentials = Credentials {
        ca_pem,
        node,
        net,
        serving,
    };
    save(applicant.pki_dir, &credentials)?;
    info!(
        server = applicant.server,
        node = applicant.node_name,
        "joined the cluster"
    );
    Ok(credentials)
}

async fn request(client: &Client, request: Request) -> Result<KeyPair, Error> {
    match csr::obtain(client, request).await {
        Ok(pair) => Ok(pair),
        Err(csr::Error::Refused { message }) => Err(Error::TokenRefused(message)),
        Err(error) => Err(error.into()),
    }
}

/// The CA of a server that may still be starting; a server with another CA is an error at once.
async fn reach(server: &str, token: &JoinToken) -> Result<Vec<u8>, Error> {
    let mut pause = RETRY.0;
    loop {
        match ca::fetch(server, token.ca_hash()).await {
            Ok(ca_pem) => return Ok(ca_pem),
            Err(error) if error.is_final() => return Err(error.into()),
            Err(error) => warn!(%error, "the server does not answer yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

const FILES: [&str; 7] = [
    "ca.crt",
    "node.crt",
    "node.key",
    "net.crt",
    "net.key",
    "serving.crt",
    "serving.key",
];

/// A file of the directory; `None` if it is not there.
fn read(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            action: "read",
            path,
            source,
        }),
    }
}

fn load(dir: &Path) -> Result<Option<Credentials>, Error> {
    let mut contents = Vec::with_capacity(FILES.len());
    for name in FILES {
        match read(dir, name)? {
            Some(content) => contents.push(content),
            None => return Ok(None),
        }
    }
    let [
        ca_pem,
        node_cert,
        node_key,
        net_cert,
        net_key,
        serving_cert,
        serving_key,
    ] = contents.try_into().expect("one content per file name");
    let pairs = [
        (node_cert, node_key),
        (net_cert, net_key),
        (serving_cert, serving_key),
    ];
    if !pairs.iter().all(|(cert_pem, _)| csr::is_fresh(cert_pem)) {
        return Ok(None);
    }
    let [node, net, serving] = pairs.map(|(cert_pem, key_pem)| KeyPair { cert_pem, key_pem });
    Ok(Some(Credentials {
        ca_pem,
        node,
        net,
        serving,
    }))
}

fn save(dir: &Path, credentials: &Credentials) -> Result<(), Error> {
    let Credentials {
        ca_pem,
        node,
        net,
        serving,
    } = credentials;
    let contents = [
        ca_pem,
        &node.cert_pem,
        &node.key_pem,
        &net.cert_pem,
        &net.key_pem,
        &serving.cert_pem,
        &serving.key_pem,
    ];
    let files: Vec<(&str, &[u8])> = FILES.into_iter().zip(contents.map(Vec::as_slice)).collect();
    write(dir, &files)
}

/// Writes files that only this user may read; each is there whole, or as it was.
fn write(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| Error::File {
            action: "create",
            path: dir.to_owned(),
            source,
        })?;
    for (name, content) in files {
        let path = dir.join(name);
        let temporary = dir.join(format!("{name}.tmp"));
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&temporary, &path));
        written.map_err(|source| Error::File {
            action: "write",
            path,
            source,
        })?;
    }
    Ok(())
}
