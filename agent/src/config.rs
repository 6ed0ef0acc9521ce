//! The agent's configuration: plain values, parsed and checked by the binary, read-only afterwards.
//! It owns no defaults that depend on the machine; those are resolved before it is built.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;

/// Everything the two halves of the agent need to know about their node and cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Addresses of this node, at most one per family, the primary first.
    pub node_ips: Vec<IpAddr>,
    /// URL of the API server, `https://HOST:PORT`.
    pub server: String,
    /// PEM of the cluster CA: verifies the API server and the API server's client certificate.
    pub ca_pem: Vec<u8>,
    /// Where the kubelet API listens (port 10250).
    pub kubelet_address: SocketAddr,
    /// CRI socket, without scheme: `/run/containerd/containerd.sock`.
    pub runtime_endpoint: PathBuf,
    /// Durable state: `ROOT/pods/UID/volumes/…`, `ROOT/pki`, `ROOT/net` (IPAM).
    pub root_dir: PathBuf,
    /// State that ends with a reboot: sockets (`cni.sock`, `flows.sock`).
    pub run_dir: PathBuf,
    /// Container logs, `/var/log/pods`.
    pub pod_log_dir: PathBuf,
    /// Where CNI configuration is written, `/etc/cni/net.d`.
    pub cni_conf_dir: PathBuf,
    /// Where the CNI plugin (a link to this binary) is placed, `/opt/cni/bin`.
    pub cni_bin_dir: PathBuf,
    /// bpffs directory of this node's pins, below a mounted bpffs: `/sys/fs/bpf/windlass`.
    pub bpf_dir: PathBuf,
    /// cgroup v2 directory whose subtree the socket programs are attached to: the root of this node's
    /// processes, `/sys/fs/cgroup` or `/sys/fs/cgroup/unified/NODE`.
    pub cgroup2_dir: PathBuf,
    /// Parent of all pod cgroups in each hierarchy, absolute within it: `/kubepods` or `/NODE/kubepods`.
    pub cgroup_parent: String,
    /// Address pods use for DNS, one per family; served by this agent on `lo`.
    pub cluster_dns: Vec<IpAddr>,
    /// DNS suffix of the cluster, `cluster.local`.
    pub cluster_domain: String,
    /// Service address ranges, one per family.
    pub service_cidrs: Vec<IpNetwork>,
    /// Pod address ranges of the whole cluster, one per family.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// NodePort range, inclusive (30000, 32767).
    pub node_ports: (u16, u16),
    /// resolv.conf of the node: pods with `dnsPolicy: Default`, and the DNS server's upstreams.
    pub resolv_conf: PathBuf,
    /// Uplink interfaces; empty: the interfaces that carry `node_ips` and the default routes.
    pub uplinks: Vec<String>,
    /// Maximal number of pods on the node (110).
    pub max_pods: u32,
}

// === impl Config ===

impl Config {
    /// Whether pods of the cluster have addresses of IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.cluster_cidrs.iter().any(IpNetwork::is_ipv6)
    }
}

/// A certificate chain and its key, PEM.
#[derive(Clone)]
pub struct KeyPair {
    pub cert_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyPair(..)")
    }
}
