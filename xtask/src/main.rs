//! Command line of `cargo xtask`: words to functions of the library, nothing else.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use xtask::conformance;
use xtask::images::conformance::Extent;
use xtask::lab::{self, Halves, Lab, Place, Spec};
use xtask::oracle;
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
    /// Install what is missing: programs, the BPF toolchain, kubectl
    Setup,
    /// Compile the BPF programs and the release binary
    Build,
    /// Make the images of upstream's conformance tests; prints the OCI layout's path
    Images,
    /// Set up, build, start a lab, run the demo
    Up {
        /// Name of the lab
        #[arg(default_value = lab::DEFAULT)]
        name: String,
        /// Number of nodes; the demo wants three
        #[arg(long, default_value_t = lab::NODES)]
        nodes: u8,
        /// Stop when the nodes are Ready
        #[arg(long)]
        no_demo: bool,
        /// Use what was built before
        #[arg(long)]
        no_build: bool,
        /// containerd of the nodes; its shim, runc and ctr may lie beside it
        #[arg(long)]
        containerd: Option<PathBuf>,
        /// Pods and Services get IPv6 addresses too
        #[arg(long)]
        ipv6: bool,
        /// The lab that upstream's tests run on: two nodes, containerd 2, their images
        #[arg(long)]
        suite: bool,
        #[command(flatten)]
        halves: Halves,
    },
    /// All tests: units, BPF programs in the kernel, labs
    Test {
        /// Only tests whose name contains this
        only: Option<String>,
    },
    /// Run upstream's conformance suite
    Conformance(conformance::Options),
    /// Compare our API with upstream's own code and server
    Oracle {
        #[command(subcommand)]
        what: Option<oracle::Task>,
    },
    /// Measure
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Build programs of other projects from the Go module proxy, print their paths
    Upstream {
        /// e2e.test, ginkgo, kubectl, agnhost, kube-apiserver, …
        #[arg(required = true)]
        programs: Vec<String>,
    },
    /// Format, lints, documentation, licences, arrows between crates, rules of the house
    Check {
        /// Only what needs no compiling
        #[arg(long)]
        quick: bool,
    },
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
    LabGuard { pid: i32, name: String },
    #[command(hide = true)]
    LabProxy {
        netns: PathBuf,
        to: SocketAddr,
        port: u16,
        announce: PathBuf,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Memory and CPU at rest, first steps, connections through a Service
    Idle {
        /// Use what was built before
        #[arg(long)]
        no_build: bool,
    },
}

/// Port of the API on 127.0.0.1, if it is free.
const DEFAULT_PORT: u16 = 6443;

#[derive(Subcommand)]
enum LabTask {
    /// Start only namespaces and containerd
    Bare,
    /// Run a command in a node's or the outside world's namespaces
    Exec {
        /// node1, node2, …, outside or switch
        place: Place,
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
    /// Print the path of the administrator's kubeconfig
    Kubeconfig,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup => xtask::setup::setup(&Progress::shown()),
        Task::Build => xtask::build::build(&Progress::shown()).map(drop),
        Task::Images => {
            let layout = xtask::images::conformance::build(Extent::Whole, &Progress::shown())?;
            println!("{}", layout.display());
            Ok(())
        }
        Task::Up {
            name,
            nodes,
            no_demo,
            no_build,
            containerd,
            ipv6,
            suite,
            halves,
        } => {
            if suite {
                return xtask::up::suite(&name, halves, !no_build);
            }
            ensure!(
                halves == Halves::default(),
                "--control-plane and --node: upstream's halves go with --suite"
            );
            let mut spec = Spec::new(&name);
            spec.nodes = nodes;
            spec.port = DEFAULT_PORT;
            spec.ipv6 = ipv6;
            if let Some(path) = containerd {
                spec.containerd = path;
            }
            xtask::up::up(spec, !no_build, !no_demo)
        }
        Task::Test { only } => xtask::test::test(only.as_deref()),
        Task::Conformance(options) => conformance::conformance(&options),
        Task::Oracle { what } => oracle::oracle(what),
        Task::Bench {
            what: Bench::Idle { no_build },
        } => xtask::bench::idle(!no_build),
        Task::Upstream { programs } => upstream(&programs),
        Task::Check { quick } => xtask::check::check(quick),
        Task::Down { name, all } => down(name, all),
        Task::Lab { name, task } => lab_task(&name, task),
        Task::NodeInit { dir } => lab::node::init(&dir),
        Task::LabGuard { pid, name } => lab::shared::watch(pid, &name),
        Task::LabProxy {
            netns,
            to,
            port,
            announce,
        } => lab::proxy::serve(netns, to, port, &announce),
    }
}

fn upstream(programs: &[String]) -> Result<()> {
    let progress = Progress::shown();
    for name in programs {
        let program = xtask::upstream::named(name)?;
        println!(
            "{}",
            xtask::upstream::program(&progress, program)?.display()
        );
    }
    Ok(())
}

fn lab_task(name: &str, task: LabTask) -> Result<()> {
    match task {
        LabTask::Bare => {
            let images = xtask::images::build()?;
            let spec = Spec {
                without_windlass: true,
                images: images.archives,
                toolbox: Some(images.toolbox),
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
