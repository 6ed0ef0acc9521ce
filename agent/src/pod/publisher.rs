//! Writes a pod's status to the API: one task per pod, always the newest status, one patch at a time,
//! retried until the API took it or the pod is gone there. What others wrote into the node's part of the
//! status is written over again (upstream: `status_manager.go` needsReconcile).

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
    wanted: watch::Sender<(u64, Option<PodStatus>)>,
    written: watch::Receiver<u64>,
    seen: watch::Sender<Known>,
    _task: AbortOnDropHandle<()>,
}

/// The status the API has, and in which version of the pod.
#[derive(Debug, Clone)]
struct Known {
    version: u64,
    status: PodStatus,
}

impl Known {
    fn of(pod: &Pod) -> Self {
        let version = pod.metadata.resource_version.as_deref();
        Self {
            version: version.and_then(|v| v.parse().ok()).unwrap_or(0),
            status: pod.status.clone().unwrap_or_default(),
        }
    }
}

impl Publisher {
    pub fn new(client: Client, pod: &Pod) -> Self {
        let base = Known::of(pod);
        let (wanted, receiver) = watch::channel((0, None));
        let (sender, written) = watch::channel(0);
        let (seen, others) = watch::channel(base.clone());
        let writer = Writer {
            api: Api::namespaced(client, spec::namespace(pod)),
            name: spec::name(pod).to_owned(),
            uid: spec::uid(pod).to_owned(),
            base,
        };
        let task = tokio::spawn(writer.run(receiver, others, sender));
        Self {
            wanted,
            written,
            seen,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub fn publish(&self, status: &PodStatus) {
        self.wanted.send_if_modified(|(version, current)| {
            if current.as_ref() == Some(status) {
                return false;
            }
            *version += 1;
            *current = Some(status.clone());
            true
        });
    }

    /// The API shows this version of the pod.
    pub fn seen(&self, pod: &Pod) {
        self.seen.send_replace(Known::of(pod));
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

struct Writer {
    api: Api<Pod>,
    name: String,
    uid: String,
    base: Known,
}

impl Writer {
    async fn run(
        mut self,
        mut wanted: watch::Receiver<(u64, Option<PodStatus>)>,
        mut seen: watch::Receiver<Known>,
        written: watch::Sender<u64>,
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let known = seen.borrow_and_update().clone();
            // Older than what our own last patch made: news from before it.
            if known.version > self.base.version {
                self.base = known;
            }
            let (version, status) = wanted.borrow_and_update().clone();
            if let Some(status) = &status
                && !self.write(status).await
            {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
                continue;
            }
            pause = FIRST_PAUSE;
            written.send_replace(version);
            let changed = tokio::select! {
                changed = wanted.changed() => changed,
                changed = seen.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Whether the API has the status now, or has no use for it.
    async fn write(&mut self, status: &PodStatus) -> bool {
        let Some(patch) = status::patch(&self.uid, &self.base.status, status) else {
            return true;
        };
        let patch = Patch::Strategic(patch);
        let params = PatchParams::default();
        match self.api.patch_status(&self.name, &params, &patch).await {
            Ok(pod) => {
                self.base = Known::of(&pod);
                true
            }
            Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409 | 410) => true,
            Err(error) => {
                tracing::warn!(%error, pod = self.name, "status not written");
                false
            }
        }
    }
}
