//! What goes when something goes: cascades, orphans, namespaces.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, PropagationPolicy};
use serde_json::{Value, json};

use crate::Cluster;
use crate::wait::until;

fn replica_set(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "rs"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "rs"}},
            "template": {
                "metadata": {"labels": {"app": "rs"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreground_deletion_keeps_the_owner_until_its_pods_are_gone() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster.create::<ReplicaSet>(replica_set(2)).await;
    until("two pods", cluster.api::<Pod>(), "app=rs", |p| p.len() == 2).await;
    let deleted = cluster
        .api::<ReplicaSet>()
        .delete("rs", &DeleteParams::foreground())
        .await;
    assert!(
        deleted.unwrap().is_left(),
        "the object is still there, waiting"
    );
    until("no set", cluster.api::<ReplicaSet>(), "", |s| s.is_empty()).await;
    let left = cluster
        .api::<Pod>()
        .list(&Default::default())
        .await
        .unwrap()
        .items;
    assert!(left.is_empty(), "{left:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphaned_pods_stay_and_are_adopted_by_the_next_matching_set() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster.create::<ReplicaSet>(replica_set(2)).await;
    let before = until("two pods", cluster.api::<Pod>(), "app=rs", |p| p.len() == 2).await;
    let orphan = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    cluster
        .api::<ReplicaSet>()
        .delete("rs", &orphan)
        .await
        .unwrap();
    until("no set", cluster.api::<ReplicaSet>(), "", |s| s.is_empty()).await;
    until("two orphans", cluster.api::<Pod>(), "app=rs", |pods| {
        pods.len() == 2 && pods.iter().all(|p| p.owner_references().is_empty())
    })
    .await;
    let set = cluster.create::<ReplicaSet>(replica_set(2)).await;
    let after = until("adoption", cluster.api::<Pod>(), "app=rs", |pods| {
        pods.len() == 2 && pods.iter().all(|p| p.owner_references().len() == 1)
    })
    .await;
    let uids = |pods: &[Pod]| pods.iter().map(|p| p.uid()).collect::<Vec<_>>();
    assert_eq!(uids(&before), uids(&after), "the same pods");
    assert_eq!(Some(after[0].owner_references()[0].uid.clone()), set.uid());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_loses_its_label_is_released_and_replaced() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster.create::<ReplicaSet>(replica_set(1)).await;
    let pods = until("a pod", cluster.api::<Pod>(), "app=rs", |p| p.len() == 1).await;
    let body = json!({"metadata": {"labels": {"app": "other"}}});
    let patch = kube::api::Patch::Merge(body);
    let api = cluster.api::<Pod>();
    api.patch(&pods[0].name_any(), &Default::default(), &patch)
        .await
        .unwrap();
    until("released", cluster.api::<Pod>(), "app=other", |pods| {
        pods.len() == 1 && pods[0].owner_references().is_empty()
    })
    .await;
    until("replaced", cluster.api::<Pod>(), "app=rs", |p| p.len() == 1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_has_its_account_and_root_certificate_and_goes_with_all_content() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "ns"}})).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();

    let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), "ns");
    until("an account", accounts, "", |a| {
        a.iter().any(|a| a.name_any() == "default")
    })
    .await;
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), "ns");
    let is_root = |m: &&&ConfigMap| {
        m.name_any() == "kube-root-ca.crt"
            && m.data
                .as_ref()
                .is_some_and(|d| d["ca.crt"].contains("BEGIN CERTIFICATE"))
    };
    until("a root certificate", maps, "", |m| {
        m.iter().any(|m| is_root(&m))
    })
    .await;

    let sets = Api::<ReplicaSet>::namespaced(cluster.client.clone(), "ns");
    let set: ReplicaSet = serde_json::from_value(replica_set(2)).unwrap();
    sets.create(&PostParams::default(), &set).await.unwrap();
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), "ns");
    until("two pods", pods.clone(), "", |p| p.len() == 2).await;

    namespaces
        .delete("ns", &DeleteParams::default())
        .await
        .unwrap();
    let all = Api::<Namespace>::all(cluster.client.clone());
    until("no namespace", all, "", |n| {
        n.iter().all(|n| n.name_any() != "ns")
    })
    .await;
    assert!(
        pods.list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(
        sets.list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    cluster.stop().await;
}
