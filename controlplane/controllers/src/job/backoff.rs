//! When a pod ended, and how long its replacement has to wait.
//!
//! Mechanism of pkg/controller/job/backoff_utils.go. The record of a Job is kept by the uids of its
//! failed pods, so that taking a pod in twice changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::kinds::{ContainerStatus, Pod, condition};
use crate::object::MetaExt;

/// Pause after the first failure.
const FIRST: Duration = Duration::from_secs(10);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(600);
/// Failures after which the pause is the longest anyway.
const ENOUGH: usize = 8;

/// The failures of a Job since its last success.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    last_success: Option<Timestamp>,
    failures: BTreeMap<(Timestamp, String), ()>,
}

impl Record {
    /// Takes in pods that have ended.
    pub fn take_in<'a>(
        &mut self,
        succeeded: impl Iterator<Item = &'a Pod>,
        failed: impl Iterator<Item = &'a Pod>,
    ) {
        let last = succeeded.map(finished_at).max();
        self.last_success = self.last_success.max(last);
        for pod in failed {
            let id = (finished_at(pod), pod.metadata.uid().to_owned());
            self.failures.insert(id, ());
        }
        let last = self.last_success;
        self.failures
            .retain(|(at, _), ()| last.is_none_or(|last| *at > last));
        while self.failures.len() > ENOUGH {
            self.failures.pop_first();
        }
    }

    /// How long the next pod has to wait.
    pub fn remaining(&self, now: Timestamp) -> Duration {
        let last = self.failures.last_key_value();
        last.map_or(Duration::ZERO, |((at, _), ())| {
            remaining(self.failures.len(), *at, now)
        })
    }
}

/// What is left of the pause after so many failures, the last of them at `last`.
pub fn remaining(failures: usize, last: Timestamp, now: Timestamp) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let doubled = u32::try_from(failures.min(ENOUGH) - 1).unwrap_or(0);
    let pause = FIRST.saturating_mul(1 << doubled).min(LONGEST);
    let since = now.duration_since(last);
    pause.saturating_sub(Duration::try_from(since).unwrap_or(Duration::ZERO))
}

/// When the pod ended: its containers say so, else its readiness, else its deletion.
pub fn finished_at(pod: &Pod) -> Timestamp {
    let is_sidecar = |status: &&ContainerStatus| {
        let mut containers = pod.spec.init_containers.iter();
        containers.any(|c| c.name == status.name && c.restart_policy.as_deref() == Some("Always"))
    };
    let sidecars = pod.status.init_container_statuses.iter().filter(is_sidecar);
    if let Some(at) = latest_end(pod.status.container_statuses.iter().chain(sidecars)) {
        return at;
    }
    let ready = condition(&pod.status.conditions, "Ready").filter(|c| c.status == "False");
    if let Some(at) = ready.and_then(|c| c.last_transition_time.as_ref()) {
        return at.0;
    }
    if let Some(at) = &pod.metadata.deletion_timestamp {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        return Timestamp::from_second(at.0.as_second() - grace).unwrap_or(at.0);
    }
    pod.metadata.created()
}

/// When the last of the containers ended; `None` while one has not.
fn latest_end<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>) -> Option<Timestamp> {
    let ends =
        statuses.map(|status| Some(status.state.terminated.as_ref()?.finished_at.as_ref()?.0));
    let ends: Option<Vec<Timestamp>> = ends.collect();
    ends?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, ended: i64) -> Pod {
        let at = Timestamp::from_second(ended).unwrap().to_string();
        serde_json::from_value(
            json!({"metadata": {"uid": uid}, "status": {"containerStatuses": [
            {"name": "c", "state": {"terminated": {"exitCode": 1, "finishedAt": at}}}]}}),
        )
        .unwrap()
    }

    #[test]
    fn the_pause_doubles_with_each_failure_and_a_success_ends_it() {
        let mut record = Record::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let seconds = Duration::from_secs;
        record.take_in([].into_iter(), [&pod("a", 100)].into_iter());
        assert_eq!(record.remaining(at(104)), seconds(6));
        // The same pod again is the same failure.
        record.take_in([].into_iter(), [&pod("a", 100), &pod("b", 110)].into_iter());
        assert_eq!(record.remaining(at(110)), seconds(20));
        record.take_in([&pod("c", 105)].into_iter(), [].into_iter());
        assert_eq!(record.remaining(at(110)), seconds(10));
        record.take_in([&pod("d", 110)].into_iter(), [].into_iter());
        assert_eq!(record.remaining(at(110)), Duration::ZERO);
    }

    #[test]
    fn the_pause_does_not_grow_for_ever() {
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(remaining(100, now, now), LONGEST);
    }
}
