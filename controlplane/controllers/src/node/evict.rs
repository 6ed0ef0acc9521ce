//! Taint eviction: pods leave nodes whose NoExecute taints they do not tolerate (any longer).
//!
//! Mechanism of pkg/controller/tainteviction/taint_eviction.go.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Taint, Toleration};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::NO_EXECUTE;
use crate::kinds::{Node, Pod, Projection};
use crate::object::{Key, MetaExt, time};
use crate::plan::{Note, Plan};
use crate::view::{Index, World};
use crate::write::{PatchKind, Verb, Write};

/// Deletes what must go now and asks for a look when the next pod must go.
pub fn plan(world: &World, node: &Node, now: Timestamp, plan: &mut Plan) {
    let taints: Vec<&Taint> = node
        .spec
        .taints
        .iter()
        .filter(|t| t.effect == NO_EXECUTE)
        .collect();
    if taints.is_empty() {
        return;
    }
    let name = node.metadata.name.clone().unwrap_or_default();
    for pod in world.pods.by_index(Index::Node(name)) {
        if pod.metadata.is_deleting() || pod.is_terminated() {
            continue;
        }
        match leaves_in(&taints, &pod.spec.tolerations, now) {
            None => {}
            Some(delay) if delay.is_zero() => evict(pod, now, plan),
            Some(delay) => plan.requeue(delay),
        }
    }
}

/// How long the pod may stay; `None` for ever.
fn leaves_in(taints: &[&Taint], tolerations: &[Toleration], now: Timestamp) -> Option<Duration> {
    let mut soonest: Option<i64> = None;
    for taint in taints {
        let tolerating: Vec<&Toleration> =
            tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if tolerating.is_empty() {
            return Some(Duration::ZERO);
        }
        let limit = tolerating.iter().filter_map(|t| t.toleration_seconds).min();
        let since = taint.time_added.as_ref().map_or(now, |t| t.0);
        if let Some(seconds) = limit {
            let at = since.as_second() + seconds.max(0);
            soonest = Some(soonest.map_or(at, |s| s.min(at)));
        }
    }
    let left = soonest? - now.as_second();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

/// `Toleration.ToleratesTaint` of k8s.io/api/core/v1/toleration.go, without number comparison.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let filled = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    if filled(&toleration.effect).is_some_and(|effect| effect != taint.effect)
        || filled(&toleration.key).is_some_and(|key| key != taint.key)
    {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            filled(&toleration.key).is_some()
                && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("")
        }
        Some(_) => false,
    }
}

fn evict(pod: &Pod, now: Timestamp, plan: &mut Plan) {
    let key = Key::of(&pod.metadata);
    let body = json!({"status": {"conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": time(now),
    }]}});
    let verb = Verb::Patch {
        subresource: Some("status"),
        kind: PatchKind::Strategic,
        body,
    };
    plan.writes.push(Write {
        resource: &Pod::RESOURCE,
        key: key.clone(),
        verb,
        notes: None,
    });
    plan.events.push(Note::normal(
        pod,
        "TaintManagerEviction",
        format!("Marking for deletion Pod {key}"),
    ));
    plan.writes
        .push(Write::delete(&Pod::RESOURCE, key, pod.metadata.uid()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint() -> Taint {
        Taint {
            key: "k".into(),
            effect: NO_EXECUTE.into(),
            value: None,
            time_added: Some(time(Timestamp::from_second(100).unwrap())),
        }
    }

    fn toleration(seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some("k".into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        }
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let taint = taint();
        let at = |second| Timestamp::from_second(second).unwrap();
        let leaves = |tolerations: &[Toleration], now| leaves_in(&[&taint], tolerations, at(now));
        assert_eq!(leaves(&[], 100), Some(Duration::ZERO));
        assert_eq!(leaves(&[toleration(None)], 100), None);
        assert_eq!(
            leaves(&[toleration(Some(30))], 110),
            Some(Duration::from_secs(20))
        );
        assert_eq!(leaves(&[toleration(Some(30))], 140), Some(Duration::ZERO));
    }
}
