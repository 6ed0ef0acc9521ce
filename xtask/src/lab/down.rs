//! Removes a lab. Works from names alone: cgroups and network namespaces begin with `wl-NAME-`,
//! and every process of a lab is in its cgroups, so a crashed lab and one whose directory was
//! deleted are removed like any other. Deleting nothing is fine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Lab, cgroups, links, process::Process};
use crate::{progress, workspace};

/// Longest wait for the kernel to let go of ended processes.
const LIMIT: Duration = Duration::from_secs(20);

/// Removes everything of one lab and returns what was there.
pub fn down(lab: &Lab) -> Result<Vec<String>> {
    let prefix = lab.object("");
    let mut removed = Vec::new();
    // a lab named "a" must not take "a-b" with it
    let own = |name: &String| name.strip_prefix(&prefix).is_some_and(is_place);

    let groups: Vec<String> = cgroups::named(&prefix)?.into_iter().filter(own).collect();
    let count = end_processes(lab)?;
    if count > 0 {
        removed.push(format!("{count} processes"));
    }
    for name in links::named(&prefix).into_iter().filter(own) {
        links::remove(&name)?;
        removed.push(format!("network namespace {name}"));
    }
    for name in groups {
        cgroups::remove(&name, LIMIT)?;
        removed.push(format!("cgroup {name}"));
    }
    if lab.dir().exists() {
        no_mounts_below(lab.dir())?;
        fs::remove_dir_all(lab.dir()).with_context(|| lab.dir().display().to_string())?;
        removed.push(format!("directory {}", lab.dir().display()));
    }
    // the directory of all labs goes with the last one; not empty: others are left
    let _ = fs::remove_dir(workspace::labs());
    Ok(removed)
}

fn is_place(name: &str) -> bool {
    name.parse::<super::Place>().is_ok()
}

/// Kills until no process is left in the lab's cgroups: PID 1 of a node takes its pid namespace
/// along; what was started just now is met by the next round.
fn end_processes(lab: &Lab) -> Result<usize> {
    let mut seen = std::collections::BTreeSet::new();
    progress::wait(
        &format!("processes of lab {} end", lab.name()),
        LIMIT,
        || {
            let mut alive = false;
            for place in links::possible() {
                for process in cgroups::members(lab, place)
                    .into_iter()
                    .filter_map(Process::of)
                {
                    seen.insert(process.pid());
                    process.kill();
                    alive = true;
                }
            }
            Ok(!alive)
        },
    )?;
    Ok(seen.len())
}

/// Mounts of a lab live in its nodes' mount namespaces and end with them; if one is visible here
/// something else is wrong, and deleting through it would destroy foreign files.
fn no_mounts_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let dir = dir.display().to_string();
    let inside = |line: &&str| {
        line.split(' ')
            .nth(1)
            .is_some_and(|at| at == dir || at.starts_with(&format!("{dir}/")))
    };
    if let Some(line) = mounts.lines().find(inside) {
        bail!("{dir} still holds a mount, nothing was deleted: {line}");
    }
    Ok(())
}

/// Names of labs found in the kernel or on disk.
pub fn all() -> Result<Vec<String>> {
    let objects = cgroups::named("wl-")?
        .into_iter()
        .chain(links::named("wl-"));
    let mut names: Vec<String> = objects.filter_map(|object| lab_of(&object)).collect();
    if let Ok(entries) = fs::read_dir(workspace::labs()) {
        names.extend(
            entries
                .flatten()
                .filter_map(|e| e.file_name().into_string().ok()),
        );
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// `wl-NAME-PLACE` → NAME.
fn lab_of(object: &str) -> Option<String> {
    let (name, place) = object.strip_prefix("wl-")?.rsplit_once('-')?;
    is_place(place).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labs_name_is_what_stands_between_prefix_and_place() {
        assert_eq!(lab_of("wl-a-b-node2").as_deref(), Some("a-b"));
        assert_eq!(lab_of("wl-lab-outside").as_deref(), Some("lab"));
        assert_eq!(lab_of("wl-net-scratch"), None);
        assert_eq!(lab_of("wl-lab-node9"), None);
    }
}
