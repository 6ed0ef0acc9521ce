//! The status of a pod as a pure function of its specification, the runtime's report, the probes and
//! the status the API has. Rules are upstream's (`kubelet_pods.go` generateAPIPodStatus and getPhase,
//! `status/generate.go`). `diff` turns two statuses into the patch that leads from one to the other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::observed::{self, Observed, State};
use super::plan::{self, Waiting};
use super::probe::Results;
use super::resize::{self, Resize};
use super::resources;
use super::spec::{self, Role};

mod conditions;
mod diff;
mod phase;

pub use diff::patch;

/// Everything a status is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub probes: &'a BTreeMap<String, Results>,
    /// Why containers that should run do not.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// The node ended the pod for this reason.
    pub failure: Option<&'a Waiting>,
    /// Where an in-place resize stands.
    pub resize: &'a Resize,
    /// The status last written or seen.
    pub old: &'a PodStatus,
    pub node_ips: &'a [IpAddr],
    /// Runtime name for container ids: `containerd`.
    pub runtime: &'a str,
    /// The pod's containers will not be started again.
    pub terminal: bool,
    pub now: Timestamp,
}

pub fn status(input: Input<'_>) -> PodStatus {
    let Input {
        pod, observed, old, ..
    } = input;
    let by_role = |wanted: &[Role]| -> Vec<ContainerStatus> {
        spec::containers(pod)
            .iter()
            .filter(|(role, _)| wanted.contains(role))
            .map(|(role, container)| container_status(input, *role, container))
            .collect()
    };
    let init = by_role(&[Role::Init, Role::Sidecar]);
    let main = by_role(&[Role::Main]);
    let ephemeral = by_role(&[Role::Ephemeral]);
    let initialized = spec::spec(pod).containers.iter().any(|c| {
        observed
            .active(&c.name)
            .is_some_and(|seen| seen.state != State::Created)
    });
    let phase = phase::phase(pod, &init, &main, input.terminal, initialized);
    let phase = match old.phase.as_deref() {
        Some(terminal @ ("Succeeded" | "Failed")) => terminal.to_owned(),
        Some(_) | None => phase.to_owned(),
    };
    let phase = if input.failure.is_some() {
        "Failed".to_owned()
    } else {
        phase
    };
    let same_phase = old.phase.as_ref() == Some(&phase);
    let mut status = PodStatus {
        reason: old.reason.clone().filter(|_| same_phase),
        message: old.message.clone().filter(|_| same_phase),
        phase: Some(phase),
        start_time: old.start_time.clone().or(Some(Time(seconds(input.now)))),
        qos_class: Some(resources::qos_class(pod).to_string()),
        observed_generation: pod.metadata.generation.or(old.observed_generation),
        init_container_statuses: some(init),
        container_statuses: some(main),
        ephemeral_container_statuses: some(ephemeral),
        ..PodStatus::default()
    };
    if let Some(failure) = input.failure {
        status.reason = Some(failure.reason.clone());
        status.message = Some(failure.message.clone());
    }
    addresses(input, &mut status);
    status.conditions = Some(conditions::conditions(input, &status));
    status
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Kubernetes times have whole seconds.
pub fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn addresses(input: Input<'_>, status: &mut PodStatus) {
    let Input {
        pod,
        observed,
        old,
        node_ips,
        ..
    } = input;
    status.host_ip = node_ips.first().map(ToString::to_string);
    status.host_ips = some(
        node_ips
            .iter()
            .map(|ip| HostIP { ip: ip.to_string() })
            .collect(),
    );
    let mut ips: Vec<String> = if spec::host_network(pod) {
        node_ips.iter().map(ToString::to_string).collect()
    } else {
        // Families in the node's order, as upstream's sortPodIPs.
        let primary_is_v4 = node_ips.first().is_none_or(IpAddr::is_ipv4);
        let mut ips: Vec<IpAddr> = observed
            .sandboxes
            .first()
            .map(|s| s.ips.clone())
            .unwrap_or_default();
        ips.sort_by_key(|ip| ip.is_ipv4() != primary_is_v4);
        ips.iter().map(ToString::to_string).collect()
    };
    let ended = spec::is_terminal_phase(status.phase.as_deref()) || spec::deleting(pod);
    if ips.is_empty() && ended {
        // A stopped sandbox has no address any more; the API keeps showing the one it had.
        ips = old
            .pod_ips
            .iter()
            .flatten()
            .map(|ip| ip.ip.clone())
            .collect();
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = some(ips.into_iter().map(|ip| PodIP { ip }).collect());
}

fn container_status(input: Input<'_>, role: Role, container: &Container) -> ContainerStatus {
    let old = old_status(input.old, role, &container.name);
    let mut seen = input
        .observed
        .containers
        .iter()
        .filter(|c| c.name == container.name);
    let mut status = match seen.next() {
        Some(current) => {
            let mut status = from_runtime(input, container, current, old);
            if let Some(previous) = seen.next() {
                status.last_state = Some(state(input, previous, None));
            } else if let Some(last) = old.and_then(|old| last_state(old, current)) {
                status.last_state = Some(last);
            }
            status
        }
        None => without_container(input, role, container, old),
    };
    waiting_reason(input, role, container, &mut status);
    probed(input, role, container, &mut status);
    status.volume_mounts = volume_mounts(container);
    (status.resources, status.allocated_resources) = granted(input, container);
    status
}

/// What a container runs with, and what it was promised: as long as the node has no room for a resize,
/// what it had before.
fn granted(
    input: Input<'_>,
    container: &Container,
) -> (
    Option<ResourceRequirements>,
    Option<BTreeMap<String, Quantity>>,
) {
    let wanted = container.resources.clone();
    let seen = input.observed.latest(&container.name);
    let seen = seen.filter(|seen| seen.state == State::Running);
    let has = seen
        .filter(|seen| resize::differs(container, seen))
        .and_then(|seen| seen.resources.clone());
    let promised = match input.resize {
        Resize::Pending(_) => has.clone().or_else(|| wanted.clone()),
        Resize::None | Resize::InProgress(_) => wanted.clone(),
    };
    let requests = promised.and_then(|resources| resources.requests);
    (has.or(wanted), requests)
}

fn old_status<'a>(old: &'a PodStatus, role: Role, name: &str) -> Option<&'a ContainerStatus> {
    let list = match role {
        Role::Init | Role::Sidecar => &old.init_container_statuses,
        Role::Main => &old.container_statuses,
        Role::Ephemeral => &old.ephemeral_container_statuses,
    };
    list.iter().flatten().find(|status| status.name == name)
}

/// The last state to keep when the runtime has only the current container: the one the API shows, or,
/// for a new container, the state its predecessor ended with.
fn last_state(old: &ContainerStatus, current: &observed::Container) -> Option<ContainerState> {
    let same = old
        .container_id
        .as_deref()
        .is_some_and(|id| id.ends_with(&current.id));
    if !same
        && old
            .state
            .as_ref()
            .is_some_and(|state| state.terminated.is_some())
    {
        return old.state.clone();
    }
    old.last_state
        .clone()
        .filter(|state| state.terminated.is_some())
}

fn from_runtime(
    input: Input<'_>,
    container: &Container,
    seen: &observed::Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    ContainerStatus {
        name: container.name.clone(),
        image: if seen.image.is_empty() {
            container.image.clone().unwrap_or_default()
        } else {
            seen.image.clone()
        },
        image_id: seen.image_id.clone(),
        container_id: Some(container_id(input.runtime, &seen.id)),
        restart_count: seen.restart_count,
        state: Some(state(input, seen, old)),
        ..ContainerStatus::default()
    }
}

pub fn container_id(runtime: &str, id: &str) -> String {
    format!("{runtime}://{id}")
}

fn state(
    input: Input<'_>,
    seen: &observed::Container,
    old: Option<&ContainerStatus>,
) -> ContainerState {
    let was_running = old
        .and_then(|old| old.state.as_ref())
        .is_some_and(|state| state.running.is_some());
    let time = |time: Option<Timestamp>| time.map(|time| Time(seconds(time)));
    match seen.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: time(seen.started()),
            }),
            ..ContainerState::default()
        },
        State::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: seen.exit_code,
                reason: Some(exit_reason(seen)),
                message: Some(seen.message.clone()).filter(|message| !message.is_empty()),
                started_at: time(seen.started()),
                finished_at: time(seen.finished()),
                container_id: Some(container_id(input.runtime, &seen.id)),
                signal: None,
            }),
            ..ContainerState::default()
        },
        State::Unknown if was_running => {
            unknown_end("The container could not be located when the pod was terminated")
        }
        // Not worth a state of its own: it is started at once.
        State::Created => waiting(Some(&not_begun(input.pod))),
        State::Unknown => waiting(None),
    }
}

fn exit_reason(seen: &observed::Container) -> String {
    match (seen.reason.as_str(), seen.exit_code) {
        ("", 0) => "Completed".to_owned(),
        ("", _) => "Error".to_owned(),
        (reason, _) => reason.to_owned(),
    }
}

fn unknown_end(message: &str) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some(message.to_owned()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn waiting(why: Option<&Waiting>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: why.map(|why| why.reason.clone()),
            message: why
                .map(|why| why.message.clone())
                .filter(|message| !message.is_empty()),
        }),
        ..ContainerState::default()
    }
}

/// Why a container that was never started waits.
fn not_begun(pod: &Pod) -> Waiting {
    let reason = if spec::init_containers(pod).is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    Waiting {
        reason: reason.to_owned(),
        message: String::new(),
    }
}

/// The runtime has no container of that name: it was never made, or its remains are gone.
fn without_container(
    input: Input<'_>,
    role: Role,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let Input { pod, observed, .. } = input;
    if let Some(old) = old.filter(|old| old.state.as_ref().is_some_and(|s| s.terminated.is_some()))
    {
        return old.clone();
    }
    let default = not_begun(pod);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(Some(&default))),
        restart_count: old.map_or(0, |old| old.restart_count),
        last_state: old.and_then(|old| old.last_state.clone()),
        ..ContainerStatus::default()
    };
    let main_created = spec::spec(pod)
        .containers
        .iter()
        .any(|c| observed.latest(&c.name).is_some());
    let was_running = old
        .and_then(|old| old.state.as_ref())
        .is_some_and(|state| state.running.is_some());
    if role == Role::Init && main_created {
        status.state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 0,
                reason: Some("Completed".to_owned()),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        });
    } else if was_running {
        status.last_state = Some(unknown_end(
            "The container could not be located when the pod was deleted.  The container used to be Running",
        ));
        if !spec::deleting(pod) {
            status.restart_count += 1;
        }
    }
    status
}

/// A container that is to be started again but cannot be is waiting, for the noted reason.
fn waiting_reason(
    input: Input<'_>,
    role: Role,
    container: &Container,
    status: &mut ContainerStatus,
) {
    let Some(why) = input.waiting.get(&container.name) else {
        return;
    };
    if input.terminal || spec::deleting(input.pod) {
        return;
    }
    let seen = input.observed.latest(&container.name);
    let stays = match seen.map(|seen| seen.state) {
        Some(State::Running) => true,
        Some(State::Exited) => {
            let code = seen.map_or(0, |seen| seen.exit_code);
            (role == Role::Init && code == 0) || !spec::restarts_after(input.pod, container, code)
        }
        Some(State::Created | State::Unknown) | None => false,
    };
    if stays {
        return;
    }
    if status
        .state
        .as_ref()
        .is_some_and(|state| state.terminated.is_some())
    {
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(Some(why)));
}

fn probed(input: Input<'_>, role: Role, container: &Container, status: &mut ContainerStatus) {
    let state = status.state.clone().unwrap_or_default();
    let results = input
        .observed
        .latest(&container.name)
        .and_then(|seen| input.probes.get(&seen.id))
        .copied()
        .unwrap_or_default();
    let running = state.running.is_some();
    let started = running && (role == Role::Init || results.started(container));
    status.started = Some(started);
    status.ready = match role {
        Role::Init => state
            .terminated
            .as_ref()
            .is_some_and(|ended| ended.exit_code == 0),
        Role::Sidecar | Role::Main => started && results.ready(container),
        Role::Ephemeral => false,
    };
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    some(
        mounts
            .iter()
            .map(|mount| {
                let read_only = mount.read_only.unwrap_or(false);
                VolumeMountStatus {
                    name: mount.name.clone(),
                    mount_path: mount.mount_path.clone(),
                    read_only: Some(read_only).filter(|read_only| *read_only),
                    recursive_read_only: read_only.then(|| "Disabled".to_owned()),
                    ..VolumeMountStatus::default()
                }
            })
            .collect(),
    )
}

/// Whether every sandbox condition for starting containers holds.
fn sandbox_condition(pod: &Pod, observed: &Observed) -> Option<&'static str> {
    plan::sandbox_problem(pod, observed).map(|(_, message)| message)
}

/// One condition with its transition time kept when the status did not change.
fn condition(
    input: Input<'_>,
    kind: &str,
    truth: bool,
    reason: Option<&str>,
    message: Option<String>,
) -> PodCondition {
    let old = input
        .old
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == kind);
    let status = if truth { "True" } else { "False" };
    let since = old
        .filter(|old| old.status == status)
        .and_then(|old| old.last_transition_time.clone())
        .unwrap_or_else(|| Time(seconds(input.now)));
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.map(ToOwned::to_owned),
        message: message.filter(|message| !message.is_empty()),
        last_transition_time: Some(since),
        last_probe_time: None,
        observed_generation: input.pod.metadata.generation,
    }
}

#[cfg(test)]
mod tests;
