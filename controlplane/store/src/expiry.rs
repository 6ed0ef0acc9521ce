//! Which keys expire when. Time is an argument.

use std::collections::BTreeSet;

use bytes::Bytes;

/// Keys by the second at which they expire.
#[derive(Debug, Default)]
pub struct Expiries {
    by_time: BTreeSet<(u32, Bytes)>,
}

impl Expiries {
    /// The key's expiry changed from `old` to `new`; 0 = never.
    pub fn change(&mut self, key: &Bytes, old: u32, new: u32) {
        if old == new {
            return;
        }
        if old != 0 {
            self.by_time.remove(&(old, key.clone()));
        }
        if new != 0 {
            self.by_time.insert((new, key.clone()));
        }
    }

    /// At most `limit` keys whose time has come by `now`.
    pub fn due(&self, now: u32, limit: usize) -> Vec<Bytes> {
        self.by_time
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(limit)
            .map(|(_, key)| key.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewritten_key_is_due_at_its_new_time_only() {
        let mut expiries = Expiries::default();
        let key = Bytes::from_static(b"event");
        expiries.change(&key, 0, 10);
        expiries.change(&key, 10, 20);
        assert!(expiries.due(19, 8).is_empty());
        assert_eq!(expiries.due(20, 8), vec![key.clone()]);
        expiries.change(&key, 20, 0);
        assert!(expiries.due(u32::MAX, 8).is_empty());
    }
}
