//! A control plane without nodes of its own: `windlass server --disable-agent` on a free port of
//! 127.0.0.1 and two hollow nodes, as whoever calls. Needs no root, no containerd and no eBPF.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::run::Target;
use crate::progress::{self, Progress};
use crate::{command, kubeconfig, workspace};

/// Names of the hollow nodes.
const NODES: [&str; 2] = ["hollow1", "hollow2"];
/// Address members of the cluster are told; of the range for documentation, since endpoints must
/// not be loopback addresses. Nobody connects to it.
const ADVERTISED: &str = "192.0.2.1";
/// Longest wait for the server to answer, and for the nodes to be Ready.
const START: Duration = Duration::from_secs(30);
/// Grace between SIGTERM and SIGKILL.
const STOP: Duration = Duration::from_secs(10);

/// The running processes; ended with this program, however it ends.
pub struct Hollow {
    processes: Vec<(&'static str, Child)>,
    data: PathBuf,
    target: Target,
}

impl Hollow {
    /// Starts both in `dir`, which keeps their logs, and waits until the nodes are Ready.
    pub fn start(dir: &Path, kubectl: &Path, progress: &Progress) -> Result<Hollow> {
        let mut hollow = Hollow {
            processes: Vec::new(),
            data: dir.join("server"),
            target: Target {
                kubeconfig: dir.join("kubeconfig"),
                nodes: NODES.len(),
            },
        };
        hollow.server(dir)?;
        progress.mark("the API answers");
        hollow.agent(dir)?;
        hollow.nodes_ready(kubectl)?;
        progress.mark(format!("{} hollow nodes Ready", NODES.len()));
        Ok(hollow)
    }

    /// What e2e.test is told.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Ends both and removes the server's data; the logs stay.
    pub fn stop(mut self) -> Result<()> {
        // the agent first: it would only complain
        while let Some((name, child)) = self.processes.pop() {
            end(name, child)?;
        }
        fs::remove_dir_all(&self.data).with_context(|| self.data.display().to_string())
    }

    fn server(&mut self, dir: &Path) -> Result<()> {
        let mut server = background(&workspace::windlass(), dir, "server")?;
        server.args(["server", "--disable-agent", "--secure-port", "0"]);
        server.args(["--bind-address", "127.0.0.1", "--tls-san", "127.0.0.1"]);
        server.args(["--advertise-address", ADVERTISED, "--node-ip", ADVERTISED]);
        server.arg("--data-dir").arg(&self.data);
        self.processes
            .push(("server", server.spawn().context("windlass server")?));
        let admin = self.data.join("admin.kubeconfig");
        let log = dir.join("server.log");
        progress::wait("the API answers", START, || {
            self.alive(&log)?;
            Ok(admin.exists())
        })?;
        let text = kubeconfig::with_host(&fs::read_to_string(&admin)?, "127.0.0.1");
        fs::write(&self.target.kubeconfig, text)?;
        Ok(())
    }

    fn agent(&mut self, dir: &Path) -> Result<()> {
        let mut agent = background(&workspace::hollow(), dir, "hollow")?;
        agent.args(NODES).env("KUBECONFIG", &self.target.kubeconfig);
        self.processes
            .push(("hollow", agent.spawn().context("hollow agent")?));
        Ok(())
    }

    fn nodes_ready(&mut self, kubectl: &Path) -> Result<()> {
        let path = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
        let mut ask = Command::new(kubectl);
        ask.args(["get", "nodes", "-o", path])
            .env("KUBECONFIG", &self.target.kubeconfig)
            .env("KUBECACHEDIR", self.data.join("kubectl-cache"));
        let ready = vec!["True"; NODES.len()].join(" ");
        let log = self.data.with_file_name("hollow.log");
        progress::wait("the hollow nodes are Ready", START, || {
            self.alive(&log)?;
            Ok(command::output(&mut ask)? == ready)
        })
    }

    /// An error with the end of the log once the process that was started last has ended.
    fn alive(&mut self, log: &Path) -> Result<()> {
        let (name, child) = self.processes.last_mut().context("nothing was started")?;
        if let Some(status) = child.try_wait()? {
            bail!("{name} ended ({status}); its log is {}", log.display());
        }
        Ok(())
    }
}

impl Drop for Hollow {
    fn drop(&mut self) {
        for (_, child) in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A process with a log, that Ctrl-C does not reach and that does not outlive this program.
fn background(program: &Path, dir: &Path, name: &str) -> Result<Command> {
    let log = File::create(dir.join(format!("{name}.log")))?;
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=TERM").arg(program);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    Ok(command)
}

fn end(name: &str, mut child: Child) -> Result<()> {
    // ESRCH: it ended by itself, which the wait below finds out
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    let ended = progress::wait(&format!("{name} ends"), STOP, || {
        Ok(child.try_wait()?.is_some())
    });
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    ended
}
