//! How a machine becomes a node: a join token verifies the server by the hash of its CA and lets
//! the machine ask for three certificates by CertificateSigningRequest: the pod half's client
//! certificate (`system:node:NAME`), the net half's (`windlass:net:NAME`) and the kubelet API's
//! serving certificate. They are kept in `ROOT/pki`, and replaced while the agent runs, each by a
//! request under the node's own identity; new connections use the new ones.
//!
//! The protocol is kubeadm's TLS bootstrap; the CA travels in the server's certificate chain, so no
//! object has to be readable without authentication. Another Kubernetes is joined by `stock`.

mod ca;
mod csr;
mod files;
mod keep;
mod life;
pub mod stock;
mod token;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use ca::{pem, pem_block};
pub use token::{JoinToken, ParseTokenError};

use crate::client::{self, Replace};
use crate::config::KeyPair;
use csr::Request;
use life::Life;

/// First and last pause between attempts to reach the server.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Names of the pairs' files.
const NODE: &str = "node";
const NET: &str = "net";
const SERVING: &str = "serving";
/// The node's in a Kubernetes that is not ours.
const STOCK_NODE: &str = "stock-node";

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
    #[error("no join token: this machine is not a member (any more), pass --token")]
    NoToken,
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("the server refuses the bootstrap token of the kubeconfig: {0}")]
    BootstrapRefused(String),
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        path: PathBuf,
        source: Box<kube::config::KubeconfigError>,
    },
    #[error("kubeconfig {path} names no certificate authority")]
    NoCa { path: PathBuf },
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

/// Credentials from disk while they are valid, else from the server. Waits for a server that does
/// not answer yet; ends with an error where waiting cannot help.
pub async fn join(applicant: &Applicant<'_>) -> Result<Credentials, Error> {
    let Applicant {
        server,
        node_name,
        node_ips,
        pki_dir: dir,
        ..
    } = *applicant;
    let now = OffsetDateTime::now_utc();
    let (ca_pem, node) = match (files::load_ca(dir)?, valid(dir, NODE, now)?) {
        (Some(ca_pem), Some(node)) => (ca_pem, node),
        (_, _) => bootstrap(applicant).await?,
    };
    let serving = valid(dir, SERVING, now)?;
    let serving = serving.filter(|pair| life::has_addresses(&pair.cert_pem, node_ips));
    let as_node = client::with_certificate(server, &ca_pem, &node)?;
    let (net, serving) = tokio::try_join!(
        held_or_new(dir, NET, valid(dir, NET, now)?, &as_node, || {
            Request::net(node_name)
        }),
        held_or_new(dir, SERVING, serving, &as_node, || {
            Request::serving(node_name, node_ips)
        }),
    )?;
    Ok(Credentials {
        ca_pem,
        node,
        net,
        serving,
    })
}

fn valid(dir: &Path, name: &str, now: OffsetDateTime) -> Result<Option<KeyPair>, Error> {
    let pair = files::load_pair(dir, name)?;
    Ok(pair.filter(|pair| Life::of(&pair.cert_pem).is_some_and(|life| life.includes(now))))
}

/// The CA and the node's own certificate, by the join token.
async fn bootstrap(applicant: &Applicant<'_>) -> Result<(Vec<u8>, KeyPair), Error> {
    let token = applicant.token.ok_or(Error::NoToken)?;
    let ca_pem = reach(applicant.server, token).await?;
    let bearer = client::with_token(applicant.server, &ca_pem, &token.bearer())?;
    let node = match csr::obtain(&bearer, Request::node(applicant.node_name)).await {
        Ok(pair) => pair,
        Err(csr::Error::Refused { message }) => return Err(Error::TokenRefused(message)),
        Err(error) => return Err(error.into()),
    };
    files::save_ca(applicant.pki_dir, &ca_pem)?;
    files::save_pair(applicant.pki_dir, NODE, &node)?;
    let (server, node_name) = (applicant.server, applicant.node_name);
    info!(server, node = node_name, "joined the cluster");
    Ok((ca_pem, node))
}

async fn held_or_new(
    dir: &Path,
    name: &str,
    held: Option<KeyPair>,
    client: &Client,
    request: impl FnOnce() -> Request,
) -> Result<KeyPair, Error> {
    match held {
        Some(pair) => Ok(pair),
        None => {
            let pair = csr::obtain(client, request()).await?;
            files::save_pair(dir, name, &pair)?;
            Ok(pair)
        }
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

// === rotation ===

/// The member's certificates while the agent runs.
pub struct Membership {
    server: String,
    ca_pem: Vec<u8>,
    /// What is issued is kept here; `None`: a node of the server's own process keeps nothing.
    pki_dir: Option<PathBuf>,
    node_name: String,
    node_ips: Vec<IpAddr>,
    /// The node's identity, for requests; always with the newest certificate.
    as_node: Client,
    clients: Vec<(&'static str, watch::Sender<KeyPair>, Replace)>,
    serving: watch::Sender<KeyPair>,
}

impl Membership {
    /// Of a machine that has joined; the identities follow the certificates.
    pub fn new(
        applicant: &Applicant<'_>,
        credentials: Credentials,
    ) -> Result<(Self, crate::Identities), Error> {
        let Credentials {
            ca_pem,
            node,
            net,
            serving,
        } = credentials;
        let server = applicant.server;
        let follow = |pair: &KeyPair| -> Result<(Client, Replace), Error> {
            let first = client::with_certificate(server, &ca_pem, pair)?;
            Ok(client::replaceable(first))
        };
        let ((as_node, replace_node), (as_net, replace_net)) = (follow(&node)?, follow(&net)?);
        let (serving, published) = watch::channel(serving);
        let membership = Self {
            server: server.to_owned(),
            pki_dir: Some(applicant.pki_dir.to_owned()),
            node_name: applicant.node_name.to_owned(),
            node_ips: applicant.node_ips.to_vec(),
            as_node: as_node.clone(),
            clients: vec![
                (NODE, watch::Sender::new(node), replace_node),
                (NET, watch::Sender::new(net), replace_net),
            ],
            serving,
            ca_pem,
        };
        let identities = crate::Identities {
            node: as_node,
            net: as_net,
            serving: published,
        };
        Ok((membership, identities))
    }

    /// Of a node in the server's process: its clients need no certificate, its kubelet API does.
    pub fn of_server(
        node_name: &str,
        node_ips: &[IpAddr],
        (node, net): (Client, Client),
        serving: KeyPair,
    ) -> (Self, crate::Identities) {
        let (serving, published) = watch::channel(serving);
        let membership = Self {
            server: String::new(),
            ca_pem: Vec::new(),
            pki_dir: None,
            node_name: node_name.to_owned(),
            node_ips: node_ips.to_vec(),
            as_node: node.clone(),
            clients: Vec::new(),
            serving,
        };
        let identities = crate::Identities {
            node,
            net,
            serving: published,
        };
        (membership, identities)
    }

    /// Keeps every certificate fresh until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let clock = &keep::System;
        let context = &self;
        let clients = self.clients.iter().map(|(name, held, replace)| async move {
            let renew = || async move {
                let pair = context.renew(name).await?;
                match client::with_certificate(&context.server, &context.ca_pem, &pair) {
                    Ok(client) => replace.with(client),
                    Err(error) => warn!(%error, name, "new certificate not usable"),
                }
                Ok(pair)
            };
            keep::keep(name, held.clone(), clock, rand::random, renew).await;
        });
        let renew = || context.renew(SERVING);
        let serving = keep::keep(SERVING, self.serving.clone(), clock, rand::random, renew);
        let all = async { tokio::join!(futures::future::join_all(clients), serving) };
        tokio::select! {
            _ = all => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn renew(&self, name: &str) -> Result<KeyPair, csr::Error> {
        let request = match name {
            NODE | STOCK_NODE => Request::node(&self.node_name),
            NET => Request::net(&self.node_name),
            _ => Request::serving(&self.node_name, &self.node_ips),
        };
        let pair = csr::obtain(&self.as_node, request).await?;
        if let Some(dir) = &self.pki_dir
            && let Err(error) = files::save_pair(dir, name, &pair)
        {
            // It is good for as long as this process lives.
            warn!(%error, name, "new certificate not kept");
        }
        Ok(pair)
    }
}
