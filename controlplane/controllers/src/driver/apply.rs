//! Carries out a plan. Makes no choices: goes on past failures where the plan's pace says so,
//! and reports every answer.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use kube::Client;
use serde_json::Value;

use crate::certificates::sign::Signer;
use crate::object::Key;
use crate::plan::{Job, Note, Pace, Plan};
use crate::resource::Resource;
use crate::write::{self, Notes, Write, WriteError, Written};

/// First batch of a slow start (upstream's SlowStartInitialBatchSize).
const SLOW_START_INITIAL: usize = 1;
/// Writes of one plan at the same time.
const MAX_PARALLEL: usize = 64;

/// Something the API server told us about an object.
#[derive(Debug)]
pub enum Observation {
    Object {
        resource: &'static Resource,
        object: Value,
    },
    Deleted {
        resource: &'static Resource,
        key: Key,
        uid: String,
    },
}

#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub is_conflict: bool,
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub observations: Vec<Observation>,
    /// The first failure.
    pub failure: Option<Failure>,
    pub requeue_after: Option<Duration>,
    pub notes: Vec<Note>,
}

impl Outcome {
    pub fn fail(&mut self, message: String, is_conflict: bool) {
        if self.failure.is_none() {
            self.failure = Some(Failure {
                message,
                is_conflict,
            });
        }
    }

    fn take(&mut self, write: &Write, result: Result<Written, WriteError>) -> bool {
        if let Some(notes) = &write.notes {
            self.notes.extend(outcome_note(write, notes, &result));
        }
        match result {
            Ok(Written::Object(object)) => {
                self.observations.push(Observation::Object {
                    resource: write.resource,
                    object,
                });
            }
            Ok(Written::Deleted { uid }) => {
                let key = write.key.clone();
                self.observations.push(Observation::Deleted {
                    resource: write.resource,
                    key,
                    uid,
                });
            }
            Ok(Written::Nothing) => {}
            // The namespace goes away and takes the key with it.
            Err(WriteError::NamespaceTerminating { .. }) => return false,
            Err(error) => {
                let is_conflict = matches!(error, WriteError::Conflict { .. });
                self.fail(chain(&error), is_conflict);
                return false;
            }
        }
        true
    }
}

/// The Event about one write, if it asks for one.
fn outcome_note(
    write: &Write,
    notes: &Notes,
    result: &Result<Written, WriteError>,
) -> Option<Note> {
    let note = |warning, reason, message| {
        let regarding = notes.regarding.clone();
        Some(Note {
            regarding,
            warning,
            reason,
            action: reason,
            message,
        })
    };
    match result {
        Ok(Written::Nothing) => None,
        Ok(written) => {
            let (reason, message) = notes.done.as_ref()?;
            let name = match written {
                Written::Object(object) => object
                    .pointer("/metadata/name")
                    .and_then(Value::as_str)
                    .unwrap_or_default(),
                _ => &write.key.name,
            };
            let warning = notes.done_is_warning;
            note(warning, *reason, message.replace("{name}", name))
        }
        Err(WriteError::Conflict { .. } | WriteError::NamespaceTerminating { .. }) => None,
        Err(error) => {
            let (reason, message) = notes.failed.as_ref()?;
            note(true, *reason, message.replace("{error}", &chain(error)))
        }
    }
}

/// The error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The outcome of carrying a plan out, also when that panics: the key and its place among those in
/// work come back whatever happens.
pub async fn guarded(work: impl Future<Output = Outcome>) -> Outcome {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or_else(|_| {
        let mut outcome = Outcome::default();
        outcome.fail("carrying the plan out panicked".to_owned(), false);
        outcome
    })
}

/// Carries out `plan`.
pub async fn apply(client: &Client, signer: &Signer, plan: Plan) -> Outcome {
    let Plan {
        writes,
        pace,
        job,
        status,
        events,
        requeue_after: _,
    } = plan;
    let mut outcome = Outcome::default();
    match pace {
        Pace::InOrder => in_order(client, &writes, &mut outcome).await,
        Pace::SlowStart => slow_start(client, &writes, &mut outcome).await,
    }
    if let Some(job) = job {
        let follow_up = match job {
            Job::PurgeNamespace(purge) => crate::namespace::content::purge(client, purge).await,
            Job::Recount(quota) => crate::quota::recount::recount(client, quota).await,
            Job::Sign(request) => signer.sign(request),
        };
        in_order(client, &follow_up.writes, &mut outcome).await;
        outcome.requeue_after = follow_up.requeue_after;
        if let Some(message) = follow_up.failure {
            outcome.fail(message, false);
        }
    }
    if let Some(status) = status {
        let result = write::apply(client, &status).await;
        outcome.take(&status, result);
    }
    outcome.notes.extend(events);
    outcome
}

/// What a job asks for after its own work.
#[derive(Debug, Default)]
pub struct FollowUp {
    pub writes: Vec<Write>,
    pub requeue_after: Option<Duration>,
    pub failure: Option<String>,
}

async fn in_order(client: &Client, writes: &[Write], outcome: &mut Outcome) {
    for write in writes {
        let result = write::apply(client, write).await;
        outcome.take(write, result);
    }
}

/// Mechanism of pkg/controller/controller_utils.go `slowStartBatch`.
async fn slow_start(client: &Client, writes: &[Write], outcome: &mut Outcome) {
    let mut rest = writes;
    let mut size = SLOW_START_INITIAL;
    while !rest.is_empty() {
        let (batch, tail) = rest.split_at(size.min(rest.len()));
        let mut failed = false;
        for chunk in batch.chunks(MAX_PARALLEL) {
            let sent = chunk.iter().map(|write| write::apply(client, write));
            let results = futures::future::join_all(sent).await;
            for (write, result) in chunk.iter().zip(results) {
                failed |= !outcome.take(write, result);
            }
        }
        if failed {
            return;
        }
        rest = tail;
        size *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_failure_like_another() {
        let outcome = guarded(async { panic!("on purpose") }).await;
        assert!(outcome.failure.is_some_and(|failure| !failure.is_conflict));
    }
}
