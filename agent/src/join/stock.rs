//! How a machine becomes a node of a Kubernetes that is not ours: by a kubeconfig, as a kubelet
//! would. If its user is a bootstrap token, the node's client certificate is asked for by
//! CertificateSigningRequest and kept in `ROOT/pki`; any other user is taken to be the node already.
//!
//! The serving certificate of the kubelet API is self-signed, as a kubelet's is by default: nobody in
//! such a cluster signs requests for one unasked. The net half has an identity of its own if it is
//! given a kubeconfig of its own (docs/stock-kubernetes.md has the role), else it is the node.

use std::net::IpAddr;
use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::{CertificateParams, DistinguishedName, DnType};
use secrecy::ExposeSecret;
use tracing::{info, warn};

use super::csr::{self, Request};
use super::{Error, ca, read, write};
use crate::client;
use crate::config::KeyPair;

/// Files of the node's client certificate.
const FILES: [&str; 2] = ["stock-node.crt", "stock-node.key"];

/// Who joins, and by what.
pub struct Applicant<'a> {
    pub kubeconfig: &'a Path,
    pub net_kubeconfig: Option<&'a Path>,
    pub node_name: &'a str,
    pub node_ips: &'a [IpAddr],
    /// Directory the certificate is kept in.
    pub pki_dir: &'a Path,
}

/// What a member of the cluster holds.
pub struct Member {
    pub server: String,
    pub ca_pem: Vec<u8>,
    pub node: Client,
    pub net: Client,
    pub serving: KeyPair,
}

/// Reads the kubeconfigs and gets what they do not hold. Waits for a server that does not answer.
pub async fn join(applicant: &Applicant<'_>) -> Result<Member, Error> {
    let config = load(applicant.kubeconfig).await?;
    let server = config
        .cluster_url
        .to_string()
        .trim_end_matches('/')
        .to_owned();
    let ca_pem = authorities(&config, applicant.kubeconfig)?;
    let node = if is_bootstrap(&config) {
        let pair = certificate(applicant, &server, &ca_pem, &config).await?;
        client::with_certificate(&server, &ca_pem, &pair)?
    } else {
        client::of(config)?
    };
    let net = match applicant.net_kubeconfig {
        Some(path) => client::of(load(path).await?)?,
        None => node.clone(),
    };
    Ok(Member {
        serving: self_signed(applicant)?,
        server,
        ca_pem,
        node,
        net,
    })
}

async fn load(path: &Path) -> Result<Config, Error> {
    let error = |source| Error::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(error)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(error)
}

/// The cluster's CA: it verifies the server, and the server's client certificate too.
fn authorities(config: &Config, path: &Path) -> Result<Vec<u8>, Error> {
    let all = config.root_cert.as_deref().unwrap_or_default();
    if all.is_empty() {
        return Err(Error::NoCa {
            path: path.to_owned(),
        });
    }
    Ok(all.iter().flat_map(|der| ca::pem(der)).collect())
}

/// `ID.SECRET` of 6 and 16 characters, as k8s.io/cluster-bootstrap has them.
fn is_bootstrap(config: &Config) -> bool {
    let Some(token) = &config.auth_info.token else {
        return false;
    };
    let word = |part: &str, length: usize| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        part.len() == length && part.bytes().all(plain)
    };
    token
        .expose_secret()
        .split_once('.')
        .is_some_and(|(id, secret)| word(id, 6) && word(secret, 16))
}

/// The node's client certificate: from disk while it is good, else signed on request. One near its
/// end is renewed by itself, as the bootstrap token may be gone by then.
async fn certificate(
    applicant: &Applicant<'_>,
    server: &str,
    ca_pem: &[u8],
    bootstrap: &Config,
) -> Result<KeyPair, Error> {
    let mut kept = None;
    if let (Some(cert_pem), Some(key_pem)) = (
        read(applicant.pki_dir, FILES[0])?,
        read(applicant.pki_dir, FILES[1])?,
    ) {
        let pair = KeyPair { cert_pem, key_pem };
        if csr::is_fresh(&pair.cert_pem) {
            return Ok(pair);
        }
        kept = Some(pair);
    }
    let request = || Request::node(applicant.node_name);
    if let Some(old) = kept {
        let own = client::with_certificate(server, ca_pem, &old)?;
        match csr::obtain(&own, request()).await {
            Ok(pair) => return keep(applicant.pki_dir, pair),
            Err(error) => warn!(%error, "the node's certificate could not renew itself"),
        }
    }
    let client = client::of(bootstrap.clone())?;
    reach(&client, server).await;
    let pair = match csr::obtain(&client, request()).await {
        Ok(pair) => pair,
        Err(csr::Error::Refused { message }) => return Err(Error::BootstrapRefused(message)),
        Err(error) => return Err(error.into()),
    };
    info!(server, node = applicant.node_name, "joined the cluster");
    keep(applicant.pki_dir, pair)
}

fn keep(dir: &Path, pair: KeyPair) -> Result<KeyPair, Error> {
    write(
        dir,
        &[(FILES[0], &pair.cert_pem), (FILES[1], &pair.key_pem)],
    )?;
    Ok(pair)
}

/// Waits until the server answers anything at all.
async fn reach(client: &Client, server: &str) {
    let mut pause = super::RETRY.0;
    loop {
        match client.apiserver_version().await {
            Ok(_) | Err(kube::Error::Api(_)) => return,
            Err(error) => warn!(server, %error, "the server does not answer yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(super::RETRY.1);
    }
}

fn self_signed(applicant: &Applicant<'_>) -> Result<KeyPair, Error> {
    let make = |source| csr::Error::Make {
        subject: applicant.node_name.to_owned(),
        source,
    };
    let key = rcgen::KeyPair::generate().map_err(make)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, applicant.node_name);
    params.subject_alt_names = csr::names(applicant.node_name, applicant.node_ips);
    let certificate = params.self_signed(&key).map_err(make)?;
    Ok(KeyPair {
        cert_pem: certificate.pem().into_bytes(),
        key_pem: key.serialize_pem().into_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(token: Option<&str>) -> Config {
        let mut config = Config::new("https://127.0.0.1:6443".parse().unwrap());
        config.auth_info.token = token.map(|token| token.to_owned().into());
        config
    }

    #[test]
    fn only_the_form_of_a_bootstrap_token_asks_for_a_certificate() {
        assert!(is_bootstrap(&config(Some("abcdef.0123456789abcdef"))));
        assert!(!is_bootstrap(&config(Some("eyJhbGciOi.J9.x"))));
        assert!(!is_bootstrap(&config(None)));
    }

    #[test]
    fn a_kubeconfig_without_a_ca_is_refused() {
        let path = Path::new("/etc/node.conf");
        let error = authorities(&config(None), path).unwrap_err().to_string();
        assert!(error.contains("/etc/node.conf"), "{error}");
    }
}
