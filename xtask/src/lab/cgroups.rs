//! Cgroups of a lab: one per place in every hierarchy of the machine (v1, hybrid or pure v2),
//! named `wl-LAB-PLACE`. They are the root of the node's cgroup namespace, they keep the socket
//! programs of one node away from the others, and they are how `down` finds every process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Lab, Place};
use crate::progress;

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Mount point on the machine.
    pub path: PathBuf,
    /// Mount options that name the v1 controllers; `None` for the unified hierarchy.
    pub v1: Option<String>,
}

/// The machine's hierarchies.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    Ok(parse(&mounts))
}

fn parse(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, path, kind, options, ..] = words.as_slice() else {
            continue;
        };
        let v1 = match *kind {
            "cgroup2" => None,
            "cgroup" => Some(controllers(options)),
            _ => continue,
        };
        if path.starts_with("/sys/fs/cgroup") && !found.iter().any(|h| h.v1 == v1) {
            found.push(Hierarchy {
                path: path.into(),
                v1,
            });
        }
    }
    found
}

/// The options of a v1 mount that say which hierarchy it is.
fn controllers(options: &str) -> String {
    const GENERAL: [&str; 10] = [
        "rw",
        "ro",
        "relatime",
        "noatime",
        "nosuid",
        "nodev",
        "noexec",
        "seclabel",
        "xattr",
        "clone_children",
    ];
    let own = options
        .split(',')
        .filter(|o| !GENERAL.contains(o) && !o.starts_with("release_agent="));
    let list = own.collect::<Vec<_>>().join(",");
    if list.starts_with("name=") {
        format!("none,{list}")
    } else {
        list
    }
}

/// Makes the cgroups of a place.
pub fn create(lab: &Lab, place: Place) -> Result<()> {
    let all = hierarchies()?;
    let pure = all.iter().all(|h| h.v1.is_none());
    for hierarchy in &all {
        let dir = hierarchy.path.join(lab.netns(place));
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        if hierarchy
            .v1
            .as_deref()
            .is_some_and(|v1| v1.split(',').any(|c| c == "cpuset"))
        {
            // a new cpuset is empty and takes no process
            fs::write(dir.join("cgroup.clone_children"), "1")?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(dir.join(file), fs::read(hierarchy.path.join(file))?)?;
            }
        }
        if pure {
            // controllers reach a node's pods only if its own processes live in a leaf
            let wanted = "+cpu +memory +pids";
            fs::write(hierarchy.path.join("cgroup.subtree_control"), wanted)
                .context("the machine's root cgroup hands out no cpu, memory, pids controller")?;
            fs::create_dir_all(dir.join("init"))?;
            fs::write(dir.join("cgroup.subtree_control"), wanted)?;
        }
    }
    Ok(())
}

/// Directories a process joins to belong to a place.
fn joinable(lab: &Lab, place: Place) -> Vec<PathBuf> {
    let dirs = hierarchies().unwrap_or_default().into_iter();
    dirs.map(|hierarchy| hierarchy.path.join(lab.netns(place)))
        .filter(|dir| dir.is_dir())
        .map(|dir| {
            Some(dir.join("init"))
                .filter(|leaf| leaf.is_dir())
                .unwrap_or(dir)
        })
        .collect()
}

/// A command that joins the cgroups of a place and then becomes the arguments that follow.
pub fn joined(lab: &Lab, place: Place) -> Command {
    // the shell writes its own pid ("0") and is replaced by the command: no code between
    // fork and exec of a threaded program is needed
    const SCRIPT: &str = r#"n=$1; shift
while [ "$n" -gt 0 ]; do echo 0 > "$1/cgroup.procs" || exit 125; shift; n=$((n-1)); done
exec "$@""#;
    let dirs = joinable(lab, place);
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT, "sh", &dirs.len().to_string()])
        .args(dirs);
    command
}

/// Every process in the cgroups of a place, also in those of its pods.
pub fn members(lab: &Lab, place: Place) -> Vec<i32> {
    let Ok(all) = hierarchies() else {
        return Vec::new();
    };
    let mut pids = Vec::new();
    for hierarchy in all {
        collect(&hierarchy.path.join(lab.netns(place)), &mut pids);
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn collect(dir: &Path, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0: a process of a pid namespace that is not ours
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    for child in children(dir) {
        collect(&child, pids);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let dirs = entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

/// Names of all cgroups that begin with `prefix`, each once.
pub fn named(prefix: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = hierarchies()?
        .iter()
        .flat_map(|hierarchy| children(&hierarchy.path))
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Removes a cgroup and all below it in every hierarchy. The kernel refuses for a moment after
/// the last process has ended, so this waits.
pub fn remove(name: &str, limit: Duration) -> Result<()> {
    progress::wait(&format!("cgroup {name} is empty"), limit, || {
        let mut gone = true;
        for hierarchy in hierarchies()? {
            remove_tree(&hierarchy.path.join(name));
            gone &= !hierarchy.path.join(name).exists();
        }
        Ok(gone)
    })
}

fn remove_tree(dir: &Path) {
    for child in children(dir) {
        remove_tree(&child);
    }
    let _ = fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_mounts_are_recognised() {
        let mounts = "\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,release_agent=/x,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime,nsdelegate 0 0
";
        let found: Vec<_> = parse(mounts).into_iter().map(|h| h.v1).collect();
        let v1 = |text: &str| Some(text.to_owned());
        assert_eq!(found, [v1("cpu,cpuacct"), v1("none,name=systemd"), None]);
    }

    #[test]
    fn a_machine_with_pure_v2_has_one_hierarchy() {
        let found = parse("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n");
        assert_eq!(
            found,
            [Hierarchy {
                path: "/sys/fs/cgroup".into(),
                v1: None
            }]
        );
    }
}
