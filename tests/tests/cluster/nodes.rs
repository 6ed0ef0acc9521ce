//! Nodes: their share of the pod network, taints, and pods that find no place.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::Cluster;
use crate::wait::{until, until_one};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_gets_its_own_pod_cidr_and_a_ready_one_has_no_taints() {
    let cluster = Cluster::with_nodes(&["a", "b", "c"]).await;
    let nodes = Api::<Node>::all(cluster.client.clone());
    let nodes = until("three nodes to use", nodes, "", |nodes| {
        let is_usable = |node: &&&Node| {
            let spec = node.spec.as_ref();
            spec.is_some_and(|s| s.pod_cidrs.is_some() && s.taints.is_none())
        };
        nodes.iter().filter(is_usable).count() == 3
    })
    .await;
    let mut cidrs: Vec<_> = nodes
        .iter()
        .map(|n| n.spec.as_ref().unwrap().pod_cidr.clone().unwrap())
        .collect();
    cidrs.sort();
    assert_eq!(cidrs, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_without_a_place_says_why_and_gets_one_when_a_node_comes() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {
            "containers": [{"name": "c", "image": "i"}],
            "nodeSelector": {"kubernetes.io/hostname": "b"},
        },
    });
    cluster.create::<Pod>(pod).await;
    let scheduled = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.clone()?;
        conditions.into_iter().find(|c| c.type_ == "PodScheduled")
    };
    let text = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
                preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    // the scheduler may see the node a moment later than this test
    let waiting = until_one("an explanation", cluster.api::<Pod>(), "p", |p| {
        scheduled(p).is_some_and(|c| c.message.as_deref() == Some(text))
    })
    .await;
    let condition = scheduled(&waiting).unwrap();
    assert_eq!(condition.status, "False");
    assert_eq!(condition.reason.as_deref(), Some("Unschedulable"));

    hollow::register(&cluster.client, "b").await.unwrap();
    let placed = until_one("a place", cluster.api::<Pod>(), "p", |p| {
        scheduled(p).is_some_and(|c| c.status == "True")
    })
    .await;
    assert_eq!(placed.spec.unwrap().node_name.as_deref(), Some("b"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cordoned_node_is_tainted_and_freed_again() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let nodes = Api::<Node>::all(cluster.client.clone());
    let cordon = |on: bool| Patch::Merge(json!({"spec": {"unschedulable": on}}));
    let taints = |node: &Node| {
        let taints = node
            .spec
            .as_ref()
            .and_then(|s| s.taints.clone())
            .unwrap_or_default();
        taints.into_iter().map(|t| t.key).collect::<Vec<_>>()
    };
    nodes
        .patch("a", &PatchParams::default(), &cordon(true))
        .await
        .unwrap();
    until_one("a taint", nodes.clone(), "a", |n| {
        taints(n) == ["node.kubernetes.io/unschedulable"]
    })
    .await;
    nodes
        .patch("a", &PatchParams::default(), &cordon(false))
        .await
        .unwrap();
    let free = until_one("no taint", nodes, "a", |n| taints(n).is_empty()).await;
    assert_eq!(free.name_any(), "a");
    cluster.stop().await;
}
