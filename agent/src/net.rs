//! The net half: watches → state → pure plans → map writes, netlink and CNI. It knows the Kubernetes
//! API, the kernel and its own programs; it does not know the pod half, nor which API server it
//! talks to. Nothing it leaves in the kernel is removed when it ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Config;

pub mod cni;
pub mod condition;
pub mod core;
pub mod dns;
pub mod dump;
pub mod engine;
pub mod explain;
pub mod flows;
pub mod health;
pub mod hooks;
pub mod host;
pub mod ipam;
pub mod load;
pub mod maps;
pub mod netlink;
pub mod netns;
pub mod plan;
pub mod rows;
pub mod sandbox;
pub mod sweep;
pub mod sysctl;
pub mod veth;
pub mod writer;

use engine::{Engine, Parts, Status};
use host::Uplinks;

/// How long to wait for an uplink with the node's address before going on without.
const UPLINK_TIMEOUT: Duration = Duration::from_secs(10);
const UPLINK_POLL: Duration = Duration::from_millis(200);

/// Runs the net half until `shutdown`. Fails only if the node cannot carry it at all.
pub async fn run(
    cfg: Arc<Config>,
    client: Client,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let netlink = netlink::Netlink::open().context("open netlink")?;
    // The cluster is listed while the programs are verified.
    let states = crate::watch::start(client.clone(), shutdown.clone());
    let uplinks = wait_for_uplinks(&netlink, &cfg).await?;
    prepare_host(&cfg, &netlink, &uplinks).await?;
    // Pods of an earlier agent are asking already.
    tokio::spawn(dns::run(cfg.clone(), states.clone(), shutdown.clone()));
    let (hooks, maps) = load(&cfg, &uplinks).await?;
    let datapath = hooks.datapath();
    if let Some(datapath) = datapath.clone() {
        tokio::spawn(sweep::run(datapath, shutdown.clone()));
    }
    let core = core::Core::new(maps, &cfg.node_name, &cfg.cluster_dns)
        .context("read the datapath's maps")?;
    let store = sandbox::Store::open(&cfg.root_dir.join("net")).context("open sandbox records")?;
    let parts = Parts {
        cfg: cfg.clone(),
        core,
        hooks,
        netlink: netlink.clone(),
        store,
        states: states.clone(),
    };
    let (engine, handle, status) = Engine::new(parts);
    let running = tokio::spawn(engine.run(shutdown.clone()));
    tokio::spawn(health::run(
        cfg.node_name.clone(),
        states.clone(),
        shutdown.clone(),
    ));
    tokio::select! {
        complete = completed(status) => complete?,
        () = shutdown.cancelled() => return Ok(()),
    }
    let flows = flows::Server {
        run_dir: cfg.run_dir.clone(),
        bpf_dir: cfg.bpf_dir.clone(),
        engine: handle.clone(),
        states,
    };
    let server = cni::Server {
        engine: handle,
        netlink,
        datapath,
        mtu: uplinks.mtu(),
    };
    cni::serve(&cfg, server, shutdown.clone()).context("serve CNI")?;
    cni::announce(&cfg).context("announce the CNI plugin")?;
    tracing::info!(node = %cfg.node_name, mtu = uplinks.mtu(), "network ready");
    tokio::spawn(serve_flows(flows, shutdown.clone()));
    tokio::spawn(condition::keep(
        client,
        cfg.node_name.clone(),
        shutdown.clone(),
    ));
    running.await.context("the engine of the net half panicked")
}

/// Verifying the programs takes a while, and a thread for itself.
async fn load(
    cfg: &Arc<Config>,
    uplinks: &Uplinks,
) -> anyhow::Result<(hooks::Hooks, maps::MapSet)> {
    let (cfg, uplinks) = (cfg.clone(), uplinks.clone());
    let loading = tokio::task::spawn_blocking(move || hooks::load(&cfg, &uplinks));
    loading
        .await
        .context("loading the datapath panicked")?
        .context("load the datapath")
}

/// The node may still be getting its address when the agent starts.
async fn wait_for_uplinks(
    netlink: &netlink::Netlink,
    cfg: &Config,
) -> Result<Uplinks, netlink::Error> {
    let deadline = tokio::time::Instant::now() + UPLINK_TIMEOUT;
    loop {
        let uplinks = host::uplinks(netlink, cfg).await?;
        if !uplinks.links.is_empty() {
            return Ok(uplinks);
        }
        if tokio::time::Instant::now() >= deadline {
            tracing::warn!(node_ips = ?cfg.node_ips, "no uplink: pods reach this node only");
            return Ok(uplinks);
        }
        tokio::time::sleep(UPLINK_POLL).await;
    }
}

async fn prepare_host(
    cfg: &Config,
    netlink: &netlink::Netlink,
    uplinks: &Uplinks,
) -> anyhow::Result<()> {
    let ipv6 = cfg.cluster_cidrs.iter().any(ipnetwork::IpNetwork::is_ipv6);
    sysctl::write_all(&sysctl::of_node(&uplinks.names(), ipv6)).context("kernel settings")?;
    sysctl::reserve_ports(&[cfg.node_ports, (abi::SNAT_LO, abi::SNAT_HI)])
        .context("reserve ports")?;
    host::add_dns_addresses(netlink, &cfg.cluster_dns)
        .await
        .context("cluster DNS addresses")
}

async fn serve_flows(server: flows::Server, shutdown: CancellationToken) {
    if let Err(error) = flows::serve(server, shutdown).await {
        tracing::error!(%error, "serve flows");
    }
}

async fn completed(mut status: watch::Receiver<Status>) -> anyhow::Result<()> {
    status
        .wait_for(|s| s.complete)
        .await
        .context("the engine of the net half ended")?;
    Ok(())
}
