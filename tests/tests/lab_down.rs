//! `down` leaves nothing: what the machine shows before and after a lab is the same, also when the
//! lab crashed in the middle.
#![expect(clippy::unwrap_used, reason = "a failing test says where")]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use xtask::lab::cluster::ToolboxPod;
use xtask::lab::{Spec, shared};
use xtask::{command, progress, workspace};

/// Everything a lab could leave on the machine, one line each.
fn traces() -> BTreeSet<String> {
    let text = |program: &str, args: &[&str]| {
        command::output(Command::new(program).args(args)).unwrap_or_default()
    };
    let mut lines = BTreeSet::new();
    let mut add = |what: &str, text: String| {
        lines.extend(text.lines().map(|line| format!("{what}: {line}")));
    };
    add("netns", text("ip", &["-o", "netns", "list"]));
    add("link", text("ip", &["-br", "link"]));
    add("address", text("ip", &["-br", "address"]));
    add("route", text("ip", &["route", "show", "table", "all"]));
    add(
        "mount",
        std::fs::read_to_string("/proc/self/mounts").unwrap(),
    );
    add("bpffs", text("find", &["/sys/fs/bpf"]));
    add(
        "cgroup",
        text(
            "find",
            &["/sys/fs/cgroup", "-type", "d", "-name", "wl-t-down*"],
        ),
    );
    add("process", processes());
    add(
        "state",
        text(
            "find",
            &[&workspace::labs().display().to_string(), "-name", "t-down*"],
        ),
    );
    lines.retain(|line| !line.contains("wl-") || line.contains("wl-t-down"));
    lines
}

/// Processes that belong to the lab of this test, by their command line.
fn processes() -> String {
    let mut found = String::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(bytes) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
        if line.contains("t-down") && !line.contains("lab-guard") {
            found.push_str(&format!("{line}\n"));
        }
    }
    found
}

#[test]
fn down_removes_every_trace_also_of_a_crashed_lab() {
    let before = traces();
    for crashed in [false, true] {
        let lab = shared::start(Spec::new("t-down")).unwrap();
        let pod = ToolboxPod {
            args: &["serve"],
            node: Some(3),
            ..ToolboxPod::default()
        };
        progress::wait(
            "the default service account",
            Duration::from_secs(10),
            || Ok(lab.get(&["serviceaccount", "default"]).is_ok()),
        )
        .unwrap();
        lab.run_pods(&[pod]).unwrap();
        assert_ne!(before, traces(), "a running lab is visible");
        if crashed {
            lab.init(3).unwrap().kill();
            lab.unit(1, "windlass").unwrap().kill();
            std::fs::remove_dir_all(lab.dir().join("node2/units")).unwrap();
        }
        let removed = lab.down().unwrap();
        assert!(
            removed.iter().any(|what| what.contains("wl-t-down-node2")),
            "{removed:?}"
        );
        let after = traces();
        let left: Vec<&String> = after.difference(&before).collect();
        let lost: Vec<&String> = before.difference(&after).collect();
        assert!(
            left.is_empty() && lost.is_empty(),
            "left {left:#?}, lost {lost:#?}"
        );
        assert!(
            lab.down().unwrap().is_empty(),
            "a second time there is nothing"
        );
    }
}
