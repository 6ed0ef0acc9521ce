//! Exponential back-off as data: when may the next attempt start. Times are arguments.
//! The rules are upstream's (`client-go/util/flowcontrol/backoff.go`): the first attempt is free, each
//! further one waits twice as long, a quiet time of twice the maximum forgets everything.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// First wait of crash loops and image pulls.
pub const INITIAL: Duration = Duration::from_secs(10);
/// Longest wait of crash loops and image pulls.
pub const MAXIMUM: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    wait: Duration,
    last: Timestamp,
}

impl Backoff {
    /// The end of the wait that began with the failure at `failed`, if it is still ahead of `now`.
    pub fn blocked_until(
        &self,
        failed: Timestamp,
        now: Timestamp,
    ) -> Option<(Timestamp, Duration)> {
        if self.expired(failed) {
            return None;
        }
        let end = add(failed, self.wait);
        (end > now).then_some((end, self.wait))
    }

    /// Counts one attempt after the failure at `failed`.
    pub fn next(previous: Option<Self>, failed: Timestamp, now: Timestamp) -> Self {
        let wait = match previous {
            Some(previous) if !previous.expired(failed) => (previous.wait * 2).min(MAXIMUM),
            Some(_) | None => INITIAL,
        };
        Self { wait, last: now }
    }

    fn expired(&self, failed: Timestamp) -> bool {
        failed > add(self.last, MAXIMUM * 2)
    }
}

/// `time + duration`, saturating at the end of time.
pub fn add(time: Timestamp, duration: Duration) -> Timestamp {
    let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn waits_double_up_to_the_maximum() {
        let mut backoff = None;
        let mut waits = Vec::new();
        for _ in 0..7 {
            let next = Backoff::next(backoff, at(1000), at(1000));
            waits.push(next.wait.as_secs());
            backoff = Some(next);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn blocks_until_the_wait_after_the_failure_is_over() {
        let backoff = Backoff::next(None, at(100), at(100));
        assert_eq!(backoff.blocked_until(at(200), at(205)).unwrap().0, at(210));
        assert_eq!(backoff.blocked_until(at(200), at(210)), None);
    }

    #[test]
    fn a_long_quiet_time_forgets() {
        let backoff = Backoff::next(None, at(0), at(0));
        assert_eq!(backoff.blocked_until(at(601), at(601)), None);
        assert_eq!(Backoff::next(Some(backoff), at(601), at(601)).wait, INITIAL);
    }
}
