//! The node agent: the pod half (kubelet over CRI) and the net half (Services, policies, routes in
//! eBPF), composed over one configuration. Flow is one-way: watch → state → plan → apply → status.
//! It knows the Kubernetes API and a CRI socket; it does not know which API server it talks to.

pub mod client;
pub mod cni;
pub mod config;
pub mod cri;
pub mod join;
pub mod net;
pub mod pod;
pub mod serve;
pub mod state;
pub mod volume;
pub mod watch;

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

pub use config::Config;

/// The agent's two identities.
pub struct Clients {
    /// `system:node:NAME`: the pod half.
    pub node: kube::Client,
    /// `windlass:net:NAME`: the net half.
    pub net: kube::Client,
}

/// Runs both halves until `shutdown`, or until one of them cannot go on.
pub async fn run(
    config: Config,
    clients: Clients,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let Clients { node, net } = clients;
    let pods = pod::run(config.clone(), node, shutdown.clone());
    let net = net::run(config.clone(), net, shutdown);
    tokio::try_join!(async { pods.await.context("pod half") }, async {
        net.await.context("net half")
    },)?;
    Ok(())
}
