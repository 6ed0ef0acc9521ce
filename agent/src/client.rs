//! Kubernetes clients of the agent, built from PEM in memory. It owns no policy about identities:
//! the caller says which certificate or token a client presents, and when another takes its place.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use kube::Client;
use kube::client::Body;
use kube::config::{AuthInfo, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;

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

/// Puts another client in the place of the one [`replaceable`] was given.
pub struct Replace(watch::Sender<Client>);

impl Replace {
    /// Requests that begin from now on go out through `client`, on connections of its own; those under
    /// way end where they began.
    pub fn with(&self, client: Client) {
        self.0.send_replace(client);
    }
}

/// A client that sends through `first` until that is replaced.
pub fn replaceable(first: Client) -> (Client, Replace) {
    let namespace = first.default_namespace().to_owned();
    let (sender, current) = watch::channel(first);
    let through = tower::service_fn(move |request: Request<Body>| {
        let client = current.borrow().clone();
        async move { client.send(request).await }
    });
    (Client::new(through, namespace), Replace(sender))
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;

    use super::*;

    fn answering(text: &'static str) -> Client {
        let answer = move |_: Request<Body>| async move {
            Ok::<_, Infallible>(Response::new(Body::from(text.as_bytes().to_vec())))
        };
        Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn requests_go_through_the_newest_client() {
        let (client, replace) = replaceable(answering("old"));
        let ask = async |client: &Client| {
            let request = Request::get("/version").body(Vec::new()).unwrap();
            client.request_text(request).await.unwrap()
        };
        assert_eq!(ask(&client).await, "old");
        replace.with(answering("new"));
        assert_eq!(ask(&client).await, "new");
        assert_eq!(ask(&client.clone()).await, "new");
    }
}
