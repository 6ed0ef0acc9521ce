//! The agent's end of the CNI socket: one call per connection. It makes and removes interfaces; what
//! must be decided in one place (addresses, endpoints, policies) is asked of the engine. ADD answers
//! only when the pod's datapath is complete, and says why there is none while the net half is down.

use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::engine::Handle;
use super::load::Datapath;
use super::netlink::Netlink;
use super::sandbox::{Sandbox, SandboxId};
use super::stage::{Problem, Stage};
use super::veth;
use crate::cni::{
    AddResult, Answer, Command, Dns, Failure, Interface, Ip, LOOPBACK_TYPE, MESSAGE_LIMIT,
    PLUGIN_TYPE, Request, Route, VERSIONS, code,
};
use crate::{ACCEPT_PAUSE, Config};

/// Calls worked on at the same time. One that only waits for its pod to become known is not among them:
/// pods that are gone again before they ran must not hold up the others.
const CALLS: usize = 32;
/// Calls open at the same time; the kernel keeps further ones waiting.
const CONNECTIONS: usize = 1024;
/// How long a plugin may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call waits for a starting agent; less than the plugin waits for its answer.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Name of the configuration in the CNI directory; sorts before most others.
const CONFLIST: &str = "10-windlass.conflist";

/// The socket or the configuration could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}")]
pub struct Error {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// What every call needs, once the net half is up.
#[derive(Clone)]
pub struct Server {
    pub engine: Handle,
    pub netlink: Netlink,
    /// The programs to attach to pods' interfaces; `None` in tests of everything else.
    pub datapath: Option<Arc<Datapath>>,
    /// Of pods' interfaces.
    pub mtu: u32,
}

type Stages = watch::Receiver<Stage<Server>>;

/// Serves calls until `shutdown`; returns when the socket is listening.
pub fn serve(cfg: &Config, stages: Stages, shutdown: CancellationToken) -> Result<(), Error> {
    let path = socket_path(cfg);
    let failed = |operation| {
        move |source| Error {
            operation,
            path: socket_path(cfg),
            source,
        }
    };
    std::fs::create_dir_all(&cfg.run_dir).map_err(failed("create the directory of"))?;
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove")(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed("listen at"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(failed("restrict"))?;
    tokio::spawn(accept(listener, stages, shutdown));
    Ok(())
}

/// Path of the CNI socket.
pub fn socket_path(cfg: &Config) -> PathBuf {
    cfg.run_dir.join("cni.sock")
}

/// Tells the runtime about the plugin: the link to this binary first, then the configuration.
pub fn announce(cfg: &Config) -> Result<(), Error> {
    let failed = |operation, path: &Path| {
        let path = path.to_path_buf();
        move |source| Error {
            operation,
            path,
            source,
        }
    };
    for dir in [&cfg.cni_bin_dir, &cfg.cni_conf_dir] {
        std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
    }
    let own = Path::new("/proc/self/exe");
    let binary = std::fs::read_link(own).map_err(failed("read", own))?;
    place(&cfg.cni_bin_dir, PLUGIN_TYPE, &binary)?;
    // somebody else's plugin of that name does the same and stays
    if !cfg.cni_bin_dir.join(LOOPBACK_TYPE).exists() {
        place(&cfg.cni_bin_dir, LOOPBACK_TYPE, &binary)?;
    }
    let conflist = cfg.cni_conf_dir.join(CONFLIST);
    let text = conflist_text(&socket_path(cfg));
    if std::fs::read_to_string(&conflist).ok().as_ref() != Some(&text) {
        // Runtimes ignore names that do not end in .conf, .conflist or .json.
        let new = cfg.cni_conf_dir.join(format!(".{CONFLIST}.new"));
        std::fs::write(&new, &text).map_err(failed("write", &new))?;
        std::fs::rename(&new, &conflist).map_err(failed("place", &conflist))?;
    }
    Ok(())
}

/// Links `dir/name` to the binary, replacing what is there in one step.
fn place(dir: &Path, name: &str, binary: &Path) -> Result<(), Error> {
    let link = dir.join(name);
    if std::fs::read_link(&link).ok().as_deref() == Some(binary) {
        return Ok(());
    }
    let new = dir.join(format!(".{name}.new"));
    let _ = std::fs::remove_file(&new);
    let failed = |source| Error {
        operation: "link",
        path: link.clone(),
        source,
    };
    std::os::unix::fs::symlink(binary, &new).map_err(failed)?;
    std::fs::rename(&new, &link).map_err(failed)
}

fn conflist_text(socket: &Path) -> String {
    let conf = serde_json::json!({
        "cniVersion": VERSIONS[1],
        "name": PLUGIN_TYPE,
        "plugins": [{"type": PLUGIN_TYPE, "socket": socket}],
    });
    format!("{conf:#}\n")
}

async fn accept(listener: UnixListener, stages: Stages, shutdown: CancellationToken) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let work = Arc::new(Semaphore::new(CALLS));
    loop {
        let permit = acquire(&connections).await;
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let stream = match stream.and_then(|(s, _)| s.into_std()) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept a CNI call");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (stages, work) = (stages.clone(), work.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(stream, stages, &work).await {
                tracing::warn!(%error, "CNI call broken off");
            }
            drop(permit);
        });
    }
}

async fn acquire(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let permit = permits.clone().acquire_owned().await;
    permit.expect("the semaphore is never closed")
}

async fn connection(
    mut stream: std::os::unix::net::UnixStream,
    stages: Stages,
    work: &Arc<Semaphore>,
) -> std::io::Result<()> {
    let reading = tokio::task::spawn_blocking(move || {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
        let limit = usize::try_from(MESSAGE_LIMIT).unwrap_or(usize::MAX);
        super::netns::receive(&stream, limit).map(|(body, netns)| (stream, body, netns))
    });
    let (body, netns);
    (stream, body, netns) = reading.await??;
    let answer = match serde_json::from_slice::<Request>(&body) {
        Ok(request) => match wait_until_up(stages).await {
            Ok(server) => server.answer(request, netns, acquire(work).await).await,
            Err(problem) => without_network(&request, &problem),
        },
        Err(e) => Answer::Error(Failure::new(
            code::DECODE_FAILURE,
            "parse the plugin's call",
            e,
        )),
    };
    let answer = serde_json::to_vec(&answer)?;
    tokio::task::spawn_blocking(move || stream.write_all(&answer)).await?
}

/// The server; while the net half starts this waits a little.
async fn wait_until_up(mut stages: Stages) -> Result<Server, Problem> {
    let decided = stages.wait_for(|stage| !stage.is_starting());
    // Whether the time is over or the net half has ended: what counts is where it stands.
    drop(tokio::time::timeout(START_TIMEOUT, decided).await);
    match &*stages.borrow() {
        Stage::Up(server) => Ok(server.clone()),
        Stage::Down(problem) => Err(problem.clone()),
        Stage::Starting => Err(Problem {
            reason: "DatapathStarting",
            message: "it is still being loaded".into(),
        }),
    }
}

/// The answer while there is no datapath. A pod can go without it: its interface ends with its
/// namespace, and what the maps say of it is removed when the engine adopts what is left.
fn without_network(request: &Request, problem: &Problem) -> Answer {
    let failure = |code| {
        tracing::warn!(command = ?request.command, pod = %request.args.name, "CNI call refused");
        let Problem { reason, message } = problem;
        let details = format!("{reason}: {message}");
        Answer::Error(Failure::new(code, "the node's network is not up", details))
    };
    match request.command {
        Command::Add | Command::Check => failure(code::TRY_AGAIN_LATER),
        Command::Status => failure(code::PLUGIN_NOT_AVAILABLE),
        Command::Del | Command::Gc => Answer::Done,
    }
}

// === impl Server ===

impl Server {
    /// `work` is given back when what is left is waiting.
    async fn answer(
        &self,
        request: Request,
        netns: Option<OwnedFd>,
        work: OwnedSemaphorePermit,
    ) -> Answer {
        let id = SandboxId {
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
        };
        let started = std::time::Instant::now();
        let outcome = match request.command {
            Command::Add => self
                .add(&id, &request, netns, work)
                .await
                .map(|r| Answer::Result(Box::new(r))),
            Command::Del => self.del(&id).await.map(|()| Answer::Done),
            Command::Check => self.check(&id).await.map(|()| Answer::Done),
            Command::Status | Command::Gc => Ok(Answer::Done),
        };
        let elapsed = started.elapsed();
        match outcome {
            Ok(answer) => {
                tracing::info!(command = ?request.command, pod = %request.args.name, ?elapsed, "CNI");
                answer
            }
            Err(failure) => {
                let details = &failure.details;
                tracing::warn!(command = ?request.command, pod = %request.args.name, ?elapsed,
                    message = %failure.msg, %details, "CNI call failed");
                Answer::Error(failure)
            }
        }
    }

    async fn add(
        &self,
        id: &SandboxId,
        request: &Request,
        netns: Option<OwnedFd>,
        work: OwnedSemaphorePermit,
    ) -> Result<AddResult, Failure> {
        let netns = netns.ok_or_else(|| {
            Failure::new(
                code::INVALID_ENVIRONMENT,
                "no network namespace came with the call",
                "",
            )
        })?;
        let sandbox = self
            .engine
            .reserve(id.clone(), request.args.clone())
            .await?;
        let plan = veth::Plan {
            host_name: sandbox.host_name.clone(),
            pod_name: id.ifname.clone(),
            pod_mac: sandbox.mac,
            addresses: sandbox.addresses.clone(),
            mtu: self.mtu,
            alias: format!("{}/{}", request.args.namespace, request.args.name),
        };
        let broken = |e: veth::Error| Failure::new(code::FAILED, "set up the interface", chain(&e));
        let made = veth::make(&self.netlink, &plan, netns.as_fd()).await;
        let index = made.map_err(broken)?;
        // Attaching waits for the kernel, not for this pod's end.
        let (furnished, attached) =
            tokio::join!(veth::furnish(&plan, netns), self.attach_hooks(index));
        furnished.map_err(broken)?;
        attached?;
        self.engine.attach(id.clone(), index).await?;
        veth::open(&self.netlink, index, &plan)
            .await
            .map_err(broken)?;
        drop(work);
        self.engine.ready(id.clone()).await?;
        Ok(result(&sandbox, request))
    }

    async fn attach_hooks(&self, ifindex: u32) -> Result<(), Failure> {
        let Some(datapath) = self.datapath.clone() else {
            return Ok(());
        };
        let failed = |e: String| Failure::new(code::FAILED, "attach programs", e);
        let attaching = tokio::task::spawn_blocking(move || datapath.attach_pod(ifindex));
        let attached = attaching.await.map_err(|e| failed(e.to_string()))?;
        attached.map_err(|e| failed(chain(&e)))
    }

    async fn del(&self, id: &SandboxId) -> Result<(), Failure> {
        self.engine.release(id.clone()).await?;
        let host_name = veth::host_name(&id.container_id, &id.ifname);
        veth::remove(&self.netlink, &host_name)
            .await
            .map_err(|e| Failure::new(code::FAILED, "remove the interface", chain(&e)))?;
        self.engine.freed(id.clone()).await
    }

    async fn check(&self, id: &SandboxId) -> Result<(), Failure> {
        let sandbox = self.engine.lookup(id.clone()).await?;
        let missing = |e: String| Failure::new(code::FAILED, "the interface is not there", e);
        match self.netlink.link(&sandbox.host_name).await {
            Ok(Some(link)) if link.up => Ok(()),
            Ok(_) => Err(missing(sandbox.host_name)),
            Err(e) => Err(missing(e.to_string())),
        }
    }
}

fn result(sandbox: &Sandbox, request: &Request) -> AddResult {
    // Versions before 1.0.0 name the family of each address.
    let old = request.cni_version.starts_with("0.");
    let ip = |address: &IpAddr| Ip {
        address: veth::single(*address).to_string(),
        gateway: veth::gateway(*address).to_string(),
        interface: 1,
        version: old.then(|| if address.is_ipv4() { "4" } else { "6" }.into()),
    };
    let route = |address: &IpAddr| Route {
        dst: if address.is_ipv4() {
            "0.0.0.0/0"
        } else {
            "::/0"
        }
        .into(),
        gw: veth::gateway(*address).to_string(),
    };
    let interface = |name: &str, mac: &[u8; 6], sandbox: &str| Interface {
        name: name.into(),
        mac: mac.map(|b| format!("{b:02x}")).join(":"),
        sandbox: sandbox.into(),
    };
    AddResult {
        cni_version: request.cni_version.clone(),
        interfaces: vec![
            interface(&sandbox.host_name, &abi::HOST_MAC, ""),
            interface(&sandbox.id.ifname, &sandbox.mac, &request.netns),
        ],
        ips: sandbox.addresses.iter().map(ip).collect(),
        routes: sandbox.addresses.iter().map(route).collect(),
        dns: Dns {},
    }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
pub(super) mod tests;
