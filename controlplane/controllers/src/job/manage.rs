//! How many pods a Job has at a time: creations and deletions.
//!
//! Mechanism of `manageJob`, `activePodsForRemoval` and `firstPendingIndexes`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::indexes::Indexes;
use super::policy::{self, Verdict};
use super::{
    COMPLETION_INDEX, Sync, TRACKING_FINALIZER, backoff, index, is_indexed, is_tracked,
    replaces_failed_only,
};
use crate::claim::DELETE_FINALIZERS;
use crate::kinds::{Pod, Projection};
use crate::object::{Key, MetaExt};
use crate::plan::{Pace, Plan};
use crate::replicaset::rank;
use crate::template;
use crate::write::{Notes, PatchKind, Write};

/// Pods created or deleted in one go (upstream's MaxPodCreateDeletePerSync).
const BURST: usize = 500;
/// How often pods of the index have failed before, counted and ignored ones apart.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Longest base of a generated name (k8s.io/apiserver/pkg/storage/names).
const MAX_GENERATE_NAME: usize = 58;

/// Deletes what is still active; the finalizers stay until the pods are accounted for.
pub fn stop(sync: &Sync<'_>, plan: &mut Plan) {
    plan.pace = Pace::SlowStart;
    plan.writes
        .extend(sync.active.iter().map(|pod| delete(sync, pod)));
}

/// Brings the number of active pods to what is wanted; `wait` is what is left of the pause after
/// failures.
pub fn manage(sync: &Sync<'_>, wait: Duration, plan: &mut Plan) {
    let active = sync.active.len();
    let wanted = wanted(sync);
    let surplus = surplus(sync, active.saturating_sub(wanted));
    if !surplus.is_empty() {
        // First the finalizer: what is taken away has not failed.
        for pod in surplus.into_iter().take(BURST) {
            plan.writes.extend(is_tracked(&pod).then(|| untrack(&pod)));
            plan.writes.push(delete(sync, &pod));
        }
        return;
    }
    let leaving = if replaces_failed_only(sync.job) {
        usize::try_from(sync.terminating).unwrap_or(0)
    } else {
        0
    };
    let room = wanted.saturating_sub(active + leaving).min(BURST);
    if room > 0 {
        create(sync, room, wait, plan);
    }
}

fn wanted(sync: &Sync<'_>) -> usize {
    let spec = &sync.job.spec;
    let active = sync.active.len();
    let parallelism = spec.parallelism.unwrap_or(1);
    let wanted = match spec.completions {
        _ if spec.suspend => 0,
        Some(completions) => (completions - sync.succeeded).min(parallelism),
        // One success is enough: what runs may end, nothing new begins.
        None if sync.succeeded > 0 => return active,
        None => parallelism,
    };
    usize::try_from(wanted).unwrap_or(0)
}

/// Active pods to be deleted: those no index needs, and at least so many.
fn surplus(sync: &Sync<'_>, at_least: usize) -> Vec<Arc<Pod>> {
    let (mut surplus, mut rest) = (Vec::new(), sync.active.clone());
    if is_indexed(sync.job) {
        (surplus, rest) = superfluous(sync);
    }
    if surplus.len() < at_least {
        rest.sort_by(|a, b| rank::by_progress(a, b));
        rest.truncate(at_least - surplus.len());
        surplus.extend(rest);
    }
    surplus
}

/// Pods without an index in range, and all but the furthest of each index; then the others.
fn superfluous(sync: &Sync<'_>) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let mut by_index: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
    let mut superfluous = Vec::new();
    for pod in &sync.active {
        match index(pod).filter(|index| *index < sync.completions()) {
            Some(index) => by_index.entry(index).or_default().push(pod.clone()),
            None => superfluous.push(pod.clone()),
        }
    }
    let mut kept = Vec::new();
    for mut pods in by_index.into_values() {
        pods.sort_by(|a, b| rank::by_progress(a, b));
        kept.extend(pods.pop());
        superfluous.extend(pods);
    }
    (superfluous, kept)
}

fn create(sync: &Sync<'_>, room: usize, wait: Duration, plan: &mut Plan) {
    plan.pace = Pace::SlowStart;
    let by_index = sync.hopeless.is_some();
    if !wait.is_zero() && !by_index {
        return plan.requeue(wait);
    }
    if !is_indexed(sync.job) {
        let body = pod(sync, sync.job.spec.template.clone());
        let create = creation(sync, body);
        plan.writes.extend(std::iter::repeat_n(create, room));
        return;
    }
    for index in pending(sync, room) {
        let replaced = sync.replaced.get(&index);
        let wait = replaced.map_or(Duration::ZERO, |pod| {
            let failures = usize::try_from(all_failures(pod)).unwrap_or(0) + 1;
            backoff::remaining(failures, backoff::finished_at(pod), sync.now)
        });
        if wait.is_zero() {
            let body = indexed_pod(sync, index, replaced.filter(|_| by_index));
            plan.writes.push(creation(sync, body));
        } else {
            plan.requeue(wait);
        }
    }
}

/// The first indexes without a pod that need one.
fn pending(sync: &Sync<'_>, room: usize) -> Vec<i32> {
    let of = |pods: &[Arc<Pod>]| -> Indexes { pods.iter().filter_map(|pod| index(pod)).collect() };
    let mut taken = sync.done.union(&of(&sync.active));
    if replaces_failed_only(sync.job) {
        let leaving = sync.pods.iter().filter(|pod| pod.is_terminating());
        taken = taken.union(&leaving.filter_map(|pod| index(pod)).collect());
    }
    if let Some(hopeless) = &sync.hopeless {
        taken = taken.union(hopeless);
    }
    taken.missing(room, sync.completions())
}

fn creation(sync: &Sync<'_>, body: Value) -> Write {
    let namespace = sync.job.metadata.namespace.as_deref().unwrap_or("");
    let notes = Notes {
        regarding: kube::Resource::object_ref(sync.job, &()),
        done: Some(("SuccessfulCreate", "Created pod: {name}".to_owned())),
        failed: Some(("FailedCreate", "Error creating: {error}".to_owned())),
        ..Notes::default()
    };
    Write::create(&Pod::RESOURCE, Key::new(namespace, ""), body).noting(notes)
}

fn delete(sync: &Sync<'_>, pod: &Pod) -> Write {
    let notes = Notes {
        regarding: kube::Resource::object_ref(sync.job, &()),
        done: Some(("SuccessfulDelete", "Deleted pod: {name}".to_owned())),
        failed: Some(("FailedDelete", "Error deleting: {error}".to_owned())),
        ..Notes::default()
    };
    let key = Key::of(&pod.metadata);
    Write::delete(&Pod::RESOURCE, key, pod.metadata.uid()).noting(notes)
}

/// Takes the tracking finalizer off a pod.
pub fn untrack(pod: &Pod) -> Write {
    let mut body = json!({"metadata": {"uid": pod.metadata.uid()}});
    body["metadata"][DELETE_FINALIZERS] = json!([TRACKING_FINALIZER]);
    let key = Key::of(&pod.metadata);
    Write::patch(&Pod::RESOURCE, key, PatchKind::Strategic, body)
}

/// A tracked pod of the template.
fn pod(sync: &Sync<'_>, template: Value) -> Value {
    let mut pod = template::pod(&template, sync.job);
    let finalizers = &mut pod["metadata"]["finalizers"];
    let mut list = finalizers.as_array().cloned().unwrap_or_default();
    if !list.contains(&json!(TRACKING_FINALIZER)) {
        list.push(TRACKING_FINALIZER.into());
    }
    *finalizers = Value::Array(list);
    pod
}

/// The pod of one index; with `replaced` it goes on counting that pod's failures.
fn indexed_pod(sync: &Sync<'_>, index: i32, replaced: Option<&Arc<Pod>>) -> Value {
    let mut pod = pod(sync, sync.job.spec.template.clone());
    let name = sync.job.metadata.name.as_deref().unwrap_or_default();
    let text = index.to_string();
    for list in ["initContainers", "containers"] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        containers
            .into_iter()
            .flatten()
            .for_each(add_index_variable);
    }
    pod["spec"]["hostname"] = format!("{name}-{index}").into();
    let metadata = &mut pod["metadata"];
    metadata["generateName"] = generate_name(name, index).into();
    for field in ["annotations", "labels"] {
        if !metadata[field].is_object() {
            metadata[field] = json!({});
        }
        metadata[field][COMPLETION_INDEX] = text.as_str().into();
    }
    if sync.hopeless.is_some() {
        let (counted, ignored) = failures_of_next(sync, replaced);
        metadata["annotations"][FAILURES] = counted.to_string().into();
        if ignored > 0 {
            metadata["annotations"][IGNORED_FAILURES] = ignored.to_string().into();
        }
    }
    pod
}

fn add_index_variable(container: &mut Value) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let mut env = container["env"].as_array().cloned().unwrap_or_default();
    if env.iter().any(|variable| variable["name"] == NAME) {
        return;
    }
    let path = format!("metadata.labels['{COMPLETION_INDEX}']");
    env.push(json!({"name": NAME, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    container["env"] = Value::Array(env);
}

fn generate_name(job: &str, index: i32) -> String {
    let suffix = format!("-{index}-");
    let mut end = job.len().min(MAX_GENERATE_NAME - suffix.len());
    while !job.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &job[..end])
}

/// `getNewIndexFailureCounts`.
fn failures_of_next(sync: &Sync<'_>, replaced: Option<&Arc<Pod>>) -> (i32, i32) {
    let Some(pod) = replaced else { return (0, 0) };
    let ignored = annotated(pod, IGNORED_FAILURES);
    match policy::judge(sync.job, pod) {
        Verdict::Ignore => (failures(pod), ignored + 1),
        Verdict::Count | Verdict::FailIndex | Verdict::FailJob(_) => (failures(pod) + 1, ignored),
    }
}

/// Counted failures of the pod's index before this pod.
pub fn failures(pod: &Pod) -> i32 {
    annotated(pod, FAILURES)
}

/// The same with those a policy ignored.
pub fn all_failures(pod: &Pod) -> i32 {
    failures(pod).saturating_add(annotated(pod, IGNORED_FAILURES))
}

fn annotated(pod: &Pod, key: &str) -> i32 {
    let text = pod.metadata.annotation(key);
    let number: Option<i32> = text.and_then(|text| text.parse().ok());
    number.filter(|n| *n >= 0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_indexed_pod_leaves_room_for_its_suffix() {
        assert_eq!(generate_name("job", 3), "job-3-");
        let long = generate_name(&"x".repeat(63), 12);
        assert_eq!(long.len(), MAX_GENERATE_NAME);
        assert!(long.ends_with("x-12-"));
    }
}
