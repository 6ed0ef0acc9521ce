//! The next step of a rollout: rolling, recreate, or a change of size.

use super::{Rollout, replicas, revision, status};
use crate::kinds::{Projection, ReplicaSet};
use crate::object::{Key, MetaExt};
use crate::plan::{Cx, Plan};
use crate::view::World;
use crate::write::Write;

/// `spec.replicas` differs from what the active sets were last sized for (`isScalingEvent`).
pub fn is_scaling(rollout: &Rollout<'_>) -> bool {
    let wanted = rollout.wanted();
    let mut active = rollout.all().filter(|s| s.size > 0);
    active.any(|s| revision::desired_replicas(&s.set).is_some_and(|desired| desired != wanted))
}

/// Sizes the sets for a new `spec.replicas`, or while paused (`sync` and `scale`).
pub fn scale(rollout: &mut Rollout<'_>, cx: &Cx<'_>) -> Plan {
    let wanted = rollout.wanted();
    let mut force = false;
    let mut sets: Vec<_> = rollout.old.iter_mut().chain(&mut rollout.new).collect();
    let active: Vec<usize> = (0..sets.len()).filter(|i| sets[*i].size > 0).collect();
    match active.as_slice() {
        // The new set is last; without one the youngest old set.
        [] => {
            if let Some(last) = sets.last_mut() {
                last.size = wanted;
            }
        }
        [only] => sets[*only].size = wanted,
        _ if is_saturated(rollout) => {
            rollout.old.iter_mut().for_each(|old| old.size = 0);
        }
        _ if replicas::is_rolling(rollout.deployment) => {
            replicas::spread(rollout);
            force = true;
        }
        _ => {}
    }
    let mut plan = status::only(rollout, cx);
    plan.writes = rollout.scale_writes(force || is_scaling(rollout));
    if rollout.deployment.spec.paused {
        plan.writes.extend(clean_up(rollout));
    }
    plan
}

/// The new set alone is all that is wanted (`IsSaturated`).
fn is_saturated(rollout: &Rollout<'_>) -> bool {
    let wanted = rollout.wanted();
    rollout.new.as_ref().is_some_and(|new| {
        new.size == wanted
            && revision::desired_replicas(&new.set) == Some(wanted)
            && new.available() == wanted
    })
}

/// One step of a rolling update.
pub fn rolling(world: &World, rollout: &mut Rollout<'_>, cx: &Cx<'_>) -> Plan {
    let Some(size) = rollout.new.as_ref().map(|new| new.size) else {
        return create(world, rollout, cx);
    };
    let wanted = rollout.wanted();
    let grown = if size > wanted {
        wanted
    } else {
        replicas::new_set_size(rollout, size)
    };
    if grown != size {
        if let Some(new) = &mut rollout.new {
            new.size = grown;
        }
    } else {
        replicas::shrink_old(rollout);
    }
    finish(rollout, cx)
}

/// One step of a recreation: all old pods go before the first new one comes.
pub fn recreate(world: &World, rollout: &mut Rollout<'_>, cx: &Cx<'_>) -> Plan {
    if rollout.old.iter().any(|old| old.size > 0) {
        rollout.old.iter_mut().for_each(|old| old.size = 0);
        return finish(rollout, cx);
    }
    if old_pods_running(world, rollout) {
        return status::rollout(rollout, cx);
    }
    let wanted = rollout.wanted();
    match &mut rollout.new {
        None => create(world, rollout, cx),
        Some(new) => {
            new.size = wanted;
            finish(rollout, cx)
        }
    }
}

fn old_pods_running(world: &World, rollout: &Rollout<'_>) -> bool {
    rollout.old.iter().any(|old| {
        old.set.status.replicas > 0
            || world
                .pods
                .owned_by(old.set.metadata.uid())
                .any(|pod| !pod.is_terminated())
    })
}

/// Creates the set of the present template, or resolves a collision of its name.
fn create(world: &World, rollout: &Rollout<'_>, cx: &Cx<'_>) -> Plan {
    let meta = &rollout.deployment.metadata;
    let (name, _) = revision::new_name(rollout.deployment);
    let key = Key::new(meta.namespace.as_deref().unwrap_or(""), &name);
    if world.replicasets.get(&key).is_some() {
        return status::collision(rollout);
    }
    let mut plan = match cx.failure {
        Some(failure) => status::creation_failed(rollout, &name, failure, cx),
        None => Plan::nothing(),
    };
    plan.writes.push(revision::create(rollout));
    plan
}

fn finish(rollout: &Rollout<'_>, cx: &Cx<'_>) -> Plan {
    let mut plan = status::rollout(rollout, cx);
    plan.writes = rollout.scale_writes(false);
    if plan.writes.is_empty() && status::is_complete(rollout, &rollout.deployment.status) {
        plan.writes = clean_up(rollout);
    }
    plan
}

/// Deletes the oldest empty sets beyond the history limit (`cleanupDeployment`).
fn clean_up(rollout: &Rollout<'_>) -> Vec<Write> {
    let Some(limit) = rollout.deployment.spec.revision_history_limit else {
        return Vec::new();
    };
    if limit == i32::MAX {
        return Vec::new();
    }
    let mut sets: Vec<&ReplicaSet> = rollout
        .old
        .iter()
        .map(|old| &*old.set)
        .filter(|s| !s.metadata.is_deleting())
        .collect();
    let surplus = sets
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    sets.sort_by_key(|set| revision::revision(set));
    let is_idle = |set: &&ReplicaSet| {
        set.status.replicas == 0
            && set.spec.replicas == Some(0)
            && set.metadata.generation <= set.status.observed_generation
    };
    let idle = sets.into_iter().take(surplus).filter(is_idle);
    let delete = |set: &ReplicaSet| {
        Write::delete(
            &ReplicaSet::RESOURCE,
            Key::of(&set.metadata),
            set.metadata.uid(),
        )
    };
    idle.map(delete).collect()
}
