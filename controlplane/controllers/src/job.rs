//! Job: pods until enough of them have succeeded, or too many have failed.
//!
//! Mechanism of pkg/controller/job/job_controller.go. A pod carries a finalizer until the status
//! accounts for it, so that none is counted twice or forgotten whatever is deleted when:
//!
//! ```text
//! ended → its uid (or its index) in the status → finalizer off → uid out of the status, into a count
//! ```
//!
//! Upstream goes through that in one sync; here each plan does the next step only and looks at what
//! is stored: a finalizer goes when the stored status accounts for its pod. In the same way the end
//! of a Job is announced (`FailureTarget`, `SuccessCriteriaMet`) before it is stated (`Failed`,
//! `Complete`).

mod backoff;
mod finish;
mod indexes;
mod manage;
pub mod orphans;
mod policy;
mod track;
pub mod ttl;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use crate::claim::{claim_those, matches, owners, selector};
use crate::kinds::{Job, JobStatus, Pod};
use crate::object::{Key, MetaExt, time};
use crate::plan::{Controller, Cx, Plan};
use crate::view::{Change, World};
use crate::write::{Notes, Write};
use backoff::Record;
use indexes::Indexes;
use policy::Verdict;

/// Finalizer of a pod that no status accounts for yet.
pub const TRACKING_FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The `managedBy` that means this controller.
const CONTROLLER_NAME: &str = "kubernetes.io/job-controller";
/// Annotation and label of a pod with its index.
const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";

#[derive(Debug, Default)]
pub struct JobController {
    /// Recent failures of unfinished Jobs, each with the uid of its Job.
    records: HashMap<Key, (String, Record)>,
}

impl Controller for JobController {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>) {
        match change {
            Change::Job(delta) => keys.push(delta.key()),
            Change::Pod(delta) => {
                for pod in delta.both() {
                    let of = |job: &Job| selector(&job.spec.selector);
                    owners(&world.jobs, &pod.metadata, of, keys);
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let job = world.jobs.get(key);
        let Some(job) = job.filter(|job| is_ours(job) && job.finished().is_none()) else {
            self.records.remove(key);
            return Plan::nothing();
        };
        let record = self.records.entry(key.clone()).or_default();
        if record.0 != job.metadata.uid() {
            *record = (job.metadata.uid().to_owned(), Record::default());
        }
        plan(world, job, &mut record.1, cx)
    }
}

/// Not left to another controller.
fn is_ours(job: &Job) -> bool {
    let manager = job.spec.managed_by.as_deref();
    manager.is_none_or(|manager| manager == CONTROLLER_NAME)
}

/// A Job with its pods and what they come to.
struct Sync<'a> {
    job: &'a Job,
    pods: Vec<Arc<Pod>>,
    active: Vec<Arc<Pod>>,
    terminating: i32,
    /// Pods that succeeded or failed, accounted for or not.
    succeeded: i32,
    failed: i32,
    /// Of an indexed Job: the indexes that have succeeded, and those that have failed for good
    /// where failures are limited by index.
    done: Indexes,
    hopeless: Option<Indexes>,
    /// Failed pods that wait for their replacement, which takes their count of failures over.
    replaced: BTreeMap<i32, Arc<Pod>>,
    now: Timestamp,
}

fn plan(world: &World, job: &Arc<Job>, record: &mut Record, cx: &Cx<'_>) -> Plan {
    let Some(selector) = selector(&job.spec.selector) else {
        return Plan::nothing();
    };
    let is_meant = |meta: &ObjectMeta| matches(&selector, meta);
    let claim = claim_those(&world.pods, is_meant, &**job, Some(TRACKING_FINALIZER));
    if !claim.writes.is_empty() {
        return Plan::of(claim.writes);
    }
    let sync = Sync::new(job, claim.owned, record, cx.now);
    let mut plan = Plan::nothing();
    let finish = finish::finish(&sync, &mut plan);
    let mut status = JobStatus {
        active: count(sync.active.len()),
        ready: Some(count(
            sync.active.iter().filter(|pod| pod.is_ready()).count(),
        )),
        terminating: Some(sync.terminating),
        ..job.status.clone()
    };
    if status.start_time.is_none() && !job.spec.suspend {
        status.start_time = Some(time(cx.now));
    }
    match &finish {
        Some(_) => manage::stop(&sync, &mut plan),
        None if !job.metadata.is_deleting() => {
            let wait = record.remaining(cx.now);
            manage::manage(&sync, wait, &mut plan);
        }
        None => {}
    }
    let suspension = match &finish {
        None if !job.metadata.is_deleting() => finish::suspension(&sync, &mut status),
        _ => None,
    };
    // What has pods to delete first is not finished yet.
    let finish = finish.filter(|_| sync.active.is_empty());
    let end = track::track(&sync, finish.as_ref(), &mut status, &mut plan);
    // Answers to creations and deletions bring the next look at once; its status is a truer one.
    let is_passing = !plan.writes.is_empty() && cx.failure.is_none();
    if status != job.status && (!is_passing || accounts(&status, &job.status)) {
        let write = Write::status(&**job, &status);
        plan.status = Some(match end.or(suspension) {
            Some(note) => write.noting(note),
            None => write,
        });
    }
    plan
}

/// More than the counts of present pods has changed.
fn accounts(new: &JobStatus, old: &JobStatus) -> bool {
    let present = |status: &JobStatus| JobStatus {
        active: 0,
        ready: None,
        terminating: None,
        start_time: None,
        ..status.clone()
    };
    present(new) != present(old)
}

impl<'a> Sync<'a> {
    fn new(job: &'a Job, mut pods: Vec<Arc<Pod>>, record: &mut Record, now: Timestamp) -> Self {
        if is_indexed(job) {
            pods.sort_by_key(|pod| index(pod));
        }
        let active = pods.iter().filter(|pod| pod.is_active());
        let mut sync = Self {
            job,
            active: active.cloned().collect(),
            terminating: count(pods.iter().filter(|pod| pod.is_terminating()).count()),
            pods,
            succeeded: 0,
            failed: 0,
            done: Indexes::default(),
            hopeless: None,
            replaced: BTreeMap::new(),
            now,
        };
        sync.count(record);
        if is_indexed(job) {
            sync.index();
        }
        sync
    }

    /// Counts ended pods: those of the status, and those it does not account for yet.
    fn count(&mut self, record: &mut Record) {
        let uncounted = self.job.status.uncounted_terminated_pods.clone();
        let uncounted = uncounted.unwrap_or_default();
        let is_new = |pod: &&Pod, known: &[String]| {
            is_tracked(pod) && self.is_valid(pod) && !known.iter().any(|u| u == pod.metadata.uid())
        };
        let all = || self.pods.iter().map(|pod| &**pod);
        let succeeded: Vec<&Pod> = all()
            .filter(|pod| is_succeeded(pod) && is_new(pod, &uncounted.succeeded))
            .collect();
        let failed: Vec<&Pod> = all()
            .filter(|pod| self.is_failed(pod) && is_new(pod, &uncounted.failed))
            .collect();
        record.take_in(succeeded.iter().copied(), failed.iter().copied());
        let counted = failed
            .iter()
            .filter(|pod| policy::judge(self.job, pod) != Verdict::Ignore);
        let status = &self.job.status;
        self.failed = status.failed + count(counted.count() + uncounted.failed.len());
        self.succeeded = status.succeeded + count(succeeded.len() + uncounted.succeeded.len());
    }

    fn index(&mut self) {
        let tracked = || {
            let pods = self.pods.iter();
            pods.filter(|pod| is_tracked(pod) && self.is_valid(pod))
        };
        let succeeded: Indexes = tracked()
            .filter(|pod| is_succeeded(pod))
            .filter_map(|pod| index(pod))
            .collect();
        let hopeless = self.job.spec.backoff_limit_per_index.map(|limit| {
            let text = self.job.status.failed_indexes.as_deref().unwrap_or("");
            let new = tracked().filter(|pod| self.index_has_failed(pod, limit));
            let new: Indexes = new.filter_map(|pod| index(pod)).collect();
            Indexes::parse(text, self.completions()).union(&new)
        });
        self.done = self.stored_done().union(&succeeded);
        self.succeeded = self.done.len();
        if let Some(hopeless) = hopeless {
            self.replaced = self.awaiting_replacement(&hopeless);
            self.hopeless = Some(hopeless);
        }
    }

    /// `isIndexFailed`.
    fn index_has_failed(&self, pod: &Pod, limit: i32) -> bool {
        self.is_failed(pod)
            && match policy::judge(self.job, pod) {
                Verdict::FailIndex => true,
                Verdict::Ignore => false,
                Verdict::Count | Verdict::FailJob(_) => manage::failures(pod) >= limit,
            }
    }

    /// The last failed pod of each index that has none now and needs another
    /// (`getPodsWithDelayedDeletionPerIndex`).
    fn awaiting_replacement(&self, hopeless: &Indexes) -> BTreeMap<i32, Arc<Pod>> {
        let active: Indexes = self.active.iter().filter_map(|pod| index(pod)).collect();
        let mut last: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        let rank = |pod: &Pod| (manage::all_failures(pod), backoff::finished_at(pod));
        for pod in &self.pods {
            let Some(index) = index(pod).filter(|_| is_tracked(pod) && self.is_failed(pod)) else {
                continue;
            };
            let is_settled = self.done.contains(index)
                || hopeless.contains(index)
                || active.contains(index)
                || index >= self.completions();
            let is_later = last
                .get(&index)
                .is_none_or(|other| rank(other) <= rank(pod));
            if !is_settled && is_later {
                last.insert(index, pod.clone());
            }
        }
        last
    }

    /// Indexes the stored status says have succeeded.
    fn stored_done(&self) -> Indexes {
        Indexes::parse(&self.job.status.completed_indexes, self.completions())
    }

    fn completions(&self) -> i32 {
        self.job.spec.completions.unwrap_or(0)
    }

    /// Of an indexed Job only pods with an index in range count.
    fn is_valid(&self, pod: &Pod) -> bool {
        !is_indexed(self.job) || index(pod).is_some_and(|index| index < self.completions())
    }

    /// Pods on their way out count as failed, unless replacements wait for their end.
    fn is_failed(&self, pod: &Pod) -> bool {
        pod.status.phase == "Failed"
            || !replaces_failed_only(self.job) && pod.metadata.is_deleting() && !is_succeeded(pod)
    }
}

fn is_indexed(job: &Job) -> bool {
    job.spec.completion_mode.as_deref() == Some("Indexed")
}

fn replaces_failed_only(job: &Job) -> bool {
    job.spec.pod_replacement_policy.as_deref() == Some("Failed")
}

fn is_succeeded(pod: &Pod) -> bool {
    pod.status.phase == "Succeeded"
}

fn is_tracked(pod: &Pod) -> bool {
    let finalizers = pod.metadata.finalizers.as_deref().unwrap_or(&[]);
    finalizers.iter().any(|f| f == TRACKING_FINALIZER)
}

/// The pod's completion index.
fn index(pod: &Pod) -> Option<i32> {
    let text = pod.metadata.annotation(COMPLETION_INDEX)?;
    text.parse().ok().filter(|index| *index >= 0)
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Notes about a status write that say one thing when it is done.
fn on_success(job: &Job, reason: &'static str, message: &str, warning: bool) -> Notes {
    Notes {
        regarding: kube::Resource::object_ref(job, &()),
        done: Some((reason, message.to_owned())),
        done_is_warning: warning,
        failed: None,
    }
}

#[cfg(test)]
mod tests;
