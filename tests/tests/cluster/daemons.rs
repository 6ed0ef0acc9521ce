//! DaemonSets follow the nodes.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::Cluster;
use crate::wait::{until, until_one};

fn nodes(pods: &[&Pod]) -> Vec<String> {
    let node = |p: &&Pod| {
        p.spec
            .as_ref()
            .unwrap()
            .node_name
            .clone()
            .unwrap_or_default()
    };
    let mut nodes: Vec<_> = pods.iter().map(node).collect();
    nodes.sort();
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_runs_on_every_node_also_on_later_ones_and_is_updated_everywhere() {
    let cluster = Cluster::with_nodes(&["a", "b"]).await;
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "ds"},
        "spec": {
            "selector": {"matchLabels": {"app": "ds"}},
            "template": {
                "metadata": {"labels": {"app": "ds"}},
                "spec": {"containers": [{"name": "c", "image": "one"}]},
            },
        },
    });
    cluster.create::<DaemonSet>(set).await;
    let pods = cluster.api::<Pod>();
    until("on both", pods.clone(), "app=ds", |p| {
        nodes(p) == ["a", "b"]
    })
    .await;
    hollow::register(&cluster.client, "c").await.unwrap();
    until("on all three", pods.clone(), "app=ds", |p| {
        nodes(p) == ["a", "b", "c"]
    })
    .await;

    let body = json!({"spec": {"template": {"spec":
        {"containers": [{"name": "c", "image": "two"}]}}}});
    let api = cluster.api::<DaemonSet>();
    api.patch("ds", &PatchParams::default(), &Patch::Strategic(body))
        .await
        .unwrap();
    until_one(
        "updated everywhere",
        cluster.api::<DaemonSet>(),
        "ds",
        |d| {
            let status = d.status.as_ref().unwrap();
            status.observed_generation == d.metadata.generation
                && status.updated_number_scheduled == Some(3)
                && status.number_available == Some(3)
        },
    )
    .await;
    let revisions = cluster.api::<ControllerRevision>();
    let revisions = until("two revisions", revisions, "app=ds", |r| r.len() == 2).await;
    let mut numbers: Vec<_> = revisions.iter().map(|r| r.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [Some(1), Some(2)]);

    let all = Api::<Node>::all(cluster.client.clone());
    let body = json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}});
    all.patch("c", &PatchParams::default(), &Patch::Merge(body))
        .await
        .unwrap();
    until("off the tainted node", pods.clone(), "app=ds", |p| {
        nodes(p) == ["a", "b"]
    })
    .await;
    api.delete("ds", &DeleteParams::background()).await.unwrap();
    until("no pods", pods, "app=ds", |p| p.is_empty()).await;
    assert!(pods_names(&cluster).await.is_empty());
    cluster.stop().await;
}

async fn pods_names(cluster: &Cluster) -> Vec<String> {
    let pods = cluster
        .api::<Pod>()
        .list(&Default::default())
        .await
        .unwrap();
    pods.items.iter().map(ResourceExt::name_any).collect()
}
