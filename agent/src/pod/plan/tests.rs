//! Table tests of the plan: a pod, what the runtime reports, what has to happen.

use super::*;
use crate::pod::backoff::Backoff;
use crate::pod::observed::{Container as Seen, Sandbox};
use serde_json::json;

const NOW: i64 = 1000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(policy: &str, init: serde_json::Value, containers: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "ns", "uid": "u" },
        "spec": { "restartPolicy": policy, "initContainers": init, "containers": containers }
    }))
    .unwrap()
}

fn one(policy: &str) -> Pod {
    pod(policy, json!([]), json!([{ "name": "c", "image": "i" }]))
}

fn sandbox(attempt: u32, ready: bool) -> Sandbox {
    Sandbox {
        id: format!("s{attempt}"),
        attempt,
        ready,
        host_network: false,
        created_at: i64::from(attempt),
        ips: vec!["10.0.0.1".parse().unwrap()],
    }
}

fn seen(name: &str, state: State, exit_code: i32) -> Seen {
    Seen {
        id: format!("{name}-id"),
        name: name.to_owned(),
        sandbox: "s0".to_owned(),
        state,
        attempt: 0,
        restart_count: 0,
        created_at: 1,
        started_at: 2,
        finished_at: NOW * 1_000_000_000,
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "i".to_owned(),
        image_id: String::new(),
        hash: String::new(),
        log_path: String::new(),
        termination_message_path: None,
        termination_message_policy: String::new(),
        termination_message_file: None,
        resources: None,
    }
}

fn running(containers: Vec<Seen>) -> Observed {
    Observed {
        sandboxes: vec![sandbox(0, true)],
        containers,
    }
}

/// A pod whose one container `c` runs.
pub(crate) fn running_one() -> Observed {
    running(vec![seen("c", State::Running, 0)])
}

fn plan(pod: &Pod, observed: &Observed) -> Plan {
    plan_with(pod, observed, &Memory::default(), &BTreeMap::new())
}

fn plan_with(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    probes: &BTreeMap<String, Results>,
) -> Plan {
    Plan::new(Input {
        pod,
        observed,
        probes,
        memory,
        now: at(NOW),
    })
}

fn start(names: &[&str]) -> Plan {
    Plan {
        start: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Plan::default()
    }
}

#[test]
fn a_new_pod_gets_a_sandbox_and_its_containers() {
    let expected = Plan {
        create_sandbox: Some(0),
        ..start(&["c"])
    };
    assert_eq!(plan(&one("Always"), &Observed::default()), expected);
}

#[test]
fn a_running_pod_needs_nothing() {
    let observed = running(vec![seen("c", State::Running, 0)]);
    assert_eq!(plan(&one("Always"), &observed), Plan::default());
}

#[test]
fn restart_policies_decide_about_ended_containers() {
    let table = [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ];
    for (policy, code, restarts) in table {
        let observed = running(vec![seen("c", State::Exited, code)]);
        let plan = plan(&one(policy), &observed);
        assert_eq!(plan.start == ["c"], restarts, "{policy} {code}");
        assert_eq!(plan.finished, !restarts, "{policy} {code}");
        assert_eq!(plan.stop_pod, !restarts, "{policy} {code}");
    }
}

#[test]
fn a_finished_pod_gets_no_new_sandbox() {
    for (policy, code) in [("Never", 1), ("OnFailure", 0)] {
        let mut observed = running(vec![seen("c", State::Exited, code)]);
        observed.sandboxes[0].ready = false;
        let plan = plan(&one(policy), &observed);
        assert!(plan.finished && plan.is_empty(), "{policy}: {plan:?}");
    }
}

#[test]
fn a_lost_sandbox_is_replaced_by_the_next_attempt() {
    let mut observed = running(vec![seen("c", State::Exited, 255)]);
    observed.sandboxes[0].ready = false;
    let plan = plan(&one("Always"), &observed);
    assert_eq!(
        (plan.create_sandbox, plan.start),
        (Some(1), vec!["c".to_owned()])
    );
}

#[test]
fn crash_loops_wait_and_say_until_when() {
    let observed = running(vec![seen("c", State::Exited, 1)]);
    let mut memory = Memory::default();
    memory
        .crash
        .insert("c".to_owned(), Backoff::next(None, at(NOW), at(NOW)));
    let plan = plan_with(&one("Always"), &observed, &memory, &BTreeMap::new());
    assert!(plan.start.is_empty());
    assert_eq!(plan.wake, Some(at(NOW + 10)));
    let waiting = &plan.backing_off["c"];
    assert_eq!(waiting.reason, "CrashLoopBackOff");
    assert_eq!(
        waiting.message,
        "back-off 10s restarting failed container=c pod=p_ns(u)"
    );
}

#[test]
fn a_failed_pull_is_told_before_it_backs_off_under_its_own_reason() {
    let mut memory = Memory::default();
    let hold = Hold {
        since: at(NOW),
        until: at(NOW + 20),
    };
    memory.hold.insert("c".to_owned(), hold);
    let why = Waiting {
        reason: "ErrImagePull".to_owned(),
        message: "no".to_owned(),
    };
    memory.waiting.insert("c".to_owned(), why);
    let plan = plan_with(&one("Always"), &running(vec![]), &memory, &BTreeMap::new());
    assert!(plan.start.is_empty() && plan.backing_off.is_empty());
    assert_eq!(plan.wake, Some(at(NOW + 10)));

    let since = at(NOW - 10);
    memory.hold.insert("c".to_owned(), Hold { since, ..hold });
    let plan = plan_with(&one("Always"), &running(vec![]), &memory, &BTreeMap::new());
    assert!(plan.start.is_empty());
    assert_eq!(plan.backing_off["c"].reason, "ImagePullBackOff");
    assert_eq!(plan.wake, Some(at(NOW + 20)));
}

#[test]
fn init_containers_run_one_after_another() {
    let pod = pod(
        "Always",
        json!([{ "name": "a" }, { "name": "b" }]),
        json!([{ "name": "c" }]),
    );
    let exited = |name: &str| seen(name, State::Exited, 0);
    let table: [(Vec<Seen>, &[&str]); 5] = [
        (vec![], &["a"]),
        (vec![seen("a", State::Running, 0)], &[]),
        (vec![exited("a")], &["b"]),
        (vec![exited("a"), exited("b")], &["c"]),
        (vec![exited("b")], &["c"]),
    ];
    for (containers, expected) in table {
        let got = plan(&pod, &running(containers.clone()));
        assert_eq!(got, start(expected), "{containers:?}");
    }
}

#[test]
fn a_failed_init_container_restarts_or_ends_the_pod() {
    let of = |policy: &str| pod(policy, json!([{ "name": "a" }]), json!([{ "name": "c" }]));
    let observed = running(vec![seen("a", State::Exited, 1)]);
    assert_eq!(plan(&of("Always"), &observed), start(&["a"]));
    let ended = plan(&of("Never"), &observed);
    assert!(ended.finished && ended.stop_pod && ended.start.is_empty());
}

#[test]
fn sidecars_start_in_order_stay_and_do_not_keep_the_pod() {
    let sidecar = json!({ "name": "s", "restartPolicy": "Always" });
    let pod = pod(
        "Never",
        json!([sidecar, { "name": "i" }]),
        json!([{ "name": "c" }]),
    );
    let up = || seen("s", State::Running, 0);
    assert_eq!(plan(&pod, &running(vec![up()])), start(&["i"]));
    let init_done = running(vec![up(), seen("i", State::Exited, 0)]);
    assert_eq!(plan(&pod, &init_done), start(&["c"]));
    let crashed = running(vec![
        seen("s", State::Exited, 1),
        seen("i", State::Exited, 0),
        seen("c", State::Running, 0),
    ]);
    assert_eq!(plan(&pod, &crashed), start(&["s"]));
    let main_done = running(vec![
        up(),
        seen("i", State::Exited, 0),
        seen("c", State::Exited, 0),
    ]);
    let ended = plan(&pod, &main_done);
    assert!(ended.finished && ended.stop_pod);
}

#[test]
fn a_sidecar_with_a_startup_probe_holds_the_next_container() {
    let probe = json!({ "exec": { "command": ["true"] } });
    let sidecar = json!({ "name": "s", "restartPolicy": "Always", "startupProbe": probe });
    let pod = pod("Always", json!([sidecar]), json!([{ "name": "c" }]));
    let observed = running(vec![seen("s", State::Running, 0)]);
    assert_eq!(plan(&pod, &observed), Plan::default());
    let probed = |startup| {
        let results = Results {
            startup: Some(startup),
            ..Results::default()
        };
        plan_with(
            &pod,
            &observed,
            &Memory::default(),
            &[("s-id".to_owned(), results)].into(),
        )
    };
    assert_eq!(probed(true), start(&["c"]));
    let failed = probed(false);
    assert!(failed.start.is_empty());
    assert_eq!(failed.kill[0].message, "Container s failed startup probe");
}

#[test]
fn a_failed_liveness_probe_kills_with_the_probes_grace() {
    let probe = json!({ "exec": { "command": ["true"] }, "terminationGracePeriodSeconds": 7 });
    let pod = pod(
        "Always",
        json!([]),
        json!([{ "name": "c", "livenessProbe": probe }]),
    );
    let results = Results {
        liveness: Some(false),
        ..Results::default()
    };
    let observed = running(vec![seen("c", State::Running, 0)]);
    let probes = [("c-id".to_owned(), results)].into();
    let plan = plan_with(&pod, &observed, &Memory::default(), &probes);
    assert_eq!(plan.kill.len(), 1);
    assert_eq!(
        plan.kill[0].message,
        "Container c failed liveness probe, will be restarted"
    );
    assert_eq!(plan.kill[0].grace, Duration::from_secs(7));
    assert!(!plan.finished && plan.start.is_empty());
}

#[test]
fn a_changed_image_replaces_the_container_whatever_the_policy() {
    let mut old = seen("c", State::Running, 0);
    old.hash = "another".to_owned();
    let plan = plan(&one("Never"), &running(vec![old]));
    assert_eq!((plan.kill.len(), plan.start), (1, vec!["c".to_owned()]));
}

#[test]
fn only_two_dead_containers_of_a_name_are_kept() {
    let dead = |id: &str, created_at: i64| Seen {
        id: id.to_owned(),
        created_at,
        ..seen("c", State::Exited, 1)
    };
    let mut observed = running(vec![dead("old", 1), dead("mid", 2), dead("new", 3)]);
    observed.sort();
    assert_eq!(plan(&one("Always"), &observed).remove, ["old"]);
}

#[test]
fn a_plan_that_was_carried_out_is_followed_by_an_empty_one() {
    for policy in ["Always", "OnFailure", "Never"] {
        let pod = one(policy);
        let mut observed = Observed::default();
        let first = plan(&pod, &observed);
        observed
            .sandboxes
            .push(sandbox(first.create_sandbox.unwrap(), true));
        observed
            .containers
            .extend(first.start.iter().map(|n| seen(n, State::Running, 0)));
        assert!(plan(&pod, &observed).is_empty(), "{policy}");
    }
}

#[test]
fn a_running_container_is_resized_in_place_or_restarted_by_its_policy() {
    let with = |cpu: &str, policy: &str| {
        let resources = json!({ "requests": { "cpu": cpu } });
        let policies = json!([{ "resourceName": "cpu", "restartPolicy": policy }]);
        let container = json!({ "name": "c", "image": "i", "resources": resources,
            "resizePolicy": policies });
        pod("Always", json!([]), json!([container]))
    };
    let mut observed = running_one();
    observed.containers[0].resources = spec::spec(&with("1", "")).containers[0].resources.clone();
    let memory = |resize| Memory {
        resize,
        ..Memory::default()
    };
    let wanted = with("2", "NotRequired");
    let go = memory(Resize::InProgress(None));
    let plan = plan_with(&wanted, &observed, &go, &BTreeMap::new());
    assert_eq!(plan.resize.len(), 1);
    assert!(plan.kill.is_empty() && plan.start.is_empty());
    let wait = memory(Resize::Pending(Waiting {
        reason: "Deferred".to_owned(),
        message: String::new(),
    }));
    assert!(plan_with(&wanted, &observed, &wait, &BTreeMap::new()).is_empty());
    let held = Memory {
        resize_hold: Some(at(NOW + 5)),
        ..go.clone()
    };
    let plan = plan_with(&wanted, &observed, &held, &BTreeMap::new());
    assert_eq!((plan.is_empty(), plan.wake), (true, Some(at(NOW + 5))));
    let plan = plan_with(
        &with("2", "RestartContainer"),
        &observed,
        &go,
        &BTreeMap::new(),
    );
    assert!(plan.resize.is_empty());
    assert_eq!((plan.kill.len(), plan.start), (1, vec!["c".to_owned()]));
}
