//! Typed access to the datapath's maps, in the kernel or, for tests of everything above, in memory.
//! What the rows mean and in which order they are written is told by the `abi` crate; nothing is
//! decided here.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use abi::event::{COUNTERS, Count, OUTCOMES};
use abi::map;
use abi::{Addr, Hook, Outcome};
use bytemuck::{Pod, Zeroable};

mod events;
pub mod sys;

pub use events::EventReader;

/// Elements read per `BPF_MAP_LOOKUP_BATCH`.
const BATCH: usize = 4096;

/// An operation on a map failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} map {map}")]
pub struct MapError {
    /// `abi::map` name.
    pub map: &'static str,
    /// What was tried.
    pub operation: &'static str,
    /// Why it failed. `EBUSY`, `ENOMEM` and `E2BIG` pass or need a larger map.
    #[source]
    pub source: io::Error,
}

/// A map, by the type of its rows.
pub trait Table {
    /// Key as in `abi`.
    type Key: Pod;
    /// Value as in `abi`.
    type Value: Pod;
    /// Name as in `abi::map`.
    const NAME: &'static str;
    /// An array: rows cannot be removed, only zeroed, and all zeroes is no row.
    const ARRAY: bool = false;
}

/// Rows of a map.
pub type Rows<T> = Vec<(<T as Table>::Key, <T as Table>::Value)>;

macro_rules! tables {
    ($($(#[$meta:meta])* $name:ident: $key:ty => $value:ty, $map:expr $(, $array:literal)?;)*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name;
        impl Table for $name {
            type Key = $key;
            type Value = $value;
            const NAME: &'static str = $map;
            $(const ARRAY: bool = $array;)?
        }
    )*};
}

macro_rules! family_tables {
    ($($(#[$meta:meta])* $name:ident<A>: $key:ty => $value:ty, $map4:expr, $map6:expr;)*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name<A>(PhantomData<A>);
        impl<A: Addr> Table for $name<A> {
            type Key = $key;
            type Value = $value;
            const NAME: &'static str = if A::FAMILY == abi::FAMILY_V4 { $map4 } else { $map6 };
        }
    )*};
}

tables! {
    /// `cfg[0]`.
    CfgTable: u32 => abi::Cfg, map::CFG, true;
    /// `ep`.
    EpTable: u32 => abi::Endpoint, map::EP;
    /// `ep_mac`.
    EpMacTable: u32 => abi::Mac, map::EP_MAC, true;
    /// `epoch`.
    EpochTable: u32 => u32, map::EPOCH, true;
    /// `svc`.
    SvcTable: u32 => abi::Service, map::SVC;
    /// `slot`.
    SlotTable: abi::SlotKey => u32, map::SLOT;
    /// `live`.
    LiveTable: u32 => u32, map::LIVE, true;
    /// `pol`.
    PolTable: abi::PolKey => abi::PolValue, map::POL;
    /// `polx`.
    PolxTable: abi::PolxKey => u32, map::POLX;
    /// `node`.
    NodeTable: u32 => abi::Node, map::NODE, true;
}

family_tables! {
    /// `ip4/6`.
    IpTable<A>: A => abi::LocalAddr, map::IP4, map::IP6;
    /// `fe4/6`.
    FeTable<A>: abi::FeKey<A> => abi::FeValue, map::FE4, map::FE6;
    /// `be4/6`.
    BeTable<A>: abi::BeKey => abi::BeValue<A>, map::BE4, map::BE6;
    /// `net4/6`.
    NetTable<A>: abi::NetKey<A> => abi::NetValue, map::NET4, map::NET6;
    /// `peer4/6`.
    PeerTable<A>: A => u32, map::PEER4, map::PEER6;
    /// `ct4/6_tcp`.
    CtTcpTable<A>: abi::CtKey<A> => abi::CtValue<A>, map::CT4_TCP, map::CT6_TCP;
    /// `ct4/6_any`.
    CtAnyTable<A>: abi::CtKey<A> => abi::CtValue<A>, map::CT4_ANY, map::CT6_ANY;
    /// `rev4/6`.
    RevTable<A>: abi::FeKey<A> => abi::RevValue<A>, map::REV4, map::REV6;
    /// `aff4/6`.
    AffTable<A>: abi::AffKey<A> => abi::AffValue, map::AFF4, map::AFF6;
    /// `frag4/6`.
    FragTable<A>: abi::FragKey<A> => abi::FragValue, map::FRAG4, map::FRAG6;
    /// `sock4/6`.
    SockTable<A>: abi::SockKey<A> => abi::SockValue<A>, map::SOCK4, map::SOCK6;
}

/// All maps of one node.
#[derive(Debug)]
pub struct MapSet {
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Kernel(BTreeMap<&'static str, OwnedFd>),
    Memory(BTreeMap<&'static str, Memory>),
}

/// A map in memory, which can be full as one of the kernel's.
#[derive(Debug, Default)]
struct Memory {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    limit: Option<usize>,
}

// === impl MapSet ===

impl MapSet {
    /// Maps in memory, empty: for golden tests of what is written.
    pub fn memory() -> Self {
        Self {
            backing: Backing::Memory(BTreeMap::new()),
        }
    }

    /// The same maps in memory, one of them with room for so many rows.
    pub fn with_limit(mut self, map: &'static str, rows: usize) -> Self {
        if let Backing::Memory(maps) = &mut self.backing {
            maps.entry(map).or_default().limit = Some(rows);
        }
        self
    }

    /// The maps pinned in `dir` (`NAME_vVERSION`).
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        let mut fds = BTreeMap::new();
        // Maps of one load are pinned under their name only when its programs are attached.
        for def in map::ALL.iter().filter(|def| def.keep != map::Keep::Load) {
            let path = dir.join(pin_name(def));
            let fd = sys::open(&path).map_err(error(def.name, "open"))?;
            fds.insert(def.name, fd);
        }
        Ok(Self {
            backing: Backing::Kernel(fds),
        })
    }

    /// Writes one row.
    pub fn put<T: Table>(&mut self, key: &T::Key, value: &T::Value) -> Result<(), MapError> {
        let (key, value) = (bytemuck::bytes_of(key), bytemuck::bytes_of(value));
        match &mut self.backing {
            Backing::Kernel(fds) => retry(|| sys::update(fd_of(fds, T::NAME), key, value, 0))
                .map_err(error(T::NAME, "update")),
            Backing::Memory(maps) => {
                let map = maps.entry(T::NAME).or_default();
                let full = map.limit.is_some_and(|limit| map.rows.len() >= limit);
                if full && !map.rows.contains_key(key) {
                    let source = io::Error::from_raw_os_error(libc::E2BIG);
                    return Err(error(T::NAME, "update")(source));
                }
                map.rows.insert(key.to_vec(), value.to_vec());
                Ok(())
            }
        }
    }

    /// Reads one row; for arrays, a row of zeroes is none.
    pub fn get<T: Table>(&self, key: &T::Key) -> Result<Option<T::Value>, MapError> {
        let key = bytemuck::bytes_of(key);
        match &self.backing {
            Backing::Kernel(fds) => {
                let mut value = T::Value::zeroed();
                let found =
                    sys::lookup(fd_of(fds, T::NAME), key, bytemuck::bytes_of_mut(&mut value))
                        .map_err(error(T::NAME, "read"))?;
                let empty = T::ARRAY && bytemuck::bytes_of(&value).iter().all(|byte| *byte == 0);
                Ok((found && !empty).then_some(value))
            }
            Backing::Memory(maps) => Ok(maps
                .get(T::NAME)
                .and_then(|map| map.rows.get(key))
                .map(|value| bytemuck::pod_read_unaligned(value))),
        }
    }

    /// Removes one row (zeroes it in an array); false if there was none.
    pub fn remove<T: Table>(&mut self, key: &T::Key) -> Result<bool, MapError> {
        if T::ARRAY && matches!(self.backing, Backing::Kernel(_)) {
            let had = self.get::<T>(key)?.is_some();
            self.put::<T>(key, &T::Value::zeroed())?;
            return Ok(had);
        }
        let key = bytemuck::bytes_of(key);
        match &mut self.backing {
            Backing::Kernel(fds) => {
                sys::delete(fd_of(fds, T::NAME), key).map_err(error(T::NAME, "delete from"))
            }
            Backing::Memory(maps) => Ok(maps
                .get_mut(T::NAME)
                .is_some_and(|map| map.rows.remove(key).is_some())),
        }
    }

    /// All rows, in no order (in memory: in the order of the keys' bytes). Rows written meanwhile may
    /// be missing.
    pub fn entries<T: Table>(&self) -> Result<Rows<T>, MapError> {
        match &self.backing {
            Backing::Kernel(fds) => {
                let fd = fd_of(fds, T::NAME);
                let is_lpm = T::NAME == map::NET4 || T::NAME == map::NET6 || T::NAME == map::POLX;
                if T::ARRAY || is_lpm {
                    walk::<T>(fd).map_err(error(T::NAME, "list"))
                } else {
                    {
                        let mut rows = Vec::new();
                        let copy = |keys: &[T::Key], values: &[T::Value]| {
                            rows.extend(keys.iter().copied().zip(values.iter().copied()));
                        };
                        batches::<T>(fd, copy).map_err(error(T::NAME, "list"))?;
                        Ok(rows)
                    }
                }
            }
            Backing::Memory(maps) => Ok(maps
                .get(T::NAME)
                .into_iter()
                .flat_map(|map| &map.rows)
                .map(|(key, value)| {
                    (
                        bytemuck::pod_read_unaligned(key),
                        bytemuck::pod_read_unaligned(value),
                    )
                })
                .collect()),
        }
    }

    /// Counters that are not zero, summed over the CPUs.
    pub fn counts(&self) -> Result<Vec<(Hook, Outcome, Count)>, MapError> {
        let Backing::Kernel(fds) = &self.backing else {
            return Ok(Vec::new());
        };
        let fd = fd_of(fds, map::METRICS);
        let cpus = possible_cpus().map_err(error(map::METRICS, "count the CPUs of"))?;
        let mut per_cpu = vec![Count::default(); cpus];
        let mut counts = Vec::new();
        for index in 0..COUNTERS {
            sys::lookup(
                fd,
                bytemuck::bytes_of(&index),
                bytemuck::cast_slice_mut(&mut per_cpu),
            )
            .map_err(error(map::METRICS, "read"))?;
            let mut sum = Count::default();
            for count in &per_cpu {
                sum.packets += count.packets;
                sum.bytes += count.bytes;
            }
            let hook = Hook::from_u8((index / OUTCOMES) as u8);
            let outcome = Outcome::from_u8((index % OUTCOMES) as u8);
            if let (Some(hook), Some(outcome)) = (hook, outcome)
                && sum.packets > 0
            {
                counts.push((hook, outcome, sum));
            }
        }
        Ok(counts)
    }

    /// Removes expired conntrack entries of both families, `now` in seconds as the programs count them
    /// ([`crate::net::load::Datapath::seconds`]). An entry used meanwhile is created again by its next
    /// packet, so the race with the programs is harmless. Returns (entries seen, entries removed).
    pub fn sweep(&mut self, now: u32) -> Result<(usize, usize), MapError> {
        let mut total = (0, 0);
        for (seen, removed) in [
            self.sweep_table::<CtTcpTable<abi::V4>, abi::V4>(now)?,
            self.sweep_table::<CtAnyTable<abi::V4>, abi::V4>(now)?,
            self.sweep_table::<CtTcpTable<abi::V6>, abi::V6>(now)?,
            self.sweep_table::<CtAnyTable<abi::V6>, abi::V6>(now)?,
        ] {
            total = (total.0 + seen, total.1 + removed);
        }
        Ok(total)
    }

    fn sweep_table<T, A>(&mut self, now: u32) -> Result<(usize, usize), MapError>
    where
        A: Addr,
        T: Table<Key = abi::CtKey<A>, Value = abi::CtValue<A>>,
    {
        let mut seen = 0;
        let mut expired = Vec::new();
        self.each_batch::<T>(|keys, values| {
            seen += keys.len();
            expired.extend(keys.iter().zip(values).filter_map(|(key, value)| {
                let life = abi::lifetime(key.proto, value.state, value.flags);
                // One second of grace: the two directions note a packet at most a second apart.
                (now.wrapping_sub(value.seen) as i32 > life as i32 + 1).then_some(*key)
            }));
        })?;
        let mut removed = 0;
        for key in &expired {
            removed += usize::from(self.remove::<T>(key)?);
        }
        Ok((seen, removed))
    }

    /// Shows the rows of a hash, a bounded number at a time.
    fn each_batch<T: Table>(
        &self,
        mut show: impl FnMut(&[T::Key], &[T::Value]),
    ) -> Result<(), MapError> {
        match &self.backing {
            Backing::Kernel(fds) => {
                batches::<T>(fd_of(fds, T::NAME), show).map_err(error(T::NAME, "list"))
            }
            Backing::Memory(_) => {
                let (keys, values): (Vec<_>, Vec<_>) = self.entries::<T>()?.into_iter().unzip();
                show(&keys, &values);
                Ok(())
            }
        }
    }

    /// A reader of flows and drops; the caller sets `CFG_EVENTS_*` while it is attached.
    pub fn events(dir: &Path) -> Result<EventReader, MapError> {
        EventReader::open(&dir.join("events_v1")).map_err(error(map::EVENTS, "open"))
    }
}

/// File name of a map below the bpffs directory.
pub fn pin_name(def: &map::MapDef) -> String {
    format!("{}_v{}", def.name, def.version)
}

fn error(map: &'static str, operation: &'static str) -> impl Fn(io::Error) -> MapError {
    move |source| MapError {
        map,
        operation,
        source,
    }
}

fn fd_of<'a>(fds: &'a BTreeMap<&'static str, OwnedFd>, name: &'static str) -> BorrowedFd<'a> {
    fds.get(name)
        .expect("every map of abi::map::ALL is opened")
        .as_fd()
}

/// Updates of hashes without preallocation fail for a moment when their memory cache is empty.
fn retry(mut operation: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    match operation() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOMEM)) => {
            operation()
        }
        other => other,
    }
}

fn walk<T: Table>(fd: BorrowedFd<'_>) -> io::Result<Rows<T>> {
    let mut rows = Vec::new();
    let mut key: Option<T::Key> = None;
    loop {
        let mut next = T::Key::zeroed();
        let previous = key.as_ref().map(bytemuck::bytes_of);
        if !sys::next_key(fd, previous, bytemuck::bytes_of_mut(&mut next))? {
            return Ok(rows);
        }
        let mut value = T::Value::zeroed();
        let found = sys::lookup(
            fd,
            bytemuck::bytes_of(&next),
            bytemuck::bytes_of_mut(&mut value),
        )?;
        let empty = T::ARRAY && bytemuck::bytes_of(&value).iter().all(|byte| *byte == 0);
        if found && !empty {
            rows.push((next, value));
        }
        key = Some(next);
    }
}

fn batches<T: Table>(
    fd: BorrowedFd<'_>,
    mut show: impl FnMut(&[T::Key], &[T::Value]),
) -> io::Result<()> {
    // The kernel keeps its position in the map (a bucket number) in at most a key's size, at least 4.
    let mut position = vec![0; size_of::<T::Key>().max(4)];
    let mut keys = vec![T::Key::zeroed(); BATCH];
    let mut values = vec![T::Value::zeroed(); BATCH];
    let mut started = false;
    loop {
        let batch = sys::lookup_batch(
            fd,
            started,
            &mut position,
            bytemuck::cast_slice_mut(&mut keys),
            bytemuck::cast_slice_mut(&mut values),
            BATCH,
        )?;
        started = true;
        show(&keys[..batch.count], &values[..batch.count]);
        if batch.last {
            return Ok(());
        }
    }
}

fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    parse_cpus(text.trim()).ok_or_else(|| io::Error::other(format!("unexpected CPU list {text:?}")))
}

fn parse_cpus(text: &str) -> Option<usize> {
    let last = text.rsplit([',', '-']).next()?;
    last.parse::<usize>().ok().map(|last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_memory_are_written_read_listed_and_removed() {
        let mut maps = MapSet::memory();
        let addr = abi::V4::from(std::net::Ipv4Addr::new(10, 0, 0, 1));
        maps.put::<IpTable<abi::V4>>(&addr, &abi::LocalAddr::pod(7))
            .unwrap();
        assert_eq!(
            maps.get::<IpTable<abi::V4>>(&addr).unwrap(),
            Some(abi::LocalAddr::pod(7))
        );
        assert_eq!(maps.entries::<IpTable<abi::V4>>().unwrap().len(), 1);
        assert!(maps.remove::<IpTable<abi::V4>>(&addr).unwrap());
        assert!(!maps.remove::<IpTable<abi::V4>>(&addr).unwrap());
    }

    #[test]
    fn the_number_of_possible_cpus_is_the_last_plus_one() {
        assert_eq!(parse_cpus("0"), Some(1));
        assert_eq!(parse_cpus("0-3"), Some(4));
        assert_eq!(parse_cpus("0-3,8-15"), Some(16));
        assert_eq!(parse_cpus("x"), None);
    }
}
