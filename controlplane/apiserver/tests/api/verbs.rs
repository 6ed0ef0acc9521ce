//! Reading: get, list, pages, selectors, representations, paths that are not there.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;

use crate::harness::{Harness, config_map, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_kube_client_works_over_the_service() {
    let harness = Harness::new().await;
    let maps: Api<ConfigMap> = Api::namespaced(harness.client(), "default");
    let map: ConfigMap = serde_json::from_value(config_map("a", "x")).unwrap();
    let created = maps.create(&PostParams::default(), &map).await.unwrap();
    assert!(created.metadata.uid.is_some());
    assert!(created.metadata.creation_timestamp.is_some());
    let read = maps.get("a").await.unwrap();
    assert_eq!(read, created);
    let listed = maps
        .list(&ListParams::default().labels("app=x"))
        .await
        .unwrap();
    assert_eq!(listed.items.len(), 1);
    assert!(maps.get_opt("b").await.unwrap().is_none());
    maps.delete("a", &Default::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn every_cluster_begins_with_its_system_namespaces() {
    let harness = Harness::new().await;
    let namespaces: Api<Namespace> = Api::all(harness.client());
    let names: Vec<String> = namespaces
        .list(&ListParams::default())
        .await
        .unwrap()
        .into_iter()
        .map(|n| n.metadata.name.unwrap())
        .collect();
    assert_eq!(
        names,
        ["default", "kube-node-lease", "kube-public", "kube-system"]
    );
    let default = harness.get("/api/v1/namespaces/default").await.json();
    assert_eq!(
        default["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "default"
    );
    assert_eq!(default["status"]["phase"], "Active");
    assert_eq!(default["spec"]["finalizers"], json!(["kubernetes"]));
    let refused = harness.delete("/api/v1/namespaces/default").await;
    assert_eq!(refused.code, 403);
}

#[tokio::test]
async fn lists_come_in_pages_of_one_state() {
    let harness = Harness::new().await;
    for i in 0..7 {
        harness
            .create(MAPS, &config_map(&format!("m{i}"), "x"))
            .await;
    }
    let first = harness.get(&format!("{MAPS}?limit=3")).await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    let token = first["metadata"]["continue"].as_str().unwrap();
    // What is created meanwhile is not part of the list that was begun.
    harness.create(MAPS, &config_map("m9", "x")).await;
    let second = harness
        .get(&format!("{MAPS}?limit=3&continue={token}"))
        .await
        .json();
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert_eq!(second["items"][0]["metadata"]["name"], "m3");
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = harness
        .get(&format!("{MAPS}?limit=3&continue={token}"))
        .await
        .json();
    assert_eq!(third["items"].as_array().unwrap().len(), 1);
    assert!(third["metadata"].get("continue").is_none());
    let exact = version(&first);
    let old = harness
        .get(&format!(
            "{MAPS}?resourceVersion={exact}&resourceVersionMatch=Exact"
        ))
        .await;
    assert_eq!(old.json()["items"].as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn a_version_of_the_future_times_out_with_advice() {
    let harness = Harness::new().await;
    let reply = harness
        .get(&format!("{MAPS}?resourceVersion=999999999"))
        .await;
    assert_eq!(reply.code, 504);
    assert_eq!(
        reply.json()["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    assert_eq!(reply.headers["retry-after"], "1");
}

#[tokio::test]
async fn an_expired_continue_token_comes_with_one_that_works() {
    let harness = Harness::new().await;
    for i in 0..3 {
        harness
            .create(MAPS, &config_map(&format!("m{i}"), "x"))
            .await;
    }
    let first = harness.get(&format!("{MAPS}?limit=1")).await.json();
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    harness.create(MAPS, &config_map("m5", "x")).await;
    let log = harness.server.storage().log();
    log.compact(log.revision());
    // Compaction is asynchronous; its effect is what is waited for.
    let gone = loop {
        let reply = harness
            .get(&format!("{MAPS}?limit=1&continue={token}"))
            .await;
        if reply.code == 410 {
            break reply;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(gone.json()["reason"], "Expired");
    let fresh = gone.json()["metadata"]["continue"]
        .as_str()
        .unwrap()
        .to_owned();
    let rest = harness
        .get(&format!("{MAPS}?continue={fresh}"))
        .await
        .json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn selectors_choose() {
    let harness = Harness::new().await;
    for (name, value) in [("a", "x"), ("b", "y"), ("c", "x")] {
        harness.create(MAPS, &config_map(name, value)).await;
    }
    let table: [(&str, &[&str]); 5] = [
        ("labelSelector=app%3Dx", &["a", "c"]),
        ("labelSelector=app%20notin%20(x)", &["b"]),
        ("fieldSelector=metadata.name%3Db", &["b"]),
        (
            "fieldSelector=metadata.name!%3Db&labelSelector=app",
            &["a", "c"],
        ),
        (
            "labelSelector=!app&fieldSelector=metadata.namespace%3Dother",
            &[],
        ),
    ];
    for (query, want) in table {
        let list = harness.get(&format!("{MAPS}?{query}")).await.json();
        let names: Vec<&str> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, want, "{query}");
    }
    let bad = harness
        .get(&format!("{MAPS}?fieldSelector=data.key%3Dx"))
        .await;
    assert_eq!(bad.code, 400);
    assert!(
        bad.message().contains("is not a known field selector"),
        "{}",
        bad.message()
    );
}

#[tokio::test]
async fn the_accept_header_chooses_the_form() {
    let harness = Harness::new().await;
    harness.create(MAPS, &config_map("a", "x")).await;
    let one = format!("{MAPS}/a");
    let table = [
        (one.as_str(), "application/json", "ConfigMap"),
        (MAPS, "application/json", "ConfigMapList"),
        (
            &one,
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            "Table",
        ),
        (
            MAPS,
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            "Table",
        ),
        (
            &one,
            "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            "PartialObjectMetadata",
        ),
        (
            MAPS,
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            "PartialObjectMetadataList",
        ),
    ];
    for (uri, accept, kind) in table {
        let reply = harness
            .ask(Method::GET, uri, &[("accept", accept)], "")
            .await;
        assert_eq!(reply.code, 200, "{}", reply.text);
        assert_eq!(reply.json()["kind"], kind, "{uri} {accept}");
    }
    let reply = harness
        .ask(Method::GET, MAPS, &[("accept", "text/html")], "")
        .await;
    assert_eq!(reply.code, 406);
    let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let reply = harness
        .ask(Method::GET, &one, &[("accept", metadata)], "")
        .await
        .json();
    assert_eq!(reply["metadata"]["labels"]["app"], "x");
    assert!(reply["metadata"]["resourceVersion"].is_string());
    assert!(reply.get("data").is_none());
}

#[tokio::test]
async fn what_is_not_there_is_a_status() {
    let harness = Harness::new().await;
    let table = [
        (
            Method::GET,
            "/api/v1/namespaces/default/configmaps/none",
            404,
            "configmaps \"none\" not found",
        ),
        (
            Method::GET,
            "/api/v1/foos",
            404,
            "the server could not find the requested resource",
        ),
        (
            Method::GET,
            "/apis/apps/v1/namespaces/default/deployments/x",
            404,
            "deployments.apps \"x\" not found",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/none/configmaps",
            404,
            "namespaces \"none\" not found",
        ),
        (
            Method::DELETE,
            "/api/v1/componentstatuses/x",
            405,
            "the server does not allow this method on the requested resource",
        ),
    ];
    for (method, uri, code, message) in table {
        let body = if method == Method::POST {
            config_map("a", "x").to_string()
        } else {
            String::new()
        };
        let reply = harness.ask(method.clone(), uri, &[], body).await;
        assert_eq!(reply.code.as_u16(), code, "{uri}: {}", reply.text);
        assert_eq!(reply.json()["kind"], "Status", "{uri}");
        assert_eq!(reply.message(), message, "{uri}");
    }
}

#[tokio::test]
async fn an_event_has_two_homes() {
    let harness = Harness::new().await;
    let event = json!({
        "kind": "Event", "apiVersion": "events.k8s.io/v1", "metadata": {"name": "e"},
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}, "note": "it happened",
        "reason": "Happened", "type": "Normal", "action": "Happening",
        "reportingController": "example.com/c", "reportingInstance": "i",
        "eventTime": "2026-01-02T03:04:05.000006Z",
    });
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let created = harness.create(new, &event).await;
    assert_eq!(created["apiVersion"], "events.k8s.io/v1");
    assert_eq!(created["note"], "it happened");
    let core = harness
        .get("/api/v1/namespaces/default/events/e")
        .await
        .json();
    assert_eq!(core["message"], "it happened");
    assert_eq!(core["involvedObject"]["name"], "p");
    assert_eq!(core["reportingComponent"], "example.com/c");
    for uri in [
        format!("{new}?fieldSelector=regarding.name%3Dp"),
        format!("{new}?fieldSelector=reportingController%3Dexample.com/c"),
        "/api/v1/events?fieldSelector=involvedObject.name%3Dp".to_owned(),
    ] {
        assert_eq!(
            harness.get(&uri).await.json()["items"]
                .as_array()
                .unwrap()
                .len(),
            1,
            "{uri}"
        );
    }
}
