//! Probes: when to ask a container, and what the answers add up to. `Machine` and `wanted` are pure;
//! `check` asks, `Probers` owns the tasks that do so for one pod and reports changes to its worker.
//!
//! ```text
//! container runs ─▶ startup probe ──success──▶ readiness and liveness probes, until it ends
//!                        └──failure──▶ killed (plan)      liveness failure ──▶ killed (plan)
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::events::{Kind as EventKind, Recorder, Subject};
use super::observed::{Observed, State};
use super::spec::{self, Role};
use crate::cri;

mod check;

/// Defaults of the API for fields a probe leaves out.
const DEFAULT_PERIOD_SECONDS: i32 = 10;
const DEFAULT_FAILURE_THRESHOLD: i32 = 3;

/// What the probes of one container have established; `None` is "not yet".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Results {
    pub startup: Option<bool>,
    pub readiness: Option<bool>,
    pub liveness: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// A probe's result passed its threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub container_id: String,
    pub kind: Kind,
    pub success: bool,
}

/// Counts equal answers and says when they reach their threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
}

impl Machine {
    pub fn new(probe: &Probe) -> Self {
        let threshold = |value: Option<i32>, default: i32| {
            u32::try_from(value.unwrap_or(default).max(1)).unwrap_or(1)
        };
        Self {
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, DEFAULT_FAILURE_THRESHOLD),
            last: None,
            run: 0,
        }
    }

    /// Takes one answer; returns the result once enough answers in a row agree.
    pub fn observe(&mut self, success: bool) -> Option<bool> {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let threshold = if success {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        (self.run >= threshold).then_some(success)
    }
}

impl Results {
    pub fn set(&mut self, kind: Kind, success: bool) {
        match kind {
            Kind::Startup => self.startup = Some(success),
            Kind::Readiness => self.readiness = Some(success),
            Kind::Liveness => self.liveness = Some(success),
        }
    }

    /// Whether the container counts as started: it runs, and its startup probe, if any, succeeded.
    pub fn started(&self, container: &Container) -> bool {
        container.startup_probe.is_none() || self.startup == Some(true)
    }

    pub fn ready(&self, container: &Container) -> bool {
        container.readiness_probe.is_none() || self.readiness == Some(true)
    }
}

/// What the API said about probes before this agent started: a restart of the agent must not turn
/// ready containers unready.
pub fn seed(pod: &Pod) -> BTreeMap<String, Results> {
    let Some(status) = &pod.status else {
        return BTreeMap::new();
    };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|status| {
            let id = status
                .container_id
                .as_ref()?
                .split_once("://")?
                .1
                .to_owned();
            let results = Results {
                startup: status.started.filter(|started| *started),
                readiness: Some(status.ready).filter(|ready| *ready),
                liveness: None,
            };
            Some((id, results))
        })
        .collect()
}

/// Which probes have to run now.
pub fn wanted(
    pod: &Pod,
    observed: &Observed,
    results: &BTreeMap<String, Results>,
) -> Vec<(String, Kind, Container)> {
    let mut wanted = Vec::new();
    for (role, container) in spec::containers(pod) {
        if matches!(role, Role::Init | Role::Ephemeral) {
            continue;
        }
        let Some(seen) = observed.latest(&container.name) else {
            continue;
        };
        if seen.state != State::Running {
            continue;
        }
        let known = results.get(&seen.id).copied().unwrap_or_default();
        let mut add = |kind: Kind| wanted.push((seen.id.clone(), kind, container.clone()));
        if !known.started(&container) {
            if !spec::deleting(pod) && known.startup.is_none() {
                add(Kind::Startup);
            }
            continue;
        }
        if container.readiness_probe.is_some() {
            add(Kind::Readiness);
        }
        if container.liveness_probe.is_some()
            && !spec::deleting(pod)
            && known.liveness != Some(false)
        {
            add(Kind::Liveness);
        }
    }
    wanted
}

/// The running probes of one pod.
pub struct Probers {
    tasks: BTreeMap<(String, Kind), AbortOnDropHandle<()>>,
    changes: mpsc::Sender<Change>,
    runtime: cri::Client,
    recorder: Recorder,
}

impl Probers {
    pub fn new(runtime: cri::Client, recorder: Recorder, changes: mpsc::Sender<Change>) -> Self {
        Self {
            tasks: BTreeMap::new(),
            changes,
            runtime,
            recorder,
        }
    }

    /// Starts probes that are wanted and ends those that are not.
    pub fn reconcile(
        &mut self,
        pod: &Pod,
        observed: &Observed,
        results: &BTreeMap<String, Results>,
        ip: Option<IpAddr>,
    ) {
        let wanted = wanted(pod, observed, results);
        self.tasks
            .retain(|(id, kind), _| wanted.iter().any(|(i, k, _)| i == id && k == kind));
        for (id, kind, container) in wanted {
            let key = (id.clone(), kind);
            if self.tasks.contains_key(&key) {
                continue;
            }
            let Some(probe) = probe_of(&container, kind) else {
                continue;
            };
            let started = observed
                .latest(&container.name)
                .and_then(|seen| seen.started());
            let target = Target {
                kind,
                probe,
                started,
                subject: Subject::container(pod, &container.name),
                check: check::Target {
                    runtime: self.runtime.clone(),
                    container_id: id,
                    container,
                    ip,
                },
            };
            let task = run(target, self.changes.clone(), self.recorder.clone());
            self.tasks
                .insert(key, AbortOnDropHandle::new(tokio::spawn(task)));
        }
    }

    pub fn stop(&mut self) {
        self.tasks.clear();
    }
}

struct Target {
    kind: Kind,
    probe: Probe,
    started: Option<Timestamp>,
    subject: Subject,
    check: check::Target,
}

async fn run(target: Target, changes: mpsc::Sender<Change>, recorder: Recorder) {
    let delay = seconds(target.probe.initial_delay_seconds, 0);
    let elapsed = target
        .started
        .and_then(|started| Duration::try_from(Timestamp::now().duration_since(started)).ok())
        .unwrap_or_default();
    tokio::time::sleep(delay.saturating_sub(elapsed)).await;
    let mut ticks = tokio::time::interval(
        seconds(target.probe.period_seconds, DEFAULT_PERIOD_SECONDS).max(Duration::from_secs(1)),
    );
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut machine = Machine::new(&target.probe);
    let mut reported = None;
    loop {
        ticks.tick().await;
        let success = match check::check(&target.check, &target.probe).await {
            check::Outcome::Success => true,
            check::Outcome::Failure(output) => {
                let message = format!("{} probe failed: {output}", title(target.kind));
                recorder.record(&target.subject, EventKind::Warning, "Unhealthy", message);
                false
            }
            check::Outcome::Unknown(error) => {
                let message = format!("{} probe errored: {error}", title(target.kind));
                recorder.record(&target.subject, EventKind::Warning, "Unhealthy", message);
                continue;
            }
        };
        let Some(result) = machine.observe(success) else {
            continue;
        };
        if reported == Some(result) {
            continue;
        }
        reported = Some(result);
        let change = Change {
            container_id: target.check.container_id.clone(),
            kind: target.kind,
            success: result,
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}

/// An HTTP lifecycle hook, asked the way a probe asks.
pub async fn http_hook(
    runtime: &cri::Client,
    container_id: &str,
    container: &Container,
    ip: Option<IpAddr>,
    get: &HTTPGetAction,
) -> Result<(), String> {
    let target = check::Target {
        runtime: runtime.clone(),
        container_id: container_id.to_owned(),
        container: container.clone(),
        ip,
    };
    check::http_hook(&target, get).await
}

fn probe_of(container: &Container, kind: Kind) -> Option<Probe> {
    match kind {
        Kind::Startup => container.startup_probe.clone(),
        Kind::Readiness => container.readiness_probe.clone(),
        Kind::Liveness => container.liveness_probe.clone(),
    }
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Startup => "Startup",
        Kind::Readiness => "Readiness",
        Kind::Liveness => "Liveness",
    }
}

fn seconds(value: Option<i32>, default: i32) -> Duration {
    Duration::from_secs(u64::try_from(value.unwrap_or(default)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(success: i32, failure: i32) -> Machine {
        Machine::new(&Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Probe::default()
        })
    }

    #[test]
    fn results_change_only_at_their_threshold() {
        let mut m = machine(2, 3);
        let answers = [true, true, false, false, true, false, false, false];
        let results: Vec<_> = answers.into_iter().map(|a| m.observe(a)).collect();
        let expected = [None, Some(true), None, None, None, None, None, Some(false)];
        assert_eq!(results, expected);
    }

    #[test]
    fn absent_thresholds_are_one_success_and_three_failures() {
        let mut m = Machine::new(&Probe::default());
        assert_eq!(m.observe(true), Some(true));
        assert_eq!(
            [m.observe(false), m.observe(false), m.observe(false)],
            [None, None, Some(false)]
        );
    }
}
