//! A cluster on one machine: nodes, a switch and an outside world as Linux namespaces.
//!
//! ```text
//!   node1 10.90.0.11 ─┐
//!   node2 10.90.0.12 ─┼─ switch 10.90.0.1 │ 10.91.0.1 ── outside 10.91.0.2 (client, DNS, web)
//!   node3 10.90.0.13 ─┘   routes the two networks; everything else is unreachable
//! ```
//!
//! Every veth is created between two namespaces, so the machine's own namespace never holds an
//! end and no packet of the lab can reach the machine's interfaces. The switch knows no pod
//! range: an answer from outside comes back only to a packet that left with the node's address.
//! (Upstream's tests are a client that reaches pods; for them `Spec::routes_to_pods` tells the
//! switch each node's range, and they run in the outside world.) The one door is a proxy on 127.0.0.1 that connects inside node 1 (`proxy`).
//!
//! A node has mount, pid, uts, ipc, net and cgroup namespaces of its own and runs what a machine
//! would: containerd and windlass, kept up by a small init (`node`). State of a lab is one
//! directory; what the kernel holds of it is found by name (`wl-NAME-…`), so `down` also removes a
//! crashed lab whose directory is gone.

mod cgroups;
pub mod cluster;
mod containerd;
mod credentials;
mod down;
mod links;
pub mod node;
mod process;
pub mod proxy;
mod ready;
pub mod readyz;
pub mod shared;
mod suite;
mod up;
mod upstream;
mod windlass;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

pub use process::Process;

/// Name of the lab that `cargo xtask up` makes.
pub const DEFAULT: &str = "lab";
/// Nodes of a lab, unless its [`Spec`] says otherwise.
pub const NODES: u8 = 3;
/// Most nodes of a lab; their addresses and names are known from the number alone.
pub const NODES_LIMIT: u8 = 8;
/// Where the lab's directory keeps the number of nodes.
const NODES_FILE: &str = "nodes";
/// Longest name of a lab; it becomes part of namespace and cgroup names.
const NAME_LIMIT: usize = 24;
/// Address ranges of pods and Services, and the address of DNS in the latter: the defaults of
/// `windlass server`.
const CLUSTER_RANGE: &str = "10.244.0.0/16";
const SERVICE_RANGE: &str = "10.96.0.0/16";
const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Port of the image registry in the outside world.
const REGISTRY_PORT: u16 = 5000;
/// Port of the API server in node 1.
const API_PORT: u16 = 6443;
/// Longest time of a kubectl whose end is waited for: longer than what it is itself told to wait.
pub const KUBECTL: Duration = Duration::from_secs(180);
/// Longest wait for a small step of a start (a process to appear, a file to be written).
const STEP: Duration = Duration::from_secs(20);
/// Address of the outside world: a DNS server, a web server and any client started there.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 2);

/// Whose programs a half of the cluster is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Half {
    /// Ours.
    #[default]
    Windlass,
    /// Kubernetes' own, built on demand.
    Upstream,
}

/// Whose the two halves of a cluster are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::Args)]
pub struct Halves {
    /// Whose control plane
    #[arg(long, default_value = "windlass")]
    pub control_plane: Half,
    /// Whose nodes
    #[arg(long, default_value = "windlass")]
    pub node: Half,
}

/// What a lab is made of.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name: lowercase letters, digits and `-`.
    pub name: String,
    /// Number of nodes, up to [`NODES_LIMIT`]; the first is the control plane too.
    pub nodes: u8,
    /// Who serves the API, schedules and controls.
    pub control_plane: Half,
    /// Who runs pods, network and DNS on the nodes. Upstream's DNS needs the images of
    /// [`crate::images::conformance`].
    pub node: Half,
    /// The binary of our halves.
    pub windlass: PathBuf,
    /// containerd, 1.6 or newer; `ctr`, the shim and runc are searched beside it first.
    pub containerd: PathBuf,
    /// OCI archives, or directories with an OCI layout, imported into every node.
    pub images: Vec<PathBuf>,
    /// OCI layout of a read-only registry in the outside world, which every node's containerd asks
    /// for images of [`crate::images::REGISTRY`]. Needs the toolbox.
    pub registry: Option<PathBuf>,
    /// The toolbox program, run in the outside world as its DNS and web server.
    pub toolbox: Option<PathBuf>,
    /// Port of the proxy on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Pods and Services get IPv6 addresses too.
    pub ipv6: bool,
    /// The switch routes each node's pod range to it: the outside world reaches pods.
    pub routes_to_pods: bool,
    /// Size of the file system that holds the server's data directory, MiB; 0: the machine's own.
    pub store_mib: u32,
    /// More arguments of `windlass server`.
    pub server_args: Vec<String>,
    /// Start containerd only: for tests of the lab itself.
    pub without_windlass: bool,
}

impl Spec {
    /// The lab `up` makes, under another name.
    pub fn new(name: &str) -> Spec {
        Spec {
            name: name.to_owned(),
            nodes: NODES,
            control_plane: Half::Windlass,
            node: Half::Windlass,
            windlass: workspace::windlass(),
            containerd: command::find("containerd").unwrap_or_else(|| "containerd".into()),
            images: Vec::new(),
            registry: None,
            toolbox: None,
            port: 0,
            ipv6: false,
            routes_to_pods: false,
            store_mib: 0,
            server_args: Vec::new(),
            without_windlass: false,
        }
    }
}

/// A lab by name, running or not.
#[derive(Debug, Clone)]
pub struct Lab {
    name: String,
    dir: PathBuf,
    nodes: u8,
}

/// Where a command of the lab runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A node, counted from 1.
    Node(u8),
    /// The world outside of the cluster.
    Outside,
    /// The router between them.
    Switch,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Node(n) => write!(f, "node{n}"),
            Place::Outside => f.write_str("outside"),
            Place::Switch => f.write_str("switch"),
        }
    }
}

impl std::str::FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Place> {
        match text {
            "outside" => Ok(Place::Outside),
            "switch" => Ok(Place::Switch),
            _ => match text.strip_prefix("node").and_then(|n| n.parse().ok()) {
                Some(n) if (1..=NODES_LIMIT).contains(&n) => Ok(Place::Node(n)),
                _ => bail!("{text:?} is not one of node1…node{NODES_LIMIT}, outside, switch"),
            },
        }
    }
}

/// Address of a node.
pub fn node_ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 90, 0, 10 + n)
}

/// IPv6 address of a node.
pub fn node_ip6(n: u8) -> std::net::Ipv6Addr {
    std::net::Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(n))
}

impl Lab {
    /// A handle; nothing is started or checked but the name.
    pub fn named(name: &str) -> Result<Lab> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > NAME_LIMIT || !name.chars().all(plain) {
            bail!("lab name {name:?}: 1–{NAME_LIMIT} lowercase letters, digits and '-' expected");
        }
        let dir = workspace::labs().join(name);
        let nodes = std::fs::read_to_string(dir.join(NODES_FILE))
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(NODES);
        Ok(Lab {
            name: name.to_owned(),
            dir,
            nodes,
        })
    }

    /// Starts what is not running yet and waits until every node is `Ready`.
    pub fn up(spec: &Spec, progress: &crate::progress::Progress) -> Result<Lab> {
        let mut lab = Lab::named(&spec.name)?;
        lab.resize(spec.nodes)?;
        up::up(&lab, spec, progress)?;
        Ok(lab)
    }

    /// Sets the number of nodes before anything is made; `up` writes it down.
    fn resize(&mut self, nodes: u8) -> Result<()> {
        if !(1..=NODES_LIMIT).contains(&nodes) {
            bail!("a lab has 1 to {NODES_LIMIT} nodes, not {nodes}");
        }
        if self.nodes != nodes && self.init(1).is_ok() {
            bail!(
                "lab {:?} runs with {} nodes: remove it first (cargo xtask down {})",
                self.name,
                self.nodes,
                self.name
            );
        }
        self.nodes = nodes;
        Ok(())
    }

    /// Removes every trace, also of a crashed lab; returns what was there.
    pub fn down(&self) -> Result<Vec<String>> {
        down::down(self)
    }

    /// Names of all labs of which anything is left.
    pub fn all() -> Result<Vec<String>> {
        down::all()
    }

    /// Every node's number.
    pub fn nodes(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.nodes
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Directory of one place: logs, state that a machine would have on its disk.
    pub fn place_dir(&self, place: Place) -> PathBuf {
        self.dir.join(place.to_string())
    }

    /// Programs every place of the lab can run by name: windlass, toolbox.
    pub fn programs(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// Log of a unit (`containerd`, `windlass`) of a node.
    pub fn log(&self, n: u8, unit: &str) -> PathBuf {
        self.place_dir(Place::Node(n))
            .join("log")
            .join(format!("{unit}.log"))
    }

    /// The administrator's kubeconfig, usable in an ordinary shell of this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The same for programs that run at a place of the lab, which has no proxy.
    pub fn kubeconfig_inside(&self) -> PathBuf {
        self.dir.join("kubeconfig.inside")
    }

    /// Name of the network namespace of a place.
    pub fn netns(&self, place: Place) -> String {
        self.object(&place.to_string())
    }

    /// Name of a kernel object of this lab.
    fn object(&self, what: &str) -> String {
        format!("wl-{}-{what}", self.name)
    }

    /// A command that will run at a place: in its namespaces and cgroup, so that what it sends
    /// is what the node itself would send.
    pub fn exec<S: AsRef<std::ffi::OsStr>>(&self, place: Place, argv: &[S]) -> Result<Command> {
        let netns = format!("/run/netns/{}", self.netns(place));
        if !Path::new(&netns).exists() {
            bail!(
                "lab {:?} is not running (no {netns}): start it with `cargo xtask up`",
                self.name
            );
        }
        let mut command = cgroups::joined(self, place);
        command.arg("nsenter");
        match place {
            Place::Node(n) => {
                let pid = self.init(n)?.pid().to_string();
                command.args([
                    "--target", &pid, "--mount", "--uts", "--ipc", "--net", "--pid",
                ]);
                command.arg("--cgroup");
            }
            Place::Outside | Place::Switch => {
                command.arg(format!("--net={netns}"));
            }
        }
        command.arg("--").args(argv);
        node::environment(&mut command);
        command.env(
            "PATH",
            format!("{}:{}", self.programs().display(), node::PATH),
        );
        Ok(command)
    }

    /// Runs a command at a place to its end; standard output, or an error with standard error.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, place: Place, argv: &[S]) -> Result<String> {
        command::output(&mut self.exec(place, argv)?).with_context(|| format!("on {place}"))
    }

    /// `kubectl` with this lab's kubeconfig.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(workspace::kubectl().unwrap_or_else(|| "kubectl".into()));
        command.args(args);
        command.env("KUBECONFIG", self.kubeconfig());
        // discovery is cached in $HOME otherwise: a trace that `down` would not find
        command.env("KUBECACHEDIR", self.dir.join("kubectl-cache"));
        command
    }

    /// Runs kubectl to its end.
    pub fn kubectl_output<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Result<String> {
        command::output_within(&mut self.kubectl(args), KUBECTL)
    }

    /// PID 1 of a node.
    pub fn init(&self, n: u8) -> Result<Process> {
        Process::recorded(&self.place_dir(Place::Node(n)).join("init.pid"))?
            .with_context(|| format!("node{n} of lab {:?} is not running", self.name))
    }

    /// The process of a unit, as this machine numbers it.
    pub fn unit(&self, n: u8, unit: &str) -> Result<Process> {
        let file = self
            .place_dir(Place::Node(n))
            .join("units")
            .join(format!("{unit}.pid"));
        let inner: i32 = std::fs::read_to_string(&file)
            .with_context(|| file.display().to_string())?
            .trim()
            .parse()
            .with_context(|| format!("{} holds no number", file.display()))?;
        cgroups::members(self, Place::Node(n))
            .into_iter()
            .filter_map(Process::of)
            .find(|process| process.inner_pid() == Some(inner))
            .with_context(|| format!("{unit} of node{n} is not running"))
    }

    /// `kill -9` of a unit's main process; the node's init starts it again, as systemd would.
    pub fn kill_unit(&self, n: u8, unit: &str) -> Result<()> {
        self.unit(n, unit)?.kill();
        Ok(())
    }

    /// Ends a unit and keeps it down until [`Lab::start_unit`].
    pub fn stop_unit(&self, n: u8, unit: &str) -> Result<()> {
        node::tell(&self.place_dir(Place::Node(n)), &format!("stop {unit}"))?;
        crate::progress::wait(
            &format!("{unit} of node{n} stops"),
            Duration::from_secs(20),
            || Ok(self.unit(n, unit).is_err()),
        )
    }

    /// Starts a unit that was stopped.
    pub fn start_unit(&self, n: u8, unit: &str) -> Result<()> {
        node::tell(&self.place_dir(Place::Node(n)), &format!("start {unit}"))
    }
}
