//! Records Events: best effort, beside the controllers' work, never in its way.

use kube::runtime::events::{Event, EventType, Recorder};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::plan::Note;

/// Events waiting to be recorded; beyond this they are dropped, which the log says.
const CAPACITY: usize = 1024;

/// A controller's number and what it wants to say.
pub type Said = (usize, Note);

/// The queue of Events to record.
pub fn channel() -> (Sender<Said>, Receiver<Said>) {
    mpsc::channel(CAPACITY)
}

/// Records until the senders are gone.
pub async fn run(recorders: Vec<Recorder>, mut notes: Receiver<Said>) {
    while let Some((lane, note)) = notes.recv().await {
        let Note {
            regarding,
            warning,
            reason,
            action,
            message,
        } = note;
        let event = Event {
            type_: if warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: reason.to_owned(),
            note: Some(message),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = recorders[lane].publish(&event, &regarding).await {
            tracing::debug!(%error, reason, "event not recorded");
        }
    }
}
