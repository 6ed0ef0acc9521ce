//! Tells the cluster that this node's network works: condition `NetworkUnavailable=False`, which lifts
//! the taint that keeps pods away.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

/// Pause before another attempt.
const RETRY: Duration = Duration::from_secs(2);
/// The condition is written again, should somebody have replaced the Node object.
const REFRESH: Duration = Duration::from_secs(300);

/// Sets the condition, and keeps it set.
pub async fn keep(client: Client, node: String, shutdown: CancellationToken) {
    let api = Api::<Node>::all(client);
    loop {
        let pause = match set(&api, &node).await {
            Ok(()) => REFRESH,
            Err(error) => {
                tracing::debug!(%error, "set condition NetworkUnavailable");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn set(api: &Api<Node>, node: &str) -> Result<(), kube::Error> {
    let current = api.get(node).await?;
    let conditions = current
        .status
        .and_then(|s| s.conditions)
        .unwrap_or_default();
    let done = conditions
        .iter()
        .any(|c| c.type_ == "NetworkUnavailable" && c.status == "False");
    if done {
        return Ok(());
    }
    let now = time::OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .expect("0 is a valid number of nanoseconds")
        .format(&time::format_description::well_known::Rfc3339)
        .expect("the years of this age fit RFC 3339");
    let patch = serde_json::json!({"status": {"conditions": [{
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "DatapathReady",
        "message": "the node's datapath is loaded and its pod ranges are routed",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }]}});
    api.patch_status(node, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map(drop)
}
