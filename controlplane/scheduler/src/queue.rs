//! Pods waiting for a node: ready ones by priority, failed ones after a back-off, hopeless ones
//! until something happens that may help.
//!
//! Mechanism of pkg/scheduler/backend/queue/scheduling_queue.go and the plugins' event hints.
//! Time is an argument.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::filter::Plugin;
use crate::object::Key;

/// First back-off of a pod.
pub const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// Longest back-off.
pub const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A hopeless pod is tried again after this long, whatever happened.
pub const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// Something that may let a pod fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    NodeAdded,
    NodeLabels,
    NodeTaints,
    NodeResources,
    PodPlaced,
    PodRemoved,
    NamespaceLabels,
}

impl Hint {
    /// May this undo a refusal of that plugin?
    fn helps(self, plugin: Plugin) -> bool {
        use Plugin::{
            InterPodAffinity, NodeAffinity, NodePorts, NodeResourcesFit, NodeUnschedulable,
            PodTopologySpread, TaintToleration,
        };
        match self {
            Self::NodeAdded => true,
            Self::NodeLabels => {
                matches!(plugin, NodeAffinity | InterPodAffinity | PodTopologySpread)
            }
            Self::NodeTaints => {
                matches!(
                    plugin,
                    TaintToleration | NodeUnschedulable | PodTopologySpread
                )
            }
            Self::NodeResources => plugin == NodeResourcesFit,
            Self::PodPlaced => matches!(plugin, InterPodAffinity | PodTopologySpread),
            Self::PodRemoved => matches!(
                plugin,
                NodeResourcesFit | NodePorts | InterPodAffinity | PodTopologySpread
            ),
            Self::NamespaceLabels => plugin == InterPodAffinity,
        }
    }
}

/// Place in the order of ready pods: higher priority first, then first come.
type Order = (Reverse<i32>, u64);

#[derive(Clone, Debug)]
enum Place {
    Ready(Order),
    /// Until then, or earlier when nothing else is ready and it was no error.
    BackOff {
        until: Instant,
        after_error: bool,
    },
    Hopeless {
        plugins: BTreeSet<Plugin>,
        since: Instant,
    },
    /// Being bound.
    Taken,
}

#[derive(Clone, Debug)]
struct Entry {
    priority: i32,
    sequence: u64,
    attempts: u32,
    last_attempt: Option<Instant>,
    place: Place,
    /// A hint came while the pod was being tried.
    stirred: bool,
}

#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<Key, Entry>,
    ready: BTreeMap<Order, Key>,
    sequence: u64,
}

impl Queue {
    /// A pod wants a node. `changed` says that its own spec may let it fit now.
    pub fn add(&mut self, key: &Key, priority: i32, changed: bool) {
        self.sequence += 1;
        let sequence = self.sequence;
        match self.entries.get(key) {
            None => {
                let place = Place::Ready((Reverse(priority), sequence));
                let entry = Entry {
                    priority,
                    sequence,
                    attempts: 0,
                    last_attempt: None,
                    place,
                    stirred: false,
                };
                self.entries.insert(key.clone(), entry);
                self.ready
                    .insert((Reverse(priority), sequence), key.clone());
            }
            Some(entry) if changed && !matches!(entry.place, Place::Taken) => self.make_ready(key),
            Some(_) => {}
        }
    }

    /// The pod needs no node any more.
    pub fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key)
            && let Place::Ready(order) = entry.place
        {
            self.ready.remove(&order);
        }
    }

    /// Takes the first ready pod.
    pub fn pop(&mut self, now: Instant) -> Option<Key> {
        self.wake(now);
        if self.ready.is_empty() {
            self.skip_backoff();
        }
        let (_, key) = self.ready.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Taken;
        entry.attempts += 1;
        entry.last_attempt = Some(now);
        entry.stirred = false;
        Some(key)
    }

    /// No node did.
    pub fn unschedulable(&mut self, key: &Key, plugins: BTreeSet<Plugin>, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.place = if entry.stirred {
            Place::BackOff {
                until: now + backoff(entry.attempts),
                after_error: false,
            }
        } else {
            Place::Hopeless {
                plugins,
                since: now,
            }
        };
    }

    /// A node did, but binding failed.
    pub fn failed(&mut self, key: &Key, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            let until = now + backoff(entry.attempts);
            entry.place = Place::BackOff {
                until,
                after_error: true,
            };
        }
    }

    /// Something happened: pods it may help come back after what is left of their back-off.
    pub fn hint(&mut self, hint: Hint, now: Instant) {
        for entry in self.entries.values_mut() {
            match &entry.place {
                Place::Hopeless { plugins, .. } => {
                    if plugins.is_empty() || plugins.iter().any(|plugin| hint.helps(*plugin)) {
                        let from = entry.last_attempt.unwrap_or(now);
                        let until = from + backoff(entry.attempts);
                        entry.place = Place::BackOff {
                            until,
                            after_error: false,
                        };
                    }
                }
                Place::Taken => entry.stirred = true,
                Place::Ready(_) | Place::BackOff { .. } => {}
            }
        }
        self.wake(now);
    }

    /// When the next pod becomes ready by itself.
    pub fn next_due(&self) -> Option<Instant> {
        let due = |entry: &Entry| match &entry.place {
            Place::BackOff { until, .. } => Some(*until),
            Place::Hopeless { since, .. } => Some(*since + MAX_UNSCHEDULABLE),
            Place::Ready(_) | Place::Taken => None,
        };
        self.entries.values().filter_map(due).min()
    }

    fn wake(&mut self, now: Instant) {
        let is_due = |entry: &Entry| match &entry.place {
            Place::BackOff { until, .. } => *until <= now,
            Place::Hopeless { since, .. } => *since + MAX_UNSCHEDULABLE <= now,
            Place::Ready(_) | Place::Taken => false,
        };
        let due: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, e)| is_due(e))
            .map(|(k, _)| k.clone())
            .collect();
        for key in due {
            self.make_ready(&key);
        }
    }

    /// With nothing else to do, the pod whose back-off ends first need not wait
    /// (upstream's SchedulerPopFromBackoffQ).
    fn skip_backoff(&mut self) {
        let waiting = self
            .entries
            .iter()
            .filter_map(|(key, entry)| match entry.place {
                Place::BackOff {
                    until,
                    after_error: false,
                } => Some((until, key.clone())),
                _ => None,
            });
        if let Some((_, key)) = waiting.min() {
            self.make_ready(&key);
        }
    }

    fn make_ready(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if matches!(entry.place, Place::Ready(_)) {
            return;
        }
        let order = (Reverse(entry.priority), entry.sequence);
        entry.place = Place::Ready(order);
        self.ready.insert(order, key.clone());
    }
}

fn backoff(attempts: u32) -> Duration {
    INITIAL_BACKOFF
        .saturating_mul(1 << attempts.saturating_sub(1).min(10))
        .min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            namespace: "ns".into(),
            name: name.into(),
        }
    }

    #[test]
    fn higher_priority_comes_first_and_equals_come_in_order() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add(&key("a"), 0, false);
        queue.add(&key("b"), 10, false);
        queue.add(&key("c"), 0, false);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(now)).collect();
        assert_eq!(order, [key("b"), key("a"), key("c")]);
    }

    #[test]
    fn a_hopeless_pod_waits_for_an_event_that_may_help() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add(&key("a"), 0, false);
        queue.pop(now);
        queue.unschedulable(&key("a"), BTreeSet::from([Plugin::NodeResourcesFit]), now);
        queue.hint(Hint::NodeLabels, now);
        let later = now + Duration::from_secs(20);
        assert_eq!(queue.pop(later), None);
        queue.hint(Hint::PodRemoved, now);
        assert_eq!(queue.pop(now), Some(key("a")), "nothing else is ready");
    }

    #[test]
    fn after_an_error_the_back_off_is_kept() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add(&key("a"), 0, false);
        queue.pop(now);
        queue.failed(&key("a"), now);
        assert_eq!(queue.pop(now), None);
        assert_eq!(queue.pop(now + INITIAL_BACKOFF), Some(key("a")));
    }

    #[test]
    fn an_event_during_the_attempt_is_not_lost() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add(&key("a"), 0, false);
        queue.pop(now);
        queue.hint(Hint::NodeAdded, now);
        queue.unschedulable(&key("a"), BTreeSet::from([Plugin::NodeResourcesFit]), now);
        assert_eq!(queue.pop(now + INITIAL_BACKOFF), Some(key("a")));
    }

    #[test]
    fn a_hopeless_pod_is_tried_again_after_a_while_anyway() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add(&key("a"), 0, false);
        queue.pop(now);
        queue.unschedulable(&key("a"), BTreeSet::from([Plugin::NodeAffinity]), now);
        assert_eq!(queue.next_due(), Some(now + MAX_UNSCHEDULABLE));
        assert_eq!(queue.pop(now + MAX_UNSCHEDULABLE), Some(key("a")));
    }
}
