//! A hollow agent: pods bound to its nodes become Running and Ready without containers, and go
//! when they are deleted. An image called `broken` never becomes ready; pods of `succeeds` and
//! `fails` end at once.

use std::sync::atomic::{AtomicU16, Ordering};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

/// Image of pods that never become ready.
pub const BROKEN: &str = "broken";
/// Images of pods that end at once.
pub const SUCCEEDS: &str = "succeeds";
pub const FAILS: &str = "fails";

static NEXT_ADDRESS: AtomicU16 = AtomicU16::new(2);

/// Creates a Ready node with room for ten pods' worth of cpu.
pub async fn register(client: &Client, name: &str) {
    let nodes = Api::<Node>::all(client.clone());
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
    });
    let node: Node = serde_json::from_value(node).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let resources = json!({"cpu": "10", "memory": "32Gi", "pods": "110"});
    let status = json!({"status": {
        "capacity": resources,
        "allocatable": resources,
        "conditions": [condition("Ready", "True")],
    }});
    set_status(&nodes, name, status).await.unwrap();
}

/// Plays kubelet for every node, for ever.
pub async fn run(client: Client) {
    let config = Config::default().fields("spec.nodeName!=");
    let pods = Api::<Pod>::all(client.clone());
    let mut events = std::pin::pin!(watcher(pods, config).default_backoff().applied_objects());
    while let Some(event) = events.next().await {
        let Ok(pod) = event else { continue };
        let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap());
        let result = live(&api, &pod).await;
        if let Err(error) = result
            && !matches!(&error, kube::Error::Api(status) if status.code == 404)
        {
            eprintln!("hollow agent: {}: {error}", pod.name_any());
        }
    }
}

async fn live(api: &Api<Pod>, pod: &Pod) -> kube::Result<()> {
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        let now = DeleteParams::default().grace_period(0);
        return api.delete(&name, &now).await.map(drop);
    }
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref());
    if matches!(phase, Some("Running" | "Succeeded" | "Failed")) {
        return Ok(());
    }
    let spec = pod.spec.as_ref().unwrap();
    let has = |image| {
        let mut images = spec.containers.iter().map(|c| c.image.as_deref());
        images.any(|i| i == Some(image))
    };
    for (image, phase) in [(SUCCEEDS, "Succeeded"), (FAILS, "Failed")] {
        if has(image) {
            let status = json!({"status": {"phase": phase, "startTime": now()}});
            return set_status(api, &name, status).await;
        }
    }
    let ready = if has(BROKEN) { "False" } else { "True" };
    let number = NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed);
    let ip = format!("10.244.{}.{}", number >> 8, number & 255);
    let status = json!({"status": {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "startTime": now(),
        "conditions": [
            condition("Ready", ready),
            condition("ContainersReady", ready),
            condition("Initialized", "True"),
        ],
    }});
    set_status(api, &name, status).await
}

async fn set_status<K>(api: &Api<K>, name: &str, status: Value) -> kube::Result<()>
where
    K: serde::de::DeserializeOwned,
{
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
        .await
        .map(drop)
}

/// A condition that began now.
pub fn condition(type_: &str, status: &str) -> Value {
    json!({"type": type_, "status": status, "lastTransitionTime": now()})
}

fn now() -> String {
    Timestamp::from_second(Timestamp::now().as_second())
        .unwrap()
        .to_string()
}
