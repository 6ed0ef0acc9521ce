//! `windlass agent`: join, then run the node.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use ::agent::Identities;
use ::agent::join::{self, JoinToken, Membership, stock};
use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::flags::{ClusterFlags, Node, NodeFlags};

#[derive(Args)]
pub struct Flags {
    /// URL of the server, https://HOST:PORT.
    #[arg(long, required_unless_present = "kubeconfig")]
    server: Option<String>,
    /// Join token of the server, from its DATA/join-token; needed until this machine has joined.
    #[arg(long, env = "WINDLASS_TOKEN", hide_env_values = true)]
    token: Option<JoinToken>,
    /// Join another Kubernetes: a kubeconfig whose user is a bootstrap token or this node.
    #[arg(long, conflicts_with_all = ["server", "token"])]
    kubeconfig: Option<PathBuf>,
    /// Identity of the network half there [default: the node's].
    #[arg(long, requires = "kubeconfig")]
    net_kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    node: NodeFlags,
}

/// What either way of joining ends with.
struct Joined {
    server: String,
    ca_pem: Vec<u8>,
    membership: Membership,
    identities: Identities,
}

pub async fn run(flags: Flags, shutdown: CancellationToken) -> anyhow::Result<()> {
    let peer = flags.server.as_deref().map(resolve).transpose()?;
    let node = flags.node.node(peer)?;
    let joined = tokio::select! {
        joined = join(&flags, &node) => joined?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let Joined {
        server,
        ca_pem,
        membership,
        identities,
    } = joined;
    let config = flags.node.config(&flags.cluster, node, server, ca_pem)?;
    let rotation = AbortOnDropHandle::new(tokio::spawn(membership.run(shutdown.clone())));
    let ended = ::agent::run(config, identities, shutdown).await;
    drop(rotation);
    ended
}

async fn join(flags: &Flags, node: &Node) -> anyhow::Result<Joined> {
    let pki_dir = &flags.node.root_dir.join("pki");
    if let Some(kubeconfig) = &flags.kubeconfig {
        let stock::Member {
            server,
            ca_pem,
            membership,
            identities,
        } = stock::join(&stock::Applicant {
            kubeconfig,
            net_kubeconfig: flags.net_kubeconfig.as_deref(),
            node_name: &node.name,
            node_ips: &node.ips,
            pki_dir,
        })
        .await?;
        return Ok(Joined {
            server,
            ca_pem,
            membership,
            identities,
        });
    }
    let server = flags.server.clone().context("--server or --kubeconfig")?;
    let applicant = join::Applicant {
        server: &server,
        token: flags.token.as_ref(),
        node_name: &node.name,
        node_ips: &node.ips,
        pki_dir,
    };
    let credentials = join::join(&applicant).await?;
    let ca_pem = credentials.ca_pem.clone();
    let (membership, identities) = Membership::new(&applicant, credentials)?;
    Ok(Joined {
        server,
        ca_pem,
        membership,
        identities,
    })
}

fn resolve(server: &str) -> anyhow::Result<SocketAddr> {
    let authority = server
        .strip_prefix("https://")
        .unwrap_or(server)
        .trim_end_matches('/');
    authority
        .to_socket_addrs()
        .with_context(|| format!("--server {server}: expected https://HOST:PORT"))?
        .next()
        .with_context(|| format!("--server {server}: the name has no address"))
}
