//! Whether the node runs short of memory, disk or process ids: what its conditions say. Thresholds are those
//! of upstream's kubelet (`pkg/kubelet/apis/config/v1beta1/defaults_linux.go`), but that a disk of which
//! gigabytes are free is not short. `Pressure::of` is pure; [`Measure::take`] asks the machine.

use std::io;
use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Free memory below which the node is short of it.
const MEMORY: i64 = 100 << 20;
/// Free part of the disk, and of its inodes, below which the node is short of them; and free bytes from
/// which it is not, whatever part that is.
const DISK_PERCENT: i64 = 10;
const INODES_PERCENT: i64 = 5;
const DISK_PLENTY: i64 = 2 << 30;
/// Free part of process ids below which the node is short of them.
const PIDS_PERCENT: i64 = 5;

/// What is free, and what there is at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    pub memory: i64,
    pub disk: (i64, i64),
    pub inodes: (i64, i64),
    pub pids: (i64, i64),
}

/// What is short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

impl Pressure {
    pub fn of(measure: &Measure) -> Self {
        let Measure {
            memory,
            disk,
            inodes,
            pids,
        } = *measure;
        // Some file systems have no inodes to count.
        let short = |(free, all): (i64, i64), percent: i64| {
            all > 0 && i128::from(free) * 100 < i128::from(all) * i128::from(percent)
        };
        Self {
            memory: memory < MEMORY,
            disk: (short(disk, DISK_PERCENT) && disk.0 < DISK_PLENTY)
                || short(inodes, INODES_PERCENT),
            pids: short(pids, PIDS_PERCENT),
        }
    }
}

impl Measure {
    /// Of this machine; `root_dir` lies on the disk that counts.
    pub fn take(root_dir: &Path) -> io::Result<Self> {
        let disk = statvfs(root_dir)?;
        let bytes = |blocks: u64| bounded(blocks.saturating_mul(disk.fragment_size()));
        let number = |file: &str| -> i64 {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        };
        let most = number("/proc/sys/kernel/pid_max");
        Ok(Self {
            memory: available(&std::fs::read_to_string("/proc/meminfo")?),
            disk: (bytes(disk.blocks_available()), bytes(disk.blocks())),
            inodes: (bounded(disk.files_available()), bounded(disk.files())),
            pids: (
                most - threads(&std::fs::read_to_string("/proc/loadavg")?),
                most,
            ),
        })
    }
}

fn bounded(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn available(meminfo: &str) -> i64 {
    let mut lines = meminfo.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok());
    kib.map_or(i64::MAX, |kib| kib * 1024)
}

/// The fourth field is RUNNABLE/ALL threads.
fn threads(loadavg: &str) -> i64 {
    let field = loadavg.split_whitespace().nth(3);
    let all = field.and_then(|field| field.split_once('/')?.1.parse().ok());
    all.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Measure = Measure {
        memory: 1 << 30,
        disk: (50 << 30, 100 << 30),
        inodes: (50, 100),
        pids: (30_000, 32_768),
    };

    #[test]
    fn what_is_nearly_used_up_is_short() {
        let of = |change: fn(&mut Measure)| {
            let mut measure = FINE;
            change(&mut measure);
            let Pressure { memory, disk, pids } = Pressure::of(&measure);
            (memory, disk, pids)
        };
        assert_eq!(of(|_| {}), (false, false, false));
        assert_eq!(of(|m| m.memory = 99 << 20), (true, false, false));
        assert_eq!(of(|m| m.disk.0 = 3 << 30), (false, false, false));
        assert_eq!(of(|m| m.disk.0 = 1 << 30), (false, true, false));
        assert_eq!(of(|m| m.disk = (1 << 30, 8 << 30)), (false, false, false));
        assert_eq!(of(|m| m.inodes.0 = 4), (false, true, false));
        assert_eq!(of(|m| m.inodes = (0, 0)), (false, false, false));
        assert_eq!(of(|m| m.pids.0 = 1000), (false, false, true));
    }

    #[test]
    fn the_kernels_files_are_understood() {
        let meminfo = "MemTotal:       24 kB\nMemAvailable:       17 kB\n";
        assert_eq!(available(meminfo), 17 * 1024);
        assert_eq!(threads("0.10 0.20 0.30 2/345 6789\n"), 345);
        assert!(Measure::take(Path::new("/")).unwrap().disk.1 > 0);
    }
}
