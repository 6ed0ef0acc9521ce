//! Facts of the machine, read once from /proc, /sys and /etc.

use std::io;
use std::path::Path;

use nix::sys::statvfs::statvfs;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub milli_cpus: i64,
    pub memory_bytes: i64,
    /// Size of the file system that holds the agent's directory.
    pub storage_bytes: i64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    pub architecture: String,
}

impl Machine {
    pub fn read(root_dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root_dir)?;
        let file = |path: &str| {
            std::fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let storage = statvfs(root_dir)?;
        Ok(Self {
            milli_cpus: i64::try_from(cpus).unwrap_or(1) * 1000,
            memory_bytes: memory(&std::fs::read_to_string("/proc/meminfo")?),
            storage_bytes: i64::try_from(storage.blocks() * storage.fragment_size())
                .unwrap_or(i64::MAX),
            machine_id: file("/etc/machine-id"),
            system_uuid: file("/sys/class/dmi/id/product_uuid"),
            boot_id: file("/proc/sys/kernel/random/boot_id"),
            kernel_version: file("/proc/sys/kernel/osrelease"),
            os_image: os_name(&file("/etc/os-release")),
            architecture: architecture(std::env::consts::ARCH).to_owned(),
        })
    }
}

fn memory(meminfo: &str) -> i64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}

fn os_name(os_release: &str) -> String {
    let line = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or("Linux").trim_matches('"').to_owned()
}

/// Go's name of the architecture, which is what Kubernetes' labels use.
fn architecture(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_machine_are_understood() {
        assert_eq!(memory("MemFree: 1 kB\nMemTotal:   2048 kB\n"), 2 << 20);
        assert_eq!(os_name("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(architecture("x86_64"), "amd64");
    }
}
