//! Feeds: one watch per kind, delivered into the driver's channel.

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;

use crate::kinds::*;
use crate::view::Delivery;

/// Namespace of the nodes' heartbeats.
pub const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";
/// Name of the config map with the cluster's root certificate.
pub const ROOT_CA_CONFIG_MAP: &str = "kube-root-ca.crt";

/// Starts a feed for every kind of the view.
pub fn spawn_all(client: &Client, sender: &Sender<Delivery>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let all = watcher::Config::default().streaming_lists();
    macro_rules! feeds {
        ($($kind:ident),*) => {
            $(tasks.spawn(feed::<$kind>(Api::all(client.clone()), all.clone(), sender.clone()));)*
        };
    }
    feeds!(
        Namespace,
        Node,
        Pod,
        Service,
        Endpoints,
        EndpointSlice,
        Deployment,
        ReplicaSet,
        DaemonSet,
        Job,
        CronJob,
        StatefulSet,
        PersistentVolumeClaim,
        ControllerRevision,
        ServiceAccount,
        CertificateSigningRequest,
        PodCertificateRequest,
        ClusterRole,
        ReplicationController,
        ResourceQuota,
        PodDisruptionBudget
    );
    let leases = Api::<Lease>::namespaced(client.clone(), NODE_LEASE_NAMESPACE);
    tasks.spawn(feed(leases, all.clone(), sender.clone()));
    let root_ca = all.fields(&format!("metadata.name={ROOT_CA_CONFIG_MAP}"));
    tasks.spawn(feed::<ConfigMap>(
        Api::all(client.clone()),
        root_ca,
        sender.clone(),
    ));
    tasks
}

async fn feed<K>(api: Api<K>, config: watcher::Config, sender: Sender<Delivery>)
where
    K: Projection,
    Delivery: From<Event<K>>,
{
    let stream = watcher::watcher(api, config).default_backoff();
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                if sender.send(event.into()).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(kind = K::RESOURCE.kind, %error, "watch failed"),
        }
    }
}
