//! The length of a kernel tick. Programs count time in jiffies (1 ns to read) and need seconds; the
//! kernel does not tell CONFIG_HZ, but since boot jiffies count from a known start (−300 s, as 32 bits).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::net::maps::sys;

/// Values of CONFIG_HZ in use.
const KNOWN: [u64; 6] = [24, 100, 250, 300, 1000, 1024];
/// `INITIAL_JIFFIES` is this many seconds before 2³².
const START_SECONDS: f64 = 300.0;
/// So close to that moment the ratio says nothing, and ticks are counted instead.
const BLIND_SECONDS: f64 = 30.0;
const SAMPLE: Duration = Duration::from_millis(200);

/// 2³² / CONFIG_HZ.
pub(super) fn multiplier(clock: BorrowedFd<'_>) -> io::Result<u32> {
    let seconds = monotonic()?;
    let hz = if (seconds - START_SECONDS).abs() > BLIND_SECONDS {
        hz_of(jiffies(clock)?, seconds)
    } else {
        let (before, start) = (jiffies(clock)?, monotonic()?);
        std::thread::sleep(SAMPLE);
        let ticks = jiffies(clock)?.wrapping_sub(before) as f64;
        nearest(ticks / (monotonic()? - start))
    };
    Ok(((1_u64 << 32) / hz) as u32)
}

/// jiffies, by running the `clock` program.
pub(super) fn jiffies(clock: BorrowedFd<'_>) -> io::Result<u64> {
    let mut packet = [0; 64];
    sys::test_run(clock, &[0; 64], &mut packet, &mut [], 1)?;
    let mut word = [0; 8];
    word.copy_from_slice(&packet[..8]);
    Ok(u64::from_ne_bytes(word))
}

fn monotonic() -> io::Result<f64> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one timespec to memory that lives during it.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(now.tv_sec as f64 + now.tv_nsec as f64 / 1e9)
}

fn hz_of(jiffies: u64, seconds: f64) -> u64 {
    let ticks = jiffies as f64 - 2_f64.powi(32);
    nearest(ticks / (seconds - START_SECONDS))
}

fn nearest(hz: f64) -> u64 {
    let by_distance = |known: &&u64| ((**known as f64).ln() - hz.max(1.0).ln()).abs();
    KNOWN
        .iter()
        .min_by(|a, b| by_distance(a).total_cmp(&by_distance(b)))
        .copied()
        .unwrap_or(KNOWN[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tick_follows_from_jiffies_and_uptime() {
        for hz in [100_u64, 250, 300, 1000] {
            let jiffies = (1_u64 << 32) - 300 * hz + 5000 * hz;
            assert_eq!(hz_of(jiffies, 5000.0), hz);
            let early = (1_u64 << 32) - 300 * hz + 20 * hz;
            assert_eq!(hz_of(early, 20.0), hz);
        }
    }
}
