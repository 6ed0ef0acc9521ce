//! A whole control plane in one process: real API server, store, controllers and scheduler; below
//! the line a hollow agent that makes bound pods Running and Ready. Nothing sleeps: every wait is
//! for a condition of watched objects.
#![allow(clippy::unwrap_used)]

#[path = "cluster/wait.rs"]
mod wait;

#[path = "cluster/certificates.rs"]
mod certificates;
#[path = "cluster/daemons.rs"]
mod daemons;
#[path = "cluster/deletion.rs"]
mod deletion;
#[path = "cluster/deployments.rs"]
mod deployments;
#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/pod_certificates.rs"]
mod pod_certificates;
#[path = "cluster/quotas.rs"]
mod quotas;
#[path = "cluster/roles.rs"]
mod roles;
#[path = "cluster/services.rs"]
mod services;
#[path = "cluster/workloads.rs"]
mod workloads;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Namespace the tests work in.
const NAMESPACE: &str = "default";

/// A running control plane.
struct Cluster {
    client: Client,
    running: controlplane::Running,
    shutdown: DropGuard,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// A control plane with hollow nodes of these names.
    async fn with_nodes(names: &[&str]) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let config = controlplane::Config {
            data_dir: dir.path().to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            // Only written into objects: endpoints must not be loopback addresses.
            advertise: "192.0.2.1".parse().unwrap(),
            sans: Vec::new(),
            token: None,
            kubeconfig: None,
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            cluster_dns: vec!["10.96.0.10".parse().unwrap()],
            cluster_domain: "cluster.local".to_owned(),
            controllers: true,
        };
        let running = controlplane::start(config, shutdown.clone()).await.unwrap();
        let client = running.admin();
        for name in names {
            hollow::register(&client, name).await.unwrap();
        }
        let agent = hollow::run(client.clone());
        let stop = shutdown.clone();
        tokio::spawn(async move { stop.run_until_cancelled(agent).await });
        let cluster = Self {
            client,
            running,
            shutdown: shutdown.drop_guard(),
            _dir: dir,
        };
        let nodes = Api::<Node>::all(cluster.client.clone());
        wait::until("nodes that take pods", nodes, "", |nodes| {
            let takes_pods = |node: &&&Node| node.spec.as_ref().is_some_and(|s| s.taints.is_none());
            nodes.iter().filter(takes_pods).count() == names.len()
        })
        .await;
        // Pods cannot be created before their service account.
        let accounts = cluster.api::<ServiceAccount>();
        wait::until("the service account", accounts, "", |a| !a.is_empty()).await;
        cluster
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>()
            .create(&PostParams::default(), &object)
            .await
            .unwrap()
    }

    async fn stop(self) {
        let Self {
            running, shutdown, ..
        } = self;
        drop(shutdown);
        running.stopped().await.unwrap();
    }
}
