//! A work queue: each key at most once in it, never in work twice at a time, failures back off.
//!
//! Owns: which keys are due. Time is an argument. Mechanism of client-go's
//! util/workqueue (queue.go, delaying_queue.go, default_rate_limiters.go).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// First delay after a failure.
pub const BACKOFF_BASE: Duration = Duration::from_millis(5);
/// Longest delay after repeated failures.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Queue<K> {
    ready: VecDeque<K>,
    /// Queued, or to be queued again when its work ends.
    dirty: HashSet<K>,
    working: HashSet<K>,
    /// Delayed keys; an entry counts only while `due` says the same.
    delayed: BinaryHeap<Reverse<(Instant, K)>>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            delayed: BinaryHeap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    pub fn add(&mut self, key: K) {
        if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// Queues the key at `when`, unless it is due earlier already.
    pub fn add_at(&mut self, key: K, when: Instant) {
        if self.due.get(&key).is_some_and(|due| *due <= when) {
            return;
        }
        self.due.insert(key.clone(), when);
        self.delayed.push(Reverse((when, key)));
    }

    /// Takes the next due key into work.
    pub fn pop(&mut self, now: Instant) -> Option<K> {
        while let Some(Reverse((when, _))) = self.delayed.peek() {
            if *when > now {
                break;
            }
            let Reverse((when, key)) = self.delayed.pop()?;
            if self.due.get(&key) == Some(&when) {
                self.due.remove(&key);
                self.add(key);
            }
        }
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    /// The work on `key` ended well.
    pub fn done(&mut self, key: &K) {
        self.failures.remove(key);
        self.finish(key);
    }

    /// The work on `key` failed; it comes back after its back-off.
    pub fn failed(&mut self, key: &K, now: Instant) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = BACKOFF_BASE
            .saturating_mul(1 << (*failures).min(20))
            .min(BACKOFF_MAX);
        *failures += 1;
        self.add_at(key.clone(), now + delay);
        self.finish(key);
        delay
    }

    /// When the earliest delayed key is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.delayed.peek().map(|Reverse((when, _))| *when)
    }

    fn finish(&mut self, key: &K) {
        self.working.remove(key);
        if self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Key;

    #[test]
    fn a_key_added_during_its_work_comes_back_once() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let key = Key::new("ns", "a");
        queue.add(key.clone());
        queue.add(key.clone());
        assert_eq!(queue.pop(now), Some(key.clone()));
        queue.add(key.clone());
        queue.add(key.clone());
        assert_eq!(queue.pop(now), None);
        queue.done(&key);
        assert_eq!(queue.pop(now), Some(key.clone()));
        queue.done(&key);
        assert_eq!(queue.pop(now), None);
    }

    #[test]
    fn a_key_is_delayed_once_to_the_earliest_time() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let key = Key::new("ns", "a");
        for seconds in [30, 10, 20] {
            queue.add_at(key.clone(), now + Duration::from_secs(seconds));
        }
        assert_eq!(queue.pop(now + Duration::from_secs(9)), None);
        assert_eq!(queue.pop(now + Duration::from_secs(10)), Some(key.clone()));
        queue.done(&key);
        assert_eq!(queue.pop(now + Duration::from_secs(60)), None);
    }

    #[test]
    fn failures_back_off_exponentially_and_success_resets() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let key = Key::new("ns", "a");
        queue.add(key.clone());
        let mut delays = Vec::new();
        for _ in 0..20 {
            let later = now + Duration::from_secs(3600 * 24);
            assert_eq!(queue.pop(later), Some(key.clone()));
            delays.push(queue.failed(&key, now));
        }
        assert_eq!(delays[0], BACKOFF_BASE);
        assert_eq!(delays[1], BACKOFF_BASE * 2);
        assert_eq!(delays[19], BACKOFF_MAX);
    }
}
