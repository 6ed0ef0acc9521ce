//! Questions asked of a pod's specification: defaults spelled out, names resolved. Pure; the API server
//! has validated the object, so missing optional fields mean their documented default.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe};
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::backoff::add;

/// Grace period of a pod that names none (upstream: DefaultTerminationGracePeriodSeconds).
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// Hex digits kept of a container's hash.
const HASH_DIGITS: usize = 16;

/// Which list of the specification a container comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    Main,
    Ephemeral,
}

pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// Ephemeral containers as plain ones: their shapes differ only in the target's name.
pub fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    let list = spec(pod)
        .ephemeral_containers
        .as_deref()
        .unwrap_or_default();
    list.iter()
        .map(|e| Container {
            args: e.args.clone(),
            command: e.command.clone(),
            env: e.env.clone(),
            env_from: e.env_from.clone(),
            image: e.image.clone(),
            image_pull_policy: e.image_pull_policy.clone(),
            name: e.name.clone(),
            security_context: e.security_context.clone(),
            stdin: e.stdin,
            stdin_once: e.stdin_once,
            termination_message_path: e.termination_message_path.clone(),
            termination_message_policy: e.termination_message_policy.clone(),
            tty: e.tty,
            volume_mounts: e.volume_mounts.clone(),
            working_dir: e.working_dir.clone(),
            ..Container::default()
        })
        .collect()
}

/// The container an ephemeral container debugs.
pub fn target_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let list = spec(pod)
        .ephemeral_containers
        .as_deref()
        .unwrap_or_default();
    let target = list
        .iter()
        .find(|e| e.name == name)?
        .target_container_name
        .as_deref();
    target.filter(|target| !target.is_empty())
}

/// All containers with their roles, init containers first.
pub fn containers(pod: &Pod) -> Vec<(Role, Container)> {
    let init = init_containers(pod)
        .iter()
        .map(|c| (init_role(c), c.clone()));
    let main = spec(pod).containers.iter().map(|c| (Role::Main, c.clone()));
    let ephemeral = ephemeral_containers(pod)
        .into_iter()
        .map(|c| (Role::Ephemeral, c));
    init.chain(main).chain(ephemeral).collect()
}

pub fn find(pod: &Pod, name: &str) -> Option<(Role, Container)> {
    containers(pod).into_iter().find(|(_, c)| c.name == name)
}

fn init_role(container: &Container) -> Role {
    if is_sidecar(container) {
        Role::Sidecar
    } else {
        Role::Init
    }
}

pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub fn pod_restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// Whether a container that ended with `exit_code` runs again (upstream: ContainerShouldRestart).
pub fn restarts_after(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else {
            continue;
        };
        let listed = codes
            .values
            .as_deref()
            .unwrap_or_default()
            .contains(&exit_code);
        let matches = if codes.operator == "NotIn" {
            !listed
        } else {
            listed
        };
        if matches {
            return rule.action != "DoNotRestart";
        }
    }
    let policy = container
        .restart_policy
        .as_deref()
        .unwrap_or_else(|| pod_restart_policy(pod));
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

pub fn deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The grace period: that of the deletion when there is one, else that of the specification.
pub fn grace(pod: &Pod) -> Duration {
    let seconds = if deleting(pod) {
        pod.metadata.deletion_grace_period_seconds
    } else {
        spec(pod).termination_grace_period_seconds
    };
    seconds
        .and_then(|s| u64::try_from(s).ok())
        .map_or(DEFAULT_GRACE, Duration::from_secs)
}

/// When `activeDeadlineSeconds` ends the pod.
pub fn active_deadline(pod: &Pod, started: Option<Timestamp>) -> Option<Timestamp> {
    let seconds = u64::try_from(spec(pod).active_deadline_seconds?).ok()?;
    Some(add(started?, Duration::from_secs(seconds)))
}

pub fn is_terminal_phase(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Changes when, and only when, the container has to be replaced: its image and name.
pub fn hash(container: &Container) -> String {
    let mut digest = Sha256::new();
    digest.update(container.name.as_bytes());
    digest.update([0]);
    digest.update(container.image.as_deref().unwrap_or_default().as_bytes());
    let hex: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    hex[..HASH_DIGITS].to_owned()
}

/// The grace period of a kill because of a failed probe: the probe's own, else the pod's.
pub fn probe_grace(pod: &Pod, probe: Option<&Probe>) -> Duration {
    probe
        .and_then(|p| p.termination_grace_period_seconds)
        .and_then(|s| u64::try_from(s).ok())
        .map_or_else(|| grace(pod), Duration::from_secs)
}
