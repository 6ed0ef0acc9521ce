//! The controllers: each decides by a pure `plan` what its objects need, one driver runs them all.
//!
//! `driver` moves data: feeds → `view` → queues → plans → apply. A controller sees the view and
//! returns a `Plan`; it does no I/O and keeps no locks. Writes go through `kube::Client` under one
//! identity per controller, so that RBAC, admission and audit apply to them.

mod claim;
mod discovery;
mod driver;
mod endpoint;
mod history;
mod kinds;
mod object;
mod plan;
mod resource;
mod template;
mod view;
mod write;

mod aggregation;
mod certificates;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslicemirroring;
mod garbage;
mod job;
mod namespace;
mod node;
mod podgc;
mod quota;
mod replicaset;
mod rootca;
mod serviceaccount;
mod statefulset;

#[cfg(test)]
mod sim;

use std::sync::Arc;

use ipnetwork::IpNetwork;
use kube::Client;
use tokio_util::sync::CancellationToken;

pub use certificates::sign::SignError;
pub use node::cidr::NodeCidrMask;

use plan::Controller;

/// The identity the shared watches run under; its upstream role may list and watch everything.
pub const FEED_IDENTITY: &str = "kube-controller-manager";

/// Removals the garbage collector has seen and the driver has not; beyond it they are summed up.
const MAX_REMOVALS: usize = 256;

/// What the controllers get from the composition root.
#[derive(Clone)]
pub struct Context {
    /// A client for a controller's identity. The name is that of upstream's service account in
    /// kube-system (`deployment-controller`, `generic-garbage-collector`, …), or `FEED_IDENTITY`
    /// for the user `system:kube-controller-manager`.
    pub client_for: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    /// Pod networks of the cluster, one per family; nodes get shares of them.
    pub cluster_cidrs: Vec<IpNetwork>,
    pub node_cidr_mask: NodeCidrMask,
    /// The CA that signs nodes' certificates.
    pub ca_cert_pem: String,
    pub ca_key_pem: String,
    /// What pods verify the API server with.
    pub root_ca_pem: String,
}

/// Runs every controller until `shutdown`.
pub async fn run(context: Context, shutdown: CancellationToken) -> Result<(), SignError> {
    let signer = certificates::sign::Signer::new(&context.ca_cert_pem, &context.ca_key_pem)?;
    let client_for = &*context.client_for;
    let driver = driver::Driver::new(controllers(&context), Arc::new(signer), client_for);
    let (sender, removals) = tokio::sync::mpsc::channel(MAX_REMOVALS);
    let garbage = garbage::run(client_for(garbage::NAME), sender, shutdown.clone());
    let driver = driver.run(client_for(FEED_IDENTITY), removals, shutdown);
    futures::join!(driver, garbage);
    Ok(())
}

fn controllers(context: &Context) -> Vec<Box<dyn Controller>> {
    let root_ca_pem = context.root_ca_pem.clone();
    let pools = context.cluster_cidrs.clone();
    vec![
        Box::new(aggregation::ClusterRoleAggregation),
        Box::<certificates::approve::Approver>::default(),
        Box::new(certificates::clean::PodRequestCleaner),
        Box::new(certificates::sign::Signing),
        Box::new(cronjob::CronJobController),
        Box::<daemonset::DaemonSetController>::default(),
        Box::new(deployment::DeploymentController),
        Box::new(disruption::DisruptionController),
        Box::new(disruption::stale::StaleDisruptions),
        Box::new(endpoints::EndpointsController),
        Box::new(endpointslice::EndpointSliceController),
        Box::new(endpointslicemirroring::EndpointSliceMirroring),
        Box::<job::JobController>::default(),
        Box::new(job::orphans::JobOrphans),
        Box::new(job::ttl::TtlAfterFinished),
        Box::new(namespace::NamespaceController),
        Box::new(node::cidr::CidrAllocator::new(
            pools,
            context.node_cidr_mask,
        )),
        Box::<node::lifecycle::NodeLifecycle>::default(),
        Box::<podgc::PodGc>::default(),
        Box::new(quota::QuotaController),
        Box::<replicaset::ReplicaController<kinds::ReplicaSet>>::default(),
        Box::<replicaset::ReplicaController<kinds::ReplicationController>>::default(),
        Box::new(rootca::RootCaPublisher { root_ca_pem }),
        Box::new(serviceaccount::ServiceAccountController),
        Box::new(statefulset::StatefulSetController),
    ]
}
