//! The node agent: the pod half (kubelet over CRI) and the net half (Services, policies, routes in
//! eBPF), composed over one configuration. Flow is one-way: watch → state → plan → apply → status.
//! It knows the Kubernetes API and a CRI socket; it does not know which API server it talks to.

pub mod client;
pub mod cni;
pub mod config;
pub mod cri;
pub mod events;
pub mod join;
pub mod metrics;
pub mod net;
pub mod pod;
pub mod serve;
pub mod state;
pub mod volume;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

pub use config::Config;

/// Pause after a connection could not be accepted: mostly there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who the agent is towards others.
pub struct Identities {
    /// `system:node:NAME`: the pod half.
    pub node: kube::Client,
    /// `windlass:net:NAME`: the net half.
    pub net: kube::Client,
    /// Certificate of the kubelet API; new connections see the newest.
    pub serving: tokio::sync::watch::Receiver<config::KeyPair>,
}

/// Runs both halves until `shutdown`, or until the pod half cannot go on. The net half never gives up:
/// while it is down, the node says so and runs what needs no network.
pub async fn run(
    config: Config,
    identities: Identities,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let Identities { node, net, serving } = identities;
    let stop = shutdown.child_token();
    let metrics = metrics::Metrics::default();
    let pods = async {
        let shared = (node, serving, metrics.clone());
        let ended = pod::run(config.clone(), shared, stop.clone()).await;
        stop.cancel();
        ended.context("pod half")
    };
    let (pods, ()) = tokio::join!(pods, net::run(config.clone(), net, &metrics, stop.clone()));
    pods
}
