//! How the server starts: health and readiness, what every cluster has, and what a start corrects.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use apiserver::{ApiServer, Options};
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::Service;

use crate::harness::Harness;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const PROTECT: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Code and text of a GET without credentials.
async fn get(server: &ApiServer, path: &str) -> (u16, String) {
    let request = Request::get(path)
        .body(Full::<bytes::Bytes>::default())
        .unwrap();
    let (parts, body) = server.clone().call(request).await.unwrap().into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    (
        parts.status.as_u16(),
        String::from_utf8(text.to_vec()).unwrap(),
    )
}

#[tokio::test]
async fn a_server_is_ready_when_its_hooks_are_finished() {
    let dir = tempfile::tempdir().unwrap();
    let server = ApiServer::open(Options::new(dir.path())).unwrap();
    let hook = server.hooks().begin("prepare");
    let failed = "[+]ping ok\n[+]store ok\n[-]poststarthook/prepare failed: reason withheld\n\
                  readyz check failed\n";
    assert_eq!(get(&server, "/readyz").await, (500, failed.into()));
    assert_eq!(get(&server, "/readyz/ping").await, (200, "ok".into()));
    assert_eq!(get(&server, "/readyz/poststarthook/prepare").await.0, 500);
    assert_eq!(get(&server, "/readyz/nothing").await.0, 404);
    let without = "/readyz?exclude=poststarthook/prepare";
    assert_eq!(get(&server, without).await, (200, "ok".into()));
    hook.finished();
    assert_eq!(get(&server, "/readyz").await, (200, "ok".into()));
    let passed = "[+]ping ok\n[+]store ok\n[+]poststarthook/prepare ok\nlivez check passed\n";
    assert_eq!(get(&server, "/livez?verbose").await, (200, passed.into()));
}

fn rules_of(role: &Value) -> usize {
    role["rules"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_start_gives_bootstrap_roles_back_what_they_lack_unless_they_are_protected() {
    let harness = Harness::new().await;
    let take_rules = json!({"rules": [], "metadata": {"labels": {"mine": "1"}}});
    let path = |name: &str| format!("{ROLES}/{name}");
    let dns = "system:kube-dns";
    let scheduler = "system:kube-scheduler";
    harness.patch(&path(dns), "merge-patch", &take_rules).await;
    harness
        .patch(&path(scheduler), "merge-patch", &take_rules)
        .await;
    let protect = json!({"metadata": {"annotations": {PROTECT: "false"}}});
    harness
        .patch(&path(scheduler), "merge-patch", &protect)
        .await;
    let node = format!("{BINDINGS}/system:kube-dns");
    let other = json!([{"op": "replace", "path": "/subjects", "value": [
        {"kind": "User", "name": "joe", "apiGroup": "rbac.authorization.k8s.io"},
    ]}]);
    let patched = harness.patch(&node, "json-patch", &other).await;
    assert_eq!(patched.code, 200, "{}", patched.text);

    let harness = harness.restart().await;
    let role = harness.get(&path(dns)).await.json();
    assert!(rules_of(&role) > 0);
    assert_eq!(role["metadata"]["labels"]["mine"], "1");
    assert_eq!(rules_of(&harness.get(&path(scheduler)).await.json()), 0);
    let binding = harness.get(&node).await.json();
    let names: Vec<&str> = binding["subjects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subject| subject["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["joe", "kube-dns"]);
}

#[tokio::test]
async fn a_start_on_what_is_as_wanted_writes_nothing() {
    let harness = Harness::new().await;
    let before = harness.server.cache().revision();
    let harness = harness.restart().await;
    assert_eq!(harness.server.cache().revision(), before);
}

#[tokio::test]
async fn a_binding_to_another_role_is_made_anew() {
    let harness = Harness::new().await;
    let path = format!("{BINDINGS}/system:kube-dns");
    let uid = harness.get(&path).await.json()["metadata"]["uid"].clone();
    harness.delete(&path).await;
    let binding = json!({
        "metadata": {"name": "system:kube-dns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
    });
    harness.create(BINDINGS, &binding).await;
    let harness = harness.restart().await;
    let binding = harness.get(&path).await.json();
    assert_eq!(binding["roleRef"]["name"], "system:kube-dns");
    assert_ne!(binding["metadata"]["uid"], uid);
}
