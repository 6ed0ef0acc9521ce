//! How this process holds memory: in small pages, given back when they are free. A node's heap is
//! small and mostly touched once, at its start; with 2 MiB pages and an allocator that keeps what was
//! freed, three times as much stays resident (docs/benchmarks.md).

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// mimalloc reads its options when the process starts, before any code of ours: milliseconds
/// until a free page is given back.
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// Starts this program once more in place, same pid, with the settings that are read at the start.
/// Does nothing where they are set, by the first run or by a person who wants others.
pub fn settle() {
    if std::env::var_os(PURGE_DELAY).is_some() {
        return;
    }
    // an older kernel without it only costs memory
    let _ = nix::sys::prctl::set_thp_disable(true);
    // not /proc/self/exe: the process would be named "exe"
    let Ok(own) = std::env::current_exe() else {
        return;
    };
    let mut args = std::env::args_os();
    let mut again = Command::new(own);
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    // returns only if it failed (the binary was replaced just now): this process goes on as it is
    let _ = again.args(args).env(PURGE_DELAY, "0").exec();
}
