//! What the binary decides about a control plane.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;

/// Everything [`crate::start`] needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Durable state: `db/`, `pki/`, `join-token`, `admin.kubeconfig`.
    pub data_dir: PathBuf,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Address of the API for members of the cluster and for the Service `kubernetes`.
    pub advertise: IpAddr,
    /// Further names or addresses in the serving certificate.
    pub sans: Vec<String>,
    /// Bootstrap token `ID.SECRET`; none: the kept one, or a random one.
    pub token: Option<String>,
    /// Second place for the admin kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// Service ranges, the primary family first.
    pub service_cidrs: Vec<IpNetwork>,
    /// Pod ranges, at most one per family.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// DNS addresses of pods.
    pub cluster_dns: Vec<IpAddr>,
    /// DNS suffix, `cluster.local`.
    pub cluster_domain: String,
    /// Whether controllers and the scheduler run; without them the API server alone can be looked at.
    pub controllers: bool,
}
