//! Carries plans out: writes steps to the maps in order, keeps the picture of what they hold, removes
//! retired rows when their time has come, and tries failed writes again. It decides nothing.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::maps::{EpochTable, LiveTable, MapError, MapSet, Table};
use super::rows::{Key, Row, Step, Tables};

/// How long a row stays after the last reference to it is gone.
pub const RETIREMENT: Duration = Duration::from_secs(1);
/// Failed steps kept for another attempt; beyond it the oldest are given up (and logged).
const RETRY_LIMIT: usize = 65_536;

/// The owner of the maps.
#[derive(Debug)]
pub struct Writer {
    maps: MapSet,
    tables: Tables,
    retired: HashMap<Key, Instant>,
    failed: VecDeque<Step>,
    writes: u64,
}

// === impl Writer ===

impl Writer {
    /// Takes the maps over with what they hold.
    pub fn new(maps: MapSet) -> Result<Self, MapError> {
        let tables = Tables::dump(&maps)?;
        Ok(Self {
            maps,
            tables,
            retired: HashMap::new(),
            failed: VecDeque::new(),
            writes: 0,
        })
    }

    /// What the maps hold.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The maps themselves, for what is not a derived row (`cfg`, conntrack, counters).
    pub fn maps(&mut self) -> &mut MapSet {
        &mut self.maps
    }

    /// Map writes so far.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Carries out the steps; failures are logged and tried again by [`Writer::tick`].
    pub fn apply(&mut self, steps: &[Step], now: Instant) {
        for step in steps {
            self.forget_failed(step);
            if let Err(error) = self.step(step, now) {
                tracing::warn!(%error, source = ?error.source, ?step, "map write failed");
                self.defer(*step);
            }
        }
    }

    /// Removes what has been retired long enough and repeats failed steps.
    pub fn tick(&mut self, now: Instant) {
        let due: Vec<Key> = self
            .retired
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            self.retired.remove(&key);
            self.apply(&[Step::Remove(key)], now);
        }
        for step in std::mem::take(&mut self.failed) {
            if self.step(&step, now).is_err() {
                self.defer(step);
            }
        }
    }

    /// Whether rows wait for their removal, or steps for another attempt.
    pub fn has_due(&self) -> bool {
        !self.retired.is_empty() || !self.failed.is_empty()
    }

    fn step(&mut self, step: &Step, now: Instant) -> Result<(), MapError> {
        match step {
            Step::Put(row) => self.put(row),
            Step::Remove(key) => self.remove(key),
            Step::Retire(key) => {
                if self.tables.has_key(key) {
                    self.retired.insert(*key, now + RETIREMENT);
                }
                Ok(())
            }
            Step::BumpEpoch(ix) => self.bump::<EpochTable>(*ix),
            Step::BumpLive(ix) => self.bump::<LiveTable>(*ix),
        }
    }

    fn put(&mut self, row: &Row) -> Result<(), MapError> {
        self.retired.remove(&row.key());
        if self.tables.has(row) {
            return Ok(());
        }
        row.put(&mut self.maps)?;
        self.tables.insert(row);
        self.writes += 1;
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<(), MapError> {
        self.retired.remove(key);
        if self.tables.has_key(key) {
            key.remove(&mut self.maps)?;
            self.tables.remove(key);
            self.writes += 1;
        }
        Ok(())
    }

    fn bump<T: Table<Key = u32, Value = u32>>(&mut self, ix: u32) -> Result<(), MapError> {
        let value = self.maps.get::<T>(&ix)?.unwrap_or(0);
        self.writes += 1;
        // 0 means "no row": skipped when the count wraps around.
        self.maps.put::<T>(&ix, &value.wrapping_add(1).max(1))
    }

    /// A newer step for the same key makes a failed one obsolete.
    fn forget_failed(&mut self, step: &Step) {
        if let Some(key) = step.key().filter(|_| !self.failed.is_empty()) {
            self.failed.retain(|failed| failed.key() != Some(key));
        }
    }

    fn defer(&mut self, step: Step) {
        if self.failed.len() >= RETRY_LIMIT {
            let lost = self.failed.pop_front();
            tracing::error!(?lost, "gave up a map write");
        }
        self.failed.push_back(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> abi::V4 {
        std::net::Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn row(last: u8) -> Row {
        Row::Ip4(address(last), abi::LocalAddr::pod(u32::from(last)))
    }

    #[test]
    fn a_retired_row_goes_after_a_second_unless_it_is_written_again() {
        let mut writer = Writer::new(MapSet::memory()).unwrap();
        let now = Instant::now();
        writer.apply(&[Step::Put(row(1)), Step::Put(row(2))], now);
        writer.apply(
            &[Step::Retire(row(1).key()), Step::Retire(row(2).key())],
            now,
        );
        writer.tick(now + Duration::from_millis(999));
        assert!(writer.tables().has(&row(1)));
        writer.apply(&[Step::Put(row(2))], now);
        writer.tick(now + RETIREMENT);
        assert!(!writer.tables().has(&row(1)));
        assert!(writer.tables().has(&row(2)));
    }

    #[test]
    fn writing_what_is_there_costs_nothing() {
        let mut writer = Writer::new(MapSet::memory()).unwrap();
        let steps = [Step::Put(row(1)), Step::Remove(row(9).key())];
        writer.apply(&steps, Instant::now());
        writer.apply(&steps, Instant::now());
        assert_eq!(writer.writes(), 1);
    }

    #[test]
    fn the_picture_after_a_restart_is_what_the_maps_hold() {
        let mut maps = MapSet::memory();
        row(1).put(&mut maps).unwrap();
        let writer = Writer::new(maps).unwrap();
        assert_eq!(writer.tables().rows(), [row(1)]);
    }
}
