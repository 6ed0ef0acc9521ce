//! The pod's own cgroup, parent of its containers': created with the pod's limits before the sandbox,
//! removed after it. Handles cgroup v1 (one hierarchy per controller), v2 and the hybrid of both.
//! Layout as upstream with the cgroupfs driver: `PARENT[/burstable|/besteffort]/podUID`.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::resources::{PodResources, Qos};

const ROOT: &str = "/sys/fs/cgroup";
/// Controllers whose v1 hierarchies get the pod's directory; the runtime adds the others by itself.
const V1_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Of quota and memory in cgroup v1.
const UNLIMITED: i64 = -1;
const V2_CONTROLLERS: &str = "+cpu +memory +pids";
/// How often, and how long apart, the removal of a cgroup whose last process is just gone is tried.
const REMOVE_TRIES: u32 = 20;
const REMOVE_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
#[error("cgroup {path}: {action}")]
pub struct Error {
    path: PathBuf,
    action: &'static str,
    #[source]
    source: io::Error,
}

/// The pod's cgroup within each hierarchy, as the runtime wants it for `cgroup_parent`.
pub fn path(parent: &str, qos: Qos, uid: &str) -> String {
    let parent = parent.trim_end_matches('/');
    match qos {
        Qos::Guaranteed => format!("{parent}/pod{uid}"),
        Qos::Burstable => format!("{parent}/burstable/pod{uid}"),
        Qos::BestEffort => format!("{parent}/besteffort/pod{uid}"),
    }
}

/// Creates the cgroup (and its parents) and sets the pod's limits. Idempotent.
pub fn ensure(path: &str, resources: &PodResources) -> Result<(), Error> {
    ensure_below(Path::new(ROOT), path, resources)
}

fn ensure_below(root: &Path, path: &str, resources: &PodResources) -> Result<(), Error> {
    let relative = path.trim_start_matches('/');
    if root.join("cgroup.controllers").exists() {
        return ensure_v2(root, relative, resources);
    }
    for controller in V1_CONTROLLERS {
        let hierarchy = root.join(controller);
        if !hierarchy.is_dir() {
            continue;
        }
        let dir = hierarchy.join(relative);
        create(&dir)?;
        match controller {
            "cpu" => {
                write(&dir.join("cpu.shares"), &resources.cpu_shares.to_string())?;
                let quota = resources.cpu_quota.unwrap_or(UNLIMITED);
                write(&dir.join("cpu.cfs_quota_us"), &quota.to_string())?;
            }
            "memory" => {
                let limit = resources.memory_limit.unwrap_or(UNLIMITED);
                write(&dir.join("memory.limit_in_bytes"), &limit.to_string())?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn ensure_v2(root: &Path, relative: &str, resources: &PodResources) -> Result<(), Error> {
    let mut dir = root.to_owned();
    for part in Path::new(relative).components() {
        // Controllers are handed down one level at a time; a level that holds processes refuses, and
        // the limits below then fail with the real reason.
        if let Err(error) = write(&dir.join("cgroup.subtree_control"), V2_CONTROLLERS) {
            tracing::debug!(%error, "cgroup controllers not delegated");
        }
        dir.push(part);
        create(&dir)?;
    }
    write(
        &dir.join("cpu.weight"),
        &weight(resources.cpu_shares).to_string(),
    )?;
    let most = |limit: Option<i64>| limit.map_or_else(|| "max".to_owned(), |l| l.to_string());
    let quota = format!("{} 100000", most(resources.cpu_quota));
    write(&dir.join("cpu.max"), &quota)?;
    write(&dir.join("memory.max"), &most(resources.memory_limit))
}

/// cgroup v1 shares (2..262144) as v2 weight (1..10000), KEP-2254's formula.
fn weight(shares: i64) -> i64 {
    (1 + (shares - 2) * 9999 / 262_142).clamp(1, 10_000)
}

/// Removes the pod's cgroup from every hierarchy, with what still runs in it: a runtime that was killed
/// while it made a container has forgotten the process (upstream:
/// `pkg/kubelet/cm/pod_container_manager_linux.go`, tryKillingCgroupProcesses). Deleting nothing is fine.
pub async fn remove(path: &str) -> Result<(), Error> {
    for hierarchy in hierarchies(Path::new(ROOT)) {
        remove_tree(&hierarchy.join(path.trim_start_matches('/'))).await?;
    }
    Ok(())
}

/// Uids of the pods that have a cgroup below `parent`, with the path for [`remove`].
pub fn existing(parent: &str) -> Vec<(String, String)> {
    let parent = parent.trim_end_matches('/');
    let mut found = Vec::new();
    for hierarchy in hierarchies(Path::new(ROOT)) {
        for level in [
            parent.to_owned(),
            format!("{parent}/burstable"),
            format!("{parent}/besteffort"),
        ] {
            let Ok(entries) = std::fs::read_dir(hierarchy.join(level.trim_start_matches('/')))
            else {
                continue;
            };
            for name in entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
            {
                if let Some(uid) = name.strip_prefix("pod") {
                    found.push((uid.to_owned(), format!("{level}/{name}")));
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn hierarchies(root: &Path) -> Vec<PathBuf> {
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let Ok(entries) = std::fs::read_dir(root) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

async fn remove_tree(dir: &Path) -> Result<(), Error> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            Box::pin(remove_tree(&entry.path())).await?;
        }
    }
    for attempt in 0.. {
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if attempt < REMOVE_TRIES => {
                // The runtime's own kill gets one pause.
                if attempt > 0 {
                    kill_members(dir);
                }
                tokio::time::sleep(REMOVE_PAUSE).await;
            }
            Err(source) => {
                return Err(Error {
                    path: dir.to_owned(),
                    action: "remove",
                    source,
                });
            }
        }
    }
    Ok(())
}

/// Kills the processes of one cgroup, without those below it.
fn kill_members(dir: &Path) {
    let members = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process that this PID namespace does not see.
    let members = members.lines().filter_map(|line| line.parse().ok());
    for pid in members.filter(|pid: &i32| *pid > 0) {
        tracing::warn!(pid, cgroup = %dir.display(), "kill a process its runtime has forgotten");
        // It may have ended just now.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn create(dir: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(|source| Error {
        path: dir.to_owned(),
        action: "create",
        source,
    })
}

fn write(file: &Path, value: &str) -> Result<(), Error> {
    std::fs::write(file, value).map_err(|source| Error {
        path: file.to_owned(),
        action: "write",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_decides_the_level() {
        assert_eq!(path("/kubepods", Qos::Guaranteed, "u"), "/kubepods/podu");
        assert_eq!(
            path("/n1/kubepods/", Qos::BestEffort, "u"),
            "/n1/kubepods/besteffort/podu"
        );
    }

    #[test]
    fn weights_span_the_v2_range() {
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
    }

    #[test]
    fn a_v2_tree_gets_all_limits() {
        let root = std::env::temp_dir().join(format!("wl-cgroup-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("cgroup.controllers"), "cpu memory").unwrap();
        let resources = PodResources {
            cpu_shares: 1024,
            cpu_quota: Some(50_000),
            memory_limit: Some(1 << 20),
        };
        ensure_below(&root, "/k/podu", &resources).unwrap();
        let read = |file: &str| std::fs::read_to_string(root.join("k/podu").join(file)).unwrap();
        assert_eq!(read("cpu.max"), "50000 100000");
        assert_eq!(read("memory.max"), "1048576");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
