//! Deletes the content of one namespace and judges what is left.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, Request};
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{FINALIZER, Purge};
use crate::discovery::{self, Deletable};
use crate::driver::apply::FollowUp;
use crate::kinds::{Condition, Namespace, Projection, condition};
use crate::object::time;
use crate::write::{Edit, Verb, Write};

/// How long to wait before looking at remaining content again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// What one resource still has in the namespace.
#[derive(Debug, Default, PartialEq)]
struct Remains {
    objects: usize,
    finalizers: BTreeMap<String, usize>,
}

/// What is known after one round.
#[derive(Debug, Default)]
struct Round {
    discovery_failure: Option<String>,
    failures: Vec<String>,
    remains: BTreeMap<String, Remains>,
}

/// Deletes everything once; finalizes the namespace when nothing is left.
pub async fn purge(client: &Client, purge: Purge) -> FollowUp {
    let namespace = &*purge.key.name;
    let mut round = Round::default();
    match discovery::deletable(client).await {
        Ok(resources) => {
            let namespaced = resources.into_iter().filter(|r| r.namespaced);
            let (pods, others): (Vec<_>, Vec<_>) =
                namespaced.partition(|r| r.group.is_empty() && r.plural == "pods");
            empty_all(client, namespace, &pods, &mut round).await;
            // Pods go first: what they use stays until they are gone.
            if round.remains.is_empty() && round.failures.is_empty() {
                empty_all(client, namespace, &others, &mut round).await;
            }
        }
        Err(error) => round.discovery_failure = Some(error.to_string()),
    }
    follow_up(purge, &round)
}

async fn empty_all(client: &Client, namespace: &str, resources: &[Deletable], round: &mut Round) {
    for resource in resources {
        match empty(client, namespace, resource).await {
            Ok(remains) if remains.objects == 0 => {}
            Ok(remains) => {
                round.remains.insert(resource.name(), remains);
            }
            // The resource went away since discovery.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => {}
            Err(error) => round.failures.push(format!("{}: {error}", resource.name())),
        }
    }
}

async fn empty(
    client: &Client,
    namespace: &str,
    resource: &Deletable,
) -> Result<Remains, kube::Error> {
    let path = resource.collection(namespace);
    if list(client, &path).await?.is_empty() {
        return Ok(Remains::default());
    }
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
        "propagationPolicy": "Background"});
    let body = serde_json::to_vec(&options).map_err(kube::Error::SerdeError)?;
    let request = Request::builder()
        .method(Method::DELETE)
        .uri(&path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(kube::Error::HttpError)?;
    client.request::<Value>(request).await?;
    let mut remains = Remains::default();
    for item in list(client, &path).await? {
        remains.objects += 1;
        for finalizer in item.metadata.finalizers {
            *remains.finalizers.entry(finalizer).or_default() += 1;
        }
    }
    Ok(remains)
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: ItemMeta,
}

#[derive(Deserialize)]
struct ItemMeta {
    #[serde(default)]
    finalizers: Vec<String>,
}

async fn list(client: &Client, path: &str) -> Result<Vec<Item>, kube::Error> {
    let request = Request::builder()
        .uri(path)
        .header(http::header::ACCEPT, METADATA_LIST)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    Ok(client.request::<List>(request).await?.items)
}

fn follow_up(purge: Purge, round: &Round) -> FollowUp {
    let is_empty =
        round.discovery_failure.is_none() && round.failures.is_empty() && round.remains.is_empty();
    let edit = |subresource, edits| Write {
        resource: &Namespace::RESOURCE,
        key: purge.key.clone(),
        verb: Verb::Edit {
            subresource: Some(subresource),
            resource_version: None,
            edits,
        },
        notes: None,
    };
    if is_empty {
        let left: Vec<&String> = purge
            .finalizers
            .iter()
            .filter(|f| *f != FINALIZER)
            .collect();
        let finalize = edit("finalize", vec![Edit::set("/spec/finalizers", json!(left))]);
        return FollowUp {
            writes: vec![finalize],
            ..FollowUp::default()
        };
    }
    let conditions = conditions(&purge, round);
    let mut follow_up = FollowUp::default();
    if conditions != purge.conditions {
        let value = serde_json::to_value(&conditions).expect("conditions are plain data");
        follow_up
            .writes
            .push(edit("status", vec![Edit::set("/status/conditions", value)]));
    }
    let failures = round.discovery_failure.iter().chain(&round.failures);
    let failures: Vec<&str> = failures.map(String::as_str).collect();
    if failures.is_empty() {
        follow_up.requeue_after = Some(LOOK_AGAIN);
    } else {
        follow_up.failure = Some(failures.join("; "));
    }
    follow_up
}

/// The problems of one round, each under its condition: its type, what is wrong (reason and
/// text), and what is said when nothing is (status_condition_utils.go).
fn rows(round: &Round) -> [Condition; 5] {
    let failures = round.failures.join("; ");
    let failed = format!("Failed to delete all resource types, {failures}");
    let remaining = remaining(round);
    let left = format!("Some resources are remaining: {remaining}");
    let finalizers = finalizers(round);
    let held = format!("Some content in the namespace has finalizers remaining: {finalizers}");
    let discovery = round.discovery_failure.clone();
    [
        row(
            "NamespaceDeletionDiscoveryFailure",
            discovery.map(|error| ("DiscoveryFailed", error)),
            (
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
        ),
        row(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            (
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
        ),
        row(
            "NamespaceDeletionContentFailure",
            (!failures.is_empty()).then_some(("ContentDeletionFailed", failed)),
            (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        row(
            "NamespaceContentRemaining",
            (!remaining.is_empty()).then_some(("SomeResourcesRemain", left)),
            ("ContentRemoved", "All content successfully removed"),
        ),
        row(
            "NamespaceFinalizersRemaining",
            (!finalizers.is_empty()).then_some(("SomeFinalizersRemain", held)),
            (
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
        ),
    ]
}

fn remaining(round: &Round) -> String {
    let left = round.remains.iter();
    let left = left.map(|(name, left)| format!("{name} has {} resource instances", left.objects));
    left.collect::<Vec<_>>().join(", ")
}

fn finalizers(round: &Round) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, count) in round
        .remains
        .values()
        .flat_map(|remains| &remains.finalizers)
    {
        *counts.entry(name).or_default() += count;
    }
    let counts = counts.iter();
    let texts = counts.map(|(name, count)| format!("{name} in {count} resource instances"));
    texts.collect::<Vec<_>>().join(", ")
}

/// Others' conditions, then ours.
fn conditions(purge: &Purge, round: &Round) -> Vec<Condition> {
    let ours = rows(round).map(|row| keep_time(row, purge));
    let is_others = |c: &&Condition| !ours.iter().any(|our| our.type_ == c.type_);
    let others: Vec<Condition> = purge.conditions.iter().filter(is_others).cloned().collect();
    others.into_iter().chain(ours).collect()
}

fn row(
    type_: &str,
    problem: Option<(&'static str, String)>,
    fine: (&'static str, &'static str),
) -> Condition {
    let (status, reason, message) = match problem {
        Some((reason, message)) => ("True", reason, message),
        None => ("False", fine.0, fine.1.to_owned()),
    };
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        ..Condition::default()
    }
}

fn keep_time(mut new: Condition, purge: &Purge) -> Condition {
    let old = condition(&purge.conditions, &new.type_).filter(|old| old.status == new.status);
    let since = old.and_then(|old| old.last_transition_time.clone());
    new.last_transition_time = since.or_else(|| Some(time(purge.now)));
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Key;
    use k8s_openapi::jiff::Timestamp;

    fn sample() -> Purge {
        Purge {
            key: Key::cluster("ns"),
            finalizers: vec!["kubernetes".into(), "other".into()],
            conditions: Vec::new(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
        }
    }

    #[test]
    fn an_empty_namespace_loses_our_finalizer_only() {
        let follow_up = follow_up(sample(), &Round::default());
        let Verb::Edit {
            subresource: Some("finalize"),
            edits,
            ..
        } = &follow_up.writes[0].verb
        else {
            panic!("{follow_up:?}")
        };
        assert_eq!(edits[0].value, Some(json!(["other"])));
    }

    #[test]
    fn what_is_left_is_named_in_the_conditions() {
        let mut round = Round::default();
        let remains = Remains {
            objects: 2,
            finalizers: BTreeMap::from([("a/b".into(), 1)]),
        };
        round.remains.insert("pods.".into(), remains);
        let follow_up = follow_up(sample(), &round);
        assert_eq!(follow_up.requeue_after, Some(LOOK_AGAIN));
        let text = format!("{:?}", follow_up.writes);
        assert!(text.contains("pods. has 2 resource instances"), "{text}");
        assert!(text.contains("a/b in 1 resource instances"), "{text}");
    }
}
