//! Security contexts: what of the pod's and the container's reaches the runtime (upstream:
//! `kuberuntime/security_context*.go`, `pkg/securitycontext`). Pure.

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext,
};

use super::spec;
use crate::cri::messages as m;

/// Paths hidden from, and read-only in, unprivileged containers (upstream: `pkg/securitycontext/util.go`).
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
const ROOT: i64 = 0;

/// What the image says about its user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RootUser { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})"
    )]
    RootImage { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root"
    )]
    NamedUser { user: String },
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    spec::spec(pod).security_context.clone().unwrap_or_default()
}

pub fn namespace_options(pod: &Pod) -> m::NamespaceOption {
    let spec = spec::spec(pod);
    let node = |on: Option<bool>| on.unwrap_or(false).then_some(m::NamespaceMode::Node);
    let shared = spec.share_process_namespace.unwrap_or(false);
    let pid = if shared {
        m::NamespaceMode::Pod
    } else {
        m::NamespaceMode::Container
    };
    m::NamespaceOption {
        network: node(spec.host_network).unwrap_or(m::NamespaceMode::Pod) as i32,
        pid: node(spec.host_pid).unwrap_or(pid) as i32,
        ipc: node(spec.host_ipc).unwrap_or(m::NamespaceMode::Pod) as i32,
        target_id: String::new(),
    }
}

pub fn of_sandbox(pod: &Pod) -> m::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    m::LinuxSandboxSecurityContext {
        namespace_options: Some(namespace_options(pod)),
        selinux_options: None,
        run_as_user: context.run_as_user.map(|value| m::Int64Value { value }),
        run_as_group: context
            .run_as_group
            .filter(|_| context.run_as_user.is_some())
            .map(|value| m::Int64Value { value }),
        readonly_rootfs: false,
        supplemental_groups: supplemental_groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        privileged: any_privileged(pod),
        seccomp: Some(profile(
            context.seccomp_profile.as_ref(),
            m::ProfileType::RuntimeDefault,
        )),
    }
}

fn any_privileged(pod: &Pod) -> bool {
    spec::containers(pod).iter().any(|(_, c)| privileged(c))
}

pub fn privileged(container: &Container) -> bool {
    container
        .security_context
        .as_ref()
        .and_then(|s| s.privileged)
        .unwrap_or(false)
}

fn supplemental_groups(context: &PodSecurityContext) -> Vec<i64> {
    context
        .fs_group
        .iter()
        .chain(context.supplemental_groups.iter().flatten())
        .copied()
        .collect()
}

fn groups_policy(context: &PodSecurityContext) -> i32 {
    i32::from(context.supplemental_groups_policy.as_deref() == Some("Strict"))
}

/// The container's context; `target` is the container whose processes an ephemeral one joins.
pub fn of_container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    target: Option<&str>,
) -> Result<m::LinuxContainerSecurityContext, Error> {
    let shared = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(shared.run_as_user);
    verify_non_root(pod, container, &shared, &own, image)?;
    let privileged = own.privileged.unwrap_or(false);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| -> Vec<String> {
        if unmasked {
            Vec::new()
        } else {
            paths.iter().map(|p| (*p).to_owned()).collect()
        }
    };
    let seccomp = own
        .seccomp_profile
        .as_ref()
        .or(shared.seccomp_profile.as_ref());
    let default = m::ProfileType::Unconfined;
    Ok(m::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|c| m::Capability {
            add_capabilities: c.add.clone().unwrap_or_default(),
            drop_capabilities: c.drop.clone().unwrap_or_default(),
        }),
        privileged,
        namespace_options: Some(match target {
            Some(target_id) => m::NamespaceOption {
                pid: m::NamespaceMode::Target as i32,
                target_id: target_id.to_owned(),
                ..namespace_options(pod)
            },
            None => namespace_options(pod),
        }),
        selinux_options: None,
        run_as_user: user
            .or(image.uid.filter(|_| image.name.is_empty()))
            .map(|value| m::Int64Value { value }),
        run_as_group: own
            .run_as_group
            .or(shared.run_as_group)
            .map(|value| m::Int64Value { value }),
        run_as_username: if user.is_none() {
            image.name.clone()
        } else {
            String::new()
        },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: supplemental_groups(&shared),
        supplemental_groups_policy: groups_policy(&shared),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(profile(seccomp, default)),
    })
}

fn profile(given: Option<&SeccompProfile>, default: m::ProfileType) -> m::SecurityProfile {
    let (kind, localhost_ref) = match given.map(|p| (p.type_.as_str(), &p.localhost_profile)) {
        Some(("RuntimeDefault", _)) => (m::ProfileType::RuntimeDefault, String::new()),
        Some(("Localhost", file)) => {
            let file = file.clone().unwrap_or_default();
            (
                m::ProfileType::Localhost,
                format!("/var/lib/kubelet/seccomp/{file}"),
            )
        }
        Some(_) => (m::ProfileType::Unconfined, String::new()),
        None => (default, String::new()),
    };
    m::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref,
    }
}

fn verify_non_root(
    pod: &Pod,
    container: &Container,
    shared: &PodSecurityContext,
    own: &SecurityContext,
    image: &ImageUser,
) -> Result<(), Error> {
    if own.run_as_non_root.or(shared.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let names = || (spec::name(pod).to_owned(), container.name.clone());
    match (own.run_as_user.or(shared.run_as_user), image.uid) {
        (Some(ROOT), _) => {
            let (pod, container) = names();
            Err(Error::RootUser { pod, container })
        }
        (Some(_), _) => Ok(()),
        (None, _) if !image.name.is_empty() => Err(Error::NamedUser {
            user: image.name.clone(),
        }),
        (None, Some(ROOT) | None) => {
            let (pod, container) = names();
            Err(Error::RootImage { pod, container })
        }
        (None, Some(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(pod: serde_json::Value, image: &ImageUser) -> Result<(), Error> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let container = spec::spec(&pod).containers[0].clone();
        of_container(&pod, &container, image, None).map(drop)
    }

    #[test]
    fn non_root_is_checked_against_the_user_that_will_run() {
        let pod = |security: serde_json::Value| {
            json!({ "metadata": { "name": "p" }, "spec": {
                "securityContext": { "runAsNonRoot": true },
                "containers": [{ "name": "c", "securityContext": security }] } })
        };
        let root = ImageUser {
            uid: Some(0),
            name: String::new(),
        };
        let named = ImageUser {
            uid: None,
            name: "app".to_owned(),
        };
        assert!(matches!(
            check(pod(json!({})), &root),
            Err(Error::RootImage { .. })
        ));
        assert!(matches!(
            check(pod(json!({})), &named),
            Err(Error::NamedUser { .. })
        ));
        assert!(matches!(
            check(pod(json!({ "runAsUser": 0 })), &root),
            Err(Error::RootUser { .. })
        ));
        assert_eq!(check(pod(json!({ "runAsUser": 7 })), &root), Ok(()));
        assert_eq!(check(pod(json!({ "runAsNonRoot": false })), &root), Ok(()));
    }
}
