//! Kubernetes clients of the agent, built from PEM in memory. It owns no policy about identities:
//! the caller says which certificate or token a client presents.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::config::{AuthInfo, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::KeyPair;

/// Time to connect to the API server before the attempt counts as failed.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{server} is not a URL of an API server (expected https://HOST:PORT): {source}")]
    Url {
        server: String,
        source: http::uri::InvalidUri,
    },
    #[error("read the cluster CA: {0}")]
    Ca(rustls::pki_types::pem::Error),
    #[error("build the client of {server}: {source}")]
    Build {
        server: String,
        source: Box<kube::Error>,
    },
}

/// A client that authenticates with a certificate.
pub fn with_certificate(server: &str, ca_pem: &[u8], pair: &KeyPair) -> Result<Client, Error> {
    let auth = AuthInfo {
        client_certificate_data: Some(STANDARD.encode(&pair.cert_pem)),
        client_key_data: Some(STANDARD.encode(&pair.key_pem).into()),
        ..AuthInfo::default()
    };
    build(server, ca_pem, auth)
}

/// A client that authenticates with a bearer token.
pub fn with_token(server: &str, ca_pem: &[u8], token: &str) -> Result<Client, Error> {
    build(
        server,
        ca_pem,
        AuthInfo {
            token: Some(token.to_owned().into()),
            ..AuthInfo::default()
        },
    )
}

/// A client of a server and a user as a kubeconfig describes them.
pub fn of(mut config: Config) -> Result<Client, Error> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let server = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| Error::Build {
        server,
        source: Box::new(source),
    })
}

fn build(server: &str, ca_pem: &[u8], auth_info: AuthInfo) -> Result<Client, Error> {
    let url = server.parse().map_err(|source| Error::Url {
        server: server.to_owned(),
        source,
    })?;
    let roots = CertificateDer::pem_slice_iter(ca_pem)
        .map(|cert| cert.map(|der| der.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Error::Ca)?;
    let mut config = Config::new(url);
    config.root_cert = Some(roots);
    config.auth_info = auth_info;
    of(config)
}
