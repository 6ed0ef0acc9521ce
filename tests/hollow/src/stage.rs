//! What a hollow kubelet does about a pod: pure. The first stage of the table that applies gives
//! the next step; a pod no stage applies to is as it should be.
//!
//! ```text
//!   bound ─start─▶ Running ─ready─▶ Ready ──(of a Job)─complete─▶ Succeeded or Failed
//!     └────────────── deleted ─terminate─▶ Failed ─delete─▶ gone
//! ```

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::{Value, json};

/// Image of containers that never become ready.
pub const BROKEN: &str = "broken";
/// Image of containers that end with an error where they are to end.
pub const FAILS: &str = "fails";
/// Exit code of such a container.
const FAILED: i32 = 1;
/// Exit code of a process that SIGKILL ended.
const KILLED: i32 = 137;

/// What there is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A strategic merge patch of the status.
    Status(Value),
    /// Deletion for good.
    Delete,
}

/// What a stage may use besides the pod.
#[derive(Debug, Clone)]
pub struct Context {
    /// RFC 3339, whole seconds.
    pub now: String,
    /// Address for a pod that has none.
    pub ip: Ipv4Addr,
}

struct Stage {
    applies: fn(&Pod) -> bool,
    step: fn(&Pod, &Context) -> Step,
}

/// In the order of precedence.
const STAGES: [Stage; 5] = [
    Stage {
        applies: |pod| deleted(pod) && over(pod),
        step: |_, _| Step::Delete,
    },
    // kubelet reports the end before the pod goes, so that its owner can count it
    Stage {
        applies: deleted,
        step: |pod, at| ended(pod, at, "Failed", KILLED),
    },
    Stage {
        applies: |pod| matches!(phase(pod), "" | "Pending"),
        step: start,
    },
    Stage {
        applies: |pod| phase(pod) == "Running" && condition(pod, "Ready") != Some(ready(pod)),
        step: |pod, at| status(conditions(pod, at)),
    },
    Stage {
        applies: |pod| phase(pod) == "Running" && of_job(pod),
        step: |pod, at| match has_image(pod, FAILS) {
            true => ended(pod, at, "Failed", FAILED),
            false => ended(pod, at, "Succeeded", 0),
        },
    },
];

/// The next step of a pod that is bound to a node.
pub fn next(pod: &Pod, at: &Context) -> Option<Step> {
    let stage = STAGES.iter().find(|stage| (stage.applies)(pod))?;
    Some((stage.step)(pod, at))
}

// === the steps ===

fn start(pod: &Pod, at: &Context) -> Step {
    let spec = spec(pod);
    let host = spec.node_name.as_deref().map(crate::node::address);
    let host = host.unwrap_or(Ipv4Addr::UNSPECIFIED).to_string();
    let ip = match spec.host_network {
        Some(true) => host.clone(),
        _ => at.ip.to_string(),
    };
    let running = json!({"running": {"startedAt": at.now}});
    let done = terminated(at, 0);
    let mut patch = conditions(pod, at);
    let more = json!({
        "phase": "Running",
        "startTime": at.now,
        "hostIP": host,
        "hostIPs": [{"ip": host}],
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "initContainerStatuses": statuses(&init(pod), |container| match sidecar(container) {
            true => (running.clone(), true),
            false => (done.clone(), true),
        }),
        "containerStatuses": statuses(&spec.containers, |container| {
            (running.clone(), !broken(container))
        }),
    });
    merge(&mut patch, more);
    status(patch)
}

fn ended(pod: &Pod, at: &Context, phase: &str, code: i32) -> Step {
    let end = |_: &Container| (terminated(at, code), false);
    let reason = match phase {
        "Succeeded" => "PodCompleted",
        _ => "PodFailed",
    };
    let not_ready = |type_: &str| json!({"type": type_, "status": "False", "reason": reason, "lastTransitionTime": at.now});
    status(json!({
        "phase": phase,
        "conditions": [not_ready("Ready"), not_ready("ContainersReady")],
        "containerStatuses": statuses(&spec(pod).containers, end),
    }))
}

fn conditions(pod: &Pod, at: &Context) -> Value {
    let of = |type_: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        json!({"type": type_, "status": status, "lastTransitionTime": at.now})
    };
    json!({"conditions": [
        of("PodReadyToStartContainers", true),
        of("Initialized", true),
        of("ContainersReady", !any_broken(pod)),
        of("Ready", ready(pod)),
    ]})
}

fn statuses(containers: &[Container], state: impl Fn(&Container) -> (Value, bool)) -> Value {
    let one = |container: &Container| {
        let (state, ready) = state(container);
        let image = container.image.as_deref().unwrap_or_default();
        json!({
            "name": container.name,
            "image": image,
            "imageID": image,
            "containerID": format!("hollow://{}", container.name),
            "restartCount": 0,
            "started": state.get("running").is_some(),
            "ready": ready,
            "state": state,
        })
    };
    containers.iter().map(one).collect()
}

fn terminated(at: &Context, code: i32) -> Value {
    let reason = if code == 0 { "Completed" } else { "Error" };
    json!({"terminated": {
        "exitCode": code, "reason": reason, "startedAt": at.now, "finishedAt": at.now,
    }})
}

fn status(status: Value) -> Step {
    Step::Status(json!({ "status": status }))
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

// === what a pod is ===

fn spec(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

fn init(pod: &Pod) -> Vec<Container> {
    spec(pod).init_containers.unwrap_or_default()
}

fn sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn broken(container: &Container) -> bool {
    container.image.as_deref() == Some(BROKEN)
}

fn any_broken(pod: &Pod) -> bool {
    spec(pod).containers.iter().any(broken)
}

fn has_image(pod: &Pod, image: &str) -> bool {
    let containers = spec(pod).containers;
    containers.iter().any(|c| c.image.as_deref() == Some(image))
}

/// Containers and readiness gates, as kubelet's `GeneratePodReadyCondition`.
fn ready(pod: &Pod) -> bool {
    let gates = spec(pod).readiness_gates.unwrap_or_default();
    !any_broken(pod)
        && gates
            .iter()
            .all(|gate| condition(pod, &gate.condition_type) == Some(true))
}

fn deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

fn of_job(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.kind == "Job")
}

fn phase(pod: &Pod) -> &str {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase.unwrap_or_default()
}

fn condition(pod: &Pod, type_: &str) -> Option<bool> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == type_)?;
    Some(found.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Context {
        Context {
            now: "2030-01-01T00:00:00Z".into(),
            ip: Ipv4Addr::new(10, 244, 0, 7),
        }
    }

    fn pod(more: Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
        });
        merge_deep(&mut pod, more);
        pod
    }

    fn merge_deep(into: &mut Value, more: Value) {
        match (into, more) {
            (Value::Object(into), Value::Object(more)) => {
                for (key, value) in more {
                    merge_deep(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, more) => *into = more,
        }
    }

    /// The phases a pod goes through until nothing is left to do.
    fn phases(mut pod: Value) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let object: Pod = serde_json::from_value(pod.clone()).unwrap();
            match next(&object, &at()) {
                None => return seen,
                Some(Step::Delete) => {
                    seen.push("gone".into());
                    return seen;
                }
                Some(Step::Status(patch)) => {
                    merge_deep(&mut pod, patch);
                    seen.push(pod["status"]["phase"].as_str().unwrap().to_owned());
                }
            }
            assert!(seen.len() < 9, "no end: {seen:?}");
        }
    }

    #[test]
    fn a_pod_runs_and_stays() {
        assert_eq!(phases(pod(json!({}))), ["Running"]);
        assert_eq!(
            phases(pod(json!({"status": {"phase": "Pending"}}))),
            ["Running"]
        );
    }

    #[test]
    fn a_pod_of_a_job_ends() {
        let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u"}]);
        let of_job = pod(json!({"metadata": {"ownerReferences": owner}}));
        assert_eq!(phases(of_job.clone()), ["Running", "Succeeded"]);
        let mut fails = of_job;
        fails["spec"]["containers"][0]["image"] = FAILS.into();
        assert_eq!(phases(fails), ["Running", "Failed"]);
    }

    #[test]
    fn a_deleted_pod_ends_and_goes() {
        let deleted = json!({"metadata": {"deletionTimestamp": "2030-01-01T00:00:00Z"}});
        assert_eq!(phases(pod(deleted.clone())), ["Failed", "gone"]);
        let mut over = pod(deleted);
        over["status"] = json!({"phase": "Succeeded"});
        assert_eq!(phases(over), ["gone"]);
    }

    #[test]
    fn readiness_is_containers_and_gates() {
        let step = |more| {
            let object: Pod = serde_json::from_value(pod(more)).unwrap();
            match next(&object, &at()) {
                Some(Step::Status(patch)) => patch["status"].clone(),
                step => panic!("{step:?}"),
            }
        };
        let ready = |status: &Value| status["conditions"][3]["status"].clone();
        assert_eq!(ready(&step(json!({}))), "True");
        let broken = json!([{"name": "c", "image": BROKEN}]);
        let status = step(json!({"spec": {"containers": broken}}));
        assert_eq!(ready(&status), "False");
        assert_eq!(status["containerStatuses"][0]["ready"], false);
        let gate = json!({"spec": {"readinessGates": [{"conditionType": "open"}]}});
        assert_eq!(ready(&step(gate.clone())), "False");
        let mut open = gate;
        open["status"] = json!({"phase": "Running", "conditions": [
            {"type": "open", "status": "True"}, {"type": "Ready", "status": "False"},
        ]});
        assert_eq!(ready(&step(open)), "True");
    }

    #[test]
    fn a_pod_has_an_address_of_its_own_unless_it_uses_the_nodes() {
        let ips = |more| {
            let object: Pod = serde_json::from_value(pod(more)).unwrap();
            match next(&object, &at()) {
                Some(Step::Status(patch)) => (
                    patch["status"]["podIP"].clone(),
                    patch["status"]["hostIP"].clone(),
                ),
                step => panic!("{step:?}"),
            }
        };
        let (own, host) = ips(json!({}));
        assert_eq!(own, "10.244.0.7");
        assert_eq!(
            ips(json!({"spec": {"hostNetwork": true}})),
            (host.clone(), host)
        );
    }
}
