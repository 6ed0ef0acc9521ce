//! Where an in-place resize stands, kept as the pod and the runtime's report change, with an Event for
//! each turn (upstream's reasons).

use k8s_openapi::jiff::Timestamp;

use super::{RETRY, Worker};
use crate::pod::backoff::add;
use crate::pod::events::Subject;
use crate::pod::plan::Waiting;
use crate::pod::resize::{self, Change, Resize, Room};
use crate::pod::resources;
use crate::pod::spec;

impl Worker {
    pub(super) fn stand_of_resize(&mut self) {
        if resize::changes(&self.pod, &self.observed).is_empty()
            && self.memory.resize == Resize::None
        {
            return;
        }
        let room = Room {
            allocatable: self.node.allocatable,
            others: self.promised_to_others(),
        };
        let now = resize::stand(&self.pod, &self.observed, room, &self.memory.resize);
        if now == self.memory.resize {
            return;
        }
        let subject = Subject::pod(&self.pod);
        let recorder = &self.node.recorder;
        match &now {
            Resize::None => recorder.normal(&subject, "ResizeCompleted", "Pod resize completed"),
            Resize::InProgress(_) => {
                recorder.normal(&subject, "ResizeStarted", "Pod resize started")
            }
            Resize::Pending(why) if why.reason == "Deferred" => {
                recorder.warning(&subject, "ResizeDeferred", why.message.clone());
            }
            Resize::Pending(why) => {
                recorder.warning(&subject, "ResizeInfeasible", why.message.clone());
            }
        }
        self.memory.resize = now;
    }

    /// Requests of the node's other pods that have not ended.
    fn promised_to_others(&self) -> (i64, i64) {
        let own = spec::uid(&self.pod);
        let pods = self.node.pods.borrow().clone();
        let others = pods.iter().filter(|(uid, pod)| {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            *uid != own && !spec::is_terminal_phase(phase)
        });
        others.fold((0, 0), |(cpu, memory), (_, pod)| {
            let (more_cpu, more_memory) = resources::requests_of_pod(pod);
            (cpu + more_cpu, memory + more_memory)
        })
    }

    pub(super) fn note_resized(&mut self, change: Change) {
        let Change { id, resources, .. } = change;
        self.resized.note(&self.observed, &id, resources);
        self.memory.resize_hold = None;
    }

    pub(super) fn note_resize_failure(&mut self, message: String) {
        let subject = Subject::pod(&self.pod);
        self.node
            .recorder
            .warning(&subject, "ResizeError", message.clone());
        self.memory.resize = Resize::InProgress(Some(Waiting {
            reason: "Error".to_owned(),
            message,
        }));
        self.memory.resize_hold = Some(add(Timestamp::now(), RETRY));
    }
}
