//! CronJob: a Job whenever its schedule says so.
//!
//! Mechanism of pkg/controller/cronjob (cronjob_controllerv2.go, utils.go). The name of a Job is made
//! of the minute it is due, so that none is made twice.

mod due;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::{CronJob, CronJobStatus, Job, Projection};
use crate::object::{Key, MetaExt, controller_ref};
use crate::plan::{Controller, Cx, Note, Plan};
use crate::view::{Change, World};
use crate::write::{Notes, Propagation, Verb, Write};
use due::Due;

/// Annotation of a Job with the time it was due.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Clocks differ a little: looked at this much after the time.
const LATER: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub struct CronJobController;

impl Controller for CronJobController {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn react(&mut self, _: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::CronJob(delta) => keys.push(delta.key()),
            Change::Job(delta) => {
                let meta = &delta.latest().metadata;
                if let Some(owner) = meta.controller().filter(|owner| owner.kind == "CronJob") {
                    let namespace = meta.namespace.as_deref().unwrap_or("");
                    keys.push(Key::new(namespace, &owner.name));
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        match world.cronjobs.get(key) {
            Some(cron) => plan(world, cron, cx),
            None => Plan::nothing(),
        }
    }
}

fn plan(world: &World, cron: &Arc<CronJob>, cx: &Cx<'_>) -> Plan {
    let jobs: Vec<&Arc<Job>> = world.jobs.owned_by(cron.metadata.uid()).collect();
    let mut plan = Plan::nothing();
    let mut status = cron.status.clone();
    plan.writes = history(cron, &jobs);
    follow(cron, &jobs, &mut status, &mut plan);
    if !cron.metadata.is_deleting() && !cron.spec.suspend {
        start(world, cron, &jobs, &mut status, &mut plan, cx);
    }
    if status != cron.status {
        plan.status = Some(Write::status(&**cron, &status));
    }
    plan
}

/// Brings the status up to date with what became of the Jobs.
fn follow(cron: &CronJob, jobs: &[&Arc<Job>], status: &mut CronJobStatus, plan: &mut Plan) {
    for job in jobs {
        let uid = job.metadata.uid();
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let is_listed = |status: &CronJobStatus| {
            status
                .active
                .iter()
                .any(|active| active.uid.as_deref() == Some(uid))
        };
        let Some(end) = job.finished() else {
            // Its creation was answered, but not noted; or someone else gave it to us.
            if !is_listed(status) && !job.metadata.is_deleting() {
                status.active.push(reference(job));
                status.last_schedule_time = scheduled_at(job)
                    .map(Time)
                    .max(status.last_schedule_time.take());
            }
            continue;
        };
        if is_listed(status) {
            status
                .active
                .retain(|active| active.uid.as_deref() != Some(uid));
            let message = format!("Saw completed job: {name}, condition: {}", end.type_);
            plan.events
                .push(Note::normal(cron, "SawCompletedJob", message));
        }
        if end.type_ == "Complete" {
            let at = job.status.completion_time.clone();
            status.last_successful_time = at.max(status.last_successful_time.take());
        }
    }
    status.active.retain(|active| {
        let exists = jobs
            .iter()
            .any(|job| active.uid.as_deref() == Some(job.metadata.uid()));
        if !exists {
            let name = active.name.as_deref().unwrap_or_default();
            let message = format!("Active job went missing: {name}");
            plan.events.push(Note::normal(cron, "MissingJob", message));
        }
        exists
    });
}

/// Starts the Job that is due, and asks for a look when the next one is.
fn start(
    world: &World,
    cron: &CronJob,
    jobs: &[&Arc<Job>],
    status: &mut CronJobStatus,
    plan: &mut Plan,
    cx: &Cx<'_>,
) {
    let due = match due::due(cron, cx.now) {
        Ok(due) => due,
        Err(problem) => {
            let (reason, message) = problem.note();
            return plan.events.push(Note::warning(cron, reason, message));
        }
    };
    let Due {
        at,
        next,
        many_missed,
        zone,
    } = due;
    if let Some(next) = next {
        let wait = Duration::try_from(next.duration_since(cx.now)).unwrap_or(Duration::ZERO);
        plan.requeue(wait + LATER);
    }
    let Some(at) = at else { return };
    let is_noted = status
        .last_schedule_time
        .as_ref()
        .is_some_and(|last| last.0 == at);
    let name = name(cron, at);
    let key = Key::new(cron.metadata.namespace.as_deref().unwrap_or(""), &name);
    if is_noted
        || status
            .active
            .iter()
            .any(|active| active.name.as_ref() == Some(&name))
    {
        return;
    }
    if many_missed {
        plan.events.push(too_many_missed(cron));
    }
    if world.jobs.get(&key).is_some() {
        // Finished, or someone else's: that time is taken.
        status.last_schedule_time = Some(Time(at));
        return;
    }
    let running = jobs.iter().filter(|job| job.finished().is_none());
    match cron.spec.concurrency_policy.as_str() {
        "Forbid" if !status.active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency \
                           policy is Forbid";
            plan.events
                .push(Note::normal(cron, "JobAlreadyActive", message.to_owned()));
            return;
        }
        "Replace" => {
            plan.writes.extend(running.map(|job| deletion(cron, job)));
            status.active.clear();
        }
        _ => {}
    }
    // The answer brings the Job into the view, and with it into the status.
    plan.writes.push(creation(cron, key, at, &zone));
}

fn too_many_missed(cron: &CronJob) -> Note {
    let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or \
                   check clock skew";
    Note::warning(cron, "TooManyMissedTimes", message.to_owned())
}

fn name(cron: &CronJob, at: Timestamp) -> String {
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{}", at.as_second() / 60)
}

fn creation(cron: &CronJob, key: Key, at: Timestamp, zone: &due::Zone) -> Write {
    let template = &cron.spec.job_template;
    let owner = controller_ref("batch/v1", CronJob::RESOURCE.kind, &cron.metadata);
    let mut annotations = template["metadata"]["annotations"].clone();
    if !annotations.is_object() {
        annotations = json!({});
    }
    annotations[SCHEDULED_AT] = due::text(at, zone).into();
    let mut body = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": &*key.name,
            "namespace": &*key.namespace,
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": template["spec"],
    });
    if let Value::Object(labels) = &template["metadata"]["labels"] {
        body["metadata"]["labels"] = Value::Object(labels.clone());
    }
    let notes = Notes {
        regarding: kube::Resource::object_ref(cron, &()),
        done: Some(("SuccessfulCreate", "Created job {name}".to_owned())),
        failed: Some(("FailedCreate", "Error creating job: {error}".to_owned())),
        ..Notes::default()
    };
    Write::create(&Job::RESOURCE, key, body).noting(notes)
}

/// When a Job of ours was due.
fn scheduled_at(job: &Job) -> Option<Timestamp> {
    job.metadata.annotation(SCHEDULED_AT)?.parse().ok()
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// Deletes the oldest finished Jobs beyond the limits (`cleanupFinishedJobs`).
fn history(cron: &CronJob, jobs: &[&Arc<Job>]) -> Vec<Write> {
    let spec = &cron.spec;
    let limits = [
        ("Complete", spec.successful_jobs_history_limit),
        ("Failed", spec.failed_jobs_history_limit),
    ];
    let mut writes = Vec::new();
    for (end, limit) in limits {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
            continue;
        };
        let ended = |job: &&&Arc<Job>| job.finished().is_some_and(|c| c.type_ == end);
        let mut ended: Vec<&Arc<Job>> = jobs.iter().filter(ended).copied().collect();
        ended.retain(|job| !job.metadata.is_deleting());
        let started = |job: &Job| job.status.start_time.as_ref().map(|t| t.0);
        ended.sort_by_key(|job| {
            (
                started(job).is_none(),
                started(job),
                job.metadata.name.clone(),
            )
        });
        let surplus = ended.len().saturating_sub(limit);
        writes.extend(
            ended
                .into_iter()
                .take(surplus)
                .map(|job| deletion(cron, job)),
        );
    }
    writes
}

fn deletion(cron: &CronJob, job: &Job) -> Write {
    let notes = Notes {
        regarding: kube::Resource::object_ref(cron, &()),
        done: Some(("SuccessfulDelete", "Deleted job {name}".to_owned())),
        failed: Some(("FailedDelete", "Deleted job: {error}".to_owned())),
        ..Notes::default()
    };
    let verb = Verb::Delete {
        uid: job.metadata.uid().to_owned(),
        resource_version: None,
        grace_seconds: None,
        propagation: Some(Propagation::Background),
    };
    Write {
        resource: &Job::RESOURCE,
        key: Key::of(&job.metadata),
        verb,
        notes: Some(Box::new(notes)),
    }
}

#[cfg(test)]
mod tests;
