//! The pod half: a kubelet over CRI. It registers the node, keeps its Lease, runs the pods the API binds
//! to it and serves the kubelet API. Flow: watch → worker → plan → apply → status. It calls nothing of
//! the net half: a pod's network is made by the runtime through the CNI plugin.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::config::KeyPair;
use crate::cri;
use crate::metrics::Metrics;
use crate::serve;

pub mod admission;
pub mod apply;
pub mod backoff;
pub mod cgroup;
pub mod container;
pub mod dns;
pub mod downward;
pub mod env;
pub mod events;
pub mod expand;
pub mod lease;
pub mod logs;
pub mod machine;
pub mod manager;
pub mod node;
pub mod objects;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod pressure;
pub mod probe;
pub mod publisher;
pub mod relist;
pub mod resize;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod services;
pub mod spec;
pub mod status;
pub mod worker;

/// How long a container start waits for the first list of services.
const SERVICES_WAIT: Duration = Duration::from_secs(10);
/// Pause between attempts to reach the runtime at start.
const RUNTIME_PAUSE: Duration = Duration::from_millis(100);

/// What all workers of the node share; read-only.
pub struct Node {
    pub config: Arc<Config>,
    pub client: Client,
    pub runtime: cri::Client,
    /// `containerd`, the scheme of container ids.
    pub runtime_name: String,
    pub recorder: events::Recorder,
    pub store: objects::Store,
    /// Logs being written.
    pub logs: Arc<logs::Logs>,
    services: services::Services,
    /// What the node has for pods: milli-CPUs and bytes of memory.
    pub allocatable: (i64, i64),
    /// Bytes of memory the machine has.
    pub memory_capacity: i64,
    /// The pods of this node, as the API has them.
    pub pods: watch::Receiver<Arc<HashMap<String, Arc<Pod>>>>,
}

impl Node {
    /// The pod's addresses: on the host's network those of the node.
    pub fn ips_of(&self, pod: &Pod, observed: &observed::Observed) -> Vec<IpAddr> {
        if spec::host_network(pod) {
            return self.config.node_ips.clone();
        }
        let sandbox = observed.sandboxes.first();
        sandbox.map(|s| s.ips.clone()).unwrap_or_default()
    }

    pub fn facts(&self, pod: &Pod, observed: &observed::Observed) -> downward::Facts {
        downward::Facts {
            pod_ips: self.ips_of(pod, observed),
            node_ips: self.config.node_ips.clone(),
            node_name: self.config.node_name.clone(),
        }
    }

    pub fn cgroup(&self, pod: &Pod) -> String {
        cgroup::path(
            &self.config.cgroup_parent,
            resources::qos_class(pod),
            spec::uid(pod),
        )
    }

    pub fn sandbox_config(&self, pod: &Pod, attempt: u32) -> cri::messages::PodSandboxConfig {
        let host = std::fs::read_to_string(&self.config.resolv_conf).unwrap_or_default();
        let node = sandbox::Node {
            name: &self.config.node_name,
            log_dir: &self.config.pod_log_dir,
            cgroup_parent: self.cgroup(pod),
            dns: dns::Cluster {
                servers: &self.config.cluster_dns,
                domain: &self.config.cluster_domain,
                host: &host,
            },
        };
        sandbox::config(pod, &node, attempt)
    }

    /// The services of the cluster; waits, bounded, for the first complete list. `None`: not known yet.
    pub async fn services(&self) -> Option<Arc<Vec<env::ServiceEnv>>> {
        let mut services = self.services.clone();
        let listed = services.wait_for(Option::is_some);
        let listed = tokio::time::timeout(SERVICES_WAIT, listed).await;
        listed.ok()?.ok()?.clone()
    }
}

/// Runs the pod half until `shutdown`. Pods keep running when it ends.
pub async fn run(
    config: Arc<Config>,
    (client, serving, metrics): (Client, watch::Receiver<KeyPair>, Metrics),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let runtime = cri::Client::new(&config.runtime_endpoint)?;
    let Some(version) = wait_for_runtime(&runtime, &shutdown).await else {
        return Ok(());
    };
    let machine = machine::Machine::read(&config.root_dir).context("read the machine's facts")?;
    let source = events::Source {
        component: events::COMPONENT,
        node: config.node_name.clone(),
    };
    let (recorder, events) = events::recorder(client.clone(), source, shutdown.clone());
    let (sender, services) = watch::channel(None);
    let (pods_sender, pods) = watch::channel(Arc::new(HashMap::new()));
    let node = Arc::new(Node {
        runtime_name: version.runtime_name.clone(),
        store: objects::Store::new(client.clone()),
        logs: Arc::default(),
        allocatable: (machine.milli_cpus, node::allocatable_memory(&machine)),
        memory_capacity: machine.memory_bytes,
        pods: pods.clone(),
        config,
        client,
        runtime,
        recorder,
        services,
    });
    let server = serve::Server::bind(node.clone(), pods, serving, metrics)
        .await
        .context("kubelet API")?;
    let manager = manager::Manager::new(node.clone(), pods_sender);
    let registration = node::run(node.clone(), machine, version, shutdown.clone());
    tokio::join!(
        events,
        services::follow(node.client.clone(), sender, shutdown.clone()),
        registration,
        lease::run(node.clone(), shutdown.clone()),
        logs::run(node.logs.clone(), node.runtime.clone(), shutdown.clone()),
        server.run(shutdown.clone()),
        manager.run(shutdown.clone()),
    );
    Ok(())
}

async fn wait_for_runtime(
    runtime: &cri::Client,
    shutdown: &CancellationToken,
) -> Option<cri::messages::VersionResponse> {
    let mut said = false;
    loop {
        match runtime.version().await {
            Ok(version) => return Some(version),
            Err(error) if !said => {
                tracing::warn!(%error, "waiting for the container runtime");
                said = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(RUNTIME_PAUSE) => {}
            () = shutdown.cancelled() => return None,
        }
    }
}
