//! The last phases of a pod: what it holds on the node is given back, then the API object goes.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use super::{DELETE_RETRY, Phase, RETRY, RUNTIME_RETRY, Worker};
use crate::pod::Node;
use crate::pod::backoff::add;
use crate::pod::cgroup;
use crate::pod::observed::Observed;
use crate::pod::sandbox;
use crate::pod::spec;
use crate::volume;

impl Worker {
    /// Ends what a finished pod still holds: its sandbox and volumes. Logs and dead containers
    /// stay until the pod is deleted.
    pub(super) async fn tear_down(&mut self) {
        if self.torn_down {
            return;
        }
        let mut clean = true;
        for sandbox in self
            .observed
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready)
        {
            if let Err(error) = self.node.runtime.stop_pod_sandbox(&sandbox.id).await {
                tracing::warn!(%error, "sandbox not stopped");
                clean = false;
            }
        }
        if let Err(error) = volume::tear_down(&self.node.config.root_dir, spec::uid(&self.pod)) {
            tracing::warn!(%error, pod = spec::name(&self.pod), "volumes not removed");
            clean = false;
        }
        if clean {
            self.torn_down = true;
        } else {
            self.wake_at(add(Timestamp::now(), RETRY));
        }
    }

    /// Last status, then nothing of the pod remains: runtime, files, cgroup, API object.
    pub(super) async fn clean_up(&mut self) {
        self.phase = Phase::Cleanup;
        self.probers.stop();
        self.publish();
        if !self.desired.borrow().gone {
            self.publisher.flushed().await;
        }
        if !self.remove_from_node().await {
            self.wake_at(add(Timestamp::now(), RUNTIME_RETRY));
            return;
        }
        if self.desired.borrow().gone {
            self.phase = Phase::Gone;
            return;
        }
        if let Err(error) = self.delete().await {
            tracing::warn!(%error, pod = spec::name(&self.pod), "pod not deleted");
            self.wake_at(add(Timestamp::now(), DELETE_RETRY));
        }
    }

    async fn remove_from_node(&mut self) -> bool {
        let mut clean = true;
        for sandbox in &self.observed.sandboxes {
            let stopped = self.node.runtime.stop_pod_sandbox(&sandbox.id).await;
            let removed = match stopped {
                Ok(()) => self.node.runtime.remove_pod_sandbox(&sandbox.id).await,
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                tracing::warn!(%error, "sandbox not removed");
                clean = false;
            }
        }
        if !clean {
            return false;
        }
        self.observed = Observed::default();
        self.node
            .clean_up(spec::uid(&self.pod), &self.node.cgroup(&self.pod))
            .await
            && self.remove_logs()
    }

    fn remove_logs(&self) -> bool {
        let dir = sandbox::log_directory(&self.node.config.pod_log_dir, &self.pod);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, dir, "logs not removed");
                false
            }
            Ok(()) | Err(_) => true,
        }
    }

    async fn delete(&self) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.node.client.clone(), spec::namespace(&self.pod));
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: self.pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(spec::name(&self.pod), &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Node {
    /// Removes files and cgroup of a pod that runs no more.
    pub async fn clean_up(&self, uid: &str, cgroup_path: &str) -> bool {
        if let Err(error) = volume::remove(&self.config.root_dir, uid) {
            tracing::warn!(%error, uid, "pod directory not removed");
            return false;
        }
        if let Err(error) = cgroup::remove(cgroup_path).await {
            tracing::warn!(%error, uid, "pod cgroup not removed");
            return false;
        }
        true
    }
}
