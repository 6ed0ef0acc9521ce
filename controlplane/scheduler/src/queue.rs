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
/// Pods by when they become ready by themselves.
type Timers = BTreeSet<(Instant, Key)>;

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
        until: Instant,
    },
    /// Being decided or bound.
    Taken,
}

#[derive(Clone, Debug)]
struct Entry {
    priority: i32,
    sequence: u64,
    attempts: u32,
    last_attempt: Option<Instant>,
    place: Place,
}

/// The pods, each in one place, and an index per kind of place: an event costs what it moves.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<Key, Entry>,
    ready: BTreeMap<Order, Key>,
    backing_off: Timers,
    after_error: Timers,
    hopeless: Timers,
    /// Hopeless pods by who refused them; `None` stands for nobody in particular.
    refused: BTreeMap<Option<Plugin>, BTreeSet<Key>>,
    sequence: u64,
}

impl Queue {
    /// A pod wants a node. `changed` says that its own spec may let it fit now.
    pub fn add(&mut self, key: &Key, priority: i32, changed: bool) {
        match self.entries.get(key) {
            None => {
                self.sequence += 1;
                let entry = Entry {
                    priority,
                    sequence: self.sequence,
                    attempts: 0,
                    last_attempt: None,
                    place: Place::Taken,
                };
                self.entries.insert(key.clone(), entry);
                self.make_ready(key);
            }
            Some(entry) if changed && !matches!(entry.place, Place::Taken) => self.make_ready(key),
            Some(_) => {}
        }
    }

    /// The pod needs no node any more.
    pub fn remove(&mut self, key: &Key) {
        self.put(key, Place::Taken);
        self.entries.remove(key);
    }

    /// Takes the first ready pod.
    pub fn pop(&mut self, now: Instant) -> Option<Key> {
        self.wake(now);
        if self.ready.is_empty() {
            self.skip_backoff();
        }
        let key = self.ready.values().next()?.clone();
        self.put(&key, Place::Taken);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.attempts += 1;
            entry.last_attempt = Some(now);
        }
        Some(key)
    }

    /// No node did.
    pub fn unschedulable(&mut self, key: &Key, plugins: BTreeSet<Plugin>, now: Instant) {
        let until = now + MAX_UNSCHEDULABLE;
        self.put(key, Place::Hopeless { plugins, until });
    }

    /// A node did, but binding failed.
    pub fn failed(&mut self, key: &Key, now: Instant) {
        if let Some(entry) = self.entries.get(key) {
            let until = now + backoff(entry.attempts);
            let after_error = true;
            self.put(key, Place::BackOff { until, after_error });
        }
    }

    /// Something happened: pods it may help come back after what is left of their back-off.
    pub fn hint(&mut self, hint: Hint, now: Instant) {
        let helped = self
            .refused
            .iter()
            .filter(|(plugin, _)| plugin.is_none_or(|plugin| hint.helps(plugin)));
        let keys: BTreeSet<Key> = helped.flat_map(|(_, keys)| keys).cloned().collect();
        for key in keys {
            let Some(entry) = self.entries.get(&key) else {
                continue;
            };
            let until = entry.last_attempt.unwrap_or(now) + backoff(entry.attempts);
            let after_error = false;
            self.put(&key, Place::BackOff { until, after_error });
        }
    }

    /// When the next pod becomes ready by itself.
    pub fn next_due(&self) -> Option<Instant> {
        let timers = [&self.backing_off, &self.after_error, &self.hopeless];
        let first = timers.into_iter().filter_map(|timers| timers.first());
        first.map(|(until, _)| *until).min()
    }

    fn wake(&mut self, now: Instant) {
        while let Some(key) = self.first_due(now) {
            self.make_ready(&key);
        }
    }

    fn first_due(&self, now: Instant) -> Option<Key> {
        let timers = [&self.backing_off, &self.after_error, &self.hopeless];
        let mut first = timers.into_iter().filter_map(|timers| timers.first());
        first
            .find(|(until, _)| *until <= now)
            .map(|(_, key)| key.clone())
    }

    /// With nothing else to do, the pod whose back-off ends first need not wait
    /// (upstream's SchedulerPopFromBackoffQ).
    fn skip_backoff(&mut self) {
        if let Some((_, key)) = self.backing_off.first() {
            let key = key.clone();
            self.make_ready(&key);
        }
    }

    fn make_ready(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get(key) {
            let order = (Reverse(entry.priority), entry.sequence);
            self.put(key, Place::Ready(order));
        }
    }

    /// Moves a pod from one place to another, in the indexes too.
    fn put(&mut self, key: &Key, place: Place) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let old = std::mem::replace(&mut entry.place, place.clone());
        match old {
            Place::Ready(order) => {
                self.ready.remove(&order);
            }
            Place::BackOff { until, after_error } => {
                self.timers(after_error).remove(&(until, key.clone()));
            }
            Place::Hopeless { plugins, until } => {
                self.hopeless.remove(&(until, key.clone()));
                for plugin in refusers(&plugins) {
                    if let Some(keys) = self.refused.get_mut(&plugin) {
                        keys.remove(key);
                    }
                }
            }
            Place::Taken => {}
        }
        match place {
            Place::Ready(order) => {
                self.ready.insert(order, key.clone());
            }
            Place::BackOff { until, after_error } => {
                self.timers(after_error).insert((until, key.clone()));
            }
            Place::Hopeless { plugins, until } => {
                self.hopeless.insert((until, key.clone()));
                for plugin in refusers(&plugins) {
                    self.refused.entry(plugin).or_default().insert(key.clone());
                }
            }
            Place::Taken => {}
        }
    }

    fn timers(&mut self, after_error: bool) -> &mut Timers {
        if after_error {
            &mut self.after_error
        } else {
            &mut self.backing_off
        }
    }
}

fn refusers(plugins: &BTreeSet<Plugin>) -> Vec<Option<Plugin>> {
    if plugins.is_empty() {
        vec![None]
    } else {
        plugins.iter().copied().map(Some).collect()
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
    fn a_hopeless_pod_is_tried_again_after_a_while_anyway() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add(&key("a"), 0, false);
        queue.pop(now);
        queue.unschedulable(&key("a"), BTreeSet::from([Plugin::NodeAffinity]), now);
        assert_eq!(queue.next_due(), Some(now + MAX_UNSCHEDULABLE));
        assert_eq!(queue.pop(now + MAX_UNSCHEDULABLE), Some(key("a")));
    }

    #[test]
    fn a_removed_pod_leaves_nothing_behind() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let refused = BTreeSet::from([Plugin::NodeAffinity, Plugin::NodePorts]);
        for (name, end) in [("ready", 0), ("hopeless", 1), ("failed", 2)] {
            queue.add(&key(name), 0, false);
            if end > 0 {
                queue.pop(now);
            }
            match end {
                1 => queue.unschedulable(&key(name), refused.clone(), now),
                2 => queue.failed(&key(name), now),
                _ => {}
            }
        }
        ["ready", "hopeless", "failed"]
            .iter()
            .for_each(|name| queue.remove(&key(name)));
        assert_eq!(queue.next_due(), None);
        assert_eq!(queue.pop(now + MAX_UNSCHEDULABLE), None);
        assert!(queue.refused.values().all(BTreeSet::is_empty));
    }
}
