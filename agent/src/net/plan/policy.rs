//! Policy rows in the layout of the maps: up to a few port ranges inline, the rest cut into port
//! prefixes in the overflow table.

use std::net::IpAddr;

use abi::limits::RANGES_INLINE;
use abi::{PolKey, PolValue, PolxKey, Port, PortRange};
use policies::{Allowed, RowKey};

use crate::net::rows::{Key, Row, Tables};

/// The rows of one entry, overflow first.
pub fn rows_of(key: &RowKey, allowed: &Allowed) -> Vec<Row> {
    let pol_key = pol_key(key);
    let ports = match allowed {
        Allowed::All => return vec![Row::Pol(pol_key, PolValue::ALL)],
        Allowed::Ports(ports) => ports,
    };
    let ranges: Vec<PortRange> = ports
        .iter()
        .flat_map(|(proto, ranges)| {
            ranges.iter().map(|(lo, hi)| PortRange {
                proto: *proto,
                reserved: 0,
                lo: *lo,
                hi: *hi,
            })
        })
        .collect();
    let (inline, overflow) = ranges.split_at(ranges.len().min(RANGES_INLINE));
    let mut value = PolValue {
        n: u8::try_from(inline.len()).expect("at most RANGES_INLINE"),
        flags: if overflow.is_empty() {
            0
        } else {
            abi::POL_OVERFLOW
        },
        reserved: [0; 4],
        ranges: [PortRange::default(); RANGES_INLINE],
    };
    value.ranges[..inline.len()].copy_from_slice(inline);
    let mut rows: Vec<Row> = overflow
        .iter()
        .flat_map(|range| overflow_rows(key, range))
        .collect();
    rows.push(Row::Pol(pol_key, value));
    rows
}

/// The keys of one entry that the maps hold.
pub fn keys_of(key: &RowKey, tables: &Tables) -> Vec<Key> {
    let pol_key = pol_key(key);
    let Some(value) = tables.pol.get(&pol_key) else {
        return Vec::new();
    };
    let mut keys = vec![Key::Pol(pol_key)];
    if value.flags & abi::POL_OVERFLOW != 0 {
        let of_row = |k: &&PolxKey| {
            (k.set_id, k.class, k.direction) == (key.set_id, key.class, key.direction)
        };
        keys.extend(tables.polx.keys().filter(of_row).map(|k| Key::Polx(*k)));
    }
    keys
}

/// The row of a pod's address.
pub fn peer_row(address: IpAddr, class: u32) -> Row {
    match address {
        IpAddr::V4(a) => Row::Peer4(a.into(), class),
        IpAddr::V6(a) => Row::Peer6(a.into(), class),
    }
}

fn pol_key(key: &RowKey) -> PolKey {
    PolKey {
        set_id: key.set_id,
        class: key.class,
        direction: u32::from(key.direction),
    }
}

fn overflow_rows(key: &RowKey, range: &PortRange) -> Vec<Row> {
    let row = |(port, bits): (u16, u32)| {
        let key = PolxKey {
            prefix_len: PolxKey::FIXED_BITS + bits,
            set_id: key.set_id,
            class: key.class,
            direction: key.direction,
            proto: range.proto,
            port: Port::new(port),
        };
        Row::Polx(key, 1)
    };
    prefixes(range.lo, range.hi).into_iter().map(row).collect()
}

/// The fewest prefixes (first port, significant bits) that make up `lo..=hi`.
fn prefixes(lo: u16, hi: u16) -> Vec<(u16, u32)> {
    let mut prefixes = Vec::new();
    let (mut at, end) = (u32::from(lo), u32::from(hi));
    while at <= end {
        let aligned = if at == 0 {
            16
        } else {
            at.trailing_zeros().min(16)
        };
        let fitting = (end - at + 1).ilog2();
        let free = aligned.min(fitting);
        prefixes.push((u16::try_from(at).expect("not beyond `hi`"), 16 - free));
        at += 1 << free;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const KEY: RowKey = RowKey {
        set_id: 5,
        direction: abi::DIR_INGRESS,
        class: 9,
    };

    #[test]
    fn a_few_ranges_are_inline() {
        let ports = BTreeMap::from([(abi::PROTO_TCP, vec![(80, 80), (443, 444)])]);
        let rows = rows_of(&KEY, &Allowed::Ports(ports));
        let [Row::Pol(_, value)] = rows[..] else {
            panic!("{rows:?}")
        };
        assert_eq!((value.n, value.flags), (2, 0));
        assert_eq!((value.ranges[1].lo, value.ranges[1].hi), (443, 444));
    }

    #[test]
    fn more_than_fit_overflow_and_are_removed_with_their_row() {
        let many = (0..20).map(|i| (i * 10, i * 10)).collect();
        let rows = rows_of(
            &KEY,
            &Allowed::Ports(BTreeMap::from([(abi::PROTO_UDP, many)])),
        );
        assert_eq!(rows.len(), 1 + 13);
        let mut tables = Tables::default();
        rows.iter().for_each(|row| tables.insert(row));
        assert_eq!(keys_of(&KEY, &tables).len(), 14);
    }

    proptest::proptest! {
        #[test]
        fn prefixes_cover_exactly_their_range(a: u16, b: u16) {
            let (lo, hi) = (a.min(b), a.max(b));
            let mut next = u32::from(lo);
            for (port, bits) in prefixes(lo, hi) {
                proptest::prop_assert_eq!(u32::from(port), next);
                proptest::prop_assert_eq!(u32::from(port) % (1 << (16 - bits)), 0);
                next += 1 << (16 - bits);
            }
            proptest::prop_assert_eq!(next, u32::from(hi) + 1);
        }
    }
}
