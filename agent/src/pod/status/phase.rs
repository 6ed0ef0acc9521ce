//! The phase of a pod (upstream: `kubelet_pods.go` getPhase).

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::pod::spec;

#[derive(Default)]
struct Count {
    running: u32,
    waiting: u32,
    stopped: u32,
    succeeded: u32,
    /// Stopped, and its restart policy leaves it so.
    ended: u32,
}

pub fn phase(
    pod: &Pod,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    terminal: bool,
    initialized: bool,
) -> &'static str {
    let mut pending = false;
    let mut sidecars_pending = false;
    let mut count = Count::default();
    for (container, status) in pairs(spec::init_containers(pod), init) {
        if spec::is_sidecar(container) {
            sidecars_pending |= sidecar(status, &mut count);
            continue;
        }
        match exit_code(status) {
            Some(code) if code != 0 && !spec::restarts_after(pod, container, code) => {
                return "Failed";
            }
            Some(_) => {}
            None => pending = true,
        }
    }
    for (container, status) in pairs(&spec::spec(pod).containers, main) {
        let state = status.state.as_ref();
        if state.is_some_and(|s| s.running.is_some()) {
            count.running += 1;
        } else if let Some(code) = exit_code(status) {
            count.stopped += 1;
            count.ended += u32::from(!spec::restarts_after(pod, container, code));
            let now_ended = state.is_some_and(|s| s.terminated.is_some());
            count.succeeded += u32::from(now_ended && code == 0);
        } else {
            count.waiting += 1;
        }
    }
    if pending || (sidecars_pending && !initialized) || count.waiting > 0 {
        return "Pending";
    }
    if count.running > 0 {
        return "Running";
    }
    if count.stopped == 0 {
        return "Pending";
    }
    if !terminal && count.stopped != count.ended {
        return "Running";
    }
    if count.stopped == count.succeeded {
        "Succeeded"
    } else {
        "Failed"
    }
}

/// Counts a sidecar; returns whether it still has to start for the first time.
fn sidecar(status: &ContainerStatus, count: &mut Count) -> bool {
    let Some(state) = &status.state else {
        return true;
    };
    if state.running.is_some() {
        count.running += 1;
        return status.started != Some(true);
    }
    let ran = state.terminated.is_some()
        || status
            .last_state
            .as_ref()
            .is_some_and(|last| last.terminated.is_some());
    if !ran {
        count.waiting += 1;
    }
    !ran
}

/// The code a container that is not running ended with, now or the last time.
fn exit_code(status: &ContainerStatus) -> Option<i32> {
    let state = status.state.as_ref()?;
    if state.running.is_some() {
        return None;
    }
    let ended = state.terminated.as_ref();
    ended
        .or_else(|| status.last_state.as_ref()?.terminated.as_ref())
        .map(|terminated| terminated.exit_code)
}

fn pairs<'a>(
    containers: &'a [Container],
    statuses: &'a [ContainerStatus],
) -> impl Iterator<Item = (&'a Container, &'a ContainerStatus)> {
    containers.iter().filter_map(|c| {
        statuses
            .iter()
            .find(|s| s.name == c.name)
            .map(|status| (c, status))
    })
}
