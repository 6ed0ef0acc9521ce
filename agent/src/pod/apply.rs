//! Carries out a plan: images, sandbox, containers, hooks, kills. It makes no choices about what should
//! run; it reports each step to the pod's worker as `Progress`, goes on past a failed container, and can
//! be cancelled between and inside the steps that may take long.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Node;
use super::cgroup;
use super::downward::Facts;
use super::events::Subject;
use super::logs;
use super::objects::Objects;
use super::observed::{Observed, Sandbox, State};
use super::plan::{Kill, Plan, Waiting};
use super::resize::Change;
use super::resources;
use super::sandbox;
use super::spec::{self, Role};
use crate::cri;
use crate::volume::{self, Credentials};

mod hook;
mod image;
mod resize;
mod start;

/// Upstream's least time between the stop signal and the kill.
const MIN_GRACE: Duration = Duration::from_secs(2);
/// How long the start of containers waits for the API to know the pod's addresses.
const PUBLISH_WAIT: Duration = Duration::from_secs(2);

/// How long the start of containers waits for certificates; later ones wake the pod's worker.
const CERTIFICATE_WAIT: Duration = Duration::from_secs(2);

/// Name of the hosts file in the pod's directory.
const HOSTS_FILE: &str = "etc-hosts";

/// Something the worker has to know while a job is under way.
#[derive(Debug)]
pub enum Progress {
    /// The runtime's state changed; with `published`, the sender waits until the API knows.
    Changed {
        published: Option<oneshot::Sender<()>>,
    },
    /// A container cannot start now (`Some`), or does (`None`).
    Waiting {
        container: String,
        why: Option<Waiting>,
    },
    /// The start failed in a way that is tried again after a fixed pause.
    Retry { container: String },
    /// The image could not be pulled; the pause grows.
    PullFailed { container: String },
    /// A container that had ended is being started again.
    Restarted { container: String, ended: Timestamp },
    /// The sandbox, or the volumes, could not be made.
    SandboxFailed,
    /// A running container has other resources now.
    Resized(Change),
    /// It could not be given them.
    ResizeFailed { message: String },
}

/// One piece of work for one pod.
pub struct Job {
    pub node: Arc<Node>,
    pub pod: Arc<Pod>,
    pub observed: Observed,
    pub objects: Objects,
    pub old: PodStatus,
    pub progress: mpsc::Sender<Progress>,
    pub cancel: CancellationToken,
}

impl Job {
    /// Carries out the plan; gives the credentials back.
    pub async fn sync(mut self, plan: Plan, mut credentials: Credentials) -> Credentials {
        if plan.stop_pod {
            self.stop_pod(spec::grace(&self.pod)).await;
            self.tell(Progress::Changed { published: None }).await;
        }
        futures::future::join_all(plan.kill.iter().map(|kill| self.kill(kill))).await;
        if !plan.resize.is_empty() {
            self.resize(&plan.resize).await;
        }
        for id in &plan.remove {
            self.remove(id).await;
        }
        if self.cancel.is_cancelled() || (plan.create_sandbox.is_none() && plan.start.is_empty()) {
            return credentials;
        }
        let attempt = plan.create_sandbox;
        let (made, paths) =
            tokio::join!(self.ensure_sandbox(attempt), self.volumes(&mut credentials));
        let (Some(sandbox), Some(paths)) = (made, paths) else {
            self.tell(Progress::SandboxFailed).await;
            return credentials;
        };
        if attempt.is_some() {
            // Other nodes and their policies learn the addresses before the first packet is sent.
            let (sender, published) = oneshot::channel();
            self.tell(Progress::Changed {
                published: Some(sender),
            })
            .await;
            let _ = tokio::time::timeout(PUBLISH_WAIT, published).await;
        }
        self.observed.sandboxes.insert(0, sandbox);
        for name in &plan.start {
            if self.cancel.is_cancelled() {
                break;
            }
            let Some((_, container)) = spec::find(&self.pod, name) else {
                continue;
            };
            self.start(&container, &paths).await;
            self.tell(Progress::Changed { published: None }).await;
        }
        credentials
    }

    /// Ends the pod: containers with their grace, sidecars after the others, then the sandboxes.
    pub async fn terminate(self) {
        self.stop_pod(spec::grace(&self.pod)).await;
    }

    async fn tell(&self, progress: Progress) {
        // A worker that is gone has no use for progress.
        let _ = self.progress.send(progress).await;
    }

    fn facts(&self) -> Facts {
        self.node.facts(&self.pod, &self.observed)
    }

    async fn volumes(&self, credentials: &mut Credentials) -> Option<volume::Paths> {
        let facts = self.facts();
        let input = volume::Input {
            root: &self.node.config.root_dir,
            pod: &self.pod,
            facts: &facts,
            objects: &self.objects,
            allocatable: self.node.allocatable,
            now: Timestamp::now(),
            patience: CERTIFICATE_WAIT,
        };
        match volume::prepare(input, credentials).await {
            Ok(paths) => Some(paths),
            Err(error) => {
                let subject = Subject::pod(&self.pod);
                self.node
                    .recorder
                    .warning(&subject, "FailedMount", error.to_string());
                None
            }
        }
    }

    /// The pod's usable sandbox: the existing one, or a new one with this attempt number.
    async fn ensure_sandbox(&self, attempt: Option<u32>) -> Option<Sandbox> {
        let Some(attempt) = attempt else {
            return self.observed.ready_sandbox().cloned();
        };
        let made = tokio::select! {
            made = self.create_sandbox(attempt) => made,
            () = self.cancel.cancelled() => return None,
        };
        match made {
            Ok(sandbox) => Some(sandbox),
            Err(reason) => {
                let message = format!("Failed to create pod sandbox: {reason}");
                let subject = Subject::pod(&self.pod);
                self.node
                    .recorder
                    .warning(&subject, "FailedCreatePodSandBox", message);
                None
            }
        }
    }

    async fn create_sandbox(&self, attempt: u32) -> Result<Sandbox, String> {
        let node = &self.node;
        for old in self.observed.sandboxes.iter().filter(|old| !old.ready) {
            // Frees the old attempt's network; its containers go with it, their logs stay.
            if let Err(error) = node.runtime.stop_pod_sandbox(&old.id).await {
                tracing::debug!(%error, "old sandbox not stopped");
            }
        }
        let cgroup = node.cgroup(&self.pod);
        if let Err(error) = cgroup::ensure(&cgroup, &resources::of_pod(&self.pod)) {
            return Err(format!(
                "{error}: {}",
                std::error::Error::source(&error)
                    .map(ToString::to_string)
                    .unwrap_or_default()
            ));
        }
        let config = node.sandbox_config(&self.pod, attempt);
        std::fs::create_dir_all(&config.log_directory).map_err(|error| error.to_string())?;
        let handler = self.runtime_handler().await?;
        let id = node
            .runtime
            .run_pod_sandbox(config, &handler)
            .await
            .map_err(|error: cri::Error| error.detail())?;
        let status = node
            .runtime
            .pod_sandbox_status(&id)
            .await
            .map_err(|error| error.detail())?;
        let sandbox = Sandbox::from(&status);
        // Without space on the disk this is tried again before each container starts.
        if let Err(error) = self.write_hosts(&sandbox.ips) {
            tracing::warn!(%error, pod = spec::name(&self.pod), "hosts file not written");
        }
        Ok(sandbox)
    }

    /// The runtime's name for the pod's RuntimeClass.
    async fn runtime_handler(&self) -> Result<String, String> {
        let class = spec::spec(&self.pod).runtime_class_name.as_deref();
        let Some(name) = class.filter(|name| !name.is_empty()) else {
            return Ok(String::new());
        };
        let api: Api<RuntimeClass> = Api::all(self.node.client.clone());
        match api.get_opt(name).await {
            Ok(Some(class)) => Ok(class.handler),
            Ok(None) => Err(format!("RuntimeClass {name:?} not found")),
            Err(error) => Err(format!("read RuntimeClass {name:?}: {error}")),
        }
    }

    /// The pod's hosts file, which its containers share: for the addresses of this sandbox, never half.
    fn write_hosts(&self, ips: &[IpAddr]) -> std::io::Result<()> {
        let dir = volume::pod_dir(&self.node.config.root_dir, spec::uid(&self.pod));
        std::fs::create_dir_all(&dir)?;
        let host_file = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let domain = &self.node.config.cluster_domain;
        let text = sandbox::hosts_file(&self.pod, ips, domain, &host_file);
        let new = dir.join(format!("{HOSTS_FILE}.new"));
        std::fs::write(&new, text)?;
        std::fs::rename(new, dir.join(HOSTS_FILE))
    }

    /// Removes a dead container and its logs.
    async fn remove(&self, id: &str) {
        if let Err(error) = self.node.runtime.remove_container(id).await {
            tracing::warn!(%error, id, "dead container not removed");
            return;
        }
        let dead = self.observed.containers.iter().find(|c| c.id == id);
        let log = dead.map_or("", |c| c.log_path.as_str());
        if !log.is_empty()
            && let Err(error) = logs::remove(Path::new(log))
        {
            tracing::warn!(%error, log, "log of a dead container not removed");
        }
    }

    async fn kill(&self, kill: &Kill) {
        let container = spec::find(&self.pod, &kill.name).map(|(_, c)| c);
        self.kill_container(
            &kill.id,
            container.as_ref(),
            &kill.name,
            &kill.message,
            kill.grace,
        )
        .await;
        self.tell(Progress::Changed { published: None }).await;
    }

    /// preStop, stop signal, kill. Failures are reported and retried by the next plan.
    async fn kill_container(
        &self,
        id: &str,
        container: Option<&Container>,
        name: &str,
        message: &str,
        grace: Duration,
    ) {
        let began = Instant::now();
        let subject = Subject::container(&self.pod, name);
        self.node.recorder.normal(&subject, "Killing", message);
        let pre_stop = container
            .and_then(|c| c.lifecycle.as_ref())
            .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if let (Some(container), Some(handler), true) =
            (container, pre_stop, grace > Duration::ZERO)
        {
            let hook = tokio::time::timeout(grace, self.hook(id, container, handler));
            let ended = tokio::select! {
                ended = hook => ended,
                () = self.cancel.cancelled() => return,
            };
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(_)) => {
                    self.node
                        .recorder
                        .warning(&subject, "FailedPreStopHook", "PreStopHook failed");
                }
                Err(_) => tracing::info!(name, "preStop hook took the whole grace period"),
            }
        }
        let grace = grace.saturating_sub(began.elapsed()).max(MIN_GRACE);
        let stopped = tokio::select! {
            stopped = self.node.runtime.stop_container(id, grace) => stopped,
            () = self.cancel.cancelled() => return,
        };
        if let Err(error) = stopped {
            tracing::warn!(%error, id, "container not stopped");
        }
    }

    async fn stop_pod(&self, grace: Duration) {
        let began = Instant::now();
        let roles: BTreeMap<String, (usize, Role, Container)> = spec::containers(&self.pod)
            .into_iter()
            .enumerate()
            .map(|(at, (role, c))| (c.name.clone(), (at, role, c)))
            .collect();
        let running: Vec<_> = self
            .observed
            .containers
            .iter()
            .filter(|c| matches!(c.state, State::Running | State::Unknown | State::Created))
            .map(|c| (c, roles.get(&c.name)))
            .collect();
        let is_sidecar = |known: &Option<&(usize, Role, Container)>| {
            known.is_some_and(|(_, role, _)| *role == Role::Sidecar)
        };
        let stop = |c: &super::observed::Container, spec: Option<&Container>| {
            let message = format!("Stopping container {}", c.name);
            let (id, name, spec) = (c.id.clone(), c.name.clone(), spec.cloned());
            let grace = grace.saturating_sub(began.elapsed());
            async move {
                self.kill_container(&id, spec.as_ref(), &name, &message, grace)
                    .await;
                self.tell(Progress::Changed { published: None }).await;
            }
        };
        let mains = running.iter().filter(|(_, known)| !is_sidecar(known));
        futures::future::join_all(mains.map(|(c, known)| stop(c, known.map(|k| &k.2)))).await;
        let mut sidecars: Vec<_> = running
            .iter()
            .filter(|(_, known)| is_sidecar(known))
            .collect();
        sidecars.sort_by_key(|(_, known)| std::cmp::Reverse(known.map(|k| k.0)));
        for (c, known) in sidecars {
            stop(c, known.map(|k| &k.2)).await;
        }
        if self.cancel.is_cancelled() {
            return;
        }
        for sandbox in &self.observed.sandboxes {
            if let Err(error) = self.node.runtime.stop_pod_sandbox(&sandbox.id).await {
                let message = format!("error killing pod: {}", error.detail());
                self.node
                    .recorder
                    .warning(&Subject::pod(&self.pod), "FailedKillPod", message);
            }
        }
    }
}
