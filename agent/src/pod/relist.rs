//! Tells workers that something changed in the runtime, by comparing its lists. When to compare, best
//! source first:
//!
//! 1. the CRI's event stream (containerd 1.7 and later, CRI-O): after each event;
//! 2. containerd's own events (containerd 1.6): after each ended task, several times, because the CRI
//!    service takes note of the same event on its own time;
//! 3. neither: every second, as upstream's generic PLEG.
//!
//! With events the comparison still runs now and then, against lost ones.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::observed::POD_UID;
use crate::cri::messages::ContainerEventResponse;
use crate::cri::{Client, Error, containerd};

const WITHOUT_EVENTS: Duration = Duration::from_secs(1);
const WITH_EVENTS: Duration = Duration::from_secs(10);
/// Pauses between a containerd event and the comparisons it causes.
const ECHOES: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(30),
    Duration::from_millis(200),
    Duration::from_millis(1000),
];

/// A pod's state as one comparable value: (object id, state) of each sandbox and container.
type Prints = HashMap<String, Vec<(String, i32)>>;

/// Where hints come from.
enum Source {
    Cri(Streaming<ContainerEventResponse>),
    Containerd(Streaming<containerd::Envelope>),
    None,
}

impl Source {
    async fn open(runtime: &Client) -> Self {
        match runtime.container_events().await {
            Ok(events) => return Source::Cri(events),
            Err(error) => tracing::debug!(%error, "no CRI events"),
        }
        match runtime.containerd_events().await {
            Ok(events) => Source::Containerd(events),
            Err(error) => {
                tracing::info!(%error, "the runtime sends no events, comparing lists every second");
                Source::None
            }
        }
    }

    fn period(&self) -> Duration {
        match self {
            Source::Cri(_) | Source::Containerd(_) => WITH_EVENTS,
            Source::None => WITHOUT_EVENTS,
        }
    }

    /// The next hint's comparison times from now; `None` when the stream broke.
    async fn next(&mut self) -> Option<&'static [Duration]> {
        match self {
            Source::Cri(events) => events.message().await.ok().flatten().map(|_| &ECHOES[..1]),
            Source::Containerd(events) => loop {
                let event = events.message().await.ok().flatten()?;
                if event.is_container_exit() {
                    return Some(&ECHOES);
                }
            },
            Source::None => std::future::pending().await,
        }
    }
}

/// Sends the uid of every pod whose runtime state changed.
pub async fn run(runtime: Client, changed: mpsc::Sender<String>, shutdown: CancellationToken) {
    let mut known = Prints::new();
    loop {
        let mut source = Source::open(&runtime).await;
        // Times of comparisons ahead, in order.
        let mut due: VecDeque<Instant> = VecDeque::from([Instant::now()]);
        loop {
            let next = due
                .front()
                .copied()
                .unwrap_or_else(|| Instant::now() + source.period());
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(next) => {
                    due.retain(|at| *at > next);
                    if !compare(&runtime, &mut known, &changed).await {
                        return;
                    }
                }
                hint = source.next() => match hint {
                    Some(pauses) => {
                        let now = Instant::now();
                        // What is due first stays: a stream of hints must not put it off.
                        due.truncate(1);
                        due.extend(pauses.iter().map(|pause| now + *pause));
                        due.make_contiguous().sort();
                    }
                    None => break,
                },
            }
        }
        tokio::time::sleep(WITHOUT_EVENTS).await;
    }
}

/// One comparison; false when nobody listens any more.
async fn compare(runtime: &Client, known: &mut Prints, changed: &mpsc::Sender<String>) -> bool {
    match prints(runtime).await {
        Ok(now) => {
            for uid in differences(known, &now) {
                if changed.send(uid).await.is_err() {
                    return false;
                }
            }
            *known = now;
        }
        Err(error) => tracing::debug!(%error, "relist failed"),
    }
    true
}

async fn prints(runtime: &Client) -> Result<Prints, Error> {
    let (sandboxes, containers) = tokio::try_join!(
        runtime.list_pod_sandbox(HashMap::new()),
        runtime.list_containers(HashMap::new())
    )?;
    let sandboxes = sandboxes.into_iter().map(|s| (s.labels, s.id, s.state));
    let containers = containers.into_iter().map(|c| (c.labels, c.id, c.state));
    let mut prints = Prints::new();
    for (mut labels, id, state) in sandboxes.chain(containers) {
        if let Some(uid) = labels.remove(POD_UID) {
            prints.entry(uid).or_default().push((id, state));
        }
    }
    for print in prints.values_mut() {
        print.sort();
    }
    Ok(prints)
}

fn differences(old: &Prints, new: &Prints) -> Vec<String> {
    let changed = new
        .iter()
        .filter(|(uid, print)| old.get(*uid) != Some(*print));
    let gone = old.keys().filter(|uid| !new.contains_key(*uid));
    changed.map(|(uid, _)| uid).chain(gone).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_differs_when_it_appears_changes_or_goes() {
        let prints = |list: &[(&str, i32)]| -> Prints {
            list.iter()
                .map(|(uid, s)| ((*uid).to_owned(), vec![("c".to_owned(), *s)]))
                .collect()
        };
        let mut found = differences(
            &prints(&[("same", 1), ("changed", 1), ("gone", 1)]),
            &prints(&[("same", 1), ("changed", 2), ("new", 1)]),
        );
        found.sort();
        assert_eq!(found, ["changed", "gone", "new"]);
    }
}
