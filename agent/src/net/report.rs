//! Tells the cluster what did not fit: an Event on the object, repeated while it lasts, and the Node's
//! condition `DatapathPressure`. Input: the engine's shortages; it decides nothing about them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::condition::{self, Verdict};
use super::shortage::{Limits, Shortage, Subject};
use super::stage::Problem;
use crate::events::{self, Recorder, Source};
use crate::state::ObjectKey;

/// Source of the events.
const COMPONENT: &str = "windlass-net";
const REASON: &str = "DatapathLimitReached";
const CONDITION: &str = "DatapathPressure";
/// An Event is counted again while its cause lasts: they are forgotten after an hour.
const REPEAT: Duration = Duration::from_secs(1800);
/// Pause before a failed write of the condition.
const RETRY: Duration = Duration::from_secs(10);
/// Shortages told at a time, and named in the condition's message; the rest is counted.
const TOLD: usize = 256;
const NAMED: usize = 5;

/// Reports until `shutdown`.
pub async fn run(
    client: Client,
    node: String,
    limits: watch::Receiver<Limits>,
    shutdown: CancellationToken,
) {
    let source = Source {
        component: COMPONENT,
        node: node.clone(),
    };
    let (recorder, writing) = events::recorder(client.clone(), source, shutdown.clone());
    let reporter = Reporter {
        client,
        node,
        recorder,
        told: BTreeMap::new(),
    };
    tokio::join!(writing, reporter.run(limits, shutdown));
}

struct Reporter {
    client: Client,
    node: String,
    recorder: Recorder,
    /// When each was told last.
    told: BTreeMap<Shortage, Instant>,
}

impl Reporter {
    async fn run(mut self, mut limits: watch::Receiver<Limits>, shutdown: CancellationToken) {
        let nodes = Api::<Node>::all(self.client.clone());
        loop {
            let now = limits.borrow_and_update().shortages.clone();
            self.told.retain(|shortage, _| now.contains(shortage));
            for shortage in due(&self.told, &now, Instant::now()) {
                self.tell(&shortage).await;
                self.told.insert(shortage, Instant::now());
            }
            let verdict = verdict(&now);
            let written = match verdict.truth {
                true => condition::set(&nodes, &self.node, &verdict).await,
                false => condition::lift(&nodes, &self.node, &verdict).await,
            };
            let pause = match written {
                Ok(()) => REPEAT,
                Err(error) => {
                    tracing::debug!(%error, "set condition {CONDITION}");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = changed(&mut limits, &now) => if !changed { return },
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn tell(&self, shortage: &Shortage) {
        let Shortage { subject, limit } = shortage;
        let message = format!(
            "{limit}; on node {} it is served in part or not at all",
            self.node
        );
        tracing::warn!(kind = subject.kind(), object = %name(subject), %message);
        match self.reference(subject).await {
            Ok(reference) => {
                let subject = events::Subject::new(reference);
                self.recorder.warning(&subject, REASON, message);
            }
            // An object that is gone has no use for events.
            Err(error) => tracing::debug!(%error, "find the object of a shortage"),
        }
    }

    /// Tools find events by the object's uid.
    async fn reference(&self, subject: &Subject) -> Result<ObjectReference, kube::Error> {
        let in_namespace = async |key: &ObjectKey, kind: &'static str| match kind {
            "Service" => {
                uid(
                    Api::<Service>::namespaced(self.client.clone(), &key.namespace),
                    &key.name,
                )
                .await
            }
            "Pod" => {
                uid(
                    Api::<Pod>::namespaced(self.client.clone(), &key.namespace),
                    &key.name,
                )
                .await
            }
            _ => {
                let api = Api::<NetworkPolicy>::namespaced(self.client.clone(), &key.namespace);
                uid(api, &key.name).await
            }
        };
        let kind = subject.kind();
        let (namespace, name, uid, api_version) = match subject {
            Subject::Service(key) | Subject::Pod(key) => (
                Some(&key.namespace),
                &*key.name,
                in_namespace(key, kind).await?,
                "v1",
            ),
            Subject::NetworkPolicy(key) => {
                let uid = in_namespace(key, kind).await?;
                (
                    Some(&key.namespace),
                    &*key.name,
                    uid,
                    "networking.k8s.io/v1",
                )
            }
            // Upstream's kubelet uses a node's name as the uid in its events.
            Subject::Node(name) => (None, &**name, Some(name.to_string()), "v1"),
            Subject::Here => (None, &*self.node, Some(self.node.clone()), "v1"),
        };
        Ok(ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: namespace.map(ToString::to_string),
            name: Some(name.to_owned()),
            uid,
            ..ObjectReference::default()
        })
    }
}

async fn uid<K>(api: Api<K>, name: &str) -> Result<Option<String>, kube::Error>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    Ok(api.get_metadata(name).await?.metadata.uid)
}

/// Whether other things are short now; false when nobody says so any more.
async fn changed(limits: &mut watch::Receiver<Limits>, before: &BTreeSet<Shortage>) -> bool {
    limits
        .wait_for(|limits| limits.shortages != *before)
        .await
        .is_ok()
}

/// What has to be told: what is new, and what was told long ago.
fn due(told: &BTreeMap<Shortage, Instant>, now: &BTreeSet<Shortage>, at: Instant) -> Vec<Shortage> {
    let waits = |shortage: &&Shortage| {
        told.get(*shortage)
            .is_none_or(|told| at.duration_since(*told) >= REPEAT)
    };
    now.iter().filter(waits).take(TOLD).cloned().collect()
}

fn verdict(shortages: &BTreeSet<Shortage>) -> Verdict {
    let (reason, message) = match shortages.len() {
        0 => (
            "DatapathHasRoom",
            "everything fits the node's datapath".to_owned(),
        ),
        all => {
            let named = shortages
                .iter()
                .take(NAMED)
                .map(|Shortage { subject, limit }| {
                    format!("{} {}: {limit}", subject.kind(), name(subject))
                });
            let mut message = named.collect::<Vec<_>>().join("; ");
            if all > NAMED {
                message.push_str(&format!("; and {} more", all - NAMED));
            }
            (REASON, message)
        }
    };
    Verdict {
        kind: CONDITION,
        truth: !shortages.is_empty(),
        problem: Problem { reason, message },
    }
}

fn name(subject: &Subject) -> String {
    match subject {
        Subject::Service(key) | Subject::NetworkPolicy(key) | Subject::Pod(key) => key.to_string(),
        Subject::Node(name) => name.to_string(),
        Subject::Here => "itself".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::shortage::Limit;

    fn shortage(service: &str) -> Shortage {
        Shortage {
            subject: Subject::Service(ObjectKey::new("default", service)),
            limit: Limit::Full {
                map: "fe4",
                limit: 65_536,
            },
        }
    }

    #[test]
    fn a_shortage_is_told_when_it_is_new_and_again_while_it_lasts() {
        let start = Instant::now();
        let now: BTreeSet<Shortage> = [shortage("a"), shortage("b")].into();
        let told = BTreeMap::from([(shortage("a"), start)]);
        assert_eq!(due(&told, &now, start), [shortage("b")]);
        assert_eq!(due(&told, &now, start + REPEAT).len(), 2);
        assert!(due(&told, &BTreeSet::new(), start + REPEAT).is_empty());
    }

    #[test]
    fn the_condition_names_a_few_and_counts_the_rest() {
        assert!(!verdict(&BTreeSet::new()).truth);
        let many = (0..8).map(|i| shortage(&format!("s{i}"))).collect();
        let message = verdict(&many).problem.message;
        assert!(message.starts_with("Service default/s0: the datapath's map fe4 is full"));
        assert!(message.ends_with("; and 3 more"), "{message}");
    }
}
