//! What a job under way reports, taken into what the worker remembers.

use k8s_openapi::jiff::Timestamp;
use tokio::sync::oneshot;

use super::{RETRY, SANDBOX_RETRY, Worker};
use crate::pod::apply::Progress;
use crate::pod::backoff::{Backoff, add};
use crate::pod::plan::Hold;
use crate::pod::spec;

impl Worker {
    /// Returns whether the runtime has to be asked again.
    pub(super) async fn take(&mut self, progress: Progress) -> bool {
        let now = Timestamp::now();
        match progress {
            Progress::Changed { published: None } => true,
            Progress::Changed {
                published: Some(sender),
            } => {
                self.publish_then(sender).await;
                false
            }
            Progress::Waiting {
                container,
                why: Some(why),
            } => {
                self.memory.waiting.insert(container, why);
                false
            }
            Progress::Waiting {
                container,
                why: None,
            } => {
                self.memory.waiting.remove(&container);
                self.memory.hold.remove(&container);
                self.pulls.remove(&container);
                true
            }
            Progress::Retry { container } => {
                let until = add(now, RETRY);
                self.memory
                    .hold
                    .insert(container, Hold { since: now, until });
                false
            }
            Progress::PullFailed { container } => {
                let next = Backoff::next(self.pulls.get(&container).copied(), now, now);
                if let Some((until, _)) = next.blocked_until(now, now) {
                    let hold = Hold { since: now, until };
                    self.memory.hold.insert(container.clone(), hold);
                }
                self.pulls.insert(container, next);
                false
            }
            Progress::Resized(change) => {
                self.note_resized(change);
                true
            }
            Progress::ResizeFailed { message } => {
                self.note_resize_failure(message);
                true
            }
            Progress::Restarted { container, ended } => {
                let previous = self.memory.crash.get(&container).copied();
                self.memory
                    .crash
                    .insert(container, Backoff::next(previous, ended, now));
                false
            }
            Progress::SandboxFailed => {
                let until = add(now, SANDBOX_RETRY);
                self.hold_all(Hold { since: now, until });
                true
            }
        }
    }

    /// Publishes what the runtime says now; `sender` hears when it is written.
    async fn publish_then(&mut self, sender: oneshot::Sender<()>) {
        if self.observe().await {
            self.publish();
        }
        let flushed = self.publisher.flushed();
        tokio::spawn(async move {
            flushed.await;
            // The job may have stopped waiting.
            let _ = sender.send(());
        });
    }

    /// No sandbox and, where there is one, none of its containers before the end of `hold`.
    fn hold_all(&mut self, hold: Hold) {
        self.memory.sandbox_hold = Some(hold.until);
        if self.observed.ready_sandbox().is_some() {
            let containers = spec::containers(&self.pod).into_iter();
            let held = containers.map(|(_, container)| (container.name, hold));
            self.memory.hold.extend(held);
        }
    }
}
