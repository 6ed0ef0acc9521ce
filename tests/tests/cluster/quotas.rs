//! Quotas count what there is: admission adds, the controller takes away.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ReplicationController, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::DeleteParams;
use serde_json::json;

use crate::Cluster;
use crate::wait::{until, until_one};

fn used(quota: &ResourceQuota, name: &str) -> Option<String> {
    let used = quota.status.as_ref()?.used.as_ref()?;
    Some(used.get(name)?.0.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_or_finished_is_no_longer_counted() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let maps = cluster.api::<ConfigMap>();
    cluster
        .create::<ConfigMap>(json!({"metadata": {"name": "before"}}))
        .await;
    cluster
        .create::<ResourceQuota>(json!({
            "metadata": {"name": "q"},
            "spec": {"hard": {"configmaps": "3", "count/deployments.apps": "1"}},
        }))
        .await;
    let quotas = cluster.api::<ResourceQuota>();
    // The root certificate and the one above.
    until_one("the count", quotas.clone(), "q", |q| {
        used(q, "configmaps").as_deref() == Some("2")
            && used(q, "count/deployments.apps").as_deref() == Some("0")
    })
    .await;
    cluster
        .create::<ConfigMap>(json!({"metadata": {"name": "third"}}))
        .await;
    let quota = quotas.get("q").await.unwrap();
    assert_eq!(used(&quota, "configmaps").as_deref(), Some("3"));
    maps.delete("third", &DeleteParams::default())
        .await
        .unwrap();
    maps.delete("before", &DeleteParams::default())
        .await
        .unwrap();
    until_one("the count without them", quotas, "q", |q| {
        used(q, "configmaps").as_deref() == Some("1")
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_says_that_the_quota_stops_it() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster
        .create::<ResourceQuota>(
            json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2"}}}),
        )
        .await;
    let quotas = cluster.api::<ResourceQuota>();
    until_one("the count", quotas, "q", |q| {
        used(q, "pods").as_deref() == Some("0")
    })
    .await;
    cluster
        .create::<ReplicationController>(json!({
            "metadata": {"name": "rc"},
            "spec": {
                "replicas": 3,
                "template": {
                    "metadata": {"labels": {"app": "a"}},
                    "spec": {"containers": [{"name": "c", "image": "i"}]},
                },
            },
        }))
        .await;
    let controllers = cluster.api::<ReplicationController>();
    let failed = until_one("the failure", controllers.clone(), "rc", |rc| {
        let status = rc.status.as_ref();
        let conditions = status.and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "ReplicaFailure"))
    })
    .await;
    let condition = &failed.status.unwrap().conditions.unwrap()[0];
    assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
    assert!(
        condition
            .message
            .as_ref()
            .unwrap()
            .contains("exceeded quota: q")
    );
    let pods = until("two pods", cluster.api::<Pod>(), "app=a", |p| p.len() == 2).await;
    assert_eq!(pods.len(), 2);

    let scale = kube::api::Patch::Merge(json!({"spec": {"replicas": 2}}));
    controllers
        .patch("rc", &kube::api::PatchParams::default(), &scale)
        .await
        .unwrap();
    until_one("no failure", controllers, "rc", |rc| {
        let status = rc.status.as_ref().unwrap();
        status.conditions.as_ref().is_none_or(Vec::is_empty) && status.ready_replicas == Some(2)
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_says_how_many_pods_may_go() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster
        .create::<PodDisruptionBudget>(json!({
            "metadata": {"name": "b"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}},
        }))
        .await;
    let budgets = cluster.api::<PodDisruptionBudget>();
    let allowed = |budget: &PodDisruptionBudget| {
        let status = budget.status.as_ref()?;
        status.observed_generation?;
        status.disruptions_allowed
    };
    until_one("a look at it", budgets.clone(), "b", |b| {
        allowed(b) == Some(0)
    })
    .await;
    for name in ["x", "y"] {
        cluster
            .create::<Pod>(json!({
                "metadata": {"name": name, "labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            }))
            .await;
    }
    until_one("one pod may go", budgets, "b", |b| allowed(b) == Some(1)).await;
    cluster.stop().await;
}
