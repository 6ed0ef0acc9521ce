//! How a machine becomes a node of a Kubernetes that is not ours: by a kubeconfig, as a kubelet
//! would. If its user is a bootstrap token, the node's client certificate is asked for by
//! CertificateSigningRequest, kept in `ROOT/pki` and renewed as with us; any other user is taken to be
//! the node already.
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
use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::{info, warn};

use super::csr::{self, Request};
use super::{Error, Membership, STOCK_NODE, ca, files, valid};
use crate::client;
use crate::config::KeyPair;

/// Who joins, and by what.
pub struct Applicant<'a> {
    pub kubeconfig: &'a Path,
    pub net_kubeconfig: Option<&'a Path>,
    pub node_name: &'a str,
    pub node_ips: &'a [IpAddr],
    /// Directory the certificate is kept in.
    pub pki_dir: &'a Path,
}

/// What a member of the cluster knows; its certificates are the membership's to keep.
pub struct Member {
    pub server: String,
    pub ca_pem: Vec<u8>,
    pub membership: Membership,
    pub identities: crate::Identities,
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
    let mut clients = Vec::new();
    let node = if is_bootstrap(&config) {
        let pair = certificate(applicant, &server, config).await?;
        let first = client::with_certificate(&server, &ca_pem, &pair)?;
        let (client, replace) = client::replaceable(first);
        clients.push((STOCK_NODE, watch::Sender::new(pair), replace));
        client
    } else {
        client::of(config)?
    };
    let net = match applicant.net_kubeconfig {
        Some(path) => client::of(load(path).await?)?,
        None => node.clone(),
    };
    let (serving, published) = watch::channel(self_signed(applicant)?);
    let membership = Membership {
        server: server.clone(),
        ca_pem: ca_pem.clone(),
        pki_dir: Some(applicant.pki_dir.to_owned()),
        node_name: applicant.node_name.to_owned(),
        node_ips: applicant.node_ips.to_vec(),
        as_node: node.clone(),
        clients,
        serving,
    };
    Ok(Member {
        server,
        ca_pem,
        membership,
        identities: crate::Identities {
            node,
            net,
            serving: published,
        },
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

/// The node's client certificate: from disk while it is valid, else signed on request.
async fn certificate(
    applicant: &Applicant<'_>,
    server: &str,
    bootstrap: Config,
) -> Result<KeyPair, Error> {
    let dir = applicant.pki_dir;
    if let Some(pair) = valid(dir, STOCK_NODE, OffsetDateTime::now_utc())? {
        return Ok(pair);
    }
    let client = client::of(bootstrap)?;
    reach(&client, server).await;
    let pair = match csr::obtain(&client, Request::node(applicant.node_name)).await {
        Ok(pair) => pair,
        Err(csr::Error::Refused { message }) => return Err(Error::BootstrapRefused(message)),
        Err(error) => return Err(error.into()),
    };
    files::save_pair(dir, STOCK_NODE, &pair)?;
    info!(server, node = applicant.node_name, "joined the cluster");
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

/// It ends in the year 4096: its renewal, which would be a request, is never due.
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
    use super::super::life::{Life, Plan};
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

    #[test]
    fn the_self_signed_certificate_is_never_due() {
        let applicant = Applicant {
            kubeconfig: Path::new("/etc/node.conf"),
            net_kubeconfig: None,
            node_name: "node1",
            node_ips: &[],
            pki_dir: Path::new("/nowhere"),
        };
        let pair = self_signed(&applicant).unwrap();
        let now = time::macros::datetime!(2100-01-01 0:00 UTC);
        let plan = Plan::new(now, Life::of(&pair.cert_pem), 0.0);
        assert!(matches!(plan, Plan::Wait(_)), "{plan:?}");
    }
}
