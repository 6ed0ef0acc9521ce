//! `windlass server`: the control plane and, unless disabled, this machine's node in one process.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ::agent::config::KeyPair;
use ::agent::join::Membership;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::flags::{ClusterFlags, Node, NodeFlags};

#[derive(Args)]
pub struct Flags {
    /// Durable state of the server: objects, keys, join token, admin.kubeconfig.
    #[arg(long, default_value = "/var/lib/windlass/server")]
    data_dir: PathBuf,
    /// Address the API listens on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port the API listens on.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// Address of the API that members of the cluster use [default: --node-ip].
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Further names or addresses for the serving certificate.
    #[arg(long, value_delimiter = ',')]
    tls_san: Vec<String>,
    /// Join token, ID.SECRET as kubeadm's [default: a random one, kept in DATA/join-token].
    #[arg(long, env = "WINDLASS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Also write the admin kubeconfig here.
    #[arg(long)]
    write_kubeconfig: Option<PathBuf>,
    /// Run the control plane alone: this machine is no node.
    #[arg(long)]
    disable_agent: bool,
    /// Run no controllers and no scheduler: the API alone.
    #[arg(long)]
    disable_controllers: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    node: NodeFlags,
}

pub async fn run(flags: Flags, shutdown: CancellationToken) -> anyhow::Result<()> {
    let node = flags.node.node(None)?;
    let config = controlplane::Config {
        data_dir: flags.data_dir,
        listen: SocketAddr::new(flags.bind_address, flags.secure_port),
        advertise: flags.advertise_address.unwrap_or(node.ips[0]),
        sans: flags.tls_san,
        token: flags.token,
        kubeconfig: flags.write_kubeconfig,
        service_cidrs: flags.cluster.service_cidr.clone(),
        cluster_cidrs: flags.cluster.cluster_cidr.clone(),
        cluster_dns: flags.cluster.dns()?,
        cluster_domain: flags.cluster.cluster_domain.clone(),
        controllers: !flags.disable_controllers,
    };
    let server = controlplane::start(config, shutdown.clone()).await?;
    if flags.disable_agent {
        return server.stopped().await;
    }
    let (config, membership, identities) = agent(&server, &flags.cluster, &flags.node, node)?;
    let rotation = AbortOnDropHandle::new(tokio::spawn(membership.run(shutdown.clone())));
    // The API outlives the agent, for the agent's last writes.
    let (agent, server) = tokio::join!(
        async {
            let result = ::agent::run(config, identities, shutdown.clone()).await;
            shutdown.cancel();
            drop(rotation);
            result
        },
        server.stopped(),
    );
    agent.and(server)
}

/// The node of this process: its configuration, and identities that need no socket.
fn agent(
    server: &controlplane::Running,
    cluster: &ClusterFlags,
    flags: &NodeFlags,
    node: Node,
) -> anyhow::Result<(::agent::Config, Membership, ::agent::Identities)> {
    let serving = server.kubelet_serving(&node.name, &node.ips)?;
    let serving = KeyPair {
        cert_pem: serving.cert_pem.into(),
        key_pem: serving.key_pem.into(),
    };
    let clients = (
        server.client_of_node(&node.name),
        server.client_of_net(&node.name),
    );
    let (membership, identities) = Membership::of_server(&node.name, &node.ips, clients, serving);
    let config = flags.config(cluster, node, server.url(), server.ca_pem().into())?;
    Ok((config, membership, identities))
}
