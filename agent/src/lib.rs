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

/// Runs both halves until `shutdown`, or until the pod half cannot go on. The net half never gives up:
/// while it is down, the node says so and runs what needs no network.
pub async fn run(
    config: Config,
    clients: Clients,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let Clients { node, net } = clients;
    let stop = shutdown.child_token();
    let pods = async {
        let ended = pod::run(config.clone(), node, stop.clone()).await;
        stop.cancel();
        ended.context("pod half")
    };
    let (pods, ()) = tokio::join!(pods, net::run(config.clone(), net, stop.clone()));
    pods
}
