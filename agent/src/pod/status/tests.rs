//! Table tests of the status: phases, container states, conditions, addresses.

use super::*;
use crate::pod::observed::{Container as Seen, Sandbox};
use serde_json::json;

fn pod(value: serde_json::Value) -> Pod {
    let mut pod = json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" } });
    pod["spec"] = value;
    serde_json::from_value(pod).unwrap()
}

fn seen(name: &str, state: State, exit_code: i32, created_at: i64) -> Seen {
    Seen {
        id: format!("{name}{created_at}"),
        name: name.to_owned(),
        sandbox: "s".to_owned(),
        state,
        attempt: 0,
        restart_count: 0,
        created_at,
        started_at: 1_000_000_000,
        finished_at: 2_000_000_000,
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "i".to_owned(),
        image_id: "sha256:1".to_owned(),
        hash: String::new(),
        log_path: String::new(),
        termination_message_path: None,
        termination_message_policy: String::new(),
        termination_message_file: None,
        resources: None,
    }
}

fn observed(containers: Vec<Seen>) -> Observed {
    let ips = vec!["fd00::9".parse().unwrap(), "10.1.0.9".parse().unwrap()];
    let sandbox = Sandbox {
        id: "s".to_owned(),
        attempt: 0,
        ready: true,
        host_network: false,
        created_at: 0,
        ips,
    };
    let mut observed = Observed {
        sandboxes: vec![sandbox],
        containers,
    };
    observed.sort();
    observed
}

#[derive(Default)]
struct Case {
    probes: BTreeMap<String, Results>,
    waiting: BTreeMap<String, Waiting>,
    old: PodStatus,
    terminal: bool,
    resize: Resize,
}

impl Case {
    fn run(&self, pod: &Pod, observed: &Observed) -> PodStatus {
        status(Input {
            pod,
            observed,
            probes: &self.probes,
            waiting: &self.waiting,
            failure: None,
            resize: &self.resize,
            old: &self.old,
            node_ips: &["192.0.2.1".parse().unwrap()],
            runtime: "containerd",
            terminal: self.terminal,
            now: Timestamp::from_second(50).unwrap(),
        })
    }
}

fn run(pod: &Pod, observed: &Observed) -> PodStatus {
    Case::default().run(pod, observed)
}

fn truth(status: &PodStatus, kind: &str) -> String {
    let conditions = status.conditions.as_ref().unwrap();
    conditions
        .iter()
        .find(|c| c.type_ == kind)
        .unwrap()
        .status
        .clone()
}

#[test]
fn phases_follow_from_containers_and_policy() {
    let running = || seen("c", State::Running, 0, 1);
    let exited = |code| seen("c", State::Exited, code, 1);
    let table = [
        ("Always", vec![], "Pending"),
        ("Always", vec![running()], "Running"),
        ("Always", vec![exited(1)], "Running"),
        ("OnFailure", vec![exited(0)], "Succeeded"),
        ("OnFailure", vec![exited(1)], "Running"),
        ("Never", vec![exited(0)], "Succeeded"),
        ("Never", vec![exited(1)], "Failed"),
    ];
    for (policy, containers, expected) in table {
        let pod = pod(json!({ "restartPolicy": policy, "containers": [{ "name": "c" }] }));
        let status = run(&pod, &observed(containers.clone()));
        assert_eq!(
            status.phase.as_deref(),
            Some(expected),
            "{policy} {containers:?}"
        );
    }
}

#[test]
fn a_terminated_pod_is_terminal_whatever_its_policy() {
    let pod = pod(json!({ "restartPolicy": "Always", "containers": [{ "name": "c" }] }));
    let case = Case {
        terminal: true,
        ..Case::default()
    };
    let status = case.run(&pod, &observed(vec![seen("c", State::Exited, 137, 1)]));
    assert_eq!(status.phase.as_deref(), Some("Failed"));
}

#[test]
fn a_terminal_phase_never_changes() {
    let pod = pod(json!({ "containers": [{ "name": "c" }] }));
    let old = PodStatus {
        phase: Some("Failed".to_owned()),
        ..PodStatus::default()
    };
    let case = Case {
        old,
        ..Case::default()
    };
    let status = case.run(&pod, &observed(vec![seen("c", State::Running, 0, 1)]));
    assert_eq!(status.phase.as_deref(), Some("Failed"));
}

#[test]
fn waiting_reasons_depend_on_the_stage_and_on_failures() {
    let plain = pod(json!({ "containers": [{ "name": "c" }] }));
    let with_init =
        pod(json!({ "initContainers": [{ "name": "i" }], "containers": [{ "name": "c" }] }));
    let reason = |status: &PodStatus| {
        let state = status.container_statuses.as_ref().unwrap()[0]
            .state
            .clone()
            .unwrap();
        state.waiting.unwrap().reason.unwrap()
    };
    assert_eq!(reason(&run(&plain, &observed(vec![]))), "ContainerCreating");
    for there in [vec![], vec![seen("c", State::Created, 0, 1)]] {
        assert_eq!(
            reason(&run(&with_init, &observed(there))),
            "PodInitializing"
        );
    }
    let why = Waiting {
        reason: "CrashLoopBackOff".to_owned(),
        message: "m".to_owned(),
    };
    let case = Case {
        waiting: [("c".to_owned(), why)].into(),
        ..Case::default()
    };
    let status = case.run(&plain, &observed(vec![seen("c", State::Exited, 3, 1)]));
    assert_eq!(reason(&status), "CrashLoopBackOff");
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let last = container
        .last_state
        .as_ref()
        .unwrap()
        .terminated
        .as_ref()
        .unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn the_previous_container_is_the_last_state() {
    let pod = pod(json!({ "containers": [{ "name": "c" }] }));
    let containers = vec![
        seen("c", State::Exited, 9, 1),
        seen("c", State::Running, 0, 2),
    ];
    let status = run(&pod, &observed(containers));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert!(container.state.as_ref().unwrap().running.is_some());
    assert_eq!(
        container
            .last_state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap()
            .exit_code,
        9
    );
    assert_eq!(container.container_id.as_deref(), Some("containerd://c2"));
}

#[test]
fn readiness_follows_the_probe_and_the_gates() {
    let probe = json!({ "exec": { "command": ["true"] } });
    let spec = json!({ "containers": [{ "name": "c", "readinessProbe": probe }] });
    let mut gated = spec.clone();
    gated["readinessGates"] = json!([{ "conditionType": "example.org/gate" }]);
    let observed = observed(vec![seen("c", State::Running, 0, 1)]);
    let ready = |spec: &serde_json::Value, readiness: Option<bool>| {
        let results = Results {
            readiness,
            ..Results::default()
        };
        let case = Case {
            probes: [("c1".to_owned(), results)].into(),
            ..Case::default()
        };
        let status = case.run(&pod(spec.clone()), &observed);
        (truth(&status, "ContainersReady"), truth(&status, "Ready"))
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(ready(&spec, None), pair("False", "False"));
    assert_eq!(ready(&spec, Some(true)), pair("True", "True"));
    assert_eq!(ready(&gated, Some(true)), pair("True", "False"));
}

#[test]
fn a_startup_probe_keeps_the_container_unstarted() {
    let probe = json!({ "exec": { "command": ["true"] } });
    let pod = pod(json!({ "containers": [{ "name": "c", "startupProbe": probe }] }));
    let status = run(&pod, &observed(vec![seen("c", State::Running, 0, 1)]));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!((container.started, container.ready), (Some(false), false));
}

#[test]
fn addresses_appear_with_the_sandbox_in_the_nodes_order() {
    let spec = json!({ "containers": [{ "name": "c" }] });
    let status = run(&pod(spec), &observed(vec![]));
    assert_eq!(status.pod_ip.as_deref(), Some("10.1.0.9"));
    let ips: Vec<String> = status
        .pod_ips
        .clone()
        .unwrap()
        .into_iter()
        .map(|ip| ip.ip)
        .collect();
    assert_eq!(ips, ["10.1.0.9", "fd00::9"]);
    assert_eq!(truth(&status, "PodReadyToStartContainers"), "True");
    let host = pod(json!({ "hostNetwork": true, "containers": [{ "name": "c" }] }));
    assert_eq!(
        run(&host, &Observed::default()).pod_ip.as_deref(),
        Some("192.0.2.1")
    );
}

#[test]
fn a_stopped_pod_keeps_its_address() {
    let pod = pod(json!({ "restartPolicy": "Never", "containers": [{ "name": "c" }] }));
    let mut gone = observed(vec![seen("c", State::Exited, 0, 1)]);
    gone.sandboxes[0].ready = false;
    gone.sandboxes[0].ips.clear();
    let old = PodStatus {
        pod_ips: Some(vec![PodIP {
            ip: "10.1.0.9".to_owned(),
        }]),
        ..PodStatus::default()
    };
    let status = Case {
        old,
        ..Case::default()
    }
    .run(&pod, &gone);
    assert_eq!(status.pod_ip.as_deref(), Some("10.1.0.9"));
    assert_eq!(truth(&status, "Initialized"), "True");
}

#[test]
fn transition_times_change_only_with_the_status() {
    let pod = pod(json!({ "containers": [{ "name": "c" }] }));
    let first = run(&pod, &observed(vec![]));
    let case = Case {
        old: first,
        ..Case::default()
    };
    let mut later = case.run(&pod, &observed(vec![seen("c", State::Running, 0, 1)]));
    let time = |status: &mut PodStatus, kind: &str| {
        let conditions = status.conditions.as_mut().unwrap();
        conditions
            .iter()
            .find(|c| c.type_ == kind)
            .unwrap()
            .last_transition_time
            .clone()
    };
    assert_eq!(time(&mut later, "PodScheduled"), case.old.start_time);
    assert_eq!(truth(&later, "Ready"), "True");
}

#[test]
fn a_resize_is_shown_by_what_runs_what_is_promised_and_a_condition() {
    let container = |cpu: &str| {
        json!({ "containers": [{ "name": "c", "image": "i",
            "resources": { "requests": { "cpu": cpu } } }] })
    };
    let (old, new) = (pod(container("1")), pod(container("2")));
    let mut running = seen("c", State::Running, 0, 1);
    running.resources = spec::spec(&old).containers[0].resources.clone();
    let observed = observed(vec![running]);
    let shown = |resize: Resize| {
        let case = Case {
            resize,
            ..Case::default()
        };
        let status = case.run(&new, &observed);
        let container = &status.container_statuses.as_ref().unwrap()[0];
        let runs = container.resources.as_ref().unwrap().requests.as_ref();
        let promised = container.allocated_resources.as_ref();
        let cpu = |list: Option<&BTreeMap<String, Quantity>>| list.unwrap()["cpu"].0.clone();
        let conditions = status.conditions.iter().flatten();
        let passing = conditions.filter(|c| c.type_.starts_with("PodResize"));
        let passing: Vec<String> = passing.map(|c| c.type_.clone()).collect();
        (cpu(runs), cpu(promised), passing.join(","))
    };
    let is = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    let pending = Waiting {
        reason: "Deferred".to_owned(),
        message: String::new(),
    };
    assert_eq!(
        shown(Resize::Pending(pending)),
        is("1", "1", "PodResizePending")
    );
    let going = shown(Resize::InProgress(None));
    assert_eq!(going, is("1", "2", "PodResizeInProgress"));
}
