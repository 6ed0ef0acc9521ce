//! Admission that limits: quotas, limit ranges, priority and runtime classes.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use serde_json::{Value, json};

use crate::harness::{Harness, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const RANGES: &str = "/api/v1/namespaces/default/limitranges";
const PRIORITIES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
const RUNTIMES: &str = "/apis/node.k8s.io/v1/runtimeclasses";

/// A quota whose status its controller has set.
async fn quota(harness: &Harness, hard: Value, used: Value) {
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    let mut created = harness.create(QUOTAS, &quota).await;
    created["status"] = json!({"hard": hard, "used": used});
    let reply = harness.put(&format!("{QUOTAS}/q/status"), &created).await;
    assert_eq!(reply.code, 200, "{}", reply.text);
}

async fn used(harness: &Harness) -> Value {
    harness.get(&format!("{QUOTAS}/q")).await.json()["status"]["used"].clone()
}

fn pod(name: &str, resources: Value) -> Value {
    let container = json!({"name": "c", "image": "i", "resources": resources});
    json!({"metadata": {"name": name}, "spec": {"containers": [container]}})
}

#[tokio::test]
async fn a_creation_is_charged_with_its_commit_and_refused_beyond_the_quota() {
    let harness = Harness::new().await;
    quota(
        &harness,
        json!({"configmaps": "2"}),
        json!({"configmaps": "0"}),
    )
    .await;
    harness.create(MAPS, &config_map("a", "x")).await;
    assert_eq!(used(&harness).await, json!({"configmaps": "1"}));
    let dry = harness
        .post(&format!("{MAPS}?dryRun=All"), &config_map("b", "x"))
        .await;
    assert_eq!(dry.code, 201);
    let invalid = harness.post(MAPS, &config_map("B", "x")).await;
    assert_eq!(invalid.code, 422);
    assert_eq!(used(&harness).await, json!({"configmaps": "1"}));
    harness.create(MAPS, &config_map("b", "x")).await;
    let refused = harness.post(MAPS, &config_map("c", "x")).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        "configmaps \"c\" is forbidden: exceeded quota: q, requested: configmaps=1, used: \
         configmaps=2, limited: configmaps=2"
    );
}

#[tokio::test]
async fn writers_at_the_same_time_are_all_charged() {
    const WRITERS: usize = 50;
    let harness = Harness::new().await;
    quota(
        &harness,
        json!({"configmaps": "1k"}),
        json!({"configmaps": "0"}),
    )
    .await;
    let writes = (0..WRITERS).map(|n| {
        let map = config_map(&format!("m{n}"), "x");
        let harness = &harness;
        async move { harness.create(MAPS, &map).await }
    });
    futures::future::join_all(writes).await;
    assert_eq!(
        used(&harness).await,
        json!({"configmaps": WRITERS.to_string()})
    );
}

#[tokio::test]
async fn a_limit_range_fills_containers_in_and_refuses_what_is_too_large() {
    let harness = Harness::with_account().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [{
        "type": "Container",
        "max": {"cpu": "1"}, "default": {"cpu": "500m"}, "defaultRequest": {"memory": "64Mi"},
    }]}});
    harness.create(RANGES, &range).await;
    let filled = harness.create(PODS, &pod("a", json!({}))).await;
    let resources = &filled["spec"]["containers"][0]["resources"];
    assert_eq!(resources["limits"], json!({"cpu": "500m"}));
    assert_eq!(
        resources["requests"],
        json!({"cpu": "500m", "memory": "64Mi"})
    );
    assert_eq!(filled["status"]["qosClass"], "Burstable");
    assert_eq!(
        filled["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu limit for container c"
    );
    let large = json!({"limits": {"cpu": "2"}});
    let refused = harness.post(PODS, &pod("b", large)).await;
    assert_eq!(refused.code, 403);
    assert!(
        refused
            .message()
            .contains("maximum cpu usage per Container is 1, but limit is 2"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn one_priority_class_is_the_default() {
    let harness = Harness::with_account().await;
    let class = |name: &str, default: bool, value: i64| json!({"metadata": {"name": name}, "value": value, "globalDefault": default});
    harness.create(PRIORITIES, &class("a", true, 7)).await;
    let second = harness.post(PRIORITIES, &class("b", true, 8)).await;
    assert_eq!(second.code, 403);
    let pod = harness.create(PODS, &pod("a", json!({}))).await;
    assert_eq!(pod["spec"]["priorityClassName"], "a");
    assert_eq!(pod["spec"]["priority"], 7);
    let mut changed = harness.get(&format!("{PRIORITIES}/a")).await.json();
    changed["value"] = 9.into();
    let refused = harness.put(&format!("{PRIORITIES}/a"), &changed).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .message()
            .contains("may not be changed in an update.")
    );
}

#[tokio::test]
async fn a_pod_gets_what_its_runtime_class_says() {
    let harness = Harness::with_account().await;
    let class = json!({
        "metadata": {"name": "r"}, "handler": "h",
        "overhead": {"podFixed": {"cpu": "100m"}},
        "scheduling": {
            "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "k", "operator": "Exists"}],
        },
    });
    harness.create(RUNTIMES, &class).await;
    let mut wanted = pod("a", json!({}));
    wanted["spec"]["runtimeClassName"] = "r".into();
    let created = harness.create(PODS, &wanted).await;
    assert_eq!(created["spec"]["overhead"], json!({"cpu": "100m"}));
    assert_eq!(created["spec"]["nodeSelector"], json!({"a": "b"}));
    assert_eq!(created["spec"]["tolerations"].as_array().unwrap().len(), 3);
    wanted["metadata"]["name"] = "b".into();
    wanted["spec"]["runtimeClassName"] = "nothing".into();
    let refused = harness.post(PODS, &wanted).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        "pods \"b\" is forbidden: pod rejected: RuntimeClass \"nothing\" not found"
    );
}

#[tokio::test]
async fn a_new_node_takes_no_pods_before_it_was_seen_ready() {
    let harness = Harness::new().await;
    let own = json!({"key": "own", "effect": "NoExecute"});
    let not_ready = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    for (name, spec, taints) in [
        ("plain", json!({}), json!([not_ready])),
        ("own", json!({"taints": [own]}), json!([own, not_ready])),
        (
            "tainted",
            json!({"taints": [not_ready]}),
            json!([not_ready]),
        ),
    ] {
        let node = json!({"metadata": {"name": name}, "spec": spec});
        let mut created = harness.create("/api/v1/nodes", &node).await;
        assert_eq!(created["spec"]["taints"], taints, "{name}");
        created["spec"]["taints"] = json!([]);
        let updated = harness
            .put(&format!("/api/v1/nodes/{name}"), &created)
            .await;
        assert_eq!(updated.json()["spec"].get("taints"), None, "{name}");
    }
}

#[tokio::test]
async fn reviews_are_no_tables() {
    let harness = Harness::new().await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let reply = harness
        .ask(
            http::Method::POST,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            &table,
            review.to_string(),
        )
        .await;
    assert_eq!(reply.code, 406);
}
