//! The status of a DaemonSet (`updateDaemonSetStatus`).

use super::Daemons;
use crate::kinds::DaemonSetStatus;
use crate::plan::Plan;
use crate::write::Write;

/// Adds the write of the status, when it differs.
pub fn write(daemons: &Daemons<'_>, plan: &mut Plan) {
    let set = daemons.set;
    let status = status(daemons);
    if status == set.status {
        return;
    }
    plan.status = Some(Write::status(&**set, &status));
}

fn status(daemons: &Daemons<'_>) -> DaemonSetStatus {
    let mut status = DaemonSetStatus {
        observed_generation: daemons.set.metadata.generation,
        collision_count: daemons.set.status.collision_count,
        conditions: daemons.set.status.conditions.clone(),
        ..DaemonSetStatus::default()
    };
    for (name, place) in &daemons.nodes {
        let oldest = daemons.pods.get(*name).and_then(|pods| pods.first());
        if !place.should_run {
            status.number_misscheduled += i32::from(oldest.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = oldest else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pod.is_ready());
        status.number_available += i32::from(daemons.is_available(pod));
        status.updated_number_scheduled += i32::from(daemons.is_current(pod));
    }
    status.number_unavailable = status.desired_number_scheduled - status.number_available;
    status
}
