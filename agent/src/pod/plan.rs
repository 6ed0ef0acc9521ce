//! What to do next for one pod: a pure function of the desired pod, the runtime's report, the probes'
//! results and what earlier attempts left behind. Output is plain data that `pod/apply` carries out
//! without choices. The rules are those of upstream's `kuberuntime_manager.go` (computePodActions) and
//! `kuberuntime_container.go` (computeInitContainerActions).

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;

use super::backoff::{Backoff, add};
use super::observed::{self, Observed, State};
use super::probe::Results;
use super::resize::{self, Resize};
use super::spec::{self, Role};

/// How long a failed pull is told as such before it is told as held back (upstream: `kubelet.go`
/// backOffPeriod, after which the pod is synced again).
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(10);

/// What a worker remembers that neither the API nor the runtime holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// Crash-loop back-off per container name.
    pub crash: BTreeMap<String, Backoff>,
    /// Why a container that should run does not; shown as its waiting state.
    pub waiting: BTreeMap<String, Waiting>,
    /// A start failed: the next attempt has to wait.
    pub hold: BTreeMap<String, Hold>,
    /// The same for the sandbox.
    pub sandbox_hold: Option<Timestamp>,
    /// The node ended the pod: it is Failed for this reason, whatever its containers say.
    pub failure: Option<Waiting>,
    /// Whether running containers may be given other resources now, and not before when.
    pub resize: Resize,
    pub resize_hold: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// When the start failed.
    pub since: Timestamp,
    /// When the next attempt may begin.
    pub until: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

/// The actions, in the order `apply` carries them out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Stop every container and sandbox of the pod first.
    pub stop_pod: bool,
    /// Create a sandbox with this attempt number.
    pub create_sandbox: Option<u32>,
    pub kill: Vec<Kill>,
    /// Running containers to give other resources.
    pub resize: Vec<resize::Change>,
    /// Containers to create and start, in order.
    pub start: Vec<String>,
    /// Containers held back by crash-loop back-off.
    pub backing_off: BTreeMap<String, Waiting>,
    /// Dead containers beyond the one kept for `kubectl logs --previous`.
    pub remove: Vec<String>,
    /// Nothing will run any more: the pod ends in Succeeded or Failed.
    pub finished: bool,
    /// Look again at this time even if nothing happens.
    pub wake: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    pub message: String,
    pub grace: Duration,
}

/// Everything a plan is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub probes: &'a BTreeMap<String, Results>,
    pub memory: &'a Memory,
    pub now: Timestamp,
}

// === impl Plan ===

impl Plan {
    pub fn new(input: Input<'_>) -> Self {
        let mut plan = Plan::default();
        if input.memory.failure.is_some() {
            plan.finished = true;
            plan.stop_pod = input.observed.anything_running();
        } else if let Some(attempt) = sandbox_needed(input.pod, input.observed) {
            plan.with_new_sandbox(input, attempt);
        } else {
            plan.in_sandbox(input);
        }
        if plan.finished {
            plan.start.clear();
        }
        plan.hold_back(input);
        plan.remove = surplus(input.observed);
        plan
    }

    pub fn is_empty(&self) -> bool {
        !self.stop_pod
            && self.create_sandbox.is_none()
            && self.kill.is_empty()
            && self.resize.is_empty()
            && self.start.is_empty()
            && self.remove.is_empty()
    }

    fn with_new_sandbox(&mut self, input: Input<'_>, attempt: u32) {
        let Input { pod, observed, .. } = input;
        self.stop_pod = observed.anything_running();
        let any_container = !observed.containers.is_empty();
        if spec::pod_restart_policy(pod) == "Never" && attempt != 0 && any_container {
            self.finished = true;
            return;
        }
        let start: Vec<String> = spec::spec(pod)
            .containers
            .iter()
            .filter(|c| {
                let ended = observed.latest(&c.name).filter(|seen| seen.succeeded());
                ended.is_none_or(|seen| spec::restarts_after(pod, c, seen.exit_code))
            })
            .map(|c| c.name.clone())
            .collect();
        let initialized = spec::spec(pod)
            .containers
            .iter()
            .any(|c| observed.latest(&c.name).is_some());
        if start.is_empty() && initialized {
            self.finished = true;
            return;
        }
        if let Some(held) = input.memory.sandbox_hold.filter(|until| *until > input.now) {
            self.wake_at(held);
            return;
        }
        self.create_sandbox = Some(attempt);
        self.start = match spec::init_containers(pod).first() {
            Some(first) => vec![first.name.clone()],
            None => start,
        };
    }

    fn in_sandbox(&mut self, input: Input<'_>) {
        for container in spec::ephemeral_containers(input.pod) {
            if input.observed.latest(&container.name).is_none() {
                self.start.push(container.name);
            }
        }
        match self.init_containers(input) {
            Initialization::Failed => {
                self.finished = true;
                self.stop_pod = input.observed.anything_running();
            }
            Initialization::Pending => {}
            Initialization::Done => self.main_containers(input),
        }
        if !self.finished {
            self.resize_in_place(input);
        }
    }

    /// Containers that stay get the resources they should have, as far as the node has room.
    fn resize_in_place(&mut self, input: Input<'_>) {
        if !may_resize(input) {
            return;
        }
        let mut changes = resize::changes(input.pod, input.observed);
        changes.retain(|change| !self.kill.iter().any(|kill| kill.id == change.id));
        match input.memory.resize_hold.filter(|until| *until > input.now) {
            Some(until) if !changes.is_empty() => self.wake_at(until),
            Some(_) | None => self.resize = changes,
        }
    }

    /// Walks the init containers backwards: the last one that left a trace tells how far the pod is.
    fn init_containers(&mut self, input: Input<'_>) -> Initialization {
        let Input { pod, observed, .. } = input;
        let list = spec::init_containers(pod);
        if list.is_empty() {
            return Initialization::Done;
        }
        let mut done = spec::spec(pod).containers.iter().any(|c| {
            observed
                .active(&c.name)
                .is_some_and(|seen| seen.state != State::Created)
        });
        let mut initialized = done;
        let mut start = Vec::new();
        for (index, container) in list.iter().enumerate().rev() {
            let sidecar = spec::is_sidecar(container);
            let Some(seen) = observed.active(&container.name) else {
                if initialized && sidecar {
                    start.push(container.name.clone());
                }
                continue;
            };
            if initialized && !sidecar {
                continue;
            }
            let step = match (seen.state, sidecar) {
                (State::Running, true) => self.running_sidecar(input, container, seen),
                (State::Running, false) => Step::Wait,
                (State::Created, _) | (State::Exited, true) => Step::Start,
                (State::Exited, false) if seen.exit_code == 0 => Step::Next,
                (State::Exited, false) if !spec::restarts_after(pod, container, seen.exit_code) => {
                    return Initialization::Failed;
                }
                (State::Exited, false) => Step::Start,
                (State::Unknown, _) => {
                    self.kill
                        .push(kill(pod, container, seen, "is in unknown state"));
                    Step::Start
                }
            };
            match step {
                Step::Wait => {}
                Step::Start => start.push(container.name.clone()),
                Step::Next => match list.get(index + 1) {
                    None => done = true,
                    Some(next) if !initialized => start.push(next.name.clone()),
                    Some(_) => {}
                },
            }
            initialized = true;
        }
        if !initialized {
            start.push(list[0].name.clone());
        }
        start.reverse();
        self.start.extend(start);
        if done {
            Initialization::Done
        } else {
            Initialization::Pending
        }
    }

    fn running_sidecar(
        &mut self,
        input: Input<'_>,
        container: &Container,
        seen: &observed::Container,
    ) -> Step {
        let results = input.probes.get(&seen.id).copied().unwrap_or_default();
        if container.startup_probe.is_some() {
            match results.startup {
                None => return Step::Wait,
                Some(true) => {}
                Some(false) => {
                    self.kill
                        .push(probe_kill(input.pod, container, seen, ProbeKind::Startup));
                    return Step::Wait;
                }
            }
        }
        if results.liveness == Some(false) {
            self.kill
                .push(probe_kill(input.pod, container, seen, ProbeKind::Liveness));
            return Step::Next;
        }
        if seen.hash != spec::hash(container) && !seen.hash.is_empty() {
            self.kill
                .push(kill(input.pod, container, seen, "definition changed"));
            return Step::Next;
        }
        Step::Next
    }

    fn main_containers(&mut self, input: Input<'_>) {
        let Input { pod, observed, .. } = input;
        let mut kept = 0;
        let before = self.start.len();
        for container in &spec::spec(pod).containers {
            let seen = observed.latest(&container.name);
            let current = seen.filter(|c| {
                observed
                    .ready_sandbox()
                    .is_some_and(|sandbox| sandbox.id == c.sandbox)
            });
            match (seen, current) {
                (Some(seen), Some(_)) if seen.state == State::Running => {
                    if self.running_main(input, container, seen) {
                        kept += 1;
                    }
                }
                (Some(seen), _)
                    if seen.state == State::Exited
                        && !spec::restarts_after(pod, container, seen.exit_code) => {}
                (Some(seen), _) => {
                    if seen.state == State::Unknown {
                        self.kill
                            .push(kill(pod, container, seen, "is in unknown state"));
                    }
                    self.start.push(container.name.clone());
                }
                (None, _) => self.start.push(container.name.clone()),
            }
        }
        if kept == 0 && self.start.len() == before && self.kill.is_empty() {
            self.finished = true;
            self.stop_pod = observed.anything_running();
        }
    }

    /// Whether the container stays as it is.
    fn running_main(
        &mut self,
        input: Input<'_>,
        container: &Container,
        seen: &observed::Container,
    ) -> bool {
        let Input { pod, probes, .. } = input;
        let results = probes.get(&seen.id).copied().unwrap_or_default();
        let policy = container.restart_policy.as_deref();
        let restart = policy.unwrap_or_else(|| spec::pod_restart_policy(pod)) != "Never";
        let resized = may_resize(input) && resize::needs_restart(container, seen);
        let changed = !seen.hash.is_empty() && seen.hash != spec::hash(container) || resized;
        let kill = if resized {
            kill(pod, container, seen, "resize requires restart")
        } else if changed {
            kill(pod, container, seen, "definition changed")
        } else if results.liveness == Some(false) {
            probe_kill(pod, container, seen, ProbeKind::Liveness)
        } else if results.startup == Some(false) {
            probe_kill(pod, container, seen, ProbeKind::Startup)
        } else {
            return true;
        };
        let suffix = if restart || changed {
            ", will be restarted"
        } else {
            ""
        };
        self.kill.push(Kill {
            message: format!("{}{suffix}", kill.message),
            ..kill
        });
        if changed {
            // Whatever the restart policy; otherwise the next plan sees the exit and decides.
            self.start.push(container.name.clone());
        }
        false
    }

    /// Takes containers out of `start` that have to wait, and notes why and until when.
    fn hold_back(&mut self, input: Input<'_>) {
        let Input {
            pod,
            observed,
            memory,
            now,
            ..
        } = input;
        let mut start = Vec::new();
        for name in std::mem::take(&mut self.start) {
            let held = memory.hold.get(&name).filter(|hold| hold.until > now);
            let failed = observed
                .latest(&name)
                .filter(|c| c.state == State::Exited)
                .and_then(|c| c.finished());
            let blocked = match (failed, memory.crash.get(&name)) {
                (Some(failed), Some(backoff)) => backoff.blocked_until(failed, now),
                _ => None,
            };
            if let Some((until, wait)) = blocked {
                self.wake_at(until);
                let message = format!(
                    "back-off {} restarting failed container={name} pod={}_{}({})",
                    go_duration(wait),
                    spec::name(pod),
                    spec::namespace(pod),
                    spec::uid(pod)
                );
                let waiting = Waiting {
                    reason: "CrashLoopBackOff".to_owned(),
                    message,
                };
                self.backing_off.insert(name, waiting);
            } else if let Some(hold) = held {
                let failure = memory.waiting.get(&name);
                let shown = add(hold.since, PULL_ERROR_SHOWN);
                let failure = failure.filter(|why| why.reason == "ErrImagePull");
                self.wake_at(match failure {
                    Some(_) if shown > now => hold.until.min(shown),
                    Some(_) | None => hold.until,
                });
                if let Some(failure) = failure.filter(|_| shown <= now) {
                    let image = spec::find(pod, &name)
                        .and_then(|(_, c)| c.image)
                        .unwrap_or_default();
                    self.backing_off
                        .insert(name, pull_back_off(&image, failure));
                }
            } else {
                start.push(name);
            }
        }
        self.start = start;
    }

    fn wake_at(&mut self, time: Timestamp) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }
}

fn may_resize(input: Input<'_>) -> bool {
    matches!(input.memory.resize, Resize::InProgress(_))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Initialization {
    Pending,
    Done,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Wait,
    Start,
    Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProbeKind {
    Liveness,
    Startup,
}

/// The attempt number of the sandbox to create, if the pod has none it can use
/// (upstream: PodSandboxChanged).
pub fn sandbox_needed(pod: &Pod, observed: &Observed) -> Option<u32> {
    sandbox_problem(pod, observed).map(|(attempt, _)| attempt)
}

/// The same, with upstream's message for the PodReadyToStartContainers condition.
pub fn sandbox_problem(pod: &Pod, observed: &Observed) -> Option<(u32, &'static str)> {
    let Some(newest) = observed.sandboxes.first() else {
        return Some((0, "No sandbox for pod can be found."));
    };
    let next = newest.attempt + 1;
    let host_network = spec::host_network(pod);
    if observed.sandboxes.iter().filter(|s| s.ready).count() > 1 {
        Some((next, "Multiple sandboxes are ready for pod."))
    } else if !newest.ready {
        Some((next, "No ready sandbox for pod can be found."))
    } else if newest.host_network != host_network {
        Some((next, "Sandbox for pod has changed."))
    } else if !host_network && newest.ips.is_empty() {
        Some((next, "Sandbox for pod has no IP address."))
    } else {
        None
    }
}

/// The waiting state while a failed pull is held back.
fn pull_back_off(image: &str, failure: &Waiting) -> Waiting {
    let Waiting { reason, message } = failure;
    Waiting {
        reason: "ImagePullBackOff".to_owned(),
        message: format!("Back-off pulling image {image:?}: {reason}: {message}"),
    }
}

fn kill(pod: &Pod, container: &Container, seen: &observed::Container, why: &str) -> Kill {
    Kill {
        id: seen.id.clone(),
        name: container.name.clone(),
        message: format!("Container {} {why}", container.name),
        grace: spec::grace(pod),
    }
}

fn probe_kill(
    pod: &Pod,
    container: &Container,
    seen: &observed::Container,
    kind: ProbeKind,
) -> Kill {
    let (why, probe) = match kind {
        ProbeKind::Liveness => ("failed liveness probe", container.liveness_probe.as_ref()),
        ProbeKind::Startup => ("failed startup probe", container.startup_probe.as_ref()),
    };
    Kill {
        grace: spec::probe_grace(pod, probe),
        ..kill(pod, container, seen, why)
    }
}

/// Exited containers other than the newest two of each name.
fn surplus(observed: &Observed) -> Vec<String> {
    /// The current one and the previous one, whose log can still be asked for.
    const KEPT: usize = 2;
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut surplus = Vec::new();
    for container in &observed.containers {
        let count = seen.entry(&container.name).or_default();
        *count += 1;
        if *count > KEPT && matches!(container.state, State::Exited | State::Created) {
            surplus.push(container.id.clone());
        }
    }
    surplus
}

/// A duration as Go prints it: `10s`, `2m40s`, `5m0s`.
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

/// Role of a container name in the pod, for `apply`.
pub fn role(pod: &Pod, name: &str) -> Option<Role> {
    spec::find(pod, name).map(|(role, _)| role)
}

#[cfg(test)]
pub(crate) mod tests;
