//! The windlass binary: command line in, one composed process out. Called by a container runtime
//! (CNI_COMMAND is set) it is the CNI plugin.

mod agent;
mod ask;
mod flags;
mod memory;
mod server;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A whole Kubernetes-compatible cluster node in one process, with its networking in eBPF.
#[derive(Parser)]
#[command(name = "windlass", version, max_term_width = 100)]
struct Cli {
    /// Log filter, in the syntax of tracing's EnvFilter.
    #[arg(long, global = true, env = "WINDLASS_LOG", default_value = "info")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the control plane and, unless --disable-agent, this machine's node.
    Server(Box<server::Flags>),
    /// Run this machine's node of an existing cluster.
    Agent(Box<agent::Flags>),
    /// Stream this node's flows and drops with the names of their pods.
    Flows(ask::NodeFlags),
    /// Print this node's counters: packets delivered and dropped, by reason.
    Counters(ask::NodeFlags),
    /// Print what this node's BPF maps hold.
    Maps(ask::MapsFlags),
    /// Ask about NetworkPolicy.
    #[command(subcommand)]
    Policy(ask::Policy),
}

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() {
        return ::agent::cni::plugin_main();
    }
    let cli = Cli::parse();
    if matches!(cli.command, Command::Server(_) | Command::Agent(_)) {
        memory::settle();
    }
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("windlass: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_new(&cli.log)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let shutdown = stop_on_signal()?;
        match cli.command {
            Command::Server(flags) => server::run(*flags, shutdown).await?,
            Command::Agent(flags) => agent::run(*flags, shutdown).await?,
            Command::Flows(flags) => until(shutdown, ask::flows(flags)).await?,
            Command::Counters(flags) => until(shutdown, ask::counters(flags)).await?,
            Command::Maps(flags) => until(shutdown, ask::maps(flags)).await?,
            Command::Policy(command) => return ask::policy(command).await,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// What `work` says, or nothing once `shutdown` is cancelled.
async fn until(
    shutdown: CancellationToken,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    tokio::select! {
        result = work => result,
        () = shutdown.cancelled() => Ok(()),
    }
}

/// A token that is cancelled by SIGINT or SIGTERM.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let shutdown = CancellationToken::new();
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(shutdown)
}
