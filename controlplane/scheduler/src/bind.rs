//! Telling the API server: the binding, or the condition that says why there is none; and Events.

use http::Request;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder};
use serde_json::{Value, json};

use crate::object::{Key, Pod};

/// Binds the pod to the node.
pub async fn bind(client: &Client, pod: &Pod, node: &str) -> Result<(), kube::Error> {
    let Key { namespace, name } = pod.key();
    let body = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": &*name, "namespace": &*namespace, "uid": pod.uid()},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
    send(client, http::Method::POST, &path, "application/json", &body).await
}

/// Sets PodScheduled=False with the reason, unless the pod says so already.
pub async fn mark(client: &Client, pod: &Pod, message: &str) -> Result<(), kube::Error> {
    let current = pod
        .status
        .conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled");
    if current
        .is_some_and(|c| c.status == "False" && c.reason == "Unschedulable" && c.message == message)
    {
        return Ok(());
    }
    let body = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [{
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": now(),
    }]}});
    patch_status(client, pod, &body).await
}

/// Says which node the pod was promised, or that it waits for none any more.
pub async fn nominate(client: &Client, pod: &Pod, node: Option<&str>) -> Result<(), kube::Error> {
    let body = json!({
        "metadata": {"uid": pod.uid()},
        "status": {"nominatedNodeName": node},
    });
    patch_status(client, pod, &body).await
}

/// Ends a pod in favour of another one; it says why itself.
pub async fn evict(client: &Client, victim: &Pod) -> Result<(), kube::Error> {
    let message = "default-scheduler: preempting to accommodate a higher priority pod";
    let body = json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": now(),
    }]}});
    patch_status(client, victim, &body).await?;
    let Key { namespace, name } = victim.key();
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let body = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": victim.uid()},
    });
    send(
        client,
        http::Method::DELETE,
        &path,
        "application/json",
        &body,
    )
    .await
}

fn now() -> String {
    let now = Timestamp::from_second(Timestamp::now().as_second());
    now.unwrap_or_default().to_string()
}

async fn patch_status(client: &Client, pod: &Pod, body: &Value) -> Result<(), kube::Error> {
    let Key { namespace, name } = pod.key();
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
    let content_type = "application/strategic-merge-patch+json";
    send(client, http::Method::PATCH, &path, content_type, body).await
}

async fn send(
    client: &Client,
    method: http::Method,
    path: &str,
    content_type: &str,
    body: &Value,
) -> Result<(), kube::Error> {
    let bytes = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content_type)
        .body(bytes)
        .map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(drop)
}

/// Records that a pod went for another one.
pub async fn record_preempted(recorder: &Recorder, victim: &Pod, by: &Pod, node: &str) {
    let event = Event {
        type_: EventType::Normal,
        reason: "Preempted".to_owned(),
        note: Some(format!("Preempted by pod {} on node {node}", by.uid())),
        action: "Preempting".to_owned(),
        secondary: Some(kube::Resource::object_ref(by, &())),
    };
    publish(recorder, victim, &event).await;
}

/// Records what was decided about the pod.
pub async fn record(recorder: &Recorder, pod: &Pod, decision: Result<&str, &str>) {
    let event = match decision {
        Ok(node) => Event {
            type_: EventType::Normal,
            reason: "Scheduled".to_owned(),
            note: Some(format!("Successfully assigned {} to {node}", pod.key())),
            action: "Binding".to_owned(),
            secondary: None,
        },
        Err(message) => Event {
            type_: EventType::Warning,
            reason: "FailedScheduling".to_owned(),
            note: Some(message.to_owned()),
            action: "Scheduling".to_owned(),
            secondary: None,
        },
    };
    publish(recorder, pod, &event).await;
}

/// Events are best effort.
async fn publish(recorder: &Recorder, pod: &Pod, event: &Event) {
    let reference = kube::Resource::object_ref(pod, &());
    if let Err(error) = recorder.publish(event, &reference).await {
        tracing::debug!(%error, "event not recorded");
    }
}
