//! Updates node by node: old pods go as fast as maxUnavailable or maxSurge allows.
//!
//! Mechanism of daemon/update.go `rollingUpdate`.

use std::sync::Arc;

use super::{Daemons, Moves};
use crate::deployment::scaled;
use crate::kinds::Pod;
use crate::object::MetaExt;

pub fn max_surge(daemons: &Daemons<'_>) -> i32 {
    let strategy = &daemons.set.spec.update_strategy;
    if strategy.type_ == "OnDelete" {
        return 0;
    }
    scaled(
        strategy.rolling_update.max_surge.as_ref(),
        daemons.wanted,
        true,
    )
}

fn max_unavailable(daemons: &Daemons<'_>) -> i32 {
    let update = &daemons.set.spec.update_strategy.rolling_update;
    let wanted = daemons.wanted;
    let unavailable = scaled(update.max_unavailable.as_ref(), wanted, true);
    if wanted > 0 && unavailable == 0 && max_surge(daemons) == 0 {
        1
    } else {
        unavailable
    }
}

/// The pods of one node: of the present template, and older ones. `None` while there are several.
type OnNode<'a> = Option<(Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>)>;

fn on_node<'a>(daemons: &Daemons<'_>, pods: &'a [Arc<Pod>]) -> OnNode<'a> {
    let (mut new, mut old) = (None, None);
    for pod in pods.iter().filter(|pod| !pod.metadata.is_deleting()) {
        let place = if daemons.is_current(pod) {
            &mut new
        } else {
            &mut old
        };
        if place.replace(pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

pub fn moves(daemons: &Daemons<'_>) -> Moves {
    if max_surge(daemons) == 0 {
        replace(daemons)
    } else {
        surge(daemons)
    }
}

/// Deletes old pods first; new ones follow when they are gone.
fn replace(daemons: &Daemons<'_>) -> Moves {
    let mut unavailable = 0;
    let mut at_once = Vec::new();
    let mut candidates = Vec::new();
    let nothing: &[Arc<Pod>] = &[];
    let missing = daemons
        .nodes
        .iter()
        .filter(|(name, place)| place.should_run && !daemons.pods.contains_key(**name));
    let per_node = daemons.pods.values().map(Vec::as_slice);
    for pods in per_node.chain(missing.map(|_| nothing)) {
        match on_node(daemons, pods) {
            Some((Some(new), None)) if daemons.is_available(new) => {}
            Some((None, Some(old))) if daemons.is_available(old) => candidates.push(old.clone()),
            Some((None, Some(old))) => {
                at_once.push(old.clone());
                unavailable += 1;
            }
            None | Some(_) => unavailable += 1,
        }
    }
    let room = usize::try_from(max_unavailable(daemons) - unavailable).unwrap_or(0);
    candidates.truncate(room);
    at_once.extend(candidates);
    Moves {
        delete: at_once,
        ..Moves::default()
    }
}

/// Starts new pods beside old ones, which go when the new ones are available.
fn surge(daemons: &Daemons<'_>) -> Moves {
    let mut moves = Moves::default();
    let mut surging = 0;
    let mut available = 0;
    let mut candidates = Vec::new();
    let mut leaving = Vec::new();
    for (name, pods) in &daemons.pods {
        let Some((new, old)) = on_node(daemons, pods) else {
            surging += 1;
            continue;
        };
        if old.or(new).is_some_and(|pod| daemons.is_available(pod)) {
            available += 1;
        }
        let Some(old) = old else { continue };
        if let Some(new) = new {
            if daemons.is_available(new) {
                moves.delete.push(old.clone());
            } else {
                surging += 1;
            }
            continue;
        }
        let should_run = daemons.should_run(name);
        match (daemons.is_available(old), should_run) {
            (false, false) => moves.delete.push(old.clone()),
            (false, true) => moves.create.push(name.clone()),
            (true, false) => leaving.push(old.clone()),
            (true, true) => candidates.push(name.clone()),
        }
    }
    let deletable = usize::try_from(available - daemons.wanted).unwrap_or(0);
    moves.delete.extend(leaving.into_iter().take(deletable));
    let room = usize::try_from(max_surge(daemons) - surging).unwrap_or(0);
    moves.create.extend(candidates.into_iter().take(room));
    moves
}

/// Which of several running pods on one node go while surging: one of each template may stay, the
/// old one only while it is ready and the new one is not.
pub fn surplus(daemons: &Daemons<'_>, running: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    let (mut new, mut old): (Vec<_>, Vec<_>) =
        running.into_iter().partition(|pod| daemons.is_current(pod));
    let mut surplus = new.split_off(new.len().min(1));
    surplus.extend(old.split_off(old.len().min(1)));
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (daemons.is_available(new) || !old.is_ready())
    {
        surplus.push(old.clone());
    }
    surplus
}
