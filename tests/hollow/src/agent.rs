//! Plays kubelet for every bound pod: a watch in, one step of the table of stages at a time out.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher::Config;
use kube::{Client, ResourceExt};

use crate::node::now;
use crate::stage::{self, Context, Step};

/// Before a step that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

struct Agent {
    client: Client,
    /// Number of the next pod's address.
    next: AtomicU16,
}

/// Runs for ever.
pub async fn run(client: Client) {
    let bound = Config::default().fields("spec.nodeName!=");
    let agent = Arc::new(Agent {
        client: client.clone(),
        next: AtomicU16::new(2),
    });
    Controller::new(Api::<Pod>::all(client), bound)
        .run(step, failed, agent)
        .for_each(|_| std::future::ready(()))
        .await;
}

async fn step(pod: Arc<Pod>, agent: Arc<Agent>) -> kube::Result<Action> {
    let number = agent.next.fetch_add(1, Ordering::Relaxed);
    let [high, low] = number.to_be_bytes();
    let context = Context {
        now: now(),
        ip: Ipv4Addr::new(10, 244, high, low),
    };
    let pods = Api::<Pod>::namespaced(agent.client.clone(), &pod.namespace().unwrap_or_default());
    let done = match stage::next(&pod, &context) {
        None => Ok(()),
        Some(Step::Status(mut patch)) => {
            // of this very version: a pod that has changed comes again
            patch["metadata"] = serde_json::json!({"resourceVersion": pod.resource_version()});
            let params = PatchParams::default();
            pods.patch_status(&pod.name_any(), &params, &Patch::Strategic(patch))
                .await
                .map(drop)
        }
        Some(Step::Delete) => {
            let params = DeleteParams::default()
                .grace_period(0)
                .preconditions(Preconditions {
                    uid: pod.uid(),
                    resource_version: None,
                });
            pods.delete(&pod.name_any(), &params).await.map(drop)
        }
    };
    match done {
        // gone or changed meanwhile
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        done => done?,
    }
    Ok(Action::await_change())
}

fn failed(pod: Arc<Pod>, error: &kube::Error, _: Arc<Agent>) -> Action {
    eprintln!("{}: {error}", pod.name_any());
    Action::requeue(AGAIN)
}
