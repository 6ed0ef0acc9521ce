//! Waits until every node is `Ready` and short of nothing, and shows the ends of logs when that fails.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Lab, Place};

/// Longest wait for all nodes to be Ready.
const LIMIT: Duration = Duration::from_secs(90);

/// Waits until every node is Ready, by one watch instead of many requests.
pub fn wait(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut last = Vec::new();
    while Instant::now() < deadline {
        if watch(lab, deadline, &mut last)? {
            return check_shortages(lab);
        }
        // the watch ended (a restarting server): begin again
        thread::sleep(Duration::from_millis(100));
    }
    let logs: Vec<String> = lab
        .nodes()
        .flat_map(|n| ["windlass", "kubelet"].map(|unit| lab.log(n, unit)))
        .filter(|log| log.exists())
        .map(|log| tail(&log))
        .collect();
    bail!(
        "nodes are not Ready after {} s: {last:?}\n{}",
        LIMIT.as_secs(),
        logs.join("\n")
    );
}

/// A node that is short of disk, memory or process ids is Ready, but starts no pod.
fn check_shortages(lab: &Lab) -> Result<()> {
    let short = shortages(&lab.get(&["nodes"])?);
    if short.is_empty() {
        return Ok(());
    }
    bail!(
        "nodes are short of something and would start no pod: {}; their disk is that of {}, their memory and \
         process ids are this machine's: make room and try again",
        short.join(", "),
        lab.dir().display()
    );
}

/// Conditions `…Pressure` that hold, with their node's name.
fn shortages(nodes: &Value) -> Vec<String> {
    let mut short = Vec::new();
    for node in nodes["items"].as_array().into_iter().flatten() {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let conditions = node["status"]["conditions"].as_array();
        for condition in conditions.into_iter().flatten() {
            let kind = condition["type"].as_str().unwrap_or_default();
            if kind.ends_with("Pressure") && condition["status"] == "True" {
                short.push(format!("{name} has {kind}"));
            }
        }
    }
    short
}

fn watch(lab: &Lab, deadline: Instant, last: &mut Vec<String>) -> Result<bool> {
    let columns =
        r#"custom-columns=N:.metadata.name,R:.status.conditions[?(@.type=="Ready")].status"#;
    let mut kubectl = lab.kubectl(&["get", "nodes", "--watch", "--no-headers", "-o", columns]);
    kubectl
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = kubectl.spawn().context("kubectl")?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let (send, lines) = mpsc::sync_channel(64);
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let mut ready = std::collections::BTreeMap::new();
    let mut all = false;
    while !all {
        let rest = deadline.saturating_duration_since(Instant::now());
        let Ok(line) = lines.recv_timeout(rest) else {
            break;
        };
        let mut words = line.split_whitespace();
        if let (Some(name), Some(status)) = (words.next(), words.next()) {
            ready.insert(name.to_owned(), status == "True");
        }
        *last = ready
            .iter()
            .map(|(name, ready)| format!("{name}={ready}"))
            .collect();
        all = lab
            .nodes()
            .all(|n| ready.get(&Place::Node(n).to_string()) == Some(&true));
    }
    let _ = child.kill();
    let _ = child.wait();
    drop(lines);
    let _ = reader.join();
    Ok(all)
}

/// The end of a log, for an error message.
pub fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(15);
    format!("--- {} ---\n{}", path.display(), lines[from..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_node_may_be_short_of_something() {
        let node = |name: &str, disk: &str| {
            serde_json::json!({"metadata": {"name": name}, "status": {"conditions": [
                {"type": "MemoryPressure", "status": "False"},
                {"type": "DiskPressure", "status": disk},
                {"type": "Ready", "status": "True"}]}})
        };
        let nodes = serde_json::json!({"items": [node("node1", "False"), node("node2", "True")]});
        assert_eq!(shortages(&nodes), ["node2 has DiskPressure"]);
    }
}
