//! Gives running containers other resources. The pod's cgroup bounds theirs: it grows before them and
//! shrinks after them.

use super::{Change, Job, Progress};
use crate::pod::cgroup;
use crate::pod::resources;
use crate::pod::spec;

impl Job {
    pub(super) async fn resize(&self, changes: &[Change]) {
        let path = self.node.cgroup(&self.pod);
        let whole = resources::of_pod(&self.pod);
        // What shrinks below its containers is refused here, and accepted after them.
        if let Err(error) = cgroup::ensure(&path, &whole) {
            tracing::debug!(%error, "the pod's cgroup shrinks after its containers");
        }
        let mut failed = None;
        for change in changes {
            let Some((_, container)) = spec::find(&self.pod, &change.name) else {
                continue;
            };
            let wanted = resources::of_running(&self.pod, &container, self.node.memory_capacity);
            match self.node.runtime.update_container(&change.id, wanted).await {
                Ok(()) => self.tell(Progress::Resized(change.clone())).await,
                Err(error) => {
                    failed = Some(format!("container {}: {}", change.name, error.detail()));
                }
            }
        }
        if failed.is_none()
            && let Err(error) = cgroup::ensure(&path, &whole)
        {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            failed = Some(format!("{error}: {}", cause.unwrap_or_default()));
        }
        if let Some(message) = failed {
            self.tell(Progress::ResizeFailed { message }).await;
        }
    }
}
