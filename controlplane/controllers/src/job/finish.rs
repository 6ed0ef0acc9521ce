//! Whether a Job has come to its end, and why; and whether it is suspended.
//!
//! The order in which ends are looked for is upstream's (`syncJob`): what was announced stays, then
//! the pods' failure policy, limits, deadline, limits by index, success policy, completions.

use std::time::Duration;

use super::{Sync, is_indexed, on_success, policy};
use crate::kinds::{Condition, Job, JobStatus, condition};
use crate::object::time;
use crate::plan::Plan;
use crate::write::Notes;
use policy::Verdict;

pub const SUCCESS_ANNOUNCED: &str = "SuccessCriteriaMet";
pub const FAILURE_ANNOUNCED: &str = "FailureTarget";
const SUSPENDED: &str = "Suspended";

/// The end of a Job.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    pub success: bool,
    pub reason: String,
    pub message: String,
    /// The stored status says so already.
    pub announced: bool,
}

impl Finish {
    fn new(success: bool, reason: &str, message: &str) -> Self {
        Self {
            success,
            reason: reason.to_owned(),
            message: message.to_owned(),
            announced: false,
        }
    }

    fn failure(reason: &str, message: &str) -> Self {
        Self::new(false, reason, message)
    }

    fn announced(condition: &Condition) -> Self {
        Self {
            announced: true,
            ..Self::new(
                condition.type_ == SUCCESS_ANNOUNCED,
                &condition.reason,
                &condition.message,
            )
        }
    }
}

/// The end of the Job, if it has come.
pub fn finish(sync: &Sync<'_>, plan: &mut Plan) -> Option<Finish> {
    let announced = [SUCCESS_ANNOUNCED, FAILURE_ANNOUNCED]
        .into_iter()
        .filter_map(|type_| condition(&sync.job.status.conditions, type_))
        .find(|condition| condition.status == "True");
    if let Some(condition) = announced {
        return Some(Finish::announced(condition));
    }
    by_policy(sync)
        .or_else(|| by_limit(sync, plan))
        .or_else(|| by_index(sync))
        .or_else(|| reached(sync))
}

fn by_policy(sync: &Sync<'_>) -> Option<Finish> {
    let failed = sync.pods.iter().filter(|pod| sync.is_failed(pod));
    failed
        .map(|pod| policy::judge(sync.job, pod))
        .find_map(|verdict| match verdict {
            Verdict::FailJob(message) => Some(Finish::failure("PodFailurePolicy", &message)),
            Verdict::Count | Verdict::Ignore | Verdict::FailIndex => None,
        })
}

/// Failures and time are limited.
fn by_limit(sync: &Sync<'_>, plan: &mut Plan) -> Option<Finish> {
    let spec = &sync.job.spec;
    let limit = spec.backoff_limit.unwrap_or(i32::MAX);
    if sync.failed > limit || restarts_exceed(sync, limit) {
        let message = "Job has reached the specified backoff limit";
        return Some(Finish::failure("BackoffLimitExceeded", message));
    }
    let (Some(limit), Some(start), false) = (
        spec.active_deadline_seconds,
        &sync.job.status.start_time,
        spec.suspend,
    ) else {
        return None;
    };
    let left = start.0.as_second() + limit - sync.now.as_second();
    if left <= 0 {
        let message = "Job was active longer than specified deadline";
        return Some(Finish::failure("DeadlineExceeded", message));
    }
    plan.requeue(Duration::from_secs(left.unsigned_abs()));
    None
}

/// Containers that are restarted in place count as failures too (`pastBackoffLimitOnFailure`).
fn restarts_exceed(sync: &Sync<'_>, limit: i32) -> bool {
    if sync.job.spec.template["spec"]["restartPolicy"] != "OnFailure" {
        return false;
    }
    let lives = |phase: &str| matches!(phase, "Running" | "Pending");
    let lists = sync
        .pods
        .iter()
        .filter(|pod| lives(&pod.status.phase))
        .flat_map(|pod| {
            [
                &pod.status.init_container_statuses,
                &pod.status.container_statuses,
            ]
        });
    let restarts: i32 = lists.flatten().map(|status| status.restart_count).sum();
    restarts > 0 && restarts >= limit
}

/// Indexes fail and succeed one by one.
fn by_index(sync: &Sync<'_>) -> Option<Finish> {
    if !is_indexed(sync.job) {
        return None;
    }
    let spec = &sync.job.spec;
    let completions = sync.completions();
    if let Some(hopeless) = &sync.hopeless {
        let failed = hopeless.len();
        if spec.max_failed_indexes.is_some_and(|most| failed > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Finish::failure("MaxFailedIndexesExceeded", message));
        }
        if failed > 0 && failed + sync.done.len() >= completions {
            return Some(Finish::failure("FailedIndexes", "Job has failed indexes"));
        }
    }
    let message = policy::success(spec.success_policy.as_ref(), completions, &sync.done)?;
    Some(Finish::new(true, "SuccessPolicy", &message))
}

/// Enough pods have succeeded, and none is left.
fn reached(sync: &Sync<'_>) -> Option<Finish> {
    let is_enough = match sync.job.spec.completions {
        Some(completions) => sync.succeeded >= completions,
        None => sync.succeeded > 0,
    };
    let message = "Reached expected number of succeeded pods";
    (is_enough && sync.active.is_empty()).then(|| Finish::new(true, "CompletionsReached", message))
}

/// A condition that begins now.
pub fn beginning(
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    sync: &Sync<'_>,
) -> Condition {
    let now = Some(time(sync.now));
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        last_probe_time: now.clone(),
        last_transition_time: now,
        reason: reason.to_owned(),
        message: message.to_owned(),
        ..Condition::default()
    }
}

/// Brings the condition about suspension up to date; the clock of the deadline starts anew.
pub fn suspension(sync: &Sync<'_>, status: &mut JobStatus) -> Option<Notes> {
    let job: &Job = sync.job;
    let (value, reason, event, message) = if job.spec.suspend {
        ("True", "JobSuspended", "Suspended", "Job suspended")
    } else {
        ("False", "JobResumed", "Resumed", "Job resumed")
    };
    let at = status.conditions.iter().position(|c| c.type_ == SUSPENDED);
    let is_current =
        |c: &Condition| c.status == value && c.reason == reason && c.message == message;
    match at.map(|at| &status.conditions[at]) {
        Some(current) if is_current(current) => return None,
        None if !job.spec.suspend => return None,
        _ => {}
    }
    let new = beginning(SUSPENDED, value, reason, message, sync);
    match at {
        Some(at) => status.conditions[at] = new,
        None => status.conditions.push(new),
    }
    status.start_time = (!job.spec.suspend).then(|| time(sync.now));
    Some(on_success(job, event, message, false))
}
