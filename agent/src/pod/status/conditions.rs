//! The conditions the node owns (upstream: `status/generate.go`); others are left as they are.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};

use super::{Input, condition, sandbox_condition};
use crate::pod::resize::Resize;
use crate::pod::spec;

pub const OWNED: [&str; 5] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

/// Conditions the node owns that are there only while they are true.
pub const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// A condition's truth with its reason and message.
struct Verdict {
    truth: bool,
    reason: Option<&'static str>,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self {
            truth: true,
            reason: None,
            message: String::new(),
        }
    }

    fn no(reason: &'static str, message: String) -> Self {
        Self {
            truth: false,
            reason: Some(reason),
            message,
        }
    }
}

pub fn conditions(input: Input<'_>, status: &PodStatus) -> Vec<PodCondition> {
    let seen = input
        .pod
        .status
        .iter()
        .filter_map(|status| status.conditions.as_ref());
    let foreign: Vec<PodCondition> = seen
        .chain(input.old.conditions.iter())
        .flatten()
        .filter(|c| !is_own(&c.type_))
        .fold(Vec::new(), |mut list, c| {
            if !list.iter().any(|have: &PodCondition| have.type_ == c.type_) {
                list.push(c.clone());
            }
            list
        });
    let containers = containers_ready(input, status);
    let ready = ready(input, &containers, &foreign);
    let sandbox = match sandbox_condition(input.pod, input.observed) {
        None => Verdict::yes(),
        Some(message) => Verdict::no("PodSandboxNotReady", message.to_owned()),
    };
    let verdicts = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized(input, status)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Verdict::yes()),
    ];
    let mut list = foreign;
    for (kind, verdict) in verdicts {
        let Verdict {
            truth,
            reason,
            message,
        } = verdict;
        list.push(condition(input, kind, truth, reason, Some(message)));
    }
    let passing = match input.resize {
        Resize::None => None,
        Resize::Pending(why) => Some((PASSING[0], Some(why))),
        Resize::InProgress(problem) => Some((PASSING[1], problem.as_ref())),
    };
    if let Some((kind, why)) = passing.filter(|_| ended(status).is_none()) {
        let reason = why.map(|why| why.reason.as_str());
        let message = why.map(|why| why.message.clone());
        list.push(condition(input, kind, true, reason, message));
    }
    list
}

/// Whether the node owns conditions of this type.
pub fn is_own(kind: &str) -> bool {
    OWNED.contains(&kind) || PASSING.contains(&kind)
}

fn ended(status: &PodStatus) -> Option<&'static str> {
    match status.phase.as_deref() {
        Some("Succeeded") => Some("PodCompleted"),
        Some("Failed") => Some("PodFailed"),
        _ => None,
    }
}

fn containers_ready(input: Input<'_>, status: &PodStatus) -> Verdict {
    if let Some(reason) = ended(status) {
        return Verdict::no(reason, String::new());
    }
    let sidecars = spec::init_containers(input.pod)
        .iter()
        .filter(|c| spec::is_sidecar(c));
    let unready: Vec<&str> = sidecars
        .chain(&spec::spec(input.pod).containers)
        .filter(|c| !find(status, &c.name).is_some_and(|s| s.ready))
        .map(|c| c.name.as_str())
        .collect();
    if unready.is_empty() {
        return Verdict::yes();
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Verdict::no("ContainersNotReady", message)
}

fn ready(input: Input<'_>, containers: &Verdict, foreign: &[PodCondition]) -> Verdict {
    if let (false, Some(reason)) = (containers.truth, containers.reason) {
        return Verdict::no(reason, containers.message.clone());
    }
    let gates = spec::spec(input.pod).readiness_gates.iter().flatten();
    let unmet: Vec<String> = gates
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match foreign.iter().find(|c| &c.type_ == kind) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {kind:?} does not exist."
                )),
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if unmet.is_empty() {
        return Verdict::yes();
    }
    Verdict::no("ReadinessGatesNotReady", unmet.join(", "))
}

fn initialized(input: Input<'_>, status: &PodStatus) -> Verdict {
    if status.phase.as_deref() == Some("Succeeded") {
        return Verdict {
            truth: true,
            reason: Some("PodCompleted"),
            message: String::new(),
        };
    }
    let main_started = status.container_statuses.iter().flatten().any(|s| {
        let state = s.state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || s.last_state
                .as_ref()
                .is_some_and(|last| last.terminated.is_some())
    });
    if main_started {
        return Verdict::yes();
    }
    let incomplete: Vec<&str> = spec::init_containers(input.pod)
        .iter()
        .filter(|c| {
            let status = find(status, &c.name);
            !status.is_some_and(|s| {
                if spec::is_sidecar(c) {
                    s.started == Some(true)
                } else {
                    s.ready
                }
            })
        })
        .map(|c| c.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Verdict::yes();
    }
    let message = format!(
        "containers with incomplete status: [{}]",
        incomplete.join(" ")
    );
    Verdict::no("ContainersNotInitialized", message)
}

fn find<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten())
        .find(|s| s.name == name)
}
