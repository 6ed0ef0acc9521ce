//! ReplicationControllers, Jobs, StatefulSets, and budgets that evictions respect.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, EvictParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::Cluster;
use crate::wait::{until, until_one};

/// Image of pods that succeed when they are a Job's.
const ENDS: &str = "one";

/// A template's pods carry the label `app: NAME`.
fn template(name: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn is_marked(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "DisruptionTarget"))
}

/// Evicts the pod that is meant. kube's own `evict` names the options in a way no server reads.
async fn evict_only(pods: &Api<Pod>, name: &str, preconditions: Value) -> kube::Result<Value> {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name},
        "deleteOptions": {"preconditions": preconditions}});
    pods.create_subresource("eviction", name, &PostParams::default(), &eviction)
        .await
}

fn job(name: &str, image: &str, spec: &Value) -> Value {
    let mut template = template(name, image);
    template["spec"]["restartPolicy"] = "Never".into();
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name}, "spec": {"template": template}});
    for (field, value) in spec.as_object().unwrap() {
        job["spec"][field] = value.clone();
    }
    job
}

fn has_condition(job: &Job, type_: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == type_ && c.status == "True"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_keeps_its_number_of_pods() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "rc"}, "spec": {"replicas": 2, "template": template("rc", "one")}});
    cluster.create::<ReplicationController>(controller).await;
    let pods = cluster.api::<Pod>();
    let two = |p: &[&Pod]| p.iter().filter(|p| is_ready(p)).count() == 2;
    let running = until("two run", pods.clone(), "app=rc", two).await;
    let lost = running[0].name_any();
    pods.delete(&lost, &DeleteParams::default()).await.unwrap();
    until("replaced", pods.clone(), "app=rc", |p| {
        two(p) && p.iter().all(|p| p.name_any() != lost)
    })
    .await;
    let api = cluster.api::<ReplicationController>();
    let body = json!({"spec": {"replicas": 1}});
    api.patch("rc", &PatchParams::default(), &Patch::Merge(body))
        .await
        .unwrap();
    until("one is left", pods, "app=rc", |p| p.len() == 1).await;
    until_one("and said so", api, "rc", |rc| {
        rc.status
            .as_ref()
            .is_some_and(|s| s.replicas == 1 && s.ready_replicas == Some(1))
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_to_completion_or_fail() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let spec = json!({"completions": 5, "parallelism": 2});
    cluster.create::<Job>(job("sum", ENDS, &spec)).await;
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"});
    cluster.create::<Job>(job("each", ENDS, &spec)).await;
    let spec = json!({"backoffLimit": 0});
    cluster
        .create::<Job>(job("bad", hollow::FAILS, &spec))
        .await;
    let spec = json!({"ttlSecondsAfterFinished": 0});
    cluster.create::<Job>(job("brief", ENDS, &spec)).await;

    let api = cluster.api::<Job>();
    let sum = until_one("all succeed", api.clone(), "sum", |j| {
        has_condition(j, "Complete")
    })
    .await;
    assert_eq!(sum.status.unwrap().succeeded, Some(5));
    let each = until_one("each index", api.clone(), "each", |j| {
        has_condition(j, "Complete")
    })
    .await;
    assert_eq!(
        each.status.unwrap().completed_indexes.as_deref(),
        Some("0-2")
    );
    let bad = until_one("it fails", api.clone(), "bad", |j| {
        has_condition(j, "Failed")
    })
    .await;
    assert_eq!(bad.status.unwrap().failed, Some(1));
    until(
        "gone with its pods",
        cluster.api::<Pod>(),
        "app=brief",
        |p| p.is_empty(),
    )
    .await;
    // Without a word about them the pods of a Job outlive it.
    api.delete("sum", &DeleteParams::default()).await.unwrap();
    until("let go", cluster.api::<Pod>(), "app=sum", |p| {
        p.len() == 5 && p.iter().all(|p| p.owner_references().is_empty())
    })
    .await;
    until("none holds its pods", cluster.api::<Pod>(), "", |p| {
        p.iter().all(|p| p.finalizers().is_empty())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_has_named_pods_that_are_updated_from_the_end() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web"},
        "spec": {"serviceName": "web", "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "one")}});
    cluster.create::<StatefulSet>(set).await;
    let api = cluster.api::<StatefulSet>();
    until_one("three are ready", api.clone(), "web", |s| {
        s.status
            .as_ref()
            .is_some_and(|s| s.ready_replicas == Some(3))
    })
    .await;
    let pods = cluster.api::<Pod>();
    let body = json!({"spec": {"template": template("web", "two"),
        "updateStrategy": {"rollingUpdate": {"partition": 1}}}});
    api.patch("web", &PatchParams::default(), &Patch::Strategic(body))
        .await
        .unwrap();
    let images = |pods: &[&Pod]| -> Vec<(String, String)> {
        let image = |p: &Pod| {
            p.spec.as_ref().unwrap().containers[0]
                .image
                .clone()
                .unwrap()
        };
        let mut all: Vec<_> = pods.iter().map(|p| (p.name_any(), image(p))).collect();
        all.sort();
        all
    };
    let wanted = [("web-0", "one"), ("web-1", "two"), ("web-2", "two")]
        .map(|(name, image)| (name.to_owned(), image.to_owned()));
    until("the partition holds", pods.clone(), "app=web", |p| {
        images(p) == wanted && p.iter().all(|p| is_ready(p))
    })
    .await;
    let body = json!({"spec": {"replicas": 1}});
    api.patch("web", &PatchParams::default(), &Patch::Merge(body))
        .await
        .unwrap();
    until("the first is left", pods, "app=web", |p| {
        p.len() == 1 && p[0].name_any() == "web-0"
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eviction_respects_the_budget() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "rc"}}}});
    cluster.create::<PodDisruptionBudget>(budget).await;
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "rc"}, "spec": {"replicas": 1, "template": template("rc", "one")}});
    cluster.create::<ReplicationController>(controller).await;
    let pods = cluster.api::<Pod>();
    let ready = |count| move |p: &[&Pod]| p.iter().filter(|p| is_ready(p)).count() == count;
    let first = until("one runs", pods.clone(), "app=rc", ready(1)).await;
    let first = first[0].name_any();
    let budgets = cluster.api::<PodDisruptionBudget>();
    until_one("the budget knows it", budgets.clone(), "b", |b| {
        b.status
            .as_ref()
            .is_some_and(|s| s.current_healthy == Some(1))
    })
    .await;
    let refused = pods
        .evict(&first, &EvictParams::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 429),
        "{refused}"
    );

    let body = json!({"spec": {"replicas": 2}});
    let controllers = cluster.api::<ReplicationController>();
    controllers
        .patch("rc", &PatchParams::default(), &Patch::Merge(body))
        .await
        .unwrap();
    until_one("one may go", budgets, "b", |b| {
        b.status
            .as_ref()
            .is_some_and(|s| s.disruptions_allowed == Some(1))
    })
    .await;
    let other = json!({"uid": "another"});
    let refused = evict_only(&pods, &first, other).await.unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 409),
        "{refused}"
    );
    let pod = pods.get(&first).await.unwrap();
    assert!(!is_marked(&pod), "a refused eviction leaves no mark");
    let same = json!({"uid": pod.uid(), "resourceVersion": pod.resource_version()});
    evict_only(&pods, &first, same).await.unwrap();
    until("it is replaced", pods, "app=rc", |p| {
        ready(2)(p) && p.iter().all(|p| p.name_any() != first)
    })
    .await;
    cluster.stop().await;
}
