//! `cargo xtask setup`: looks at what the machine has, installs what is missing, says what to do
//! about what it cannot install. Asks nothing; a second run does nothing.

mod bpf_toolchain;
mod kubectl;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command;
use crate::progress::Progress;

/// tcx links came with 6.6; the datapath attaches with nothing else.
const KERNEL: (u32, u32) = (6, 6);

/// A program, and the packages that bring it.
struct Tool {
    program: &'static str,
    apt: &'static str,
    dnf: &'static str,
}

const TOOLS: [Tool; 14] = [
    Tool {
        program: "cc",
        apt: "gcc",
        dnf: "gcc",
    },
    Tool {
        program: "ld",
        apt: "libc6-dev",
        dnf: "glibc-devel",
    },
    Tool {
        program: "ip",
        apt: "iproute2",
        dnf: "iproute",
    },
    Tool {
        program: "nsenter",
        apt: "util-linux",
        dnf: "util-linux",
    },
    Tool {
        program: "setsid",
        apt: "util-linux",
        dnf: "util-linux",
    },
    Tool {
        program: "sysctl",
        apt: "procps",
        dnf: "procps-ng",
    },
    Tool {
        program: "tar",
        apt: "tar",
        dnf: "tar",
    },
    Tool {
        program: "sha256sum",
        apt: "coreutils",
        dnf: "coreutils",
    },
    Tool {
        program: "containerd",
        apt: "containerd",
        dnf: "containerd",
    },
    Tool {
        program: "runc",
        apt: "runc",
        dnf: "runc",
    },
    Tool {
        program: "busybox",
        apt: "busybox-static",
        dnf: "busybox",
    },
    // only to show that every node's rule sets are empty
    Tool {
        program: "nft",
        apt: "nftables",
        dnf: "nftables",
    },
    Tool {
        program: "iptables-save",
        apt: "iptables",
        dnf: "iptables-nft",
    },
    Tool {
        program: "iperf3",
        apt: "iperf3",
        dnf: "iperf3",
    },
];

/// A package manager this program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Apt,
    Dnf,
}

impl Manager {
    fn find() -> Option<Manager> {
        if command::exists("apt-get") {
            Some(Manager::Apt)
        } else if command::exists("dnf") {
            Some(Manager::Dnf)
        } else {
            None
        }
    }

    fn install(self, packages: &[&str]) -> Result<()> {
        if !root() {
            bail!(
                "missing: {}. Run this as root, or install them yourself",
                packages.join(" ")
            );
        }
        match self {
            Manager::Apt => {
                let install = || {
                    let mut apt = Command::new("apt-get");
                    apt.env("DEBIAN_FRONTEND", "noninteractive");
                    apt.args(["-q", "-y", "--no-install-recommends", "install"])
                        .args(packages);
                    command::output(&mut apt)
                };
                // package lists are fetched only if what is there does not suffice
                if install().is_err() {
                    command::output(Command::new("apt-get").args(["-q", "update"]))?;
                    install()?;
                }
            }
            Manager::Dnf => {
                command::output(
                    Command::new("dnf")
                        .args(["-q", "-y", "install"])
                        .args(packages),
                )?;
            }
        }
        Ok(())
    }
}

/// Needed by tests alone: other kernels are booted in it.
const TEST_TOOLS: [Tool; 1] = [Tool {
    program: "qemu-system-x86_64",
    apt: "qemu-system-x86",
    dnf: "qemu-system-x86-core",
}];

/// Needed by upstream's test suite alone: its busybox is compiled, upstream's control plane wants keys.
const SUITE_TOOLS: [Tool; 2] = [
    Tool {
        program: "make",
        apt: "make",
        dnf: "make",
    },
    Tool {
        program: "openssl",
        apt: "openssl",
        dnf: "openssl",
    },
];

/// Makes the machine ready to build and to run a lab.
pub fn setup(progress: &Progress) -> Result<()> {
    machine()?;
    let manager = Manager::find();
    install_missing(&TOOLS, manager, progress)?;
    bpf_toolchain::setup(manager, progress)?;
    kubectl::setup(progress)?;
    progress.mark("everything needed is installed");
    Ok(())
}

/// [`setup`], and what the tests need besides.
pub fn for_tests(progress: &Progress) -> Result<()> {
    setup(progress)?;
    install_missing(&TEST_TOOLS, Manager::find(), progress)
}

/// Installs what [`crate::lab::Spec::for_suite`] needs beyond [`setup`].
pub fn for_suite(progress: &Progress) -> Result<()> {
    install_missing(&SUITE_TOOLS, Manager::find(), progress)
}

fn install_missing(tools: &[Tool], manager: Option<Manager>, progress: &Progress) -> Result<()> {
    let missing: Vec<&Tool> = tools
        .iter()
        .filter(|tool| !command::exists(tool.program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing
        .iter()
        .map(|tool| match manager {
            Some(Manager::Dnf) => tool.dnf,
            Some(Manager::Apt) | None => tool.apt,
        })
        .collect();
    packages.dedup();
    let Some(manager) = manager else {
        let programs: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
        bail!(
            "missing programs: {}. Neither apt-get nor dnf is here: install them by hand \
             (packages on Debian: {})",
            programs.join(" "),
            packages.join(" ")
        );
    };
    progress.mark(format!("installing {}", packages.join(" ")));
    manager.install(&packages)
}

/// What no package can bring.
pub fn machine() -> Result<()> {
    if !root() {
        bail!(
            "not root: the lab makes namespaces, cgroups and loads BPF programs. Run it with sudo"
        );
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    kernel(release.trim())?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!(
            "this kernel was built without BTF (CONFIG_DEBUG_INFO_BTF): BPF programs cannot load"
        );
    }
    let memory = fs::read_to_string("/proc/cgroups")?;
    if !memory
        .lines()
        .any(|line| line.starts_with("memory\t") && line.ends_with("\t1"))
    {
        bail!("the memory cgroup is off: boot with cgroup_enable=memory");
    }
    if !Path::new("/sys/fs/cgroup").is_dir() {
        bail!("no cgroup file system at /sys/fs/cgroup");
    }
    Ok(())
}

/// Refuses what is older than the oldest kernel the programs run on.
pub fn kernel(release: &str) -> Result<()> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        bail!("kernel release {release:?} cannot be read");
    };
    if (major, minor) < KERNEL {
        bail!(
            "kernel {release} is too old: {}.{} or newer is needed (tcx links). Debian 12 has one \
             in bookworm-backports (linux-image-amd64)",
            KERNEL.0,
            KERNEL.1
        );
    }
    Ok(())
}

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_6_6_are_refused_with_what_to_do() {
        for release in ["6.6.0", "6.12.30-amd64", "6.18.44-fc-v669", "7.0"] {
            kernel(release).unwrap();
        }
        let error = kernel("6.1.0-37-cloud-amd64").unwrap_err().to_string();
        assert!(error.contains("6.6 or newer"), "{error}");
        assert!(kernel("mainline").is_err());
    }
}
