//! Carries plans out: writes steps to the maps in order, keeps the picture of what they hold, removes
//! retired rows when their time has come, and tries failed writes again. It decides nothing.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::maps::{EpochTable, LiveTable, MapError, MapSet, Table};
use super::rows::{Key, Row, Step, Tables};

/// How long a row stays after the last reference to it is gone.
pub const RETIREMENT: Duration = Duration::from_secs(1);
/// Failed steps kept for another attempt; beyond it the oldest are given up (and said so).
const RETRY_LIMIT: usize = 65_536;
/// First and longest pause before failed steps are repeated: a full map may stay full.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The owner of the maps.
#[derive(Debug)]
pub struct Writer {
    maps: MapSet,
    tables: Tables,
    retired: HashMap<Key, Instant>,
    failed: VecDeque<Failed>,
    /// When failed steps are repeated, and the pause that led there.
    retry: Option<(Instant, Duration)>,
    given_up: bool,
    writes: u64,
    removals: u64,
}

/// A step that could not be carried out, and what the kernel said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    pub step: Step,
    /// 0 if it was no system call.
    pub errno: i32,
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
            retry: None,
            given_up: false,
            writes: 0,
            removals: 0,
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

    /// Rows removed so far: when this grows, what did not fit may.
    pub fn removals(&self) -> u64 {
        self.removals
    }

    /// Steps that wait for another attempt.
    pub fn failed(&self) -> impl Iterator<Item = &Failed> {
        self.failed.iter()
    }

    /// Whether a failed step was ever given up: the maps may lack rows until the agent is restarted.
    pub fn has_given_up(&self) -> bool {
        self.given_up
    }

    /// Carries out the steps; failures are logged and tried again by [`Writer::tick`].
    pub fn apply(&mut self, steps: &[Step], now: Instant) {
        for step in steps {
            self.forget_failed(step);
            if let Err(error) = self.step(step, now) {
                tracing::warn!(%error, source = ?error.source, ?step, "map write failed");
                self.defer(*step, &error);
                self.retry.get_or_insert((now + RETRY.0, RETRY.0));
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
        let Some((at, pause)) = self.retry.filter(|_| !self.failed.is_empty()) else {
            self.retry = None;
            return;
        };
        if at > now {
            return;
        }
        for failed in std::mem::take(&mut self.failed) {
            if let Err(error) = self.step(&failed.step, now) {
                self.defer(failed.step, &error);
            }
        }
        let pause = (pause * 2).min(RETRY.1);
        self.retry = Some((now + pause, pause));
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
            self.removals += 1;
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
            self.failed.retain(|failed| failed.step.key() != Some(key));
        }
    }

    fn defer(&mut self, step: Step, error: &MapError) {
        if self.failed.len() >= RETRY_LIMIT {
            let lost = self.failed.pop_front();
            tracing::error!(?lost, "gave up a map write");
            self.given_up = true;
        }
        let errno = error.source.raw_os_error().unwrap_or(0);
        self.failed.push_back(Failed { step, errno });
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

    #[test]
    fn a_full_map_is_tried_again_less_and_less_often_until_there_is_room() {
        let mut writer = Writer::new(MapSet::memory().with_limit("ip4", 1)).unwrap();
        let now = Instant::now();
        writer.apply(&[Step::Put(row(1)), Step::Put(row(2))], now);
        let failed: Vec<Failed> = writer.failed().copied().collect();
        assert_eq!(
            (failed[0].step, failed[0].errno),
            (Step::Put(row(2)), libc::E2BIG)
        );
        let mut at = now;
        for pause in [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000] {
            at += Duration::from_millis(pause);
            writer.tick(at - Duration::from_millis(1));
            assert_eq!(writer.failed().count(), 1);
            writer.tick(at);
        }
        writer.apply(&[Step::Remove(row(1).key())], at);
        writer.tick(at + RETRY.1);
        assert!(writer.tables().has(&row(2)) && !writer.has_due());
    }
}
