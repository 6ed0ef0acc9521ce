//! Tells workers that something changed in the runtime. The CRI's event stream says so at once where the
//! runtime has it (containerd 1.7 and later, CRI-O). containerd 1.6 does not: there the runtime's lists
//! are compared once a second, as upstream's generic PLEG does. With events, the comparison still runs
//! rarely, against lost ones.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::observed::POD_UID;
use crate::cri::{Client, Error};

const WITHOUT_EVENTS: Duration = Duration::from_secs(1);
const WITH_EVENTS: Duration = Duration::from_secs(60);

/// A pod's state as one comparable value: (object id, state) of each sandbox and container.
type Prints = HashMap<String, Vec<(String, i32)>>;

/// Sends the uid of every pod whose runtime state changed.
pub async fn run(runtime: Client, changed: mpsc::Sender<String>, shutdown: CancellationToken) {
    let mut known = Prints::new();
    loop {
        let mut events = match runtime.container_events().await {
            Ok(events) => Some(events),
            Err(error) if error.is_unimplemented() => {
                tracing::info!("the runtime has no event stream, comparing lists every second");
                None
            }
            Err(error) => {
                tracing::debug!(%error, "no event stream now");
                None
            }
        };
        let pause = if events.is_some() {
            WITH_EVENTS
        } else {
            WITHOUT_EVENTS
        };
        loop {
            match prints(&runtime).await {
                Ok(now) => {
                    for uid in differences(&known, &now) {
                        if changed.send(uid).await.is_err() {
                            return;
                        }
                    }
                    known = now;
                }
                Err(error) => tracing::debug!(%error, "relist failed"),
            }
            let event = async {
                match &mut events {
                    Some(events) => events.message().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                event = event => match event {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                },
            }
        }
        tokio::time::sleep(WITHOUT_EVENTS).await;
    }
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
