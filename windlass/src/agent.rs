//! `windlass agent`: join, then run the node.

use std::net::{SocketAddr, ToSocketAddrs};

use ::agent::client;
use ::agent::join::{self, JoinToken};
use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

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
    let applicant = join::Applicant {
        server: &flags.server,
        token: flags.token.as_ref(),
        node_name: &node.name,
        node_ips: &node.ips,
        pki_dir: &flags.node.root_dir.join("pki"),
    };
    let joined = tokio::select! {
        joined = join::join(&applicant) => joined?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let clients = ::agent::Clients {
        node: client::with_certificate(&flags.server, &joined.ca_pem, &joined.node)?,
        net: client::with_certificate(&flags.server, &joined.ca_pem, &joined.net)?,
    };
    let config = flags.node.config(
        &flags.cluster,
        node,
        flags.server,
        joined.ca_pem,
        joined.serving,
    )?;
    ::agent::run(config, clients, shutdown).await
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
