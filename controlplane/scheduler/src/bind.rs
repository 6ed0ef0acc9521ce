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

/// Says why the pod has no node and which one it was promised, if any; nothing when it says so already.
pub async fn mark(
    client: &Client,
    pod: &Pod,
    message: &str,
    promised: Option<&str>,
) -> Result<(), kube::Error> {
    match unscheduled(pod, message, promised, &now()) {
        Some(body) => patch_status(client, pod, &body).await,
        None => Ok(()),
    }
}

/// The patch of [`mark`]: one write for both, as upstream's `handleSchedulingFailure`.
fn unscheduled(pod: &Pod, message: &str, promised: Option<&str>, now: &str) -> Option<Value> {
    let mut conditions = pod.status.conditions.iter();
    let is_said = conditions.any(|c| {
        c.type_ == "PodScheduled"
            && c.status == "False"
            && c.reason == "Unschedulable"
            && c.message == message
    });
    let promised = promised.filter(|node| pod.status.nominated_node_name.as_deref() != Some(node));
    let mut status = serde_json::Map::new();
    if !is_said {
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": now,
        });
        status.insert("conditions".to_owned(), json!([condition]));
    }
    if let Some(node) = promised {
        status.insert("nominatedNodeName".to_owned(), node.into());
    }
    let has_news = !status.is_empty();
    has_news.then(|| json!({"metadata": {"uid": pod.uid()}, "status": status}))
}

/// Says that the pod waits for no node any more.
pub async fn break_promise(client: &Client, pod: &Pod) -> Result<(), kube::Error> {
    let body = json!({
        "metadata": {"uid": pod.uid()},
        "status": {"nominatedNodeName": null},
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {}, "status": status}),
        )
        .unwrap()
    }

    #[test]
    fn a_preemption_is_one_patch_with_reason_and_promise() {
        let patch = unscheduled(&pod(json!({})), "full", Some("a"), "now").unwrap();
        assert_eq!(patch["status"]["nominatedNodeName"], "a");
        assert_eq!(patch["status"]["conditions"][0]["message"], "full");
        let without = unscheduled(&pod(json!({})), "full", None, "now").unwrap();
        assert!(without["status"].get("nominatedNodeName").is_none());
    }

    #[test]
    fn what_the_pod_says_already_is_not_said_again() {
        let said = pod(
            json!({"nominatedNodeName": "a", "conditions": [{"type": "PodScheduled",
            "status": "False", "reason": "Unschedulable", "message": "full"}]}),
        );
        assert_eq!(unscheduled(&said, "full", Some("a"), "now"), None);
        assert_eq!(unscheduled(&said, "full", None, "now"), None);
        let moved = unscheduled(&said, "full", Some("b"), "now").unwrap();
        assert!(moved["status"].get("conditions").is_none());
    }
}
