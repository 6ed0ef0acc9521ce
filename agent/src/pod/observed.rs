//! What the runtime reports about one pod: sandboxes and containers, newest first, as plain values.
//! Input: CRI messages (labels and annotations carry the names, upstream's own, so that other CRI tools
//! understand our containers). Knows nothing of what is desired.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::jiff::Timestamp;

use crate::cri::messages as m;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Requests and limits a container was made with, JSON.
pub const RESOURCES: &str = "windlass.io/resources";
pub const POD_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";

/// The runtime's view of one pod.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest first.
    pub containers: Vec<Container>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub host_network: bool,
    pub created_at: i64,
    pub ips: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub sandbox: String,
    pub state: State,
    pub attempt: u32,
    pub restart_count: i32,
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_id: String,
    pub hash: String,
    pub log_path: String,
    pub termination_message_path: Option<String>,
    pub termination_message_policy: String,
    /// Host file behind the termination message path, from the reported mounts.
    pub termination_message_file: Option<String>,
    /// Requests and limits it runs with, if that was noted.
    pub resources: Option<ResourceRequirements>,
}

// === impl Observed ===

impl Observed {
    /// The newest container of that name, whatever sandbox it belongs to.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest container of that name in the newest sandbox, while that one is ready
    /// (upstream: ActiveContainerStatuses).
    pub fn active(&self, name: &str) -> Option<&Container> {
        let sandbox = self.ready_sandbox()?;
        self.containers
            .iter()
            .find(|c| c.name == name && c.sandbox == sandbox.id)
    }

    /// The newest sandbox, if it is ready.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    pub fn anything_running(&self) -> bool {
        self.sandboxes.iter().any(|s| s.ready)
            || self
                .containers
                .iter()
                .any(|c| matches!(c.state, State::Running | State::Unknown))
    }

    pub fn sort(&mut self) {
        self.sandboxes
            .sort_by_key(|sandbox| Reverse(sandbox.created_at));
        self.containers
            .sort_by_key(|container| Reverse(container.created_at));
    }
}

impl Container {
    pub fn succeeded(&self) -> bool {
        self.state == State::Exited && self.exit_code == 0
    }

    pub fn finished(&self) -> Option<Timestamp> {
        timestamp(self.finished_at)
    }

    pub fn started(&self) -> Option<Timestamp> {
        timestamp(self.started_at)
    }
}

impl From<&m::PodSandboxStatus> for Sandbox {
    fn from(status: &m::PodSandboxStatus) -> Self {
        let ips = status.network.as_ref().map(addresses).unwrap_or_default();
        let options = status
            .linux
            .as_ref()
            .and_then(|l| l.namespaces.as_ref()?.options.as_ref());
        Self {
            id: status.id.clone(),
            attempt: status.metadata.as_ref().map_or(0, |meta| meta.attempt),
            ready: status.state == m::PodSandboxState::Ready as i32,
            host_network: options.is_some_and(|o| o.network == m::NamespaceMode::Node as i32),
            created_at: status.created_at,
            ips,
        }
    }
}

impl From<&m::ContainerStatus> for Container {
    fn from(s: &m::ContainerStatus) -> Self {
        let annotation = |key: &str| s.annotations.get(key).cloned();
        let attempt = s.metadata.as_ref().map_or(0, |meta| meta.attempt);
        let path = annotation(TERMINATION_MESSAGE_PATH).filter(|p| !p.is_empty());
        let file = path
            .as_ref()
            .and_then(|p| s.mounts.iter().find(|mount| &mount.container_path == p))
            .map(|mount| mount.host_path.clone());
        Self {
            id: s.id.clone(),
            name: name_of(&s.labels, s.metadata.as_ref()),
            sandbox: String::new(),
            state: state_of(s.state),
            attempt,
            restart_count: annotation(RESTART_COUNT)
                .and_then(|count| count.parse().ok())
                .unwrap_or_else(|| i32::try_from(attempt).unwrap_or(i32::MAX)),
            created_at: s.created_at,
            started_at: s.started_at,
            finished_at: s.finished_at,
            exit_code: s.exit_code,
            reason: s.reason.clone(),
            message: s.message.clone(),
            image: s
                .image
                .as_ref()
                .map(|i| i.image.clone())
                .unwrap_or_default(),
            image_id: s.image_ref.clone(),
            hash: annotation(CONTAINER_HASH).unwrap_or_default(),
            log_path: s.log_path.clone(),
            termination_message_path: path,
            termination_message_policy: annotation(TERMINATION_MESSAGE_POLICY).unwrap_or_default(),
            termination_message_file: file,
            resources: annotation(RESOURCES).and_then(|text| serde_json::from_str(&text).ok()),
        }
    }
}

pub fn state_of(state: i32) -> State {
    match m::ContainerState::try_from(state) {
        Ok(m::ContainerState::Created) => State::Created,
        Ok(m::ContainerState::Running) => State::Running,
        Ok(m::ContainerState::Exited) => State::Exited,
        Ok(m::ContainerState::Unknown) | Err(_) => State::Unknown,
    }
}

fn name_of(labels: &HashMap<String, String>, meta: Option<&m::ContainerMetadata>) -> String {
    labels
        .get(CONTAINER_NAME)
        .cloned()
        .or_else(|| meta.map(|meta| meta.name.clone()))
        .unwrap_or_default()
}

fn addresses(network: &m::PodSandboxNetworkStatus) -> Vec<IpAddr> {
    std::iter::once(&network.ip)
        .chain(network.additional_ips.iter().map(|ip| &ip.ip))
        .filter_map(|ip| ip.parse().ok())
        .collect()
}

/// CRI times are nanoseconds since 1970; 0 means "not yet".
pub fn timestamp(nanos: i64) -> Option<Timestamp> {
    (nanos != 0)
        .then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok())
        .flatten()
}
