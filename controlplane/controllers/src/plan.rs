//! What a controller decides: writes, a status, events, and when to look again. Plain data.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;

use crate::kinds::Projection;
use crate::object::Key;
use crate::view::{Change, World};
use crate::write::Write;
use crate::{certificates::sign::Sign, namespace::Purge};

/// One controller: reacts to changes with keys, and decides what a key needs.
pub trait Controller: Send {
    /// Name of the identity it writes under: upstream's service account in kube-system.
    fn name(&self) -> &'static str;

    /// Keys whose plan may differ after this change.
    fn react(&mut self, world: &World, change: &Change, keys: &mut Vec<Key>);

    /// What has to be done so that `key` is as desired. Makes no I/O.
    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan;
}

/// What a plan may know besides the view.
#[derive(Clone, Copy, Debug)]
pub struct Cx<'a> {
    pub now: Timestamp,
    /// Why the last plan of this key was not carried out, if it was not.
    pub failure: Option<&'a str>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub writes: Vec<Write>,
    pub pace: Pace,
    /// Work that needs more than the view; its own writes come after `writes`.
    pub job: Option<Job>,
    /// Written after `writes`, also when some of them failed.
    pub status: Option<Write>,
    pub events: Vec<Note>,
    pub requeue_after: Option<Duration>,
}

/// How the writes of a plan are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// One after the other, on past a failure.
    #[default]
    InOrder,
    /// In batches of 1, 2, 4, …, each batch at once; no further batch after a failure.
    SlowStart,
}

/// Work a plan asks for that needs the API or a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    PurgeNamespace(Purge),
    /// Count what the objects a ResourceQuota is about use.
    Recount(Key),
    Sign(Sign),
}

/// An Event to record.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub regarding: ObjectReference,
    pub warning: bool,
    pub reason: &'static str,
    pub action: &'static str,
    pub message: String,
}

impl Note {
    pub fn normal<K: Projection>(object: &K, reason: &'static str, message: String) -> Self {
        Self {
            regarding: object.object_ref(&()),
            warning: false,
            reason,
            action: reason,
            message,
        }
    }

    pub fn warning<K: Projection>(object: &K, reason: &'static str, message: String) -> Self {
        Self {
            warning: true,
            ..Self::normal(object, reason, message)
        }
    }
}

impl Plan {
    pub fn nothing() -> Self {
        Self::default()
    }

    pub fn of(writes: Vec<Write>) -> Self {
        Self {
            writes,
            ..Self::default()
        }
    }

    pub fn write(write: Write) -> Self {
        Self::of(vec![write])
    }

    pub fn after(delay: Duration) -> Self {
        Self {
            requeue_after: Some(delay),
            ..Self::default()
        }
    }

    /// Asks for a look after `delay`, or earlier if that was asked for already.
    pub fn requeue(&mut self, delay: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |old| old.min(delay)));
    }

    /// True when carrying it out changes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.job.is_none()
            && self.status.is_none()
            && self.events.is_empty()
    }
}
