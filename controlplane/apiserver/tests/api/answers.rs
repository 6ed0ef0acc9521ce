//! What answers look like beyond their objects: headers, refusals, and the words upstream has for them.
//! `cargo xtask oracle http` compares the same with upstream's server.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Harness, Reply, config_map, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Code, reason and message of a failure.
fn failure(reply: &Reply) -> (u16, String, String) {
    let status = reply.json();
    let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    (reply.code.as_u16(), text("reason"), text("message"))
}

#[tokio::test]
async fn every_answer_has_the_clients_audit_id_and_may_not_be_kept() {
    let harness = Harness::new().await;
    for uri in [MAPS, "/healthz", "/version", "/nonsense", "/api/v2"] {
        let reply = harness
            .ask(Method::GET, uri, &[("audit-id", "mine")], "")
            .await;
        assert_eq!(reply.headers["audit-id"], "mine", "{uri}");
        assert_eq!(reply.headers["cache-control"], "no-cache, private", "{uri}");
    }
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let accept = [("accept", aggregated)];
    let discovery = harness.ask(Method::GET, "/apis", &accept, "").await;
    assert_eq!(discovery.headers["cache-control"], "public");
    assert_eq!(discovery.headers["audit-id"].len(), 36);
}

#[tokio::test]
async fn a_refusal_is_not_to_be_taken_for_html() {
    let harness = Harness::new().await;
    let user = [("impersonate-user", "<nobody>")];
    let reply = harness.ask(Method::GET, MAPS, &user, "").await;
    assert_eq!(reply.code, 403);
    assert_eq!(reply.headers["x-content-type-options"], "nosniff");
    assert!(
        reply.message().contains(r#"User "&lt;nobody&gt;" cannot"#),
        "{}",
        reply.message()
    );
    let missing = harness.get(&format!("{MAPS}/none")).await;
    assert!(!missing.headers.contains_key("x-content-type-options"));
}

#[tokio::test]
async fn what_leads_nowhere_says_so_as_upstreams_routes_do() {
    let harness = Harness::new().await;
    for uri in [
        "/nonsense",
        "/apis/nonsense.example",
        "/apis/nonsense.example/v1/things",
    ] {
        let reply = harness.get(uri).await;
        assert_eq!(
            (reply.code, reply.text.as_str()),
            (StatusCode::NOT_FOUND, "404 page not found\n")
        );
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
    }
    for uri in [
        "/api/v2",
        "/apis/apps/v9",
        "/apis/apps/v9/namespaces/default/deployments",
    ] {
        let reply = harness.get(uri).await;
        assert_eq!(failure(&reply).1, "NotFound", "{uri}");
    }
    let openapi = harness.get("/openapi/v3/nonsense").await;
    assert_eq!(
        (openapi.code, openapi.text.as_str()),
        (StatusCode::NOT_FOUND, "")
    );
}

#[tokio::test]
async fn outside_of_namespaces_there_is_only_the_list_of_all() {
    let harness = Harness::new().await;
    let map = config_map("a", "x");
    let everywhere = "/api/v1/configmaps";
    for query in [
        "",
        "?fieldSelector=metadata.name%3Da",
        "?watch=true&timeoutSeconds=1",
    ] {
        let uri = format!("{everywhere}{query}");
        assert_eq!(harness.get(&uri).await.code, 200, "{uri}");
    }
    assert_eq!(
        harness.get("/api/v1/namespaces//configmaps").await.code,
        200
    );
    assert_eq!(harness.post(everywhere, &map).await.code, 405);
    assert_eq!(harness.delete(everywhere).await.code, 405);
    assert_eq!(harness.get("/api/v1/configmaps/a").await.code, 404);
    assert_eq!(harness.post("/api/v1/bindings", &json!({})).await.code, 404);
}

#[tokio::test]
async fn head_is_no_verb_of_a_resource_and_never_has_a_body() {
    let harness = Harness::new().await;
    let resource = harness.ask(Method::HEAD, MAPS, &[], "").await;
    let health = harness.ask(Method::HEAD, "/healthz", &[], "").await;
    assert_eq!((resource.code.as_u16(), resource.text.as_str()), (405, ""));
    assert_eq!((health.code.as_u16(), health.text.as_str()), (200, ""));
}

#[tokio::test]
async fn deprecated_kinds_warn_whoever_uses_them() {
    let harness = Harness::new().await;
    let endpoints = harness
        .get("/api/v1/namespaces/default/endpoints/none")
        .await;
    assert_eq!(endpoints.code, 404);
    assert_eq!(
        endpoints.headers["warning"],
        "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""
    );
    let component = harness.get("/api/v1/componentstatuses/none").await;
    assert_eq!(component.message(), "componentstatus \"none\" not found");
    assert!(component.headers.contains_key("warning"));
}

#[tokio::test]
async fn bodies_of_other_kinds_are_refused_in_upstreams_words() {
    let harness = Harness::new().await;
    let named = |api_version: &str, kind: &str| {
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}}).to_string()
    };
    let read_as = "cannot be handled as a ConfigMap: ";
    let unregistered = |kind: &str, version: &str| {
        format!(
            "no kind \"{kind}\" is registered for version \"{version}\" in scheme \
             \"pkg/runtime/scheme.go:111\""
        )
    };
    let table = [
        (
            named("v1", "Secret"),
            format!(
                "Secret in version \"v1\" {read_as}converting (v1.Secret) to (core.ConfigMap): unknown conversion"
            ),
        ),
        (
            named("v2", "ConfigMap"),
            format!(
                "ConfigMap in version \"v2\" {read_as}{}",
                unregistered("ConfigMap", "v2")
            ),
        ),
        (
            named("v1", "Nonsense"),
            format!(
                "Nonsense in version \"v1\" {read_as}{}",
                unregistered("Nonsense", "v1")
            ),
        ),
        (
            "{".to_owned(),
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get \
             version/kind; json parse error: unexpected end of JSON input ({)"
                .to_owned(),
        ),
        (
            "[]".to_owned(),
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get \
             version/kind; json parse error: json: cannot unmarshal array into Go value of type \
             struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
             \"json:\\\"kind,omitempty\\\"\" } (5b5d)"
                .to_owned(),
        ),
    ];
    for (body, message) in table {
        let reply = harness.ask(Method::POST, MAPS, &[], body.clone()).await;
        assert_eq!(
            failure(&reply),
            (400, "BadRequest".to_owned(), message),
            "{body}"
        );
    }
    let yaml = [("content-type", "application/yaml")];
    let reply = harness.ask(Method::POST, MAPS, &yaml, "a: b: c").await;
    let message = "the object provided is unrecognized (must be of type ConfigMap): yaml: mapping \
                   values are not allowed in this context (613a20623a2063)";
    assert_eq!(reply.message(), message);
}

#[tokio::test]
async fn resource_versions_that_are_none_are_upstreams_internal_errors() {
    let harness = Harness::new().await;
    harness.create(MAPS, &config_map("a", "x")).await;
    let mut map = config_map("b", "x");
    map["metadata"]["resourceVersion"] = "1".into();
    let text = "resourceVersion should not be set on objects to be created";
    let expected = (500, String::new(), text.to_owned());
    assert_eq!(failure(&harness.post(MAPS, &map).await), expected);
    map["metadata"]["name"] = "a".into();
    map["metadata"]["resourceVersion"] = "nonsense".into();
    let text = "strconv.ParseUint: parsing \"nonsense\": invalid syntax";
    let expected = (500, String::new(), text.to_owned());
    assert_eq!(
        failure(&harness.put(&format!("{MAPS}/a"), &map).await),
        expected
    );
}

#[tokio::test]
async fn a_deletion_says_which_precondition_does_not_hold() {
    let harness = Harness::new().await;
    harness.create(MAPS, &config_map("a", "x")).await;
    let uri = format!("{MAPS}/a");
    let delete = async |body: serde_json::Value| {
        harness
            .ask(Method::DELETE, &uri, &[], body.to_string())
            .await
    };
    let reply = delete(json!({"preconditions": {"resourceVersion": "1"}})).await;
    assert_eq!(reply.code, 409);
    let message = reply.message();
    let expected = "Operation cannot be fulfilled on ConfigMap \"a\": the ResourceVersion in the \
                    precondition (1) does not match the ResourceVersion in record (";
    assert!(message.starts_with(expected), "{message}");
    let reply = delete(json!({"kind": "Pod", "apiVersion": "v1"})).await;
    let message = "no kind \"Pod\" is registered for version \"v1\" in scheme \
                   \"pkg/runtime/scheme.go:111\"";
    assert_eq!(
        failure(&reply),
        (400, "BadRequest".to_owned(), message.to_owned())
    );
    let reply = harness.delete(&format!("{uri}?dryRun=Some")).await;
    assert!(
        reply.message().starts_with("DeleteOptions.meta.k8s.io"),
        "{}",
        reply.message()
    );
}

#[tokio::test]
async fn a_pod_that_goes_at_once_is_shown_without_time_left() {
    let harness = Harness::with_account().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "x"}]}});
    harness.create(PODS, &pod).await;
    let marked = harness.delete(&format!("{PODS}/p")).await.json();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let gone = harness
        .delete(&format!("{PODS}/p?gracePeriodSeconds=0"))
        .await
        .json();
    assert_eq!(gone["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(harness.get(&format!("{PODS}/p")).await.code, 404);
}

#[tokio::test]
async fn the_log_of_a_pod_without_a_node_is_no_content() {
    let harness = Harness::with_account().await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    harness.create(PODS, &pod).await;
    let log = harness.get(&format!("{PODS}/p/log")).await;
    assert_eq!(log.code, StatusCode::NO_CONTENT);
    assert!(!log.headers.contains_key("content-type"));
}

#[tokio::test]
async fn a_headless_service_without_a_selector_is_of_both_families() {
    let harness = Harness::new().await;
    let service =
        json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    let created = harness.create(SERVICES, &service).await;
    assert_eq!(created["spec"]["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(created["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let uri = format!("{SERVICES}/a");
    let again = harness.put(&uri, &service).await.json();
    assert_eq!(again["spec"], created["spec"]);
}

#[tokio::test]
async fn an_external_name_has_no_traffic_policy_left() {
    let harness = Harness::new().await;
    let service = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}});
    harness.create(SERVICES, &service).await;
    let patch = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let uri = format!("{SERVICES}/a");
    let patched = harness.patch(&uri, "merge-patch", &patch).await.json();
    assert_eq!(patched["spec"].get("internalTrafficPolicy"), None);
    let foreign = json!({"metadata": {"name": "b"}, "spec": {"clusterIP": "1.2.3.4", "ports": [{"port": 80}]}});
    let refused = harness.post(SERVICES, &foreign).await;
    let end = "the provided network does not match the current range";
    assert!(refused.message().ends_with(end), "{}", refused.message());
}

#[tokio::test]
async fn a_job_without_labels_has_those_of_its_template() {
    let harness = Harness::new().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]});
    for (name, metadata) in [("a", json!({})), ("b", json!({"labels": {"app": "x"}}))] {
        let template = json!({"metadata": metadata, "spec": pod});
        let job = json!({"metadata": {"name": name}, "spec": {"template": template}});
        let created = harness.create(jobs, &job).await;
        let labels = &created["metadata"]["labels"];
        assert_eq!(labels["batch.kubernetes.io/job-name"], name);
        assert_eq!(*labels, created["spec"]["template"]["metadata"]["labels"]);
    }
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": pod});
    let metadata = json!({"name": "c", "labels": {"app": "x"}});
    let job = json!({"metadata": metadata, "spec": {"template": template}});
    let created = harness.create(jobs, &job).await;
    assert_eq!(created["metadata"]["labels"], json!({"app": "x"}));
}

#[tokio::test]
async fn tables_are_what_was_asked_for_or_refused() {
    let harness = Harness::new().await;
    let beta = [(
        "accept",
        "application/json;as=Table;v=v1beta1;g=meta.k8s.io",
    )];
    let table = harness.ask(Method::GET, MAPS, &beta, "").await.json();
    assert_eq!(table["apiVersion"], "meta.k8s.io/v1beta1");
    harness.create(MAPS, &config_map("a", "x")).await;
    let table = harness.ask(Method::GET, MAPS, &beta, "").await.json();
    let row = &table["rows"][0];
    assert_eq!(row["object"]["apiVersion"], "meta.k8s.io/v1beta1");
    let uri = format!("{MAPS}?includeObject=None");
    let table = harness.ask(Method::GET, &uri, &beta, "").await.json();
    assert_eq!(table["rows"][0].get("object"), Some(&json!(null)));
    let uri = format!("{MAPS}?includeObject=Nonsense");
    let refused = harness.ask(Method::GET, &uri, &beta, "").await;
    let message = "Unable to convert to Table as requested: includeObject: Invalid value: \
                   \"Nonsense\": must be 'Metadata', 'Object', 'None', or empty";
    assert_eq!(
        failure(&refused),
        (400, "BadRequest".to_owned(), message.to_owned())
    );
}

#[tokio::test]
async fn a_watch_from_the_future_waits_for_it() {
    let harness = Harness::new().await;
    let newest = version(&harness.create(MAPS, &config_map("a", "x")).await);
    let uri = format!("{MAPS}?watch=true&resourceVersion={}", newest + 1);
    let mut events = harness.watch(&uri).await;
    for name in ["b", "c"] {
        harness.create(MAPS, &config_map(name, "x")).await;
    }
    assert_eq!(events.short().await, ("ADDED".to_owned(), "c".to_owned()));
}

#[tokio::test]
async fn a_watch_in_yaml_is_not_acceptable() {
    let harness = Harness::new().await;
    let yaml = [("accept", "application/yaml")];
    let uri = format!("{MAPS}?watch=true");
    let refused = harness.ask(Method::GET, &uri, &yaml, "").await;
    assert_eq!(refused.code, 406);
    assert_eq!(refused.headers["content-type"], "application/yaml");
}

#[tokio::test]
async fn selectors_are_refused_in_upstreams_words() {
    let harness = Harness::new().await;
    let table = [
        (
            "configmaps?labelSelector=a+b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        (
            "configmaps?fieldSelector=data.a%3Db",
            "\"data.a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        (
            "pods?fieldSelector=data.a%3Db",
            "field label not supported: data.a",
        ),
    ];
    for (query, message) in table {
        let reply = harness.get(&format!("/api/v1/{query}")).await;
        assert_eq!(
            failure(&reply),
            (400, "BadRequest".to_owned(), message.to_owned())
        );
    }
}

#[tokio::test]
async fn metadata_of_an_object_is_no_list_and_the_other_way_round() {
    let harness = Harness::new().await;
    harness.create(MAPS, &config_map("a", "x")).await;
    let table = [
        (
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            format!("{MAPS}/a"),
            "you requested PartialObjectMetadataList, but the requested object is not a list \
             (*core.ConfigMap)",
        ),
        (
            "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            MAPS.to_owned(),
            "you requested PartialObjectMetadata, but the requested object is a list \
             (*core.ConfigMapList)",
        ),
    ];
    for (accept, uri, message) in table {
        let reply = harness
            .ask(Method::GET, &uri, &[("accept", accept)], "")
            .await;
        let expected = (406, "NotAcceptable".to_owned(), message.to_owned());
        assert_eq!(failure(&reply), expected);
    }
}

#[tokio::test]
async fn patches_that_cannot_be_applied_are_refused_in_upstreams_words() {
    let harness = Harness::new().await;
    harness.create(MAPS, &config_map("a", "x")).await;
    let patch = async |name: &str, kind: &str, body: &str| {
        let media = format!("application/{kind}+json");
        let headers = [("content-type", media.as_str())];
        let uri = format!("{MAPS}/{name}");
        harness
            .ask(Method::PATCH, &uri, &headers, body.to_owned())
            .await
    };
    for (name, kind) in [
        ("a", "json-patch"),
        ("a", "strategic-merge-patch"),
        ("none", "merge-patch"),
    ] {
        let reply = patch(name, kind, "[").await;
        let expected = (
            400,
            "BadRequest".to_owned(),
            "invalid JSON patch".to_owned(),
        );
        assert_eq!(failure(&reply), expected, "{kind}");
    }
    let test = r#"[{"op":"test","path":"/data/key","value":"other"}]"#;
    let reply = patch("a", "json-patch", test).await;
    assert_eq!(
        (reply.code.as_u16(), &reply.json()["details"]),
        (422, &json!({}))
    );
    let uid = r#"{"metadata":{"uid":"00000000-0000-0000-0000-000000000000"}}"#;
    let reply = patch("a", "merge-patch", uid).await;
    assert_eq!(reply.code, 422);
    assert!(
        reply.message().contains("field is immutable"),
        "{}",
        reply.message()
    );
    let unknown = [("content-type", "text/plain")];
    let reply = harness
        .ask(Method::PATCH, &format!("{MAPS}/a"), &unknown, "{}")
        .await;
    assert_eq!(reply.message(), "415: Unsupported Media Type");
}
