//! What the composition root decides about the API server.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use ipnetwork::IpNetwork;

use crate::auth::AuthOptions;

/// Client side of the connections to the kubelets.
#[derive(Clone, Debug, Default)]
pub struct KubeletOptions {
    /// PEM of the CA that signs the kubelets' serving certificates; empty: logs and exec fail.
    pub ca_pem: String,
    /// PEM of the client certificate chain.
    pub cert_pem: String,
    /// PEM of the client key (PKCS#8).
    pub key_pem: String,
}

/// Everything [`crate::ApiServer::new`] needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the log and of the encryption key.
    pub data_dir: PathBuf,
    /// Where clients in the cluster reach this server; none: no `kubernetes` Endpoints.
    pub advertise: Option<(IpAddr, u16)>,
    /// Service address ranges, the primary family first.
    pub service_cidrs: Vec<IpNetwork>,
    /// Ports for NodePort services.
    pub node_ports: RangeInclusive<u16>,
    pub auth: AuthOptions,
    pub kubelet: KubeletOptions,
    /// How long watches can be resumed from.
    pub history: Duration,
    /// How long Events are kept.
    pub event_ttl: Duration,
}

// === impl Options ===

impl Options {
    /// The usual options with a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let services = IpNetwork::V4(
            ipnetwork::Ipv4Network::new([10, 96, 0, 0].into(), 16).expect("16 is a prefix length"),
        );
        Self {
            data_dir: data_dir.into(),
            advertise: None,
            service_cidrs: vec![services],
            node_ports: 30000..=32767,
            auth: AuthOptions::default(),
            kubelet: KubeletOptions::default(),
            history: Duration::from_secs(290),
            event_ttl: Duration::from_secs(3600),
        }
    }
}
