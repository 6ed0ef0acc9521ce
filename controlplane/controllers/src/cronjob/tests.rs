//! CronJobs over a simulated API.

use serde_json::{Value, json};

use super::*;
use crate::sim::{Sim, condition};

fn create(sim: &mut Sim, spec: Value) -> Key {
    let mut cron = json!({
        "metadata": {"namespace": "ns", "name": "c"},
        "spec": {
            "schedule": "* * * * *",
            "concurrencyPolicy": "Allow",
            "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"of": "c"}}, "spec": {"parallelism": 1}},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        cron["spec"][key] = value.clone();
    }
    let key = sim.create::<CronJob>(cron);
    sim.settle();
    key
}

fn sim() -> Sim {
    Sim::new(vec![Box::new(CronJobController)])
}

/// Goes to the next full minute.
fn minute(sim: &mut Sim, key: &Key) {
    sim.advance(60 - sim.now.as_second() % 60);
    sim.wake(0, key);
    sim.settle();
}

fn jobs(sim: &Sim) -> Vec<Key> {
    sim.all::<Job>().into_iter().map(|(key, _)| key).collect()
}

fn finish(sim: &mut Sim, job: &Key, end: &str) {
    let ended = condition(end, "True", sim.now);
    let now = sim.now.to_string();
    sim.edit::<Job>(job, |job| {
        job["status"] = json!({"conditions": [ended], "startTime": now});
        if end == "Complete" {
            job["status"]["completionTime"] = now.into();
        }
    });
    sim.settle();
}

fn active(sim: &Sim, key: &Key) -> usize {
    let status = &sim.get::<CronJob>(key).unwrap()["status"]["active"];
    status.as_array().map_or(0, Vec::len)
}

#[test]
fn every_minute_has_its_job_once() {
    let mut sim = sim();
    let key = create(&mut sim, json!({}));
    assert_eq!(jobs(&sim), []);
    minute(&mut sim, &key);
    sim.wake(0, &key);
    sim.settle();
    let made = jobs(&sim);
    assert_eq!(
        made,
        [Key::new("ns", &format!("c-{}", sim.now.as_second() / 60))]
    );
    let job = sim.get::<Job>(&made[0]).unwrap();
    assert_eq!(job["metadata"]["labels"]["of"], "c");
    assert_eq!(
        job["metadata"]["annotations"][SCHEDULED_AT],
        sim.now.to_string()
    );
    let status = &sim.get::<CronJob>(&key).unwrap()["status"];
    assert_eq!(status["lastScheduleTime"], sim.now.to_string());
    assert_eq!(active(&sim, &key), 1);
    minute(&mut sim, &key);
    assert_eq!(active(&sim, &key), 2, "concurrently");
}

#[test]
fn a_finished_job_is_active_no_more_and_only_some_are_kept() {
    let mut sim = sim();
    let key = create(&mut sim, json!({}));
    let mut last = sim.now;
    for _ in 0..3 {
        minute(&mut sim, &key);
        let job = jobs(&sim).pop().unwrap();
        finish(&mut sim, &job, "Complete");
        last = sim.now;
    }
    assert_eq!(active(&sim, &key), 0);
    assert_eq!(jobs(&sim).len(), 1);
    let status = &sim.get::<CronJob>(&key).unwrap()["status"];
    assert_eq!(status["lastSuccessfulTime"], last.to_string());
}

#[test]
fn forbid_starts_nothing_while_something_runs() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"concurrencyPolicy": "Forbid"}));
    minute(&mut sim, &key);
    let first = jobs(&sim);
    minute(&mut sim, &key);
    assert_eq!(jobs(&sim), first);
    finish(&mut sim, &first[0], "Failed");
    assert_eq!(jobs(&sim).len(), 2, "the missed one starts when it may");
}

#[test]
fn replace_puts_the_new_one_in_place_of_the_old_one() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"concurrencyPolicy": "Replace"}));
    minute(&mut sim, &key);
    let first = jobs(&sim);
    minute(&mut sim, &key);
    assert_eq!(jobs(&sim).len(), 1);
    assert_ne!(jobs(&sim), first);
    assert_eq!(active(&sim, &key), 1);
}

#[test]
fn nothing_starts_while_suspended() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"suspend": true}));
    minute(&mut sim, &key);
    assert_eq!(jobs(&sim), []);
}

#[test]
fn a_schedule_that_cannot_be_read_is_said_so() {
    let mut sim = sim();
    let key = create(&mut sim, json!({"schedule": "nonsense"}));
    let plan = sim.plan(0, &key);
    assert_eq!(plan.events[0].reason, "UnparseableSchedule");
    assert!(plan.writes.is_empty() && plan.requeue_after.is_none());
}

#[test]
fn a_job_that_went_missing_is_forgotten() {
    let mut sim = sim();
    let key = create(&mut sim, json!({}));
    minute(&mut sim, &key);
    let job = jobs(&sim)[0].clone();
    sim.remove::<Job>(&job);
    sim.settle();
    assert_eq!(active(&sim, &key), 0);
    assert_eq!(jobs(&sim), [], "its time is not due again");
}
