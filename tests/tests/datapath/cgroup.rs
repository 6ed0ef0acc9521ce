//! A cgroup v2 directory with this very process in it, for the socket programs.

use std::path::{Path, PathBuf};

/// Joined on creation; left and removed when dropped.
pub struct Cgroup {
    pub dir: PathBuf,
    before: PathBuf,
}

impl Cgroup {
    pub fn join(name: &str) -> Self {
        let mount = mount_point();
        let own = std::fs::read_to_string("/proc/self/cgroup").expect("own cgroups");
        let path = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        let cgroup = Self {
            dir: mount.join(name),
            before: mount.join(path),
        };
        std::fs::create_dir_all(&cgroup.dir).expect("cgroup");
        enter(&cgroup.dir);
        cgroup
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        enter(&self.before);
        let _ = std::fs::remove_dir(&self.dir);
    }
}

fn enter(dir: &Path) {
    let pid = std::process::id().to_string();
    std::fs::write(dir.join("cgroup.procs"), pid).expect("process moves");
}

fn mount_point() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
    let found = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (dir, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(dir))
    });
    found.expect("cgroup v2 is mounted")
}
