//! Flags that `server` and `agent` share: what this machine is as a node and where the agent keeps
//! its things. Resolves what depends on the machine (its name, its address) into plain values.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use ipnetwork::IpNetwork;

/// Port of the kubelet API.
const KUBELET_PORT: u16 = 10250;
/// NodePort range, inclusive.
const NODE_PORTS: (u16, u16) = (30000, 32767);
const SCHEME: &str = "unix://";

#[derive(Args)]
pub struct NodeFlags {
    /// Name of this node [default: the host name].
    #[arg(long)]
    pub node_name: Option<String>,
    /// Addresses of this node, at most one per family [default: the source address of its routes].
    #[arg(long, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// CRI socket of the container runtime.
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    pub container_runtime_endpoint: String,
    /// Durable state of the agent.
    #[arg(long, default_value = "/var/lib/windlass/agent")]
    pub root_dir: PathBuf,
    /// Sockets, gone with a reboot.
    #[arg(long, default_value = "/run/windlass")]
    pub run_dir: PathBuf,
    /// Logs of containers.
    #[arg(long, default_value = "/var/log/pods")]
    pub pod_log_dir: PathBuf,
    /// Where the container runtime looks for CNI configurations.
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where the container runtime looks for CNI plugins.
    #[arg(long, default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Directory of this node's pins, below a mounted bpffs.
    #[arg(long, default_value = "/sys/fs/bpf/windlass")]
    pub bpf_dir: PathBuf,
    /// cgroup v2 directory that holds all processes of this node [default: where cgroup v2 is
    /// mounted].
    #[arg(long)]
    pub cgroup2_dir: Option<PathBuf>,
    /// Parent of all pods' cgroups, absolute within each hierarchy.
    #[arg(long, default_value = "/kubepods")]
    pub cgroup_parent: String,
    /// The node's resolv.conf: upstream DNS servers, and the pods with dnsPolicy Default.
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Interfaces to the other nodes and the world [default: those that carry the node's
    /// addresses].
    #[arg(long, value_delimiter = ',')]
    pub uplink: Vec<String>,
    /// Most pods this node runs.
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
}

#[derive(Args)]
pub struct ClusterFlags {
    /// Address ranges of pods, one per family; agents are told the same ones as servers.
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/16")]
    pub cluster_cidr: Vec<IpNetwork>,
    /// Address ranges of Services, one per family.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16")]
    pub service_cidr: Vec<IpNetwork>,
    /// DNS addresses of pods, within the Service ranges [default: the tenth address of each].
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// DNS suffix of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
}

/// Who this node is.
pub struct Node {
    pub name: String,
    pub ips: Vec<IpAddr>,
}

impl NodeFlags {
    /// Name and addresses; `peer` is an address this machine must have a route to.
    pub fn node(&self, peer: Option<SocketAddr>) -> anyhow::Result<Node> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
        };
        let ips = match (self.node_ip.as_slice(), peer) {
            ([], peer) => vec![route_source(peer)?],
            (given, _) => given.to_vec(),
        };
        if ips.len() > 2 || (ips.len() == 2 && ips[0].is_ipv4() == ips[1].is_ipv4()) {
            bail!("--node-ip takes at most one address per family");
        }
        Ok(Node { name, ips })
    }

    /// The agent's configuration.
    pub fn config(
        &self,
        cluster: &ClusterFlags,
        node: Node,
        server: String,
        ca_pem: Vec<u8>,
    ) -> anyhow::Result<::agent::Config> {
        let runtime = &self.container_runtime_endpoint;
        Ok(::agent::Config {
            node_name: node.name,
            kubelet_address: SocketAddr::new(unspecified(&node.ips), KUBELET_PORT),
            node_ips: node.ips,
            server,
            ca_pem,
            runtime_endpoint: runtime.strip_prefix(SCHEME).unwrap_or(runtime).into(),
            root_dir: self.root_dir.clone(),
            run_dir: self.run_dir.clone(),
            pod_log_dir: self.pod_log_dir.clone(),
            cni_conf_dir: self.cni_conf_dir.clone(),
            cni_bin_dir: self.cni_bin_dir.clone(),
            bpf_dir: self.bpf_dir.clone(),
            cgroup2_dir: match &self.cgroup2_dir {
                Some(dir) => dir.clone(),
                None => cgroup2_mount()?,
            },
            cgroup_parent: self.cgroup_parent.clone(),
            cluster_dns: cluster.dns()?,
            cluster_domain: cluster.cluster_domain.clone(),
            service_cidrs: cluster.service_cidr.clone(),
            cluster_cidrs: cluster.cluster_cidr.clone(),
            node_ports: NODE_PORTS,
            resolv_conf: self.resolv_conf.clone(),
            uplinks: self.uplink.clone(),
            max_pods: self.max_pods,
        })
    }
}

/// Place of the DNS address in a Service range, as kubeadm and k3s choose it.
const DNS_INDEX: u32 = 10;

impl ClusterFlags {
    /// DNS addresses, given or derived.
    pub fn dns(&self) -> anyhow::Result<Vec<IpAddr>> {
        for address in &self.cluster_dns {
            if !self
                .service_cidr
                .iter()
                .any(|range| range.contains(*address))
            {
                bail!("--cluster-dns {address} is not in a range of --service-cidr");
            }
        }
        if !self.cluster_dns.is_empty() {
            return Ok(self.cluster_dns.clone());
        }
        self.service_cidr
            .iter()
            .map(|range| nth(range, DNS_INDEX))
            .collect()
    }
}

fn nth(range: &IpNetwork, n: u32) -> anyhow::Result<IpAddr> {
    let address = match range {
        IpNetwork::V4(range) => range.nth(n).map(IpAddr::V4),
        IpNetwork::V6(range) => range.nth(n.into()).map(IpAddr::V6),
    };
    address.with_context(|| format!("the Service range {range} has fewer than {n} addresses"))
}

fn unspecified(ips: &[IpAddr]) -> IpAddr {
    match ips.iter().any(IpAddr::is_ipv6) {
        true => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        false => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    }
}

/// An address of RFC 5737 that nothing answers; only the route to it is asked for.
const DOCUMENTATION: &str = "192.0.2.1:9";

/// The source address the kernel would use towards `peer`, or towards the default route. Connecting
/// a UDP socket sends nothing.
fn route_source(peer: Option<SocketAddr>) -> anyhow::Result<IpAddr> {
    let peer = match peer {
        Some(peer) => peer,
        None => DOCUMENTATION.parse()?,
    };
    let any: SocketAddr = match peer {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(peer).with_context(|| {
        format!(
            "find this node's address: no route to {}; pass --node-ip",
            peer.ip()
        )
    })?;
    Ok(socket.local_addr()?.ip())
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or below it on a hybrid system.
fn cgroup2_mount() -> anyhow::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .context("no cgroup v2 is mounted; mount one, or pass --cgroup2-dir")
}
