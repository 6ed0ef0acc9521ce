//! A pod's row: its status in one word. Port of `printPod`.

use api::Resource;
use serde_json::{Value, json};

use super::human::{NONE, age, duration, int, list, text_or, unix};

/// Restarts and the newest of them.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<i64>,
}

/// What the containers add up to.
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += int(&status["restartCount"]);
        self.last = self
            .last
            .max(unix(&status["lastState"]["terminated"]["finishedAt"]));
    }
}

/// The cells of a pod.
pub fn cells(pod: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let Summary {
        reason,
        ready,
        total,
        restarts,
    } = summarize(pod);
    let reason = deletion_reason(pod).map_or(reason, str::to_owned);
    let restarts = match restarts.last {
        Some(last) if restarts.count != 0 => {
            format!("{} ({} ago)", restarts.count, duration(now - last))
        }
        _ => restarts.count.to_string(),
    };
    vec![
        pod["metadata"]["name"].clone(),
        format!("{ready}/{total}").into(),
        reason.into(),
        restarts.into(),
        age(&pod["metadata"]["creationTimestamp"], now),
        text_or(&status["podIPs"][0]["ip"], NONE).into(),
        text_or(&spec["nodeName"], NONE).into(),
        text_or(&status["nominatedNodeName"], NONE).into(),
        readiness_gates(spec, status).into(),
    ]
}

/// The condition of the row of a pod that has ended.
pub fn row_condition(resource: &Resource, object: &Value) -> Option<Value> {
    if !resource.group.is_empty() || resource.plural != "pods" {
        return None;
    }
    let (reason, message) = match object["status"]["phase"].as_str()? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!({"type": "Completed", "status": "True", "reason": reason, "message": message}))
}

fn condition<'p>(status: &'p Value, ty: &str) -> Option<&'p Value> {
    list(&status["conditions"])
        .iter()
        .find(|condition| condition["type"] == ty)
}

fn is_true(status: &Value, ty: &str) -> bool {
    condition(status, ty).is_some_and(|condition| condition["status"] == "True")
}

fn deletion_reason(pod: &Value) -> Option<&'static str> {
    if pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    if pod["status"]["reason"] == "NodeLost" {
        return Some("Unknown");
    }
    let ended = matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    (!ended).then_some("Terminating")
}

fn readiness_gates(spec: &Value, status: &Value) -> String {
    let gates = list(&spec["readinessGates"]);
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let open = gates
        .iter()
        .filter(|gate| is_true(status, text_or(&gate["conditionType"], "")));
    format!("{}/{}", open.count(), gates.len())
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn summarize(pod: &Value) -> Summary {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let sidecars = list(&spec["initContainers"])
        .iter()
        .filter(|c| is_sidecar(c))
        .count();
    let mut summary = Summary {
        reason: text_or(&status["reason"], text_or(&status["phase"], "")).to_owned(),
        ready: 0,
        total: list(&spec["containers"]).len() + sidecars,
        restarts: Restarts::default(),
    };
    let gated = condition(status, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated");
    if gated {
        summary.reason = "SchedulingGated".to_owned();
    }
    let (initializing, sidecar_restarts) = init_containers(spec, status, &mut summary);
    if !initializing || is_true(status, "Initialized") {
        summary.restarts = sidecar_restarts;
        main_containers(status, &mut summary);
    }
    summary
}

/// Looks at init containers up to the first that is not done; tells whether there is one, and the
/// restarts of sidecars.
fn init_containers(spec: &Value, status: &Value, summary: &mut Summary) -> (bool, Restarts) {
    let mut sidecar_restarts = Restarts::default();
    let containers = list(&spec["initContainers"]);
    for (index, container) in list(&status["initContainerStatuses"]).iter().enumerate() {
        summary.restarts.add(container);
        let declared = containers.iter().find(|c| c["name"] == container["name"]);
        let sidecar = declared.is_some_and(is_sidecar);
        if sidecar {
            sidecar_restarts.add(container);
        }
        let terminated = &container["state"]["terminated"];
        let waiting = text_or(&container["state"]["waiting"]["reason"], "");
        if !terminated.is_null() && int(&terminated["exitCode"]) == 0 {
            continue;
        }
        if sidecar && container["started"] == true {
            summary.ready += usize::from(container["ready"] == true);
            continue;
        }
        summary.reason = if !terminated.is_null() {
            format!("Init:{}", termination_reason(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", containers.len())
        };
        return (true, sidecar_restarts);
    }
    (false, sidecar_restarts)
}

fn main_containers(status: &Value, summary: &mut Summary) {
    let mut running = false;
    let mut error = None;
    for container in list(&status["containerStatuses"]).iter().rev() {
        summary.restarts.add(container);
        let terminated = &container["state"]["terminated"];
        let waiting = text_or(&container["state"]["waiting"]["reason"], "");
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if !terminated.is_null() {
            summary.reason = termination_reason(terminated);
            if int(&terminated["exitCode"]) != 0 {
                error = Some(summary.reason.clone());
            }
        } else if container["ready"] == true && !container["state"]["running"].is_null() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" {
        if running && is_true(status, "Ready") {
            summary.reason = "Running".to_owned();
        } else if let Some(error) = error {
            summary.reason = error;
        } else if running {
            summary.reason = "NotReady".to_owned();
        }
    }
}

fn termination_reason(terminated: &Value) -> String {
    let signal = int(&terminated["signal"]);
    match text_or(&terminated["reason"], "") {
        "" if signal != 0 => format!("Signal:{signal}"),
        "" => format!("ExitCode:{}", int(&terminated["exitCode"])),
        reason => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_704_067_200;

    fn row(pod: Value) -> Vec<Value> {
        cells(&pod, NOW)[1..4].to_vec()
    }

    fn pod(status: Value) -> Value {
        json!({
            "metadata": {"name": "p", "creationTimestamp": "2023-12-31T23:59:00Z"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
            "status": status,
        })
    }

    #[test]
    fn the_status_is_the_most_telling_state() {
        let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
        let waiting = json!({"restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2023-12-31T23:59:30Z"}}});
        let failed = json!({"restartCount": 0, "state": {"terminated": {"exitCode": 3}}});
        let completed = json!({"restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let table = [
            (json!({"phase": "Pending"}), json!(["0/2", "Pending", "0"])),
            (
                json!({"phase": "Running", "containerStatuses": [running, running]}),
                json!(["2/2", "Running", "0"]),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [running, waiting]}),
                json!(["1/2", "CrashLoopBackOff", "2 (30s ago)"]),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [failed, completed]}),
                json!(["0/2", "ExitCode:3", "0"]),
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [completed, completed]}),
                json!(["0/2", "Completed", "0"]),
            ),
        ];
        for (status, expected) in table {
            assert_eq!(Value::Array(row(pod(status.clone()))), expected, "{status}");
        }
    }

    #[test]
    fn an_init_container_that_is_not_done_comes_first() {
        let mut object = pod(json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
            {"name": "j", "restartCount": 1, "state": {"running": {}}}]}));
        object["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "j"}]);
        assert_eq!(Value::Array(row(object)), json!(["0/2", "Init:1/2", "1"]));
    }

    #[test]
    fn a_deleted_pod_is_terminating() {
        let mut object = pod(json!({"phase": "Running"}));
        object["metadata"]["deletionTimestamp"] = "2023-12-31T23:59:30Z".into();
        assert_eq!(row(object)[1], "Terminating");
    }
}
