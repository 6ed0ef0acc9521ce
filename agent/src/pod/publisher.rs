//! Writes a pod's status to the API: one task per pod, always the newest status, one patch at a time,
//! retried until the API took it or the pod is gone there.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::spec;
use super::status;

/// Pause after a failed write, doubled up to the maximum.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The worker's end: hand over statuses, wait until they are in the API.
pub struct Publisher {
    wanted: watch::Sender<(u64, PodStatus)>,
    written: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Publisher {
    pub fn new(client: Client, pod: &Pod) -> Self {
        let base = pod.status.clone().unwrap_or_default();
        let (wanted, receiver) = watch::channel((0, base.clone()));
        let (sender, written) = watch::channel(0);
        let api = Api::namespaced(client, spec::namespace(pod));
        let (name, uid) = (spec::name(pod).to_owned(), spec::uid(pod).to_owned());
        let task = tokio::spawn(run(api, name, uid, base, receiver, sender));
        Self {
            wanted,
            written,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub fn publish(&self, status: &PodStatus) {
        self.wanted.send_if_modified(|(version, current)| {
            if current == status {
                return false;
            }
            *version += 1;
            *current = status.clone();
            true
        });
    }

    /// Resolves once everything published so far is in the API, or the pod is not.
    pub fn flushed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut written = self.written.clone();
        let version = self.wanted.borrow().0;
        async move {
            // The task ends only with the publisher.
            let _ = written.wait_for(|done| *done >= version).await;
        }
    }
}

async fn run(
    api: Api<Pod>,
    name: String,
    uid: String,
    mut base: PodStatus,
    mut wanted: watch::Receiver<(u64, PodStatus)>,
    written: watch::Sender<u64>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let (version, status) = wanted.borrow_and_update().clone();
        let done = match status::patch(&uid, &base, &status) {
            None => true,
            Some(patch) => {
                let patch = Patch::Strategic(patch);
                match api
                    .patch_status(&name, &PatchParams::default(), &patch)
                    .await
                {
                    Ok(pod) => {
                        base = pod.status.unwrap_or_default();
                        true
                    }
                    Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409 | 410) => true,
                    Err(error) => {
                        tracing::warn!(%error, pod = name, "status not written");
                        false
                    }
                }
            }
        };
        if done {
            pause = FIRST_PAUSE;
            written.send_replace(version);
            if wanted.changed().await.is_err() {
                return;
            }
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}
