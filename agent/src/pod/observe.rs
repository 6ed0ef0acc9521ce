//! Asks the runtime about one pod and adds what the runtime leaves in files: termination messages.
//! Exited containers do not change any more and are asked about once.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::observed::{Container, Observed, POD_UID, Sandbox, State};
use crate::cri::messages as m;
use crate::cri::{Client, Error};
use crate::serve::logs;

/// Upstream's limits of a termination message: bytes of the file, bytes and lines of a log's end.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;
/// The runtime copies the last words into the log after it reports the exit: how often and how long to
/// wait for them.
const LOG_TRIES: u32 = 5;
const LOG_PAUSE: Duration = Duration::from_millis(40);

/// Containers seen exited, by id.
pub type Exited = HashMap<String, Container>;

pub async fn observe(runtime: &Client, uid: &str, exited: &mut Exited) -> Result<Observed, Error> {
    let labels: HashMap<String, String> = [(POD_UID.to_owned(), uid.to_owned())].into();
    let (sandboxes, containers) = tokio::try_join!(
        runtime.list_pod_sandbox(labels.clone()),
        runtime.list_containers(labels)
    )?;
    let mut observed = Observed::default();
    for sandbox in sandboxes {
        match runtime.pod_sandbox_status(&sandbox.id).await {
            Ok(status) => observed.sandboxes.push(Sandbox::from(&status)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    exited.retain(|id, _| containers.iter().any(|c| &c.id == id));
    for listed in containers {
        if let Some(known) = exited.get(&listed.id) {
            observed.containers.push(known.clone());
            continue;
        }
        match one(runtime, &listed).await {
            Ok(container) => {
                if container.state == State::Exited {
                    exited.insert(container.id.clone(), container.clone());
                }
                observed.containers.push(container);
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    observed.sort();
    Ok(observed)
}

async fn one(runtime: &Client, listed: &m::Container) -> Result<Container, Error> {
    let mut container = Container::from(&runtime.container_status(&listed.id).await?);
    container.sandbox = listed.pod_sandbox_id.clone();
    if container.state == State::Exited {
        let message = termination_message(&container).await;
        container.message = match (message, container.message.is_empty()) {
            (Some(text), _) => text,
            (None, true) => String::new(),
            (None, false) => container.message,
        };
    }
    Ok(container)
}

/// What the container wrote to its termination message file, or, if it asks for that and failed
/// without a word, the end of its log.
async fn termination_message(container: &Container) -> Option<String> {
    use std::io::Read;
    let mut text = Vec::new();
    if let Some(file) = &container.termination_message_file
        && let Ok(file) = std::fs::File::open(file)
        && let Err(error) = file.take(MAX_MESSAGE).read_to_end(&mut text)
    {
        tracing::debug!(%error, container = container.name, "termination message not read");
    }
    if !text.is_empty() {
        return Some(String::from_utf8_lossy(&text).into_owned());
    }
    let wants_log = container.termination_message_policy == "FallbackToLogsOnError";
    if !wants_log || container.exit_code == 0 {
        return None;
    }
    for _ in 0..LOG_TRIES {
        let path = Path::new(&container.log_path);
        match logs::tail_text(path, MAX_LOG_LINES, MAX_LOG_BYTES) {
            Ok(text) if !text.is_empty() => return Some(text),
            Ok(_) | Err(_) => tokio::time::sleep(LOG_PAUSE).await,
        }
    }
    None
}
