//! The status of a Deployment: counts, Available, Progressing and its deadline.
//!
//! Mechanism of deployment/sync.go `calculateStatus` and progress.go `syncRolloutStatus`.

use std::time::Duration;

use super::{Rollout, replicas};
use crate::kinds::{Condition, Deployment, DeploymentStatus, condition};
use crate::object::time;
use crate::plan::{Cx, Plan};
use crate::write::Write;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const NEW_SET_CREATED: &str = "NewReplicaSetCreated";
const FOUND_NEW_SET: &str = "FoundNewReplicaSet";
const SET_UPDATED: &str = "ReplicaSetUpdated";
const CREATE_ERROR: &str = "ReplicaSetCreateError";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// The counts as they are, without judging progress.
pub fn only(rollout: &Rollout<'_>, cx: &Cx<'_>) -> Plan {
    write(rollout, calculate(rollout, cx))
}

/// The status during a rollout.
pub fn rollout(rollout: &Rollout<'_>, cx: &Cx<'_>) -> Plan {
    let mut status = calculate(rollout, cx);
    let deployment = rollout.deployment;
    if !has_deadline(deployment) {
        status.conditions.retain(|c| c.type_ != PROGRESSING);
        return write(rollout, status);
    }
    let current = condition(&status.conditions, PROGRESSING).cloned();
    let reason = current.as_ref().map_or("", |c| c.reason.as_str());
    let was_complete = status.replicas == status.updated_replicas && reason == NEW_SET_AVAILABLE;
    if !was_complete {
        judge(rollout, &mut status, cx);
    }
    let mut plan = write(rollout, status);
    if let Some(delay) = until_deadline(rollout, &plan, cx) {
        plan.requeue(delay);
    }
    plan
}

/// The set's name was taken by something else: the next hash is another one.
pub fn collision(rollout: &Rollout<'_>) -> Plan {
    let mut status = rollout.deployment.status.clone();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    write(rollout, status)
}

/// Progressing=False while the set of a new template cannot be created.
pub fn creation_failed(rollout: &Rollout<'_>, name: &str, failure: &str, cx: &Cx<'_>) -> Plan {
    let mut status = calculate(rollout, cx);
    if has_deadline(rollout.deployment) {
        let message = format!("Failed to create new replica set {name:?}: {failure}");
        set(
            &mut status,
            PROGRESSING,
            ("False", CREATE_ERROR),
            message,
            cx,
        );
    }
    write(rollout, status)
}

/// All replicas are of the present template and available (`DeploymentComplete`).
pub fn is_complete(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    let wanted = rollout.wanted();
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= rollout.deployment.metadata.generation
}

fn has_deadline(deployment: &Deployment) -> bool {
    deployment
        .spec
        .progress_deadline_seconds
        .is_some_and(|seconds| seconds != i32::MAX)
}

fn calculate(rollout: &Rollout<'_>, cx: &Cx<'_>) -> DeploymentStatus {
    let deployment = rollout.deployment;
    let sum = |of: &dyn Fn(&crate::kinds::ReplicaSetStatus) -> i32| -> i32 {
        rollout.all().map(|s| of(&s.set.status)).sum()
    };
    let available = sum(&|s| s.available_replicas);
    let asked: i32 = rollout
        .all()
        .map(|s| s.set.spec.replicas.unwrap_or(1))
        .sum();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: sum(&|s| s.replicas),
        updated_replicas: rollout
            .new
            .as_ref()
            .map_or(0, |new| new.set.status.replicas),
        ready_replicas: sum(&|s| s.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (asked - available).max(0),
        terminating_replicas: Some(sum(&|s| s.terminating_replicas.unwrap_or(0))),
        conditions: deployment.status.conditions.clone(),
        collision_count: deployment.status.collision_count,
    };
    let minimum = rollout.wanted() - replicas::max_unavailable(deployment);
    if available >= minimum {
        let message = "Deployment has minimum availability.".to_owned();
        set(
            &mut status,
            AVAILABLE,
            ("True", "MinimumReplicasAvailable"),
            message,
            cx,
        );
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        set(
            &mut status,
            AVAILABLE,
            ("False", "MinimumReplicasUnavailable"),
            message,
            cx,
        );
    }
    if has_deadline(deployment) {
        pause(deployment, &mut status, cx);
        found(rollout, &mut status, cx);
    }
    status
}

/// Pausing and resuming stop the clock (`checkPausedConditions`).
fn pause(deployment: &Deployment, status: &mut DeploymentStatus, cx: &Cx<'_>) {
    let reason = condition(&status.conditions, PROGRESSING).map_or("", |c| c.reason.as_str());
    if reason == TIMED_OUT {
        return;
    }
    if deployment.spec.paused && reason != PAUSED {
        set(
            status,
            PROGRESSING,
            ("Unknown", PAUSED),
            "Deployment is paused".into(),
            cx,
        );
    } else if !deployment.spec.paused && reason == PAUSED {
        set(
            status,
            PROGRESSING,
            ("Unknown", RESUMED),
            "Deployment is resumed".into(),
            cx,
        );
    }
}

/// A new set that the condition does not speak of yet starts the clock.
fn found(rollout: &Rollout<'_>, status: &mut DeploymentStatus, cx: &Cx<'_>) {
    let Some(new) = &rollout.new else { return };
    let name = new.set.metadata.name.as_deref().unwrap_or_default();
    let current = condition(&status.conditions, PROGRESSING);
    let is_fresh = new.set.status.observed_generation.is_none() || new.set.status.replicas == 0;
    match current {
        None if !is_fresh => {
            let message = format!("Found new replica set {name:?}");
            set(status, PROGRESSING, ("True", FOUND_NEW_SET), message, cx);
        }
        Some(c)
            if c.reason != CREATE_ERROR
                && (c.reason != NEW_SET_AVAILABLE || c.message.contains(&format!("{name:?}"))) => {}
        Some(_) if !is_fresh => {
            let message = format!("Found new replica set {name:?}");
            set(status, PROGRESSING, ("True", FOUND_NEW_SET), message, cx);
        }
        None | Some(_) => {
            let message = format!("Created new replica set {name:?}");
            set(status, PROGRESSING, ("True", NEW_SET_CREATED), message, cx);
        }
    }
}

/// Done, getting on, or out of time.
fn judge(rollout: &Rollout<'_>, status: &mut DeploymentStatus, cx: &Cx<'_>) {
    let subject = match &rollout.new {
        Some(new) => format!(
            "ReplicaSet {:?}",
            new.set.metadata.name.as_deref().unwrap_or("")
        ),
        None => {
            format!(
                "Deployment {:?}",
                rollout.deployment.metadata.name.as_deref().unwrap_or("")
            )
        }
    };
    if is_complete(rollout, status) {
        let message = format!("{subject} has successfully progressed.");
        set(
            status,
            PROGRESSING,
            ("True", NEW_SET_AVAILABLE),
            message,
            cx,
        );
    } else if is_progressing(&rollout.deployment.status, status) {
        let message = format!("{subject} is progressing.");
        let started = condition(&status.conditions, PROGRESSING)
            .filter(|c| c.status == "True")
            .and_then(|c| c.last_transition_time.clone());
        status.conditions.retain(|c| c.type_ != PROGRESSING);
        set(status, PROGRESSING, ("True", SET_UPDATED), message, cx);
        if let (Some(started), Some(last)) = (started, status.conditions.last_mut()) {
            last.last_transition_time = Some(started);
        }
    } else if is_timed_out(rollout.deployment, status, cx) {
        let message = format!("{subject} has timed out progressing.");
        set(status, PROGRESSING, ("False", TIMED_OUT), message, cx);
    }
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    new.updated_replicas > old.updated_replicas
        || new.replicas - new.updated_replicas < old.replicas - old.updated_replicas
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

fn is_timed_out(deployment: &Deployment, status: &DeploymentStatus, cx: &Cx<'_>) -> bool {
    let Some(current) = condition(&status.conditions, PROGRESSING) else {
        return false;
    };
    match current.reason.as_str() {
        NEW_SET_AVAILABLE => false,
        TIMED_OUT => true,
        _ => deadline(deployment, current).is_some_and(|at| at < cx.now.as_second()),
    }
}

/// Second at which the rollout counts as stuck.
fn deadline(deployment: &Deployment, progressing: &Condition) -> Option<i64> {
    let from = progressing.last_update_time.as_ref()?.0.as_second();
    Some(from + i64::from(deployment.spec.progress_deadline_seconds?))
}

/// When to look again whether the rollout is stuck (`requeueStuckDeployment`).
fn until_deadline(rollout: &Rollout<'_>, plan: &Plan, cx: &Cx<'_>) -> Option<Duration> {
    let status = &rollout.deployment.status;
    // A status about to be written brings its own next look.
    if plan.status.is_some() || is_complete(rollout, status) {
        return None;
    }
    let current = condition(&status.conditions, PROGRESSING)?;
    if matches!(current.reason.as_str(), NEW_SET_AVAILABLE | TIMED_OUT) {
        return None;
    }
    let left = deadline(rollout.deployment, current)? - cx.now.as_second() + 1;
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0).max(1)))
}

/// Sets a condition unless it has that status and reason already.
fn set(
    status: &mut DeploymentStatus,
    type_: &str,
    (value, reason): (&str, &str),
    message: String,
    cx: &Cx<'_>,
) {
    let now = Some(time(cx.now));
    let mut transition = now.clone();
    if let Some(current) = condition(&status.conditions, type_) {
        if current.status == value && current.reason == reason {
            return;
        }
        if current.status == value {
            transition.clone_from(&current.last_transition_time);
        }
    }
    status.conditions.retain(|c| c.type_ != type_);
    status.conditions.push(Condition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        last_heartbeat_time: None,
        last_probe_time: None,
        last_update_time: now,
        last_transition_time: transition,
        reason: reason.to_owned(),
        message,
    });
}

fn write(rollout: &Rollout<'_>, status: DeploymentStatus) -> Plan {
    let deployment = rollout.deployment;
    if status == deployment.status {
        return Plan::nothing();
    }
    Plan {
        status: Some(Write::status(&**deployment, &status)),
        ..Plan::default()
    }
}
