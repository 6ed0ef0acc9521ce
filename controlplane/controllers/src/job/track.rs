//! Accounting: which ended pods the status knows of, which finalizers may go, what is counted, and
//! the end of the Job.
//!
//! Mechanism of `trackJobStatusAndRemoveFinalizers`, one step per plan.

use std::collections::BTreeSet;

use super::finish::{FAILURE_ANNOUNCED, Finish, SUCCESS_ANNOUNCED, beginning};
use super::indexes::Indexes;
use super::policy::{self, Verdict};
use super::{Sync, index, is_indexed, is_succeeded, is_tracked, manage, on_success};
use crate::kinds::{JobStatus, Pod, Uncounted};
use crate::object::MetaExt;
use crate::plan::Plan;
use crate::write::Notes;

/// Pods on their way into a count at the same time: bounds the size of the status.
const MAX_UNCOUNTED: usize = 500;

/// What the status has to say of an ended pod.
enum Account {
    /// Its uid, among the succeeded or the failed.
    Uid { failed: bool },
    /// Its index.
    Index(i32),
    /// Nothing: it counts for nothing, or is counted by other means.
    Nothing,
}

/// Brings `status` a step further and adds the removal of finalizers to the plan. The answer is the
/// Event of a Job that ends with this status.
pub fn track(
    sync: &Sync<'_>,
    finish: Option<&Finish>,
    status: &mut JobStatus,
    plan: &mut Plan,
) -> Option<Notes> {
    let stored = sync.job.status.uncounted_terminated_pods.clone();
    let stored = stored.unwrap_or_default();
    let tracked = sync.pods.iter().filter(|pod| is_tracked(pod));
    let tracked: BTreeSet<&str> = tracked.map(|pod| pod.metadata.uid()).collect();
    let mut uncounted = stored.clone();
    settle(&mut uncounted.succeeded, &tracked, &mut status.succeeded);
    settle(&mut uncounted.failed, &tracked, &mut status.failed);
    // Nobody loses its finalizer for the end of the Job before the end is stored.
    let may_release = finish.is_none_or(|finish| finish.announced);
    let done = sync.stored_done();
    let mut new_indexes = BTreeSet::new();
    for pod in sync.pods.iter().filter(|pod| is_tracked(pod)) {
        if !is_over(sync, finish, pod) {
            continue;
        }
        let uid = pod.metadata.uid();
        let knows = |list: &[String]| list.iter().any(|known| known == uid);
        let is_stored = match account(sync, finish, &stored, pod) {
            Account::Nothing => true,
            Account::Index(index) => {
                new_indexes.insert(index);
                done.contains(index)
            }
            Account::Uid { failed } => {
                let (list, stored) = if failed {
                    (&mut uncounted.failed, &stored.failed)
                } else {
                    (&mut uncounted.succeeded, &stored.succeeded)
                };
                if !knows(list) {
                    list.push(uid.to_owned());
                }
                knows(stored)
            }
        };
        if is_stored && may_release {
            plan.writes.push(manage::untrack(pod));
        }
        let pending = new_indexes.len() + uncounted.succeeded.len() + uncounted.failed.len();
        if pending >= MAX_UNCOUNTED {
            break;
        }
    }
    if is_indexed(sync.job) {
        let done = done.union(&new_indexes.into_iter().collect::<Indexes>());
        status.succeeded = done.len();
        status.completed_indexes = done.to_string();
        status.failed_indexes = sync.hopeless.as_ref().map(Indexes::to_string);
    }
    let is_settled = tracked.is_empty() && uncounted == Uncounted::default();
    status.uncounted_terminated_pods = Some(uncounted);
    end(sync, finish?, is_settled, status)
}

/// Moves uids whose pods have lost their finalizer into the count.
fn settle(uids: &mut Vec<String>, tracked: &BTreeSet<&str>, count: &mut i32) {
    let before = uids.len();
    uids.retain(|uid| tracked.contains(uid.as_str()));
    *count += super::count(before - uids.len());
}

/// The pod's finalizer may go once it is accounted for (`canRemoveFinalizer`).
fn is_over(sync: &Sync<'_>, finish: Option<&Finish>, pod: &Pod) -> bool {
    if sync.job.metadata.is_deleting() || finish.is_some() || is_succeeded(pod) {
        return true;
    }
    let waits = index(pod)
        .and_then(|index| sync.replaced.get(&index))
        .is_some_and(|last| last.metadata.uid == pod.metadata.uid);
    sync.is_failed(pod) && !waits
}

fn account(sync: &Sync<'_>, finish: Option<&Finish>, stored: &Uncounted, pod: &Pod) -> Account {
    let is_known_failed = stored.failed.iter().any(|uid| uid == pod.metadata.uid());
    let valid_index = index(pod).filter(|index| *index < sync.completions());
    if is_succeeded(pod) && !is_known_failed {
        return match valid_index {
            _ if !is_indexed(sync.job) => Account::Uid { failed: false },
            Some(index) => Account::Index(index),
            None => Account::Nothing,
        };
    }
    // When a Job has failed, what had not ended has failed too.
    let has_failed = sync.is_failed(pod) || finish.is_some_and(|finish| !finish.success);
    let counts = has_failed
        && (!is_indexed(sync.job) || valid_index.is_some())
        && policy::judge(sync.job, pod) != Verdict::Ignore;
    if is_known_failed || counts {
        Account::Uid { failed: true }
    } else {
        Account::Nothing
    }
}

/// Announces the end, or states it when nothing is left to account for.
fn end(
    sync: &Sync<'_>,
    finish: &Finish,
    is_settled: bool,
    status: &mut JobStatus,
) -> Option<Notes> {
    let (announcement, statement) = if finish.success {
        (SUCCESS_ANNOUNCED, "Complete")
    } else {
        (FAILURE_ANNOUNCED, "Failed")
    };
    let condition = |type_| beginning(type_, "True", &finish.reason, &finish.message, sync);
    if !finish.announced {
        status.conditions.push(condition(announcement));
        return None;
    }
    if !is_settled || sync.terminating > 0 {
        return None;
    }
    let statement = condition(statement);
    if finish.success {
        status.completion_time = statement.last_transition_time.clone();
    }
    status.conditions.push(statement);
    Some(if finish.success {
        on_success(sync.job, "Completed", "Job completed", false)
    } else {
        on_success(sync.job, known(&finish.reason), &finish.message, true)
    })
}

/// The reason as an Event's; reasons are ours unless someone wrote the announcement.
fn known(reason: &str) -> &'static str {
    const KNOWN: [&str; 5] = [
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "PodFailurePolicy",
        "MaxFailedIndexesExceeded",
        "FailedIndexes",
    ];
    let known = KNOWN.into_iter().find(|known| *known == reason);
    known.unwrap_or("Failed")
}
