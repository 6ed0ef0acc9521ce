//! Lifecycle hooks: exec, HTTP, sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::Job;
use crate::pod::probe;

/// An exec hook has no time-out of its own; the grace period bounds preStop, this bounds postStart.
const EXEC_TIMEOUT: Duration = Duration::from_secs(3600);
const MAX_OUTPUT: usize = 1024;

impl Job {
    /// Runs a handler to its end; the error is text for the container's status.
    pub(super) async fn hook(
        &self,
        id: &str,
        container: &Container,
        handler: &LifecycleHandler,
    ) -> Result<(), String> {
        if let Some(exec) = &handler.exec {
            let command = exec.command.clone().unwrap_or_default();
            let answer = self
                .node
                .runtime
                .exec_sync(id, command, EXEC_TIMEOUT)
                .await
                .map_err(|error| error.detail())?;
            if answer.exit_code == 0 {
                return Ok(());
            }
            let output = [answer.stdout, answer.stderr].concat();
            let output =
                String::from_utf8_lossy(&output[..output.len().min(MAX_OUTPUT)]).into_owned();
            return Err(format!(
                "command exited with {}: {output}",
                answer.exit_code
            ));
        }
        if let Some(get) = &handler.http_get {
            let ips = self.node.ips_of(&self.pod, &self.observed);
            let ip = ips.first().copied();
            return probe::http_hook(&self.node.runtime, id, container, ip, get).await;
        }
        if let Some(sleep) = &handler.sleep {
            let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        Ok(())
    }
}
