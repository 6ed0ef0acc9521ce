//! `windlass agent`: join, then run the node.

use std::net::{SocketAddr, ToSocketAddrs};

use ::agent::join::{self, JoinToken};
use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::flags::{ClusterFlags, NodeFlags};

#[derive(Args)]
pub struct Flags {
    /// URL of the server, https://HOST:PORT.
    #[arg(long)]
    server: String,
    /// Join token of the server, from its DATA/join-token; needed until this machine has joined.
    #[arg(long, env = "WINDLASS_TOKEN", hide_env_values = true)]
    token: Option<JoinToken>,
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    node: NodeFlags,
}

pub async fn run(flags: Flags, shutdown: CancellationToken) -> anyhow::Result<()> {
    let node = flags.node.node(Some(resolve(&flags.server)?))?;
    let pki_dir = flags.node.root_dir.join("pki");
    let (node_name, node_ips) = (node.name.clone(), node.ips.clone());
    let applicant = join::Applicant {
        server: &flags.server,
        token: flags.token.as_ref(),
        node_name: &node_name,
        node_ips: &node_ips,
        pki_dir: &pki_dir,
    };
    let joined = tokio::select! {
        joined = join::join(&applicant) => joined?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let ca_pem = joined.ca_pem.clone();
    let (membership, identities) = join::Membership::new(&applicant, joined)?;
    let config = flags
        .node
        .config(&flags.cluster, node, flags.server.clone(), ca_pem)?;
    let rotation = AbortOnDropHandle::new(tokio::spawn(membership.run(shutdown.clone())));
    let ended = ::agent::run(config, identities, shutdown).await;
    drop(rotation);
    ended
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
