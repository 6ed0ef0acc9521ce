//! Writing: conflicts, no-ops, dry runs, strictness, patches, finalizers, graceful deletion,
//! services, bindings, secrets at rest, restart.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Harness, config_map, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_second_creation_is_refused() {
    let harness = Harness::new().await;
    harness.create(MAPS, &config_map("a", "x")).await;
    let reply = harness.post(MAPS, &config_map("a", "x")).await;
    assert_eq!(reply.code, 409);
    assert_eq!(reply.message(), "configmaps \"a\" already exists");
    assert_eq!(reply.json()["reason"], "AlreadyExists");
}

#[tokio::test]
async fn names_are_generated() {
    let harness = Harness::new().await;
    let map = json!({"metadata": {"generateName": "gen-"}});
    let created = harness.create(MAPS, &map).await;
    let name = created["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn a_stale_update_conflicts_and_a_same_one_writes_nothing() {
    let harness = Harness::new().await;
    let created = harness.create(MAPS, &config_map("a", "x")).await;
    let uri = format!("{MAPS}/a");
    let same = harness.put(&uri, &created).await;
    assert_eq!(same.code, 200, "{}", same.text);
    assert_eq!(version(&same.json()), version(&created));
    let mut changed = created.clone();
    changed["data"]["key"] = "y".into();
    let second = harness.put(&uri, &changed).await.json();
    assert!(version(&second) > version(&created));
    assert_eq!(second["metadata"]["uid"], created["metadata"]["uid"]);
    let stale = harness.put(&uri, &changed).await;
    assert_eq!(stale.code, 409);
    assert_eq!(
        stale.message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let harness = Harness::new().await;
    harness.create(MAPS, &config_map("a", "x")).await;
    let uri = format!("{MAPS}/a");
    let patches: Vec<Value> = (0..20)
        .map(|i| json!({"data": {format!("k{i}"): "v"}}))
        .collect();
    let writes = patches
        .iter()
        .map(|p| harness.patch(&uri, "merge-patch", p));
    for reply in futures::future::join_all(writes).await {
        assert_eq!(reply.code, 200, "{}", reply.text);
    }
    let read = harness.get(&uri).await.json();
    assert_eq!(read["data"].as_object().unwrap().len(), 21);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let harness = Harness::new().await;
    let reply = harness
        .post(&format!("{MAPS}?dryRun=All"), &config_map("a", "x"))
        .await;
    assert_eq!(reply.code, 201, "{}", reply.text);
    assert_eq!(harness.get(&format!("{MAPS}/a")).await.code, 404);
    let bad = harness
        .post(&format!("{MAPS}?dryRun=Some"), &config_map("a", "x"))
        .await;
    assert_eq!(bad.code, 422);
}

#[tokio::test]
async fn unknown_fields_warn_or_fail() {
    let harness = Harness::new().await;
    let mut map = config_map("a", "x");
    map["unknown"] = 1.into();
    let strict = harness
        .post(&format!("{MAPS}?fieldValidation=Strict"), &map)
        .await;
    assert_eq!(strict.code, 400, "{}", strict.text);
    assert!(
        strict.message().contains("unknown field \"unknown\""),
        "{}",
        strict.message()
    );
    let warned = harness
        .post(&format!("{MAPS}?fieldValidation=Warn"), &map)
        .await;
    assert_eq!(warned.code, 201, "{}", warned.text);
    let warning = warned.headers["warning"].to_str().unwrap();
    assert_eq!(warning, "299 - \"unknown field \\\"unknown\\\"\"");
}

#[tokio::test]
async fn yaml_and_broken_bodies() {
    let harness = Harness::new().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: \"1\"\n";
    let headers = [("content-type", "application/yaml")];
    let reply = harness.ask(Method::POST, MAPS, &headers, yaml).await;
    assert_eq!(reply.code, 201, "{}", reply.text);
    let reply = harness.ask(Method::POST, MAPS, &headers, "a: [").await;
    assert_eq!(reply.code, 400, "{}", reply.text);
    let reply = harness
        .ask(Method::POST, MAPS, &[("content-type", "text/plain")], "x")
        .await;
    assert_eq!(reply.code, 415, "{}", reply.text);
    let wrong = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    assert_eq!(harness.post(MAPS, &wrong).await.code, 400);
    let apply = [("content-type", "application/apply-patch+yaml")];
    let reply = harness
        .ask(Method::PATCH, &format!("{MAPS}/m"), &apply, "{}")
        .await;
    assert_eq!(reply.code, 415, "{}", reply.text);
}

#[tokio::test]
async fn patches_of_three_kinds() {
    let harness = Harness::with_account().await;
    harness.create(PODS, &pod("p")).await;
    let uri = format!("{PODS}/p");
    let table = [
        ("merge-patch", json!({"metadata": {"labels": {"a": "1"}}})),
        (
            "json-patch",
            json!([{"op": "add", "path": "/metadata/labels/b", "value": "2"}]),
        ),
        (
            "strategic-merge-patch",
            json!({"spec": {"containers": [{"name": "c", "image": "j"}]}}),
        ),
    ];
    for (kind, patch) in table {
        let reply = harness.patch(&uri, kind, &patch).await;
        assert_eq!(reply.code, 200, "{kind}: {}", reply.text);
    }
    let read = harness.get(&uri).await.json();
    assert_eq!(read["metadata"]["labels"], json!({"a": "1", "b": "2"}));
    assert_eq!(read["spec"]["containers"][0]["image"], "j");
    assert_eq!(read["spec"]["containers"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let harness = Harness::new().await;
    let mut map = config_map("a", "x");
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    harness.create(MAPS, &map).await;
    let uri = format!("{MAPS}/a");
    let marked = harness.delete(&uri).await;
    assert_eq!(marked.code, 200);
    assert!(
        marked.json()["metadata"]["deletionTimestamp"].is_string(),
        "{}",
        marked.text
    );
    let release = json!({"metadata": {"finalizers": null}});
    assert_eq!(harness.patch(&uri, "merge-patch", &release).await.code, 200);
    assert_eq!(harness.get(&uri).await.code, 404);
}

#[tokio::test]
async fn propagation_is_a_finalizer() {
    let harness = Harness::new().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        let name = policy.to_lowercase();
        harness.create(MAPS, &config_map(&name, "x")).await;
        let reply = harness
            .delete(&format!("{MAPS}/{name}?propagationPolicy={policy}"))
            .await;
        assert_eq!(reply.json()["metadata"]["finalizers"], json!([finalizer]));
    }
}

#[tokio::test]
async fn preconditions_of_a_deletion() {
    let harness = Harness::new().await;
    harness.create(MAPS, &config_map("a", "x")).await;
    let body =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}});
    let reply = harness
        .ask(Method::DELETE, &format!("{MAPS}/a"), &[], body.to_string())
        .await;
    assert_eq!(reply.code, 409, "{}", reply.text);
    assert!(
        reply
            .message()
            .contains("the UID in the precondition (other) does not match"),
        "{}",
        reply.message()
    );
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let harness = Harness::new().await;
    for (name, value) in [("a", "x"), ("b", "y"), ("c", "x")] {
        harness.create(MAPS, &config_map(name, value)).await;
    }
    let reply = harness
        .delete(&format!("{MAPS}?labelSelector=app%3Dx"))
        .await;
    assert_eq!(reply.json()["items"].as_array().unwrap().len(), 2);
    let left = harness.get(MAPS).await.json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_collection_goes_with_fewer_syncs_than_objects_and_in_its_order() {
    const MANY: usize = 64;
    let harness = Harness::new().await;
    for i in 0..MANY {
        let map = config_map(&format!("m{i:02}"), "x");
        harness.create(MAPS, &map).await;
    }
    let syncs = || harness.server.storage().log().status().syncs;
    let before = syncs();
    let reply = harness.delete(MAPS).await.json();
    let items = reply["items"].as_array().unwrap();
    let names: Vec<&str> = items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), MANY);
    assert!(names.is_sorted(), "{names:?}");
    let syncs = syncs() - before;
    assert!(syncs < MANY as u64, "{syncs} syncs for {MANY} objects");
}

#[tokio::test]
async fn a_pod_gets_its_account_token_and_tolerations() {
    let harness = Harness::with_account().await;
    let created = harness.create(PODS, &pod("p")).await;
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    assert_eq!(created["spec"]["priority"], 0);
    assert_eq!(created["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let volume = &created["spec"]["volumes"][0];
    assert!(
        volume["name"]
            .as_str()
            .unwrap()
            .starts_with("kube-api-access-")
    );
    let mount = &created["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["name"], volume["name"]);
    assert_eq!(created["status"]["phase"], "Pending");
}

#[tokio::test]
async fn default_tolerations_come_back_and_every_order_counts_as_a_generation() {
    let harness = Harness::with_account().await;
    let mut changed = harness.create(PODS, &pod("p")).await;
    assert_eq!(changed["metadata"]["generation"], 1);
    let uri = format!("{PODS}/p");
    changed["spec"]["tolerations"] = json!([{"key": "k", "operator": "Exists"}]);
    let reply = harness.put(&uri, &changed).await;
    assert_eq!(reply.code, 200, "{}", reply.text);
    let updated = reply.json();
    assert_eq!(updated["spec"]["tolerations"].as_array().unwrap().len(), 3);
    assert_eq!(updated["metadata"]["generation"], 2);

    let debug = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "i"}]}});
    let containers = format!("{uri}/ephemeralcontainers");
    let reply = harness
        .patch(&containers, "strategic-merge-patch", &debug)
        .await;
    assert_eq!(reply.code, 200, "{}", reply.text);
    assert_eq!(reply.json()["metadata"]["generation"], 3);
}

#[tokio::test]
async fn pods_are_bound_once_and_end_gracefully() {
    let harness = Harness::with_account().await;
    harness.create(PODS, &pod("p")).await;
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    let uri = format!("{PODS}/p");
    let reply = harness.post(&format!("{uri}/binding"), &binding).await;
    assert_eq!(reply.code, 201, "{}", reply.text);
    let bound = harness.get(&uri).await.json();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let again = harness.post(&format!("{uri}/binding"), &binding).await;
    assert_eq!(again.code, 409);
    assert!(
        again
            .message()
            .contains("is already assigned to node \"n1\""),
        "{}",
        again.message()
    );
    let deleting = harness.delete(&uri).await.json();
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 30);
    let now = harness.delete(&format!("{uri}?gracePeriodSeconds=0")).await;
    assert_eq!(now.code, 200);
    assert_eq!(harness.get(&uri).await.code, 404);
    // Nobody runs it, so nobody is waited for.
    harness.create(PODS, &pod("q")).await;
    harness.delete(&format!("{PODS}/q")).await;
    assert_eq!(harness.get(&format!("{PODS}/q")).await.code, 404);
}

#[tokio::test]
async fn a_watch_by_node_sees_its_pods_only() {
    let harness = Harness::with_account().await;
    let mut events = harness
        .watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1")
        .await;
    for (name, node) in [("a", "n2"), ("b", "n1")] {
        harness.create(PODS, &pod(name)).await;
        let binding = json!({"target": {"kind": "Node", "name": node}});
        harness
            .post(&format!("{PODS}/{name}/binding"), &binding)
            .await;
    }
    assert_eq!(events.short().await, ("ADDED".to_owned(), "b".to_owned()));
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let harness = Harness::with_account().await;
    let created = harness.create(PODS, &pod("p")).await;
    let uri = format!("{PODS}/p");
    let mut changed = created.clone();
    changed["status"]["phase"] = "Running".into();
    changed["metadata"]["labels"] = json!({"a": "b"});
    let main = harness.put(&uri, &changed).await.json();
    assert_eq!(main["status"]["phase"], "Pending");
    assert_eq!(main["metadata"]["labels"]["a"], "b");
    let patch = json!({"status": {"phase": "Running"}});
    let status = harness
        .patch(&format!("{uri}/status"), "merge-patch", &patch)
        .await
        .json();
    assert_eq!(status["status"]["phase"], "Running");
}

#[tokio::test]
async fn a_health_check_port_that_is_taken_is_refused() {
    let harness = Harness::new().await;
    let local = |name: &str, node_port: u16| {
        let ports = json!([{"port": 80, "nodePort": node_port}]);
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 30090, "ports": ports});
        service(name, spec)
    };
    harness.create(SERVICES, &local("a", 30081)).await;
    for taken in [local("b", 30082), local("c", 30090)] {
        let reply = harness.post(SERVICES, &taken).await;
        assert_eq!(reply.code, 422, "{}", reply.text);
    }
    let reply = harness.post(SERVICES, &local("b", 30082)).await;
    let text = "spec.healthCheckNodePort: Invalid value: 30090: failed to allocate requested \
                HealthCheck NodePort 30090: provided port is already allocated";
    assert!(reply.message().ends_with(text), "{}", reply.message());
    let uri = format!("{SERVICES}/a");
    let same = harness.get(&uri).await.json();
    assert_eq!(harness.put(&uri, &same).await.code, 200);
    harness.delete(&uri).await;
    harness.create(SERVICES, &local("b", 30082)).await;
}

#[tokio::test]
async fn a_body_of_null_is_an_empty_object() {
    let harness = Harness::new().await;
    let reply = harness.post(MAPS, &Value::Null).await;
    assert_eq!(reply.code, 422, "{}", reply.text);
    let text = "metadata.name: Required value: name or generateName is required";
    assert!(reply.message().ends_with(text), "{}", reply.message());
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let harness = Harness::new().await;
    let ports = json!([{"port": 80, "nodePort": 30080}]);
    let first = service("a", json!({"type": "NodePort", "ports": ports}));
    let created = harness.create(SERVICES, &first).await;
    let ip = created["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.96."), "{ip}");
    assert_eq!(created["spec"]["clusterIPs"], json!([ip]));
    assert_eq!(created["spec"]["ipFamilies"], json!(["IPv4"]));
    let address = harness
        .get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}"))
        .await;
    assert_eq!(address.json()["spec"]["parentRef"]["name"], "a");
    let taken = harness
        .post(
            SERVICES,
            &service("b", json!({"type": "NodePort", "ports": ports})),
        )
        .await;
    assert_eq!(taken.code, 422);
    assert_eq!(
        taken.message(),
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is \
         already allocated"
    );
    let same_ip = service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}));
    let taken = harness.post(SERVICES, &same_ip).await;
    assert!(
        taken.message().contains("provided IP is already allocated"),
        "{}",
        taken.message()
    );
    let again = service("a", json!({"clusterIP": ip, "ports": [{"port": 80}]}));
    let refused = harness.post(SERVICES, &again).await;
    assert_eq!(refused.message(), "services \"a\" already exists");
    let patch = json!({"spec": {"type": "ClusterIP"}});
    let reply = harness
        .patch(&format!("{SERVICES}/a"), "merge-patch", &patch)
        .await;
    assert!(
        reply.json()["spec"]["ports"][0].get("nodePort").is_none(),
        "{}",
        reply.text
    );
    assert_eq!(reply.json()["spec"]["clusterIP"], ip.as_str());
    harness
        .create(
            SERVICES,
            &service("b", json!({"type": "NodePort", "ports": ports})),
        )
        .await;
    harness.delete(&format!("{SERVICES}/a")).await;
    let address = harness
        .get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}"))
        .await;
    assert_eq!(address.code, 404);
    let headless = service("h", json!({"clusterIP": "None", "ports": [{"port": 80}]}));
    assert_eq!(
        harness.create(SERVICES, &headless).await["spec"]["clusterIPs"],
        json!(["None"])
    );
}

#[tokio::test]
async fn scale_is_a_view_of_replicas() {
    let harness = Harness::new().await;
    let uri = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    });
    let created = harness.create(uri, &deployment).await;
    assert_eq!(created["metadata"]["generation"], 1);
    let scale = harness.get(&format!("{uri}/d/scale")).await.json();
    assert_eq!(scale["spec"]["replicas"], 2);
    assert_eq!(scale["status"]["selector"], "a=b");
    let patch = json!({"spec": {"replicas": 5}});
    let scaled = harness
        .patch(&format!("{uri}/d/scale"), "merge-patch", &patch)
        .await;
    assert_eq!(scaled.json()["spec"]["replicas"], 5, "{}", scaled.text);
    let read = harness.get(&format!("{uri}/d")).await.json();
    assert_eq!(
        (
            read["spec"]["replicas"].as_i64(),
            read["metadata"]["generation"].as_i64()
        ),
        (Some(5), Some(2))
    );
}

#[tokio::test]
async fn a_namespace_ends_when_its_finalizers_are_gone() {
    let harness = Harness::new().await;
    let uri = "/api/v1/namespaces/n";
    harness
        .create("/api/v1/namespaces", &json!({"metadata": {"name": "n"}}))
        .await;
    let ending = harness.delete(uri).await.json();
    assert_eq!(ending["status"]["phase"], "Terminating");
    let refused = harness
        .post("/api/v1/namespaces/n/configmaps", &config_map("a", "x"))
        .await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.json()["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    let mut finalized = harness.get(uri).await.json();
    finalized["spec"]["finalizers"] = json!([]);
    let reply = harness.put(&format!("{uri}/finalize"), &finalized).await;
    assert_eq!(reply.code, 200, "{}", reply.text);
    assert_eq!(harness.get(uri).await.code, 404);
}

#[tokio::test]
async fn everything_survives_a_restart_and_secrets_are_not_readable_on_the_disk() {
    let harness = Harness::new().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"word": "unreadable-on-disk"}});
    let uri = "/api/v1/namespaces/default/secrets";
    let before = harness.create(uri, &secret).await;
    let map = harness
        .create(MAPS, &config_map("a", "readable-on-disk"))
        .await;
    let harness = harness.restart().await;
    assert_eq!(harness.get(&format!("{uri}/s")).await.json(), before);
    assert_eq!(harness.get(&format!("{MAPS}/a")).await.json(), map);
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(harness.dir().join("log")).unwrap() {
        bytes.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    let contains = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(contains("readable-on-disk"));
    // base64 of the secret value
    assert!(!contains("dW5yZWFkYWJsZS1vbi1kaXNr") && !contains("unreadable-on-disk"));
}

#[tokio::test]
async fn the_service_of_the_api_itself() {
    let harness = Harness::with(|o| o.advertise = Some(("10.1.0.1".parse().unwrap(), 6443))).await;
    let service = harness.get(&format!("{SERVICES}/kubernetes")).await.json();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(
        harness.get(slice).await.json()["endpoints"][0]["addresses"][0],
        "10.1.0.1"
    );
}
