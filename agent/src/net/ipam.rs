//! Addresses of the pods on this node: a pure allocator over the node's pod ranges. Addresses are
//! handed out round-robin, and a freed one rests before it is given to somebody else, so that nothing
//! in the cluster still takes it for its former owner. Time is an argument, in seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Seconds a freed address rests.
pub const QUARANTINE_SECONDS: u64 = 60;
/// Most addresses of a range that are ever used, whatever its size: bounds the search in IPv6 ranges.
pub const RANGE_LIMIT: u128 = 1 << 16;

/// No address is free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the node has no pod range yet")]
    NoRange,
    #[error("no free address in {range}: {used} in use, {resting} freed less than a minute ago")]
    Exhausted {
        range: IpNetwork,
        used: usize,
        resting: usize,
    },
}

/// The allocator.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    ranges: Vec<Range>,
    used: BTreeSet<IpAddr>,
    /// Freed address → second from which it may be used again.
    resting: BTreeMap<IpAddr, u64>,
    /// Given out last before a restart: searches in their ranges start behind them.
    last: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    net: IpNetwork,
    /// Offset in `net` the next search starts at.
    cursor: u128,
}

// === impl Pool ===

impl Pool {
    /// Sets the ranges to take new addresses from, at most one per family. Addresses given out
    /// earlier stay valid.
    pub fn set_ranges(&mut self, nets: &[IpNetwork]) {
        let v4 = nets.iter().find(|n| n.is_ipv4());
        let v6 = nets.iter().find(|n| n.is_ipv6());
        // The order of the node's list decides which address is the pod's primary one.
        let mut wanted: Vec<IpNetwork> = v4.into_iter().chain(v6).copied().collect();
        if nets.first().is_some_and(IpNetwork::is_ipv6) {
            wanted.reverse();
        }
        if wanted.iter().eq(self.ranges.iter().map(|r| &r.net)) {
            return;
        }
        let old = std::mem::take(&mut self.ranges);
        let behind = |net: IpNetwork| self.last.iter().find(|a| net.contains(**a));
        let cursor = |net: IpNetwork| match old.iter().find(|r| r.net == net) {
            Some(range) => range.cursor,
            None => behind(net).map_or(1, |a| number(*a) - number(net.network()) + 1),
        };
        self.ranges = wanted
            .into_iter()
            .map(|net| Range {
                net,
                cursor: cursor(net),
            })
            .collect();
    }

    /// The addresses given out last before a restart; to be told before the ranges.
    pub fn resume_after(&mut self, last: Vec<IpAddr>) {
        self.last = last;
    }

    /// Marks addresses as in use (recovered after a restart).
    pub fn claim(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            self.resting.remove(address);
            self.used.insert(*address);
        }
    }

    /// One free address per range.
    pub fn allocate(&mut self, now: u64) -> Result<Vec<IpAddr>, Error> {
        if self.ranges.is_empty() {
            return Err(Error::NoRange);
        }
        self.resting.retain(|_, until| *until > now);
        let (used, resting) = (&self.used, &self.resting);
        let free = |a: &IpAddr| !used.contains(a) && !resting.contains_key(a);
        let mut found = Vec::with_capacity(self.ranges.len());
        for range in &self.ranges {
            let address = range.search().find(free).ok_or(Error::Exhausted {
                range: range.net,
                used: used.len(),
                resting: resting.len(),
            })?;
            found.push(address);
        }
        for (range, address) in self.ranges.iter_mut().zip(&found) {
            range.cursor = number(*address) - number(range.net.network()) + 1;
        }
        self.used.extend(&found);
        Ok(found)
    }

    /// Gives addresses back; they rest for [`QUARANTINE_SECONDS`].
    pub fn free(&mut self, addresses: &[IpAddr], now: u64) {
        for address in addresses {
            if self.used.remove(address) {
                self.resting.insert(*address, now + QUARANTINE_SECONDS);
            }
        }
    }
}

// === impl Range ===

impl Range {
    /// All usable addresses, from the cursor on, once around. The first address of a range and, in
    /// IPv4, the last are never used: hosts take them for network and broadcast address.
    fn search(&self) -> impl Iterator<Item = IpAddr> {
        let size: u128 = match self.net {
            IpNetwork::V4(net) => u128::from(net.size()),
            IpNetwork::V6(net) => 1u128
                .checked_shl(128 - u32::from(net.prefix()))
                .unwrap_or(0),
        };
        let end = if self.net.is_ipv4() {
            size.saturating_sub(1)
        } else {
            size
        };
        let usable = end.saturating_sub(1).min(RANGE_LIMIT);
        let start = self.cursor.saturating_sub(1);
        let base = number(self.net.network());
        let v4 = self.net.is_ipv4();
        (0..usable).map(move |i| address(base + 1 + (start + i) % usable, v4))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    if v4 {
        // An IPv4 range lies below 2³².
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        return Ipv4Addr::from(number as u32).into();
    }
    Ipv6Addr::from(number).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(nets: &[&str]) -> Pool {
        let mut pool = Pool::default();
        let nets: Vec<IpNetwork> = nets.iter().map(|n| n.parse().unwrap()).collect();
        pool.set_ranges(&nets);
        pool
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_per_family_in_the_order_of_the_ranges() {
        let mut pool = pool(&["fd00:1::/64", "10.244.1.0/24"]);
        assert_eq!(
            pool.allocate(0).unwrap(),
            [ip("fd00:1::1"), ip("10.244.1.1")]
        );
        assert_eq!(
            pool.allocate(0).unwrap(),
            [ip("fd00:1::2"), ip("10.244.1.2")]
        );
    }

    #[test]
    fn a_freed_address_rests_and_is_the_last_to_be_used_again() {
        let mut pool = pool(&["10.0.0.0/29"]);
        let first = pool.allocate(0).unwrap();
        pool.free(&first, 10);
        for expected in 2..=6 {
            assert_eq!(
                pool.allocate(11).unwrap(),
                [ip(&format!("10.0.0.{expected}"))]
            );
        }
        assert!(matches!(
            pool.allocate(69),
            Err(Error::Exhausted {
                used: 5,
                resting: 1,
                ..
            })
        ));
        assert_eq!(pool.allocate(70).unwrap(), first);
    }

    #[test]
    fn after_a_restart_the_search_goes_on_behind_the_last_address() {
        let mut pool = Pool::default();
        pool.claim(&[ip("10.0.0.8")]);
        pool.resume_after(vec![ip("fd00::9"), ip("10.0.0.7")]);
        pool.set_ranges(&["10.0.0.0/24".parse().unwrap()]);
        assert_eq!(pool.allocate(0).unwrap(), [ip("10.0.0.9")]);
    }

    #[test]
    fn without_a_range_nothing_is_given_out() {
        assert_eq!(Pool::default().allocate(0), Err(Error::NoRange));
    }

    #[test]
    fn freeing_what_was_never_given_out_does_nothing() {
        let mut pool = pool(&["10.0.0.0/30"]);
        pool.free(&[ip("10.0.0.1")], 0);
        assert_eq!(pool.allocate(0).unwrap(), [ip("10.0.0.1")]);
    }

    proptest::proptest! {
        #[test]
        fn no_address_has_two_owners_and_none_is_reused_within_the_quarantine(
            steps in proptest::collection::vec((0u8..2, 0usize..8, 0u64..40), 1..200)
        ) {
            let mut pool = pool(&["10.0.0.0/27"]);
            let (mut now, mut held, mut freed) = (0, Vec::new(), BTreeMap::new());
            for (what, index, passed) in steps {
                now += passed;
                if what == 0 {
                    if let Ok(got) = pool.allocate(now) {
                        proptest::prop_assert!(!held.contains(&got[0]));
                        let rested = freed.get(&got[0]).is_none_or(|at| now - at >= 60);
                        proptest::prop_assert!(rested);
                        held.push(got[0]);
                    }
                } else if index < held.len() {
                    let address = held.remove(index);
                    pool.free(&[address], now);
                    freed.insert(address, now);
                }
            }
        }
    }
}
