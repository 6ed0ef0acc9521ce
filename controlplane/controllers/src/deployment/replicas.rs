//! The arithmetic of rollouts: surge, unavailability, proportions.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Rollout, Sized, revision};
use crate::kinds::Deployment;

/// A number, or that percentage of `total`.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(total);
            let rounded = if round_up {
                (product + 99).div_euclid(100)
            } else {
                product / 100
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// (maxSurge, maxUnavailable) as numbers; never both zero (`ResolveFenceposts`).
pub fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let update = &deployment.spec.strategy.rolling_update;
    let surge = scaled(update.max_surge.as_ref(), wanted, true);
    let unavailable = scaled(update.max_unavailable.as_ref(), wanted, false);
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

pub fn is_rolling(deployment: &Deployment) -> bool {
    deployment.spec.strategy.type_ != "Recreate"
}

pub fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling(deployment) {
        fenceposts(deployment).0
    } else {
        0
    }
}

pub fn max_unavailable(deployment: &Deployment) -> i32 {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    if !is_rolling(deployment) || wanted == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(wanted)
}

/// How large the new set may be made now (`NewRSNewReplicas`); `current` is its present size.
pub fn new_set_size(rollout: &Rollout<'_>, current: i32) -> i32 {
    let wanted = rollout.wanted();
    if !is_rolling(rollout.deployment) {
        return wanted;
    }
    let max_total = wanted + max_surge(rollout.deployment);
    let total = rollout.total();
    if total >= max_total {
        return current;
    }
    current + (max_total - total).min(wanted - current)
}

/// How far the old sets may be scaled down now (`reconcileOldReplicaSets`): first replicas that
/// are not available, then available ones beyond the minimum.
pub fn shrink_old(rollout: &mut Rollout<'_>) {
    let wanted = rollout.wanted();
    let min_available = wanted - max_unavailable(rollout.deployment);
    let new_unavailable = rollout
        .new
        .as_ref()
        .map_or(0, |new| new.size - new.confirmed_available());
    let max_scaled_down = rollout.total() - min_available - new_unavailable;
    if max_scaled_down <= 0 {
        return;
    }
    let mut room = max_scaled_down;
    for old in rollout.old.iter_mut().filter(|old| old.size > 0) {
        let unhealthy = (old.size - old.available()).max(0).min(room);
        old.size -= unhealthy;
        room -= unhealthy;
    }
    let available: i32 = rollout.all().map(Sized::confirmed_available).sum();
    let mut room = (available - min_available).max(0);
    for old in rollout.old.iter_mut().filter(|old| old.size > 0) {
        let down = old.size.min(room);
        old.size -= down;
        room -= down;
    }
}

/// Spreads a change of `spec.replicas` over the active sets in proportion to their sizes
/// (`scale` and `GetReplicaSetProportion`).
pub fn spread(rollout: &mut Rollout<'_>) {
    let wanted = rollout.wanted();
    let allowed = if wanted > 0 {
        wanted + max_surge(rollout.deployment)
    } else {
        0
    };
    let to_add = allowed - rollout.total();
    if to_add == 0 {
        return;
    }
    let fallback = rollout.deployment.status.replicas;
    let mut sets: Vec<&mut Sized> = rollout
        .old
        .iter_mut()
        .chain(&mut rollout.new)
        .filter(|s| s.size > 0)
        .collect();
    // Larger sets first; among equals the newer one grows and the older one shrinks first.
    // The sets are in order of age, the new one last.
    if to_add > 0 {
        sets.reverse();
    }
    sets.sort_by_key(|s| std::cmp::Reverse(s.size));
    let mut added = 0;
    for sized in &mut sets {
        let fraction = fraction(sized, wanted, allowed, fallback);
        let left = to_add - added;
        let proportion = if to_add > 0 {
            fraction.min(left)
        } else {
            fraction.max(left)
        };
        sized.size += proportion;
        added += proportion;
    }
    if let Some(largest) = sets.first_mut() {
        largest.size = (largest.size + to_add - added).max(0);
    }
}

fn fraction(sized: &Sized, wanted: i32, max_now: i32, fallback: i32) -> i32 {
    if wanted == 0 {
        return -sized.size;
    }
    let max_before = revision::max_replicas(&sized.set)
        .filter(|max| *max != 0)
        .unwrap_or(fallback);
    if max_before == 0 {
        return 0;
    }
    let size = f64::from(sized.size) * f64::from(max_now) / f64::from(max_before);
    size.round() as i32 - sized.size
}
