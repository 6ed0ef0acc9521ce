//! The rolling update: pods of old revisions are deleted from the highest ordinal down, as fast as
//! maxUnavailable allows, and come back at the new revision.
//!
//! Mechanism of `updateStatefulSetAfterInvariantEstablished`.

use std::sync::Arc;

use super::{Sync, range, replica};
use crate::deployment::scaled;
use crate::kinds::Pod;
use crate::object::MetaExt;
use crate::write::Write;

/// Pods to delete for the update.
pub fn deletions(sync: &Sync<'_>) -> Vec<Write> {
    let set = sync.set;
    let rolling = set.spec.update_strategy.rolling_update.as_ref();
    let first = set.spec.ordinals.start + rolling.map_or(0, |rolling| rolling.partition);
    let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let most = most.map_or(1, |most| {
        scaled(Some(most), set.spec.replicas.unwrap_or(1), false).max(1)
    });
    let is_old = |pod: &Pod| replica::revision(pod) != Some(&sync.updated.1);
    let present = |ordinal: i32| sync.replicas.get(&ordinal);
    let is_missing = |ordinal: &i32| present(*ordinal).is_none_or(|pod| sync.is_unavailable(pod));
    let unavailable = range(set).filter(is_missing).count();
    let budget = usize::try_from(most)
        .unwrap_or(0)
        .saturating_sub(unavailable);
    let candidates: Vec<&Arc<Pod>> = range(set)
        .rev()
        .filter(|ordinal| *ordinal >= first)
        .filter_map(present)
        .filter(|pod| is_old(pod) && !pod.metadata.is_deleting())
        .collect();
    let delete = |pod: &Arc<Pod>| replica::deletion(set, pod);
    if sync.is_ordered() {
        return candidates.into_iter().take(budget).map(delete).collect();
    }
    // Those that serve nobody anyway cost nothing.
    let (idle, serving): (Vec<_>, Vec<_>) = candidates
        .into_iter()
        .partition(|pod| !sync.is_available(pod));
    idle.into_iter()
        .chain(serving.into_iter().take(budget))
        .map(delete)
        .collect()
}
