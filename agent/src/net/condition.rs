//! Tells the cluster whether this node's network works: the Node's condition `NetworkUnavailable`, which
//! also decides the taint that keeps pods away (upstream: `NodeNetworkUnavailable`, set by whoever owns
//! the network). `Verdict::of` is pure; the shell writes what differs from the Node object.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stage::{Problem, Stage};

const TYPE: &str = "NetworkUnavailable";
/// Pause before another attempt to write.
const RETRY: Duration = Duration::from_secs(2);
/// The condition is written again, should somebody have replaced the Node object.
const REFRESH: Duration = Duration::from_secs(300);
/// A start that takes longer counts as unavailable. A restarted agent is faster, and the datapath of
/// its predecessor works meanwhile: its condition stays as it is.
const START: Duration = Duration::from_secs(10);

/// What a condition of the Node should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The condition's type.
    pub(super) kind: &'static str,
    pub(super) truth: bool,
    pub(super) problem: Problem,
}

impl Verdict {
    /// `None`: not known yet, leave the condition alone.
    fn of<T>(stage: &Stage<T>, waited: Duration) -> Option<Self> {
        let problem = |reason, message: &str| Problem {
            reason,
            message: message.to_owned(),
        };
        let (truth, problem) = match stage {
            Stage::Starting if waited < START => return None,
            Stage::Starting => (
                true,
                problem("DatapathStarting", "the node's datapath is being loaded"),
            ),
            Stage::Up(_) => (
                false,
                problem(
                    "DatapathReady",
                    "the node's datapath is loaded and its pod ranges are routed",
                ),
            ),
            Stage::Down(problem) => (true, problem.clone()),
        };
        Some(Self {
            kind: TYPE,
            truth,
            problem,
        })
    }

    fn status(&self) -> &'static str {
        if self.truth { "True" } else { "False" }
    }

    fn is_shown_by(&self, condition: &NodeCondition) -> bool {
        condition.status == self.status()
            && condition.reason.as_deref() == Some(self.problem.reason)
            && condition.message.as_deref() == Some(&self.problem.message)
    }
}

/// Keeps the condition true to the stage until `shutdown`.
pub async fn keep<T>(
    client: Client,
    node: String,
    mut stages: watch::Receiver<Stage<T>>,
    shutdown: CancellationToken,
) {
    let api = Api::<Node>::all(client);
    let started = Instant::now();
    loop {
        let verdict = Verdict::of(&*stages.borrow_and_update(), started.elapsed());
        let pause = match verdict {
            None => START.saturating_sub(started.elapsed()),
            Some(verdict) => match set(&api, &node, &verdict).await {
                Ok(()) => REFRESH,
                Err(error) => {
                    tracing::debug!(%error, "set condition {TYPE}");
                    RETRY
                }
            },
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = stages.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

/// Makes the Node say it, if it does not.
pub(super) async fn set(api: &Api<Node>, node: &str, verdict: &Verdict) -> Result<(), kube::Error> {
    let current = find(api, node, verdict.kind).await?;
    write(api, node, verdict, current).await
}

/// The same for a condition that need not be there as long as it is not true.
pub(super) async fn lift(
    api: &Api<Node>,
    node: &str,
    verdict: &Verdict,
) -> Result<(), kube::Error> {
    match find(api, node, verdict.kind).await? {
        None => Ok(()),
        current => write(api, node, verdict, current).await,
    }
}

async fn find(
    api: &Api<Node>,
    node: &str,
    kind: &str,
) -> Result<Option<NodeCondition>, kube::Error> {
    let current = api.get(node).await?;
    let conditions = current.status.and_then(|s| s.conditions);
    Ok(conditions.into_iter().flatten().find(|c| c.type_ == kind))
}

async fn write(
    api: &Api<Node>,
    node: &str,
    verdict: &Verdict,
    current: Option<NodeCondition>,
) -> Result<(), kube::Error> {
    if current.as_ref().is_some_and(|c| verdict.is_shown_by(c)) {
        return Ok(());
    }
    let now = time::OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .expect("0 is a valid number of nanoseconds")
        .format(&time::format_description::well_known::Rfc3339)
        .expect("the years of this age fit RFC 3339");
    let mut condition = serde_json::json!({
        "type": verdict.kind,
        "status": verdict.status(),
        "reason": verdict.problem.reason,
        "message": verdict.problem.message,
        "lastHeartbeatTime": now,
    });
    if current.is_none_or(|c| c.status != verdict.status()) {
        condition["lastTransitionTime"] = now.into();
    }
    let patch = serde_json::json!({"status": {"conditions": [condition]}});
    api.patch_status(node, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_given_time_and_a_failure_is_said_at_once() {
        let up: Stage<()> = Stage::Up(());
        assert_eq!(Verdict::of(&Stage::<()>::Starting, Duration::ZERO), None);
        let slow = Verdict::of(&Stage::<()>::Starting, START).unwrap();
        assert_eq!(
            (slow.status(), slow.problem.reason),
            ("True", "DatapathStarting")
        );
        let fine = Verdict::of(&up, Duration::ZERO).unwrap();
        assert_eq!(
            (fine.status(), fine.problem.reason),
            ("False", "DatapathReady")
        );
        let problem = Problem {
            reason: "DatapathNotLoaded",
            message: "mount bpffs".into(),
        };
        let down = Verdict::of(&Stage::<()>::Down(problem.clone()), Duration::ZERO).unwrap();
        assert_eq!((down.status(), down.problem), ("True", problem));
    }

    #[test]
    fn a_new_message_is_written_though_the_status_stays() {
        let problem = |message: &str| Problem {
            reason: "DatapathNotLoaded",
            message: message.into(),
        };
        let verdict = |message| Verdict::of(&Stage::<()>::Down(problem(message)), START).unwrap();
        let shown = NodeCondition {
            type_: TYPE.into(),
            status: "True".into(),
            reason: Some("DatapathNotLoaded".into()),
            message: Some("one".into()),
            ..NodeCondition::default()
        };
        assert!(verdict("one").is_shown_by(&shown));
        assert!(!verdict("two").is_shown_by(&shown));
    }
}
