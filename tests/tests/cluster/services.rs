//! Services get the endpoints of their pods.

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::Cluster;
use crate::wait::{until, until_one};

fn pod(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image,
            "ports": [{"name": "http", "containerPort": 8080}]}]},
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_and_endpoints_follow_the_pods_and_their_readiness() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster.create::<Service>(service()).await;
    let label = "kubernetes.io/service-name=web";
    let slices = cluster.api::<EndpointSlice>();
    until("an empty slice", slices.clone(), label, |s| s.len() == 1).await;

    cluster.create::<Pod>(pod("good", "i")).await;
    cluster.create::<Pod>(pod("bad", hollow::BROKEN)).await;
    let ready = |slice: &EndpointSlice, wanted: bool| {
        let is = |ready: Option<bool>| ready == Some(wanted);
        slice
            .endpoints
            .iter()
            .flatten()
            .filter(|e| is(e.conditions.as_ref().unwrap().ready))
            .count()
    };
    let found = until("one ready, one not", slices.clone(), label, |s| {
        s.len() == 1 && ready(s[0], true) == 1 && ready(s[0], false) == 1
    })
    .await;
    let ports = found[0].ports.as_ref().unwrap();
    assert_eq!(
        (ports[0].port, ports[0].protocol.as_deref()),
        (Some(8080), Some("TCP"))
    );
    assert_eq!(
        found[0].endpoints.as_ref().unwrap()[0].node_name.as_deref(),
        Some("a")
    );
    let endpoints = until_one("endpoints", cluster.api::<Endpoints>(), "web", |e| {
        let subset = e.subsets.as_ref().and_then(|s| s.first());
        subset.is_some_and(|s| {
            s.addresses.as_ref().map(Vec::len) == Some(1)
                && s.not_ready_addresses.as_ref().map(Vec::len) == Some(1)
        })
    })
    .await;
    assert_eq!(
        endpoints.subsets.unwrap()[0].ports.as_ref().unwrap()[0].port,
        8080
    );

    cluster
        .api::<Pod>()
        .delete("good", &DeleteParams::default())
        .await
        .unwrap();
    until("the pod is out", slices.clone(), label, |s| {
        ready(s[0], true) == 0
    })
    .await;
    cluster
        .api::<Service>()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    until("no slices", slices, label, |s| s.is_empty()).await;
    let all = cluster.api::<Endpoints>();
    until("no endpoints", all, "", |e| {
        e.iter().all(|e| e.metadata.name.as_deref() != Some("web"))
    })
    .await;
    cluster.stop().await;
}
