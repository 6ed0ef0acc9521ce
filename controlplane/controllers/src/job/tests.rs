//! Jobs over a simulated API.

use std::time::Duration;

use serde_json::{Value, json};

use super::orphans::JobOrphans;
use super::*;
use crate::sim::Sim;

fn sim() -> Sim {
    Sim::new(vec![Box::<JobController>::default(), Box::new(JobOrphans)])
}

fn job(spec: Value) -> Value {
    let mut job = json!({
        "metadata": {"namespace": "ns", "name": "j"},
        "spec": {
            "parallelism": 2,
            "completions": 3,
            "backoffLimit": 6,
            "completionMode": "NonIndexed",
            "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"job": "j"}},
            "template": {"metadata": {"labels": {"job": "j"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    job
}

fn create(sim: &mut Sim, spec: Value) -> Key {
    let key = sim.create::<Job>(job(spec));
    sim.settle();
    key
}

fn indexed(spec: Value) -> Value {
    let mut spec = spec;
    spec["completionMode"] = "Indexed".into();
    spec
}

/// Pods that have not ended, in order of their names.
fn running(sim: &Sim) -> Vec<Key> {
    let lives = |pod: &Value| {
        let phase = pod["status"]["phase"].as_str().unwrap_or("");
        !matches!(phase, "Succeeded" | "Failed") && pod["metadata"]["deletionTimestamp"].is_null()
    };
    let pods = sim.all::<Pod>().into_iter().filter(|(_, pod)| lives(pod));
    pods.map(|(key, _)| key).collect()
}

fn end_index(sim: &mut Sim, index: i32, exit: i32) {
    let pod = pod_of(sim, index);
    end(sim, &pod, exit);
}

fn end_first(sim: &mut Sim, exit: i32) {
    let pod = running(sim).swap_remove(0);
    end(sim, &pod, exit);
}

fn end(sim: &mut Sim, pod: &Key, exit: i32) {
    let now = sim.now.to_string();
    let phase = if exit == 0 { "Succeeded" } else { "Failed" };
    sim.edit::<Pod>(pod, |pod| {
        pod["status"] = json!({"phase": phase, "containerStatuses": [{"name": "c",
            "state": {"terminated": {"exitCode": exit, "finishedAt": now}}}]});
    });
    sim.settle();
}

fn pod_of(sim: &Sim, index: i32) -> Key {
    let mut pods = sim.all::<Pod>().into_iter();
    let text = index.to_string();
    let is_it = |pod: &Value| pod["metadata"]["annotations"][COMPLETION_INDEX] == text.as_str();
    let alive = running(sim);
    pods.find(|(key, pod)| is_it(pod) && alive.contains(key))
        .unwrap_or_else(|| panic!("no pod of index {index}"))
        .0
}

fn status(sim: &Sim, key: &Key) -> JobStatus {
    serde_json::from_value(sim.get::<Job>(key).unwrap()["status"].clone()).unwrap()
}

fn conditions(sim: &Sim, key: &Key) -> Vec<(String, String)> {
    let conditions = status(sim, key).conditions.into_iter();
    conditions.map(|c| (c.type_, c.reason)).collect()
}

fn has_ended(sim: &Sim, key: &Key, statement: &str, reason: &str) {
    let announcement = match statement {
        "Complete" => "SuccessCriteriaMet",
        _ => "FailureTarget",
    };
    let pair = |type_: &str| (type_.to_owned(), reason.to_owned());
    assert_eq!(conditions(sim, key), [pair(announcement), pair(statement)]);
    let tracked = |(_, pod): (Key, Value)| !pod["metadata"]["finalizers"][0].is_null();
    assert!(!sim.all::<Pod>().into_iter().any(tracked), "untracked pods");
}

#[test]
fn pods_run_until_enough_have_succeeded() {
    let mut sim = sim();
    let key = create(&mut sim, json!({}));
    let first = running(&sim);
    assert_eq!(first.len(), 2);
    let pod = sim.get::<Pod>(&first[0]).unwrap();
    assert_eq!(pod["metadata"]["finalizers"], json!([TRACKING_FINALIZER]));
    assert_eq!(status(&sim, &key).active, 2);
    assert!(status(&sim, &key).start_time.is_some());
    end(&mut sim, &first[0], 0);
    assert_eq!(status(&sim, &key).succeeded, 1);
    assert_eq!(running(&sim).len(), 2, "one has succeeded, two are to come");
    for pod in running(&sim) {
        end(&mut sim, &pod, 0);
    }
    has_ended(&sim, &key, "Complete", "CompletionsReached");
    let status = status(&sim, &key);
    assert_eq!((status.succeeded, status.active, status.failed), (3, 0, 0));
    assert_eq!(status.completion_time.map(|t| t.0), Some(sim.now));
    assert_eq!(sim.all::<Pod>().len(), 3, "ended pods stay");
}

#[test]
fn a_pod_that_is_deleted_before_it_was_counted_is_counted_all_the_same() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"completions": 2}));
    let pods = running(&sim);
    // Ended and deleted before the controller looks.
    sim.edit::<Pod>(&pods[0], |pod| pod["status"]["phase"] = "Succeeded".into());
    sim.remove::<Pod>(&pods[0]);
    assert!(sim.get::<Pod>(&pods[0]).is_some(), "its finalizer holds it");
    sim.settle();
    assert!(sim.get::<Pod>(&pods[0]).is_none());
    assert_eq!(status(&sim, &key).succeeded, 1);
}

#[test]
fn a_finalizer_goes_only_after_the_status_knows_of_the_pod() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"completions": 2}));
    let pod = running(&sim)[0].clone();
    sim.edit::<Pod>(&pod, |pod| pod["status"]["phase"] = "Succeeded".into());
    let accounting = sim.plan(0, &key);
    assert!(accounting.writes.is_empty(), "{accounting:?}");
    let text = format!("{:?}", accounting.status);
    assert!(text.contains("uncountedTerminatedPods"), "{text}");
    sim.carry_out(accounting);
    let release = sim.plan(0, &key);
    assert_eq!(
        release.writes,
        [manage::untrack(sim.world.pods.get(&pod).unwrap())]
    );
}

#[test]
fn a_failed_pod_is_replaced_after_a_pause() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"parallelism": 1, "completions": 1}));
    let pod = running(&sim)[0].clone();
    end(&mut sim, &pod, 1);
    assert_eq!(running(&sim), []);
    assert_eq!(status(&sim, &key).failed, 1);
    assert_eq!(
        sim.plan(0, &key).requeue_after,
        Some(Duration::from_secs(10))
    );
    sim.advance(10);
    sim.wake(0, &key);
    sim.settle();
    assert_eq!(running(&sim).len(), 1);
}

#[test]
fn too_many_failures_end_the_job_and_its_other_pods() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"backoffLimit": 0}));
    let pods = running(&sim);
    end(&mut sim, &pods[0], 1);
    assert_eq!(running(&sim), []);
    has_ended(&sim, &key, "Failed", "BackoffLimitExceeded");
    assert_eq!(
        status(&sim, &key).failed,
        2,
        "what had not ended has failed"
    );
}

#[test]
fn a_job_that_takes_too_long_fails() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"activeDeadlineSeconds": 30}));
    assert_eq!(
        sim.plan(0, &key).requeue_after,
        Some(Duration::from_secs(30))
    );
    sim.advance(30);
    sim.wake(0, &key);
    sim.settle();
    has_ended(&sim, &key, "Failed", "DeadlineExceeded");
}

#[test]
fn a_suspended_job_has_no_pods_and_counts_no_failures_of_them() {
    let mut sim = sim();
    let key = create(&mut sim, json!({}));
    sim.edit::<Job>(&key, |job| job["spec"]["suspend"] = true.into());
    sim.settle();
    assert_eq!(sim.all::<Pod>().len(), 0);
    assert_eq!(conditions(&sim, &key)[0].1, "JobSuspended");
    assert_eq!(status(&sim, &key).failed, 0);
    assert_eq!(status(&sim, &key).start_time, None);
    sim.advance(5);
    sim.edit::<Job>(&key, |job| job["spec"]["suspend"] = false.into());
    sim.settle();
    assert_eq!(running(&sim).len(), 2);
    assert_eq!(status(&sim, &key).start_time.map(|t| t.0), Some(sim.now));
}

#[test]
fn less_parallelism_takes_pods_away_without_a_failure() {
    let mut sim = sim();
    let key = create(&mut sim, json!({}));
    sim.edit::<Job>(&key, |job| job["spec"]["parallelism"] = 1.into());
    sim.settle();
    assert_eq!(running(&sim).len(), 1);
    assert_eq!(status(&sim, &key).failed, 0);
}

#[test]
fn an_indexed_job_has_one_pod_per_index() {
    let mut sim = sim();
    let key = create(
        &mut sim,
        indexed(json!({"parallelism": 2, "completions": 3})),
    );
    let pod = sim.get::<Pod>(&pod_of(&sim, 1)).unwrap().clone();
    assert_eq!(pod["spec"]["hostname"], "j-1");
    assert_eq!(pod["metadata"]["labels"][COMPLETION_INDEX], "1");
    assert_eq!(
        pod["spec"]["containers"][0]["env"][0]["name"],
        "JOB_COMPLETION_INDEX"
    );
    assert!(
        pod["metadata"]["name"]
            .as_str()
            .unwrap()
            .starts_with("j-1-")
    );
    end_index(&mut sim, 1, 0);
    assert_eq!(status(&sim, &key).completed_indexes, "1");
    end_index(&mut sim, 2, 0);
    end_index(&mut sim, 0, 0);
    has_ended(&sim, &key, "Complete", "CompletionsReached");
    assert_eq!(status(&sim, &key).completed_indexes, "0-2");
}

#[test]
fn an_index_that_fails_too_often_fails_alone() {
    let mut sim = sim();
    let spec = json!({"parallelism": 2, "completions": 2, "backoffLimitPerIndex": 1,
        "backoffLimit": i32::MAX});
    let key = create(&mut sim, indexed(spec));
    end_index(&mut sim, 0, 1);
    assert_eq!(status(&sim, &key).failed_indexes.as_deref(), Some(""));
    sim.advance(10);
    sim.wake(0, &key);
    sim.settle();
    let second = pod_of(&sim, 0);
    let annotations = sim.get::<Pod>(&second).unwrap()["metadata"]["annotations"].clone();
    assert_eq!(
        annotations["batch.kubernetes.io/job-index-failure-count"],
        "1"
    );
    end(&mut sim, &second, 1);
    assert_eq!(status(&sim, &key).failed_indexes.as_deref(), Some("0"));
    assert_eq!(running(&sim).len(), 1, "the other index goes on");
    end_index(&mut sim, 1, 0);
    has_ended(&sim, &key, "Failed", "FailedIndexes");
    assert_eq!(status(&sim, &key).failed, 2);
}

#[test]
fn too_many_failed_indexes_end_the_job() {
    let mut sim = sim();
    let spec = json!({"parallelism": 3, "completions": 4, "backoffLimitPerIndex": 0,
        "maxFailedIndexes": 1, "backoffLimit": i32::MAX});
    let key = create(&mut sim, indexed(spec));
    end_index(&mut sim, 0, 1);
    assert!(conditions(&sim, &key).is_empty());
    end_index(&mut sim, 1, 1);
    has_ended(&sim, &key, "Failed", "MaxFailedIndexesExceeded");
    assert_eq!(running(&sim), []);
}

#[test]
fn a_success_policy_ends_the_job_while_indexes_are_left() {
    let mut sim = sim();
    let spec = json!({"parallelism": 2, "completions": 5,
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    let key = create(&mut sim, indexed(spec));
    end_index(&mut sim, 0, 0);
    has_ended(&sim, &key, "Complete", "SuccessPolicy");
    let status = status(&sim, &key);
    // A pod that is taken away counts as failed unless only failed ones are replaced.
    assert_eq!((status.succeeded, status.failed), (1, 1));
    assert_eq!(running(&sim), []);
}

#[test]
fn a_failure_policy_ends_the_job_or_lets_a_failure_pass() {
    let mut sim = sim();
    let rule = |action: &str, code: i32| json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}});
    let spec = json!({"backoffLimit": 0, "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [rule("Ignore", 2), rule("FailJob", 3)]}});
    let key = create(&mut sim, spec);
    end_first(&mut sim, 2);
    assert!(conditions(&sim, &key).is_empty());
    assert_eq!(status(&sim, &key).failed, 0);
    end_first(&mut sim, 3);
    has_ended(&sim, &key, "Failed", "PodFailurePolicy");
}

#[test]
fn a_replacement_waits_for_the_end_of_its_predecessor_if_asked_to() {
    let mut sim = sim();
    let key = create(
        &mut sim,
        json!({"parallelism": 1, "completions": 1, "podReplacementPolicy": "Failed"}),
    );
    let pod = running(&sim)[0].clone();
    let now = sim.now.to_string();
    sim.edit::<Pod>(&pod, |pod| {
        pod["status"]["phase"] = "Running".into();
        pod["metadata"]["deletionTimestamp"] = now.into();
    });
    sim.settle();
    assert_eq!(running(&sim), []);
    assert_eq!(status(&sim, &key).terminating, Some(1));
    end(&mut sim, &pod, 1);
    sim.advance(10);
    sim.wake(0, &key);
    sim.settle();
    assert_eq!(running(&sim).len(), 1);
}

#[test]
fn pods_are_let_go_when_their_job_is_gone() {
    let mut sim = sim();
    let key = create(&mut sim, json!({}));
    let pods = running(&sim);
    sim.remove::<Job>(&key);
    sim.settle();
    let pod = sim.get::<Pod>(&pods[0]).unwrap();
    assert_eq!(pod["metadata"]["finalizers"], json!([]));
}

#[test]
fn a_job_of_another_controller_is_left_alone() {
    let mut sim = sim();
    create(&mut sim, json!({"managedBy": "acme.example/jobs"}));
    assert_eq!(sim.all::<Pod>().len(), 0);
}

#[test]
fn a_matching_orphan_is_adopted_and_tracked() {
    let mut sim = sim();
    let orphan = sim.create::<Pod>(json!({"metadata":
        {"namespace": "ns", "name": "orphan", "labels": {"job": "j"}}}));
    create(&mut sim, json!({"parallelism": 1, "completions": 1}));
    assert_eq!(sim.all::<Pod>().len(), 1);
    let meta = &sim.get::<Pod>(&orphan).unwrap()["metadata"];
    assert_eq!(meta["ownerReferences"][0]["kind"], "Job");
    assert_eq!(meta["finalizers"], json!([TRACKING_FINALIZER]));
    sim.edit::<Pod>(&orphan, |pod| pod["metadata"]["labels"] = json!({}));
    sim.settle();
    let meta = &sim.get::<Pod>(&orphan).unwrap()["metadata"];
    assert_eq!(meta["ownerReferences"], json!([]));
    assert_eq!(meta["finalizers"], json!([]));
}
