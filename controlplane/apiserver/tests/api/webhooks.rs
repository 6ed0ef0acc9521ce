//! Admission webhooks behind real HTTPS: they change, refuse, fail, hang; and what they are told.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use apiserver::{
    ResourceId,
    storage::{Write, WriteChange},
};
use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    harness::{Harness, config_map},
    webhook_server::{CONFIGURATIONS, Server, allowed, denied, patched, register},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

const ALL_MAPS: (&[&str], &str, &str, &str) = (&["*"], "", "v1", "configmaps");

#[tokio::test]
async fn a_mutating_webhook_changes_what_the_validating_one_sees() {
    let server = Server::start(|path, _| match path {
        "/add" => patched(json!([{"op": "add", "path": "/data/added", "value": "yes"}])),
        _ => json!({"allowed": true, "warnings": ["beware"]}),
    })
    .await;
    let harness = Harness::new().await;
    register(&harness, "mutating", "m", &[server.hook("/add", ALL_MAPS)]).await;
    register(
        &harness,
        "validating",
        "v",
        &[server.hook("/see", ALL_MAPS)],
    )
    .await;
    let uri = format!("{MAPS}?fieldManager=me");
    let reply = harness.post(&uri, &config_map("a", "v")).await;
    assert_eq!(reply.code, 201, "{}", reply.text);
    assert_eq!(reply.json()["data"], json!({"added": "yes", "key": "v"}));
    assert_eq!(reply.headers["warning"], "299 - \"beware\"");
    let first = &server.asked("/add")[0];
    assert_eq!(
        first["kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    let maps = json!({"group": "", "version": "v1", "resource": "configmaps"});
    assert_eq!(
        (&first["resource"], &first["requestResource"]),
        (&maps, &maps)
    );
    assert_eq!(first["operation"], "CREATE");
    assert_eq!(
        (&first["name"], &first["namespace"]),
        (&json!("a"), &json!("default"))
    );
    assert_eq!(first["userInfo"]["username"], "admin");
    assert_eq!(
        (&first["dryRun"], &first["oldObject"]),
        (&json!(false), &Value::Null)
    );
    let options = json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1",
                         "fieldManager": "me"});
    assert_eq!(first["options"], options);
    assert_eq!(first["object"]["metadata"].get("uid"), None);
    let last = &server.asked("/see")[0];
    assert_eq!(last["object"]["data"]["added"], "yes");
    assert!(last["object"]["metadata"]["uid"].is_string());
}

#[tokio::test]
async fn a_validating_webhook_refuses_creations_and_updates() {
    let server = Server::start(|_, request| match &request["object"]["data"]["key"] {
        key if key == "bad" => {
            let mut denied = denied("bad");
            denied["warnings"] = json!(["beware"]);
            denied
        }
        _ => allowed(),
    })
    .await;
    let harness = Harness::new().await;
    register(
        &harness,
        "validating",
        "v",
        &[server.hook("/deny", ALL_MAPS)],
    )
    .await;
    let bad = config_map("a", "bad");
    let reply = harness.post(MAPS, &bad).await;
    let text = "admission webhook \"deny.example.com\" denied the request: bad";
    assert_eq!((reply.code.as_u16(), &*reply.message()), (403, text));
    assert_eq!(reply.headers["warning"], "299 - \"beware\"");
    harness.create(MAPS, &config_map("a", "good")).await;
    let uri = format!("{MAPS}/a");
    assert_eq!(harness.put(&uri, &bad).await.message(), text);
    let patch = json!({"data": {"key": "bad"}});
    let reply = harness.patch(&uri, "strategic-merge-patch", &patch).await;
    assert_eq!(reply.message(), text);
    let update = &server.asked("/deny")[2];
    assert_eq!(update["operation"], "UPDATE");
    assert_eq!(update["oldObject"]["data"]["key"], "good");
    assert!(update["oldObject"]["metadata"]["resourceVersion"].is_string());
    assert_eq!(update["options"]["kind"], "UpdateOptions");
    // An update that changes nothing is an update.
    harness.put(&uri, &config_map("a", "good")).await;
    assert_eq!(server.asked("/deny").len(), 5);
    // What no rule is about, nobody is asked about.
    let account = json!({"metadata": {"name": "x"}});
    harness
        .create("/api/v1/namespaces/default/serviceaccounts", &account)
        .await;
    assert_eq!(server.asked("/deny").len(), 5);
}

#[tokio::test]
async fn the_failure_policy_decides_about_a_webhook_that_is_not_there() {
    let harness = Harness::new().await;
    let server = Server::start(|_, _| allowed()).await;
    let mut hook = server.hook("/gone", ALL_MAPS);
    let address = server.address;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    hook["clientConfig"]["url"] = format!("https://127.0.0.1:{port}/gone").into();
    register(&harness, "validating", "v", &[hook]).await;
    let reply = harness.post(MAPS, &config_map("a", "v")).await;
    let text = format!(
        "Internal error occurred: failed calling webhook \"gone.example.com\": failed to call \
         webhook: Post \"https://127.0.0.1:{port}/gone?timeout=10s\": dial tcp 127.0.0.1:{port}: \
         connect: connection refused"
    );
    assert_eq!((reply.code.as_u16(), reply.message()), (500, text));
    let uri = format!("{CONFIGURATIONS}/validatingwebhookconfigurations/v");
    let patch = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    assert_eq!(harness.patch(&uri, "json-patch", &patch).await.code, 200);
    harness.create(MAPS, &config_map("a", "v")).await;
    // Nobody vouches for its certificate: a CA bundle is what makes it a webhook.
    let patch = json!([
        {"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"},
        {"op": "replace", "path": "/webhooks/0/clientConfig/url",
         "value": format!("https://{address}/gone")},
        {"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"},
    ]);
    assert_eq!(harness.patch(&uri, "json-patch", &patch).await.code, 200);
    let reply = harness.post(MAPS, &config_map("b", "v")).await;
    let text = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert!(reply.message().ends_with(text), "{}", reply.message());
}

#[tokio::test]
async fn a_webhook_has_as_long_as_its_configuration_says() {
    let server = Server::start(|_, _| Value::Null).await;
    let harness = Harness::new().await;
    let mut hook = server.hook("/slow", ALL_MAPS);
    hook["timeoutSeconds"] = 1.into();
    register(&harness, "mutating", "m", &[hook]).await;
    let reply = harness.post(MAPS, &config_map("a", "v")).await;
    let message = reply.message();
    assert!(message.contains("/slow?timeout=1s"), "{message}");
    assert!(message.ends_with("context deadline exceeded"), "{message}");
}

#[tokio::test]
async fn deletions_are_refused_one_by_one() {
    let server = Server::start(|_, request| {
        match (
            request["operation"].as_str(),
            request["oldObject"]["data"]["key"].as_str(),
        ) {
            (Some("DELETE"), Some("kept")) => denied("kept"),
            _ => allowed(),
        }
    })
    .await;
    let harness = Harness::new().await;
    let hook = server.hook("/delete", (&["DELETE"], "", "v1", "configmaps"));
    register(&harness, "validating", "v", &[hook]).await;
    for (name, value) in [("a", "gone"), ("b", "kept"), ("c", "gone")] {
        harness.create(MAPS, &config_map(name, value)).await;
    }
    let reply = harness
        .delete(&format!("{MAPS}/b?gracePeriodSeconds=5"))
        .await;
    assert_eq!(reply.code, 403, "{}", reply.text);
    let request = &server.asked("/delete")[0];
    assert_eq!(
        (&request["object"], &request["name"]),
        (&Value::Null, &json!("b"))
    );
    let options = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1",
                         "gracePeriodSeconds": 5});
    assert_eq!(request["options"], options);
    assert_eq!(harness.delete(&format!("{MAPS}/a")).await.code, 200);
    let reply = harness
        .delete(&format!("{MAPS}?labelSelector=app=kept"))
        .await;
    assert_eq!(reply.code, 403, "{}", reply.text);
    let reply = harness
        .delete(&format!("{MAPS}?labelSelector=app=gone"))
        .await;
    assert_eq!(reply.code, 200, "{}", reply.text);
    assert_eq!(harness.get(&format!("{MAPS}/b")).await.code, 200);
    assert_eq!(harness.get(&format!("{MAPS}/c")).await.code, 404);
}

#[tokio::test]
async fn a_dry_run_says_so() {
    let server = Server::start(|_, _| allowed()).await;
    let harness = Harness::new().await;
    let mut hook = server.hook("/dry", ALL_MAPS);
    hook["sideEffects"] = "NoneOnDryRun".into();
    register(&harness, "validating", "v", &[hook]).await;
    let reply = harness
        .post(&format!("{MAPS}?dryRun=All"), &config_map("a", "v"))
        .await;
    assert_eq!(reply.code, 201);
    let request = &server.asked("/dry")[0];
    assert_eq!(request["dryRun"], true);
    assert_eq!(request["options"]["dryRun"], json!(["All"]));
    assert_eq!(harness.get(&format!("{MAPS}/a")).await.code, 404);
}

#[tokio::test]
async fn who_wants_to_see_later_changes_is_asked_again() {
    let server = Server::start(|path, request| match path {
        // Idempotent: says how much there was when it was asked last.
        "/count" => {
            let have = request["object"]["data"].as_object().unwrap();
            let others = have.keys().filter(|key| *key != "count").count();
            patched(json!([{"op": "add", "path": "/data/count", "value": others.to_string()}]))
        }
        _ => patched(json!([{"op": "add", "path": "/data/more", "value": "x"}])),
    })
    .await;
    let harness = Harness::new().await;
    let mut counts = server.hook("/count", ALL_MAPS);
    counts["reinvocationPolicy"] = "IfNeeded".into();
    let adds = server.hook("/more", ALL_MAPS);
    register(&harness, "mutating", "m", &[counts, adds]).await;
    let created = harness.create(MAPS, &config_map("a", "v")).await;
    assert_eq!(
        created["data"],
        json!({"key": "v", "more": "x", "count": "2"})
    );
    assert_eq!(
        (server.asked("/count").len(), server.asked("/more").len()),
        (2, 1)
    );
}

#[tokio::test]
async fn another_version_of_a_resource_is_asked_about_as_the_rule_names_it() {
    let server = Server::start(|_, _| {
        patched(json!([{"op": "replace", "path": "/message", "value": "changed"}]))
    })
    .await;
    let harness = Harness::new().await;
    let hook = server.hook("/event", (&["CREATE"], "", "v1", "events"));
    register(&harness, "mutating", "m", &[hook]).await;
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"}, "note": "n", "type": "Normal",
        "reason": "r", "action": "a", "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "c.example.com/c", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
    });
    let created = harness
        .create("/apis/events.k8s.io/v1/namespaces/default/events", &event)
        .await;
    assert_eq!(
        (&created["note"], &created["apiVersion"]),
        (&json!("changed"), &json!("events.k8s.io/v1"))
    );
    let request = &server.asked("/event")[0];
    assert_eq!(
        request["kind"],
        json!({"group": "", "version": "v1", "kind": "Event"})
    );
    assert_eq!(request["requestKind"]["group"], "events.k8s.io");
    let object = &request["object"];
    assert_eq!(
        (&object["message"], &object["apiVersion"]),
        (&json!("n"), &json!("v1"))
    );
}

#[tokio::test]
async fn the_configurations_themselves_are_nobodys_business() {
    let server = Server::start(|_, _| denied("nothing at all")).await;
    let harness = Harness::new().await;
    let all = server.hook("/all", (&["*"], "*", "*", "*/*"));
    register(&harness, "validating", "v", std::slice::from_ref(&all)).await;
    register(&harness, "mutating", "m", &[all]).await;
    assert_eq!(harness.post(MAPS, &config_map("a", "v")).await.code, 403);
    for kind in ["validating", "mutating"] {
        let name = if kind == "mutating" { "m" } else { "v" };
        let uri = format!("{CONFIGURATIONS}/{kind}webhookconfigurations/{name}");
        assert_eq!(harness.delete(&uri).await.code, 200);
    }
    harness.create(MAPS, &config_map("a", "v")).await;
}

#[tokio::test]
async fn what_a_webhook_adds_is_defaulted_and_validated() {
    let server = Server::start(
        |_, request| match request["object"]["metadata"]["name"].as_str() {
            Some("good") => patched(json!([{"op": "add", "path": "/spec/initContainers",
            "value": [{"name": "init", "image": "i"}]}])),
            Some("bad") => patched(json!([{"op": "add", "path": "/spec/initContainers",
            "value": [{"name": "init"}]}])),
            // A name that is made is made afterwards.
            None => {
                patched(json!([{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]))
            }
            Some(_) => patched(json!([{"op": "remove", "path": "/nothing"}])),
        },
    )
    .await;
    let harness = Harness::with_account().await;
    let hook = server.hook("/pod", (&["CREATE"], "", "v1", "pods"));
    register(&harness, "mutating", "m", &[hook]).await;
    let uri = "/api/v1/namespaces/default/pods";
    let pod = |metadata: Value| json!({"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let created = harness.create(uri, &pod(json!({"name": "good"}))).await;
    let added = &created["spec"]["initContainers"][0];
    assert_eq!(added["terminationMessagePolicy"], "File");
    // The built-in plugins have been over it again.
    assert!(added["volumeMounts"][0]["name"].is_string(), "{added}");
    let reply = harness.post(uri, &pod(json!({"name": "bad"}))).await;
    assert_eq!(reply.code, 422, "{}", reply.text);
    let reply = harness.post(uri, &pod(json!({"name": "other"}))).await;
    assert_eq!(reply.code, 500, "{}", reply.text);
    let created = harness
        .create(uri, &pod(json!({"generateName": "g-"})))
        .await;
    assert_eq!(created["metadata"]["labels"], json!({"a": "b"}));
    let name = created["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");
}

#[tokio::test]
async fn selectors_decide_who_is_asked() {
    let server = Server::start(|_, _| denied("selected")).await;
    let harness = Harness::new().await;
    let mut hook = server.hook("/select", ALL_MAPS);
    hook["objectSelector"] = json!({"matchLabels": {"app": "mine"}});
    hook["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": "default"}});
    register(&harness, "validating", "v", &[hook]).await;
    let elsewhere = "/api/v1/namespaces/kube-system/configmaps";
    harness.create(elsewhere, &config_map("a", "mine")).await;
    harness.create(MAPS, &config_map("a", "other")).await;
    assert_eq!(harness.post(MAPS, &config_map("b", "mine")).await.code, 403);
}

#[tokio::test]
async fn conditions_decide_who_is_asked() {
    let server = Server::start(|path, _| {
        patched(json!([{"op": "add", "path": format!("/data{path}"), "value": "x"}]))
    })
    .await;
    let harness = Harness::new().await;
    let with = |path: &str, expression: &str| {
        let mut hook = server.hook(path, ALL_MAPS);
        hook["matchConditions"] = json!([{"name": "c", "expression": expression}]);
        hook
    };
    let hooks = [
        with("/name", "object.metadata.name != 'skip-me'"),
        with(
            "/user",
            "request.userInfo.username == 'admin' && oldObject == null",
        ),
        with(
            "/allowed",
            "authorizer.group('').resource('pods').check('list').allowed()",
        ),
    ];
    register(&harness, "mutating", "m", &hooks).await;
    let created = harness.create(MAPS, &config_map("skip-me", "v")).await;
    assert_eq!(
        created["data"],
        json!({"key": "v", "user": "x", "allowed": "x"})
    );
    let created = harness.create(MAPS, &config_map("a", "v")).await;
    assert_eq!(created["data"]["name"], "x");
    // What cannot be evaluated is decided by the failure policy.
    let broken = with("/broken", "object.data.none == 'x'");
    register(&harness, "mutating", "n", &[broken]).await;
    let reply = harness.post(MAPS, &config_map("b", "v")).await;
    assert_eq!(reply.code, 403, "{}", reply.text);
    let uri = format!("{CONFIGURATIONS}/mutatingwebhookconfigurations/n");
    let patch = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    assert_eq!(harness.patch(&uri, "json-patch", &patch).await.code, 200);
    let created = harness.create(MAPS, &config_map("b", "v")).await;
    assert_eq!(created["data"].get("broken"), None);
}

#[tokio::test]
async fn a_configuration_is_checked() {
    let server = Server::start(|_, _| allowed()).await;
    let harness = Harness::new().await;
    let mut hook = server.hook("/x", ALL_MAPS);
    hook["sideEffects"] = "Some".into();
    let body = json!({"metadata": {"name": "v"}, "webhooks": [hook]});
    let uri = format!("{CONFIGURATIONS}/validatingwebhookconfigurations");
    let reply = harness.ask(Method::POST, &uri, &[], body.to_string()).await;
    assert_eq!(reply.code, 422, "{}", reply.text);
    assert!(
        reply
            .message()
            .contains("webhooks[0].sideEffects: Unsupported value: \"Some\"")
    );
}

/// Stores what the API would refuse.
async fn store(harness: &Harness, resource: (&str, &str), key: &str, object: &Value) {
    let write = Write {
        resource: ResourceId::named(resource.0, resource.1),
        key: key.into(),
        change: WriteChange::Put {
            bytes: object.to_string().into(),
            expires: None,
        },
        expect: None,
    };
    harness.server.storage().commit(&[write]).await.unwrap();
}

#[tokio::test]
async fn a_service_is_asked_at_a_ready_endpoint_under_its_own_name() {
    let server = Server::start(|_, _| denied("served")).await;
    let harness = Harness::new().await;
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 8443}]}});
    harness
        .create("/api/v1/namespaces/default/services", &service)
        .await;
    let mut hook = server.hook("/path", ALL_MAPS);
    hook["clientConfig"]["service"] =
        json!({"namespace": "default", "name": "hook", "port": 8443, "path": "/path"});
    hook["clientConfig"].as_object_mut().unwrap().remove("url");
    register(&harness, "validating", "v", &[hook]).await;
    let reply = harness.post(MAPS, &config_map("a", "v")).await;
    let text = "Post \"https://hook.default.svc:8443/path?timeout=10s\": no endpoints available for \
                service \"hook\"";
    assert!(reply.message().ends_with(text), "{}", reply.message());
    let slice = json!({
        "metadata": {"name": "hook-1", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": server.address.port()}],
        "endpoints": [
            {"addresses": ["127.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["127.0.0.1"], "conditions": {"ready": true}},
        ],
    });
    let slices = ("discovery.k8s.io", "endpointslices");
    store(&harness, slices, "default/hook-1", &slice).await;
    let reply = harness.post(MAPS, &config_map("a", "v")).await;
    let text = "admission webhook \"path.example.com\" denied the request: served";
    assert_eq!(reply.message(), text);
}

#[tokio::test]
async fn a_webhook_with_side_effects_is_not_for_dry_runs() {
    let server = Server::start(|_, _| allowed()).await;
    let harness = Harness::new().await;
    let mut hook = server.hook("/effects", ALL_MAPS);
    hook["sideEffects"] = "Some".into();
    hook["failurePolicy"] = "Ignore".into();
    hook["namespaceSelector"] = json!({});
    hook["objectSelector"] = json!({});
    let configuration = json!({"metadata": {"name": "v"}, "webhooks": [hook]});
    let kind = (
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
    );
    store(&harness, kind, "/v", &configuration).await;
    let uri = format!("{MAPS}?dryRun=All");
    let reply = harness.post(&uri, &config_map("a", "v")).await;
    let text = "admission webhook \"effects.example.com\" does not support dry run";
    assert_eq!((reply.code.as_u16(), &*reply.message()), (400, text));
    harness.create(MAPS, &config_map("a", "v")).await;
    assert_eq!(server.asked("/effects").len(), 1);
}
