//! Deployments from creation to deletion.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::Cluster;
use crate::wait::{until, until_one};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
        },
    })
}

fn is_complete(deployment: &Deployment, replicas: i32) -> bool {
    let Some(status) = &deployment.status else {
        return false;
    };
    status.observed_generation == deployment.metadata.generation
        && status.replicas == Some(replicas)
        && status.updated_replicas == Some(replicas)
        && status.available_replicas == Some(replicas)
}

async fn complete(cluster: &Cluster, replicas: i32) -> Deployment {
    let what = format!("{replicas} replicas of the present template");
    until_one(&what, cluster.api(), "web", |d| is_complete(d, replicas)).await
}

async fn patch(cluster: &Cluster, body: Value) {
    let api = cluster.api::<Deployment>();
    api.patch("web", &PatchParams::default(), &Patch::Strategic(body))
        .await
        .unwrap();
}

fn phase(pod: &Pod) -> &str {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    phase.unwrap_or_default()
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0]
        .image
        .as_deref()
        .unwrap()
}

async fn set_image(cluster: &Cluster, image: &str) {
    patch(
        cluster,
        json!({"spec": {"template": {"spec":
        {"containers": [{"name": "web", "image": image}]}}}}),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_ready_is_updated_rolled_back_scaled_and_deleted() {
    let cluster = Cluster::with_nodes(&["a", "b", "c"]).await;
    cluster.create::<Deployment>(deployment(3, "one")).await;
    let ready = complete(&cluster, 3).await;
    assert_eq!(ready.annotations()[REVISION], "1");

    let pods = until("three pods", cluster.api::<Pod>(), "app=web", |p| {
        p.len() == 3
    })
    .await;
    let mut nodes: Vec<_> = pods
        .iter()
        .map(|p| p.spec.as_ref().unwrap().node_name.clone().unwrap())
        .collect();
    nodes.sort();
    assert_eq!(nodes, ["a", "b", "c"], "one pod on each node");

    set_image(&cluster, "two").await;
    let updated = complete(&cluster, 3).await;
    assert_eq!(updated.annotations()[REVISION], "2");
    until("only new pods", cluster.api::<Pod>(), "app=web", |pods| {
        pods.len() == 3 && pods.iter().all(|p| image(p) == "two")
    })
    .await;

    // What `kubectl rollout undo` does: the old template again.
    set_image(&cluster, "one").await;
    let undone = complete(&cluster, 3).await;
    assert_eq!(undone.annotations()[REVISION], "3");
    let sets = until("two sets", cluster.api::<ReplicaSet>(), "app=web", |s| {
        s.len() == 2
    })
    .await;
    let mut revisions: Vec<_> = sets
        .iter()
        .map(|s| s.annotations()[REVISION].clone())
        .collect();
    revisions.sort();
    assert_eq!(
        revisions,
        ["2", "3"],
        "the old set became the newest revision"
    );

    patch(&cluster, json!({"spec": {"replicas": 5}})).await;
    complete(&cluster, 5).await;
    patch(&cluster, json!({"spec": {"replicas": 1}})).await;
    complete(&cluster, 1).await;

    let api = cluster.api::<Deployment>();
    api.delete("web", &DeleteParams::background())
        .await
        .unwrap();
    until("no sets", cluster.api::<ReplicaSet>(), "app=web", |s| {
        s.is_empty()
    })
    .await;
    until("no pods", cluster.api::<Pod>(), "app=web", |p| p.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_does_not_become_ready_leaves_the_old_pods_serving() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster.create::<Deployment>(deployment(4, "one")).await;
    complete(&cluster, 4).await;
    set_image(&cluster, hollow::BROKEN).await;
    // maxSurge 25 % and maxUnavailable 25 % of four: five pods, three of them available.
    let pods = until("a stuck rollout", cluster.api::<Pod>(), "app=web", |pods| {
        let broken = pods.iter().filter(|p| image(p) == hollow::BROKEN).count();
        pods.len() == 5 && broken == 2
    })
    .await;
    assert_eq!(pods.iter().filter(|p| image(p) == "one").count(), 3);
    set_image(&cluster, "one").await;
    complete(&cluster, 4).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreate_update_starts_nothing_before_the_last_old_pod_is_gone() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let mut object = deployment(2, "one");
    object["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create::<Deployment>(object).await;
    complete(&cluster, 2).await;
    set_image(&cluster, "two").await;
    until("never both", cluster.api::<Pod>(), "app=web", |pods| {
        // One that has ended runs nothing, though it is still there (`oldPodsRunning`).
        let runs = |p: &&&Pod| !matches!(phase(p), "Succeeded" | "Failed");
        let old = pods.iter().filter(|p| image(p) == "one");
        let running = old.clone().filter(runs).count();
        let old = old.count();
        let shown: Vec<_> = pods.iter().map(|p| (image(p), phase(p))).collect();
        assert!(
            running == 0 || old == pods.len(),
            "old and new pods at the same time: {shown:?}"
        );
        pods.len() == 2 && old == 0
    })
    .await;
    complete(&cluster, 2).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_comes_back_and_a_paused_deployment_does_not_roll() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster.create::<Deployment>(deployment(2, "one")).await;
    complete(&cluster, 2).await;
    let pods = until("two pods", cluster.api::<Pod>(), "app=web", |p| {
        p.len() == 2
    })
    .await;
    let victim = pods[0].name_any();
    let api = cluster.api::<Pod>();
    api.delete(&victim, &DeleteParams::default()).await.unwrap();
    until("another pod", cluster.api::<Pod>(), "app=web", |pods| {
        pods.len() == 2 && pods.iter().all(|p| p.name_any() != victim)
    })
    .await;

    patch(&cluster, json!({"spec": {"paused": true}})).await;
    set_image(&cluster, "two").await;
    patch(&cluster, json!({"spec": {"replicas": 3}})).await;
    let paused = until_one(
        "scaled while paused",
        cluster.api::<Deployment>(),
        "web",
        |d| {
            let status = d.status.as_ref().unwrap();
            status.available_replicas == Some(3)
                && status.observed_generation == d.metadata.generation
        },
    )
    .await;
    assert_eq!(paused.status.unwrap().updated_replicas, None);
    patch(&cluster, json!({"spec": {"paused": false}})).await;
    complete(&cluster, 3).await;
    cluster.stop().await;
}
