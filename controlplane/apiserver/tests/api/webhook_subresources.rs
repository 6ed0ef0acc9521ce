//! What webhooks are told of streams and of subresources with bodies of their own.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use serde_json::{Value, json};

use crate::{
    harness::Harness,
    webhook_server::{Server, allowed, denied, register},
};

#[tokio::test]
async fn streams_are_refused_with_their_options() {
    let server = Server::start(|_, _| denied("no streams")).await;
    let harness = Harness::new().await;
    let hook = server.hook("/attach", (&["CONNECT"], "", "v1", "pods/attach"));
    register(&harness, "validating", "v", &[hook]).await;
    let uri = "/api/v1/namespaces/default/pods/p/attach?container=c&stdin=true&stdout=1";
    let reply = harness.post(uri, &json!({})).await;
    let text = "admission webhook \"attach.example.com\" denied the request: no streams";
    assert_eq!(reply.message(), text);
    let request = &server.asked("/attach")[0];
    let kind = json!({"group": "", "version": "v1", "kind": "PodAttachOptions"});
    assert_eq!(
        (&request["kind"], &request["subResource"]),
        (&kind, &json!("attach"))
    );
    let options = json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": true,
                         "stdout": true, "container": "c"});
    assert_eq!(
        (&request["object"], &request["options"]),
        (&options, &Value::Null)
    );
}

#[tokio::test]
async fn a_scale_is_what_it_is_told_of() {
    let server = Server::start(
        |_, request| match request["object"]["spec"]["replicas"].as_i64() {
            Some(5) => denied("too many"),
            _ => allowed(),
        },
    )
    .await;
    let harness = Harness::new().await;
    let hook = server.hook("/scale", (&["UPDATE"], "*", "*", "*/scale"));
    register(&harness, "validating", "v", &[hook]).await;
    let uri = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"a": "b"});
    let template = json!({"metadata": {"labels": labels},
                          "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": labels}, "template": template}});
    harness.create(uri, &deployment).await;
    let scale = |replicas: i64| json!({"spec": {"replicas": replicas}});
    let uri = format!("{uri}/d/scale");
    let reply = harness.patch(&uri, "merge-patch", &scale(5)).await;
    assert_eq!(reply.code, 403, "{}", reply.text);
    assert_eq!(
        harness.patch(&uri, "merge-patch", &scale(4)).await.code,
        200
    );
    let request = &server.asked("/scale")[0];
    assert_eq!(
        (&request["kind"]["kind"], &request["subResource"]),
        (&json!("Scale"), &json!("scale"))
    );
    assert_eq!(request["resource"]["resource"], "deployments");
    assert_eq!(request["oldObject"]["spec"]["replicas"], 1);
}

#[tokio::test]
async fn subresources_are_asked_about_with_their_own_bodies() {
    let server = Server::start(|_, _| denied("no")).await;
    let harness = Harness::with_account().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"},
                     "spec": {"containers": [{"name": "c", "image": "i"}]}});
    harness.create(pods, &pod).await;
    let hook = server.hook("/sub", (&["*"], "", "v1", "*/*"));
    register(&harness, "validating", "v", &[hook]).await;
    let bodies = [
        (
            "pods/p/binding",
            json!({"target": {"kind": "Node", "name": "n"}}),
            "Binding",
        ),
        (
            "pods/p/eviction",
            json!({"metadata": {"name": "p", "namespace": "default"}}),
            "Eviction",
        ),
        (
            "serviceaccounts/default/token",
            json!({"spec": {}}),
            "TokenRequest",
        ),
    ];
    for (at, (path, body, kind)) in bodies.iter().enumerate() {
        let uri = format!("/api/v1/namespaces/default/{path}");
        let reply = harness.post(&uri, body).await;
        assert_eq!(reply.code, 403, "{path}: {}", reply.text);
        let request = &server.asked("/sub")[at];
        assert_eq!(request["object"]["kind"], *kind);
        assert_eq!(
            (&request["kind"]["kind"], &request["operation"]),
            (&json!(kind), &json!("CREATE"))
        );
    }
    let status = json!({"status": {"phase": "Running"}});
    let reply = harness
        .patch(&format!("{pods}/p/status"), "merge-patch", &status)
        .await;
    assert_eq!(reply.code, 403, "{}", reply.text);
    let request = &server.asked("/sub")[3];
    assert_eq!(
        (&request["kind"]["kind"], &request["subResource"]),
        (&json!("Pod"), &json!("status"))
    );
    assert_eq!(request["object"]["status"]["phase"], "Running");
    assert_eq!(request["oldObject"]["status"]["phase"], "Pending");
}
