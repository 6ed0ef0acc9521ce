//! Watching: events in order, selectors, initial state, bookmarks, expired versions.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;

use crate::harness::{Harness, config_map, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_watch_from_a_version_replays_what_came_after() {
    let harness = Harness::new().await;
    let first = harness.create(MAPS, &config_map("a", "x")).await;
    harness.create(MAPS, &config_map("b", "x")).await;
    harness.delete(&format!("{MAPS}/a")).await;
    let mut events = harness
        .watch(&format!(
            "{MAPS}?watch=1&resourceVersion={}",
            version(&first)
        ))
        .await;
    assert_eq!(events.short().await, event("ADDED", "b"));
    let deleted = events.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert!(version(&deleted["object"]) > version(&first));
    harness
        .patch(
            &format!("{MAPS}/b"),
            "merge-patch",
            &json!({"data": {"key": "z"}}),
        )
        .await;
    assert_eq!(events.short().await, event("MODIFIED", "b"));
}

#[tokio::test]
async fn an_object_that_leaves_the_selector_is_deleted_for_it() {
    let harness = Harness::new().await;
    let mut events = harness
        .watch(&format!("{MAPS}?watch=1&labelSelector=app%3Dx"))
        .await;
    harness.create(MAPS, &config_map("a", "y")).await;
    let relabel = |value: &str| json!({"metadata": {"labels": {"app": value}}});
    harness
        .patch(&format!("{MAPS}/a"), "merge-patch", &relabel("x"))
        .await;
    assert_eq!(events.short().await, event("ADDED", "a"));
    harness
        .patch(&format!("{MAPS}/a"), "merge-patch", &relabel("y"))
        .await;
    let gone = events.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["metadata"]["labels"]["app"], "x");
}

#[tokio::test]
async fn watch_list_sends_the_state_and_marks_its_end() {
    let harness = Harness::new().await;
    harness.create(MAPS, &config_map("a", "x")).await;
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = harness.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(events.short().await, event("ADDED", "a"));
    let end = events.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["kind"], "ConfigMap");
    assert_eq!(
        end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    let refused = harness
        .get(&format!("{MAPS}?watch=1&sendInitialEvents=true"))
        .await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn a_watch_of_one_namespace_or_name_sees_nothing_else() {
    let harness = Harness::new().await;
    let all = "/api/v1/configmaps?watch=1";
    let (mut all, mut one) = (
        harness.watch(all).await,
        harness
            .watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Db"))
            .await,
    );
    let other = "/api/v1/namespaces/kube-system/configmaps";
    harness.create(other, &config_map("b", "x")).await;
    harness.create(MAPS, &config_map("a", "x")).await;
    harness.create(MAPS, &config_map("b", "x")).await;
    let seen = one.next().await.unwrap();
    assert_eq!(seen["object"]["metadata"]["namespace"], "default");
    for want in ["b", "a", "b"] {
        assert_eq!(all.short().await, event("ADDED", want));
    }
}

#[tokio::test]
async fn a_slow_watcher_gets_everything_from_the_history() {
    let harness = Harness::new().await;
    let mut events = harness.watch(&format!("{MAPS}?watch=1")).await;
    for i in 0..300 {
        harness
            .create(MAPS, &config_map(&format!("m{i:03}"), "x"))
            .await;
    }
    for i in 0..300 {
        assert_eq!(events.short().await, event("ADDED", &format!("m{i:03}")));
    }
}

#[tokio::test]
async fn a_watch_the_history_has_gone_past_ends_with_one_error() {
    let harness = Harness::new().await;
    let first = version(&harness.create(MAPS, &config_map("a", "x")).await);
    let uri = format!("{MAPS}?watch=1&resourceVersion={first}");
    let mut events = harness.watch(&uri).await;
    harness.create(MAPS, &config_map("b", "x")).await;
    let log = harness.server.storage().log();
    log.compact(log.revision());
    while harness.get(&format!("{uri}&timeoutSeconds=1")).await.code != 410 {}
    let error = events.next().await.unwrap();
    assert_eq!(
        (&error["type"], &error["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_gone() {
    let harness = Harness::new().await;
    let first = harness.create(MAPS, &config_map("a", "x")).await;
    harness.create(MAPS, &config_map("b", "x")).await;
    let log = harness.server.storage().log();
    log.compact(log.revision());
    let uri = format!(
        "{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={}",
        version(&first)
    );
    let reply = loop {
        let reply = harness.get(&uri).await;
        if reply.code == 410 {
            break reply;
        }
    };
    assert_eq!(reply.json()["reason"], "Expired");
    assert!(reply.message().starts_with("too old resource version: "));
}

#[tokio::test]
async fn kube_runtimes_watcher_follows() {
    let harness = Harness::new().await;
    harness.create(MAPS, &config_map("a", "x")).await;
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let maps: Api<ConfigMap> = Api::namespaced(harness.client(), "default");
        let mut objects = Box::pin(watcher(maps, config).applied_objects());
        let first = objects.try_next().await.unwrap().unwrap();
        assert_eq!(first.metadata.name.as_deref(), Some("a"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_are_seen_in_one_order() {
    const WRITERS: usize = 16;
    const EACH: usize = 20;
    let harness = std::sync::Arc::new(Harness::new().await);
    let mut events = harness.watch(&format!("{MAPS}?watch=1")).await;
    let writers = (0..WRITERS).map(|writer| {
        let harness = harness.clone();
        tokio::spawn(async move {
            for i in 0..EACH {
                let name = format!("w{writer}-{i}");
                let created = harness.create(MAPS, &config_map(&name, "x")).await;
                // A writer reads its own write, and at least as new a list.
                let uri = format!("{MAPS}?limit=1&fieldSelector=metadata.name%3D{name}");
                let list = harness.get(&uri).await.json();
                assert_eq!(
                    list["items"][0]["metadata"]["uid"],
                    created["metadata"]["uid"]
                );
                assert!(version(&list) >= version(&created));
                if i % 2 == 0 {
                    assert_eq!(harness.delete(&format!("{MAPS}/{name}")).await.code, 200);
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let (mut last, mut present) = (0, std::collections::BTreeSet::new());
    for _ in 0..WRITERS * EACH * 3 / 2 {
        let event = events.next().await.unwrap();
        let name = event["object"]["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(version(&event["object"]) > last);
        last = version(&event["object"]);
        match event["type"].as_str().unwrap() {
            "ADDED" => assert!(present.insert(name)),
            "DELETED" => assert!(present.remove(&name)),
            other => panic!("{other}"),
        }
    }
    assert_eq!(present.len(), WRITERS * EACH / 2);
}
