//! The net half: watches → state → pure plans → map writes, netlink and CNI. It knows the Kubernetes
//! API, the kernel and its own programs; it does not know the pod half, nor which API server it
//! talks to. Nothing it leaves in the kernel is removed when it ends.
//!
//! A supervisor keeps it up: what cannot be made ready is tried again, and said meanwhile by the Node's
//! condition and to every pod that asks for an interface.
//!
//! ```text
//! Starting ──programs, maps, first full sync──▶ Up ──engine ends──▶ Down
//!     └─────────────failure─────────────▶ Down ──pause──▶ (another attempt) ──▶ Up
//! ```

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
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
mod gauges;
pub mod health;
pub mod hooks;
pub mod host;
pub mod ipam;
pub mod load;
pub mod maps;
pub mod netlink;
pub mod netns;
pub mod plan;
pub mod report;
pub mod rows;
pub mod sandbox;
pub mod seed;
pub mod shortage;
pub mod stage;
pub mod sweep;
pub mod sysctl;
pub mod veth;
pub mod writer;

use crate::metrics::Metrics;
use crate::state::State;
use engine::{Engine, Parts};
use host::Uplinks;
use shortage::Limits;
use stage::{Pause, Problem, Stage};

/// How long to wait for an uplink with the node's address before going on without.
const UPLINK_TIMEOUT: Duration = Duration::from_secs(10);
const UPLINK_POLL: Duration = Duration::from_millis(200);
/// How long a start waits for the datapath's seed before it goes on with the one it has.
const SEED_TIMEOUT: Duration = Duration::from_secs(2);

/// The net half is not up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ask the kernel over netlink")]
    Netlink(#[from] netlink::Error),
    #[error("kernel settings")]
    Sysctl(#[from] sysctl::Error),
    #[error("load the datapath")]
    Load(#[from] hooks::Error),
    #[error("loading the datapath panicked")]
    LoadPanicked(#[from] tokio::task::JoinError),
    #[error("read the datapath's maps")]
    Maps(#[from] maps::MapError),
    #[error("open the records of sandboxes")]
    Records(#[from] sandbox::Error),
    #[error("set up the CNI plugin")]
    Cni(#[from] cni::Error),
    #[error("the engine ended")]
    Engine,
}

impl Error {
    fn problem(&self) -> Problem {
        let reason = match self {
            Self::Netlink(_) | Self::Sysctl(_) => "HostNotPrepared",
            Self::Load(_) | Self::LoadPanicked(_) | Self::Maps(_) => "DatapathNotLoaded",
            Self::Records(_) => "SandboxRecordsUnusable",
            Self::Cni(_) => "CniNotReady",
            Self::Engine => "DatapathStopped",
        };
        Problem {
            reason,
            message: cni::chain(self),
        }
    }
}

/// Runs the net half until `shutdown`.
pub async fn run(cfg: Arc<Config>, client: Client, metrics: &Metrics, shutdown: CancellationToken) {
    // The cluster is listed while the programs are verified.
    let states = crate::watch::start(client.clone(), shutdown.clone());
    let (seed, seed_known) = watch::channel(None);
    let (stages, published) = watch::channel(Stage::Starting);
    let (limits, limits_seen) = watch::channel(Limits::default());
    let names = Arc::<::dns::server::Metrics>::default();
    let node = cfg.node_name.clone();
    gauges::add(
        metrics,
        &cfg.bpf_dir,
        published.clone(),
        limits_seen.clone(),
        names.clone(),
    );
    let supervisor = Supervisor {
        cfg,
        states,
        seed: seed_known,
        stages,
        limits,
        names,
        listening: false,
        serving: false,
    };
    tokio::join!(
        supervisor.run(&shutdown),
        seed::follow(client.clone(), seed, shutdown.clone()),
        condition::keep(client.clone(), node.clone(), published, shutdown.clone()),
        report::run(client, node, limits_seen, shutdown.clone()),
    );
}

/// Keeps the net half up.
struct Supervisor {
    cfg: Arc<Config>,
    states: watch::Receiver<Arc<State>>,
    /// The datapath's seed, once it is known.
    seed: watch::Receiver<Option<u64>>,
    stages: watch::Sender<Stage<cni::Server>>,
    limits: watch::Sender<Limits>,
    /// What DNS counts.
    names: Arc<::dns::server::Metrics>,
    /// The CNI socket is there; it outlives attempts.
    listening: bool,
    /// So do DNS and health checks, which need no program.
    serving: bool,
}

impl Supervisor {
    /// Until `shutdown`, one attempt after the other.
    async fn run(mut self, shutdown: &CancellationToken) {
        let mut pause = Pause::default();
        loop {
            let mut tasks = JoinSet::new();
            // An earlier agent's, or an earlier attempt's.
            if let Err(error) = flows::withdraw(&self.cfg.run_dir) {
                tracing::warn!(%error, "old socket of flows not removed");
            }
            let ended = self.attempt(&mut tasks, shutdown).await;
            if shutdown.is_cancelled() {
                // What is under way ends by itself, and leaves the kernel as it is.
                while tasks.join_next().await.is_some() {}
                return;
            }
            tasks.shutdown().await;
            let error = ended.err().unwrap_or(Error::Engine);
            let problem = error.problem();
            let came_up = self.stages.borrow().is_up();
            let wait = pause.after(came_up);
            tracing::error!(error = problem.message, retry_in = ?wait, "the network is not up");
            self.stages.send_replace(Stage::Down(problem));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Makes everything ready and runs until the engine ends. Tasks of the attempt are in `tasks`.
    async fn attempt(
        &mut self,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let cfg = self.cfg.clone();
        if !self.listening {
            cni::serve(&cfg, self.stages.subscribe(), shutdown.clone())?;
            self.listening = true;
        }
        let netlink = netlink::Netlink::open()?;
        let uplinks = wait_for_uplinks(&netlink, &cfg).await?;
        prepare_host(&cfg, &netlink, &uplinks).await?;
        self.serve_names(shutdown);
        let (hooks, maps) = self.load(&uplinks).await?;
        let datapath = hooks.datapath();
        if let Some(datapath) = datapath.clone() {
            tasks.spawn(sweep::run(datapath, shutdown.clone()));
        }
        let core = core::Core::new(maps, &cfg.node_name, &cfg.cluster_dns)?;
        let store = sandbox::Store::open(&cfg.root_dir.join("net"))?;
        let mut states = self.states.clone();
        // An engine begins with what is known, however long ago it came.
        states.mark_changed();
        let parts = Parts {
            cfg: cfg.clone(),
            core,
            hooks,
            netlink: netlink.clone(),
            store,
            states,
            seed: self.seed.clone(),
        };
        let (engine, handle, mut status) = Engine::new(parts);
        tasks.spawn(engine.run(shutdown.clone()));
        let complete = status.wait_for(|s| s.complete).await;
        complete.map_err(|_| Error::Engine)?;
        let flows = flows::Server {
            run_dir: cfg.run_dir.clone(),
            bpf_dir: cfg.bpf_dir.clone(),
            engine: handle.clone(),
            states: self.states.clone(),
        };
        tasks.spawn(serve_flows(flows, shutdown.clone()));
        cni::announce(&cfg)?;
        let mtu = uplinks.mtu();
        self.stages.send_replace(Stage::Up(cni::Server {
            engine: handle,
            netlink,
            datapath,
            mtu,
        }));
        tracing::info!(node = %cfg.node_name, mtu, "network ready");
        // The status ends with the engine.
        loop {
            let limits = status.borrow_and_update().limits.clone();
            self.limits.send_replace(limits);
            status.changed().await.map_err(|_| Error::Engine)?;
        }
    }

    /// Verifying the programs takes a while, and a thread for itself.
    async fn load(&self, uplinks: &Uplinks) -> Result<(hooks::Hooks, maps::MapSet), Error> {
        let (cfg, uplinks) = (self.cfg.clone(), uplinks.clone());
        let mut seed = self.seed.clone();
        // Without it the first flows would be balanced by another seed than the next.
        let known = seed.wait_for(Option::is_some);
        let known = tokio::time::timeout(SEED_TIMEOUT, known).await;
        let seed = known.ok().and_then(Result::ok).and_then(|seed| *seed);
        let loading = tokio::task::spawn_blocking(move || hooks::load(&cfg, &uplinks, seed));
        Ok(loading.await??)
    }

    /// Pods of an earlier agent are asking already.
    fn serve_names(&mut self, shutdown: &CancellationToken) {
        if std::mem::replace(&mut self.serving, true) {
            return;
        }
        let (cfg, states) = (self.cfg.clone(), self.states.clone());
        let node = cfg.node_name.clone();
        let names = self.names.clone();
        tokio::spawn(dns::run(cfg, states.clone(), names, shutdown.clone()));
        tokio::spawn(health::run(node, states, shutdown.clone()));
    }
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
) -> Result<(), Error> {
    sysctl::write_all(&sysctl::of_node(&uplinks.names(), cfg.has_ipv6()))?;
    sysctl::reserve_ports(&[cfg.node_ports, (abi::SNAT_LO, abi::SNAT_HI)])?;
    Ok(host::add_dns_addresses(netlink, &cfg.cluster_dns).await?)
}

async fn serve_flows(server: flows::Server, shutdown: CancellationToken) {
    if let Err(error) = flows::serve(server, shutdown).await {
        tracing::error!(%error, "serve flows");
    }
}

#[cfg(test)]
mod tests;
