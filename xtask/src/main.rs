//! Command line of `cargo xtask`: words to functions of the library, nothing else.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::lab::{self, Lab, Place, Spec};
use xtask::progress::Progress;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Builds, runs, tests and measures Windlass"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Remove a lab and every trace of it
    Down {
        /// Name of the lab
        #[arg(default_value = lab::DEFAULT)]
        name: String,
        /// Every lab of this machine
        #[arg(long)]
        all: bool,
    },
    /// Work with a running lab
    Lab {
        /// Name of the lab
        #[arg(long, default_value = lab::DEFAULT)]
        name: String,
        #[command(subcommand)]
        task: LabTask,
    },
    #[command(hide = true)]
    NodeInit { dir: PathBuf },
    #[command(hide = true)]
    LabProxy {
        netns: PathBuf,
        to: SocketAddr,
        port: u16,
        announce: PathBuf,
    },
}

#[derive(Subcommand)]
enum LabTask {
    /// Start only namespaces and containerd
    Bare,
    /// Run a command in a node's or the outside world's namespaces
    Exec {
        /// node1, node2, node3, outside or switch
        place: Place,
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
    /// Print the path of the administrator's kubeconfig
    Kubeconfig,
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Down { name, all } => down(name, all),
        Task::Lab { name, task } => lab_task(&name, task),
        Task::NodeInit { dir } => lab::node::init(&dir),
        Task::LabProxy {
            netns,
            to,
            port,
            announce,
        } => lab::proxy::serve(netns, to, port, &announce),
    }
}

fn lab_task(name: &str, task: LabTask) -> Result<()> {
    match task {
        LabTask::Bare => {
            let spec = Spec {
                without_windlass: true,
                ..Spec::new(name)
            };
            Lab::up(&spec, &Progress::shown())?;
            Ok(())
        }
        LabTask::Exec { place, argv } => {
            // replaces this process: signals, terminal and exit code are the command's own
            Err(Lab::named(name)?.exec(place, &argv)?.exec().into())
        }
        LabTask::Kubeconfig => {
            println!("{}", Lab::named(name)?.kubeconfig().display());
            Ok(())
        }
    }
}

fn down(name: String, all: bool) -> Result<()> {
    let names = if all { Lab::all()? } else { vec![name] };
    let mut nothing = true;
    for name in names {
        for what in Lab::named(&name)?.down()? {
            println!("removed {what}");
            nothing = false;
        }
    }
    if nothing {
        println!("nothing was there");
    }
    Ok(())
}
