//! The commands that ask instead of run: this node's flows, counters and maps, and what the cluster's
//! policies say about a connection.

use std::path::PathBuf;
use std::process::ExitCode;

use agent::net::flows::client;
use anyhow::Context;
use clap::{Args, Subcommand};

/// Where a server with the default directories keeps its administrator's kubeconfig.
const ADMIN_KUBECONFIG: &str = "/var/lib/windlass/server/admin.kubeconfig";

#[derive(Args)]
pub struct NodeFlags {
    /// The agent's directory of sockets.
    #[arg(long, default_value = "/run/windlass")]
    run_dir: PathBuf,
    /// JSON lines instead of readable ones.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct MapsFlags {
    /// The agent's directory of sockets.
    #[arg(long, default_value = "/run/windlass")]
    run_dir: PathBuf,
}

#[derive(Subcommand)]
pub enum Policy {
    /// Say whether one end would reach the other, and which policies and rules decide it. Exits with
    /// 1 when it would not.
    Explain(Explain),
}

#[derive(Args)]
pub struct Explain {
    /// NAMESPACE/POD or an address.
    #[arg(long)]
    from: String,
    /// NAMESPACE/POD or an address.
    #[arg(long)]
    to: String,
    /// PORT or PORT/PROTOCOL.
    #[arg(long)]
    port: String,
    /// Kubeconfig [default: KUBECONFIG, then ~/.kube/config].
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

pub async fn flows(flags: NodeFlags) -> anyhow::Result<()> {
    Ok(client::flows(&flags.run_dir, flags.json).await?)
}

pub async fn counters(flags: NodeFlags) -> anyhow::Result<()> {
    Ok(client::counters(&flags.run_dir, flags.json).await?)
}

pub async fn maps(flags: MapsFlags) -> anyhow::Result<()> {
    Ok(client::maps(&flags.run_dir).await?)
}

pub async fn policy(command: Policy) -> anyhow::Result<ExitCode> {
    let Policy::Explain(Explain {
        from,
        to,
        port,
        kubeconfig,
    }) = command;
    let client = connect(kubeconfig).await.with_context(|| {
        format!("find the cluster; pass --kubeconfig (on the server: {ADMIN_KUBECONFIG})")
    })?;
    let answer = ::agent::net::explain::explain(client, &from, &to, &port).await?;
    let (word, code) = match answer.allowed() {
        true => ("allowed", ExitCode::SUCCESS),
        false => ("denied", ExitCode::FAILURE),
    };
    println!("{from} → {to} port {port}: {word}");
    println!("  egress:  {}", answer.egress);
    println!("  ingress: {}", answer.ingress);
    Ok(code)
}

async fn connect(kubeconfig: Option<PathBuf>) -> anyhow::Result<kube::Client> {
    use kube::config::{Config, KubeConfigOptions, Kubeconfig};
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await?,
    };
    Ok(kube::Client::try_from(config)?)
}
