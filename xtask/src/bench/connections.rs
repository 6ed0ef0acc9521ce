//! Connect + request + answer + close per second, 16 in flight, client on CPU 0 and server on CPU 1:
//! over a bare veth pair, to a pod and through a ClusterIP, on one node and between two. The points
//! take turns, so that a drift of the machine meets them all.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Row;
use crate::command;
use crate::lab::Lab;
use crate::lab::cluster::ToolboxPod;
use crate::progress::{self, Progress};

/// Name of the pair of namespaces with nothing but a veth pair; a lab's names, so that `down`
/// finds them.
pub const BARE: &str = "b-bare";
const SECONDS: &str = "5";
const ROUNDS: usize = 3;
const PORT: u16 = 8080;
/// Processor masks of client and server.
const CLIENT: &str = "1";
const SERVER: &str = "2";

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: crr-same, namespace: crr}
spec: {selector: {at: same}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: crr-other, namespace: crr}
spec: {selector: {at: other}, ports: [{port: 8080}]}
";

/// One way to reach the server, and what its runs gave.
struct Point {
    what: &'static str,
    aim: &'static str,
    rates: Vec<f64>,
    errors: u64,
}

const POINTS: [(&str, &str); 5] = [
    ("connections/s: bare veth", ""),
    ("connections/s: pod on the same node", ""),
    (
        "connections/s: ClusterIP, backend on the same node",
        "≥ 0.85",
    ),
    ("connections/s: pod on another node", ""),
    ("connections/s: ClusterIP, backend on another node", ""),
];

/// Runs all points in turns; the medians, and the ratio of each to the bare veth.
pub fn measure(lab: &Lab, progress: &Progress) -> Result<Vec<Row>> {
    let _bare_server = bare_pair(lab)?;
    let targets = pods(lab)?;
    let mut points = POINTS.map(|(what, aim)| Point {
        what,
        aim,
        rates: Vec::new(),
        errors: 0,
    });
    for round in 0..ROUNDS {
        points[0].add(rate(&mut in_bare(lab, 1, CLIENT, &crr("172.31.255.2")))?);
        for (point, target) in points[1..].iter_mut().zip(&targets) {
            let crr = crr(target);
            let mut words = vec!["taskset", CLIENT, "toolbox"];
            words.extend(crr.iter().map(String::as_str));
            point.add(rate(&mut lab.in_pod("crr", "client", &words))?);
        }
        progress.mark(format!("connections, round {}", round + 1));
    }
    let bare = median(&mut points[0].rates);
    Ok(points.into_iter().map(|point| point.row(bare)).collect())
}

impl Point {
    fn add(&mut self, (rate, errors): (f64, u64)) {
        self.rates.push(rate);
        self.errors += errors;
    }

    fn row(mut self, bare: f64) -> Row {
        let median = median(&mut self.rates);
        let (least, most) = (self.rates[0], self.rates[self.rates.len() - 1]);
        let mut value = format!(
            "{:.1} k ({:.1}–{:.1}) **{:.2}**",
            median / 1e3,
            least / 1e3,
            most / 1e3,
            median / bare
        );
        if self.errors > 0 {
            value.push_str(&format!(", {} failed", self.errors));
        }
        Row {
            what: self.what,
            value,
            aim: self.aim,
        }
    }
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn crr(address: &str) -> [String; 4] {
    [
        "bench-crr".into(),
        format!("{address}:{PORT}"),
        "--seconds".into(),
        SECONDS.into(),
    ]
}

/// Connections per second, and how many failed.
fn rate(command: &mut Command) -> Result<(f64, u64)> {
    let text = command::output(command)?;
    let line = text
        .lines()
        .find(|line| line.starts_with('{'))
        .context("no result")?;
    let value: Value = serde_json::from_str(line)?;
    let errors = value["errors"].as_u64().context("no errors")?;
    Ok((value["per_second"].as_f64().context("no rate")?, errors))
}

/// A server of the bare pair, which no lab ends: it ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two namespaces and one veth pair, with a server in the second.
fn bare_pair(lab: &Lab) -> Result<Server> {
    for n in [1, 2] {
        command::output(Command::new("ip").args(["netns", "add", &bare(n)]))?;
    }
    let lines = format!("link add eth0 type veth peer name eth0 netns {}\n", bare(2));
    for (n, lines) in [(1, lines.as_str()), (2, "")] {
        let lines = format!(
            "{lines}link set lo up\naddress add 172.31.255.{n}/24 dev eth0\nlink set eth0 up\n"
        );
        let mut ip = Command::new("ip");
        command::fed(ip.args(["-n", &bare(n), "-batch", "-"]), &lines)?;
    }
    let serve = ["bench-serve".to_owned(), format!("0.0.0.0:{PORT}")];
    let child = in_bare(lab, 2, SERVER, &serve)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let server = Server(child);
    let connect = ["connect".to_owned(), format!("172.31.255.2:{PORT}")];
    progress::wait("the bare server", Duration::from_secs(10), || {
        Ok(command::output(&mut in_bare(lab, 1, CLIENT, &connect)).is_ok())
    })?;
    Ok(server)
}

fn bare(n: u8) -> String {
    format!("wl-{BARE}-node{n}")
}

fn in_bare(lab: &Lab, n: u8, cpu: &str, argv: &[String]) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{}", bare(n)))
        .args(["taskset", cpu]);
    command.arg(lab.programs().join("toolbox")).args(argv);
    command
}

/// Servers on nodes 2 and 3, a client on node 2; the four addresses to measure.
fn pods(lab: &Lab) -> Result<[String; 4]> {
    lab.fresh_namespace("crr")?;
    lab.apply(SERVICES)?;
    let pod = |name, node| ToolboxPod {
        namespace: "crr",
        name,
        node: Some(node),
        ..ToolboxPod::default()
    };
    lab.run_pods(&[
        ToolboxPod {
            labels: &[("at", "same")],
            ..pod("same", 2)
        },
        ToolboxPod {
            labels: &[("at", "other")],
            ..pod("other", 3)
        },
        pod("client", 2),
    ])?;
    for name in ["same", "other"] {
        let serve =
            format!("taskset {SERVER} toolbox bench-serve 0.0.0.0:{PORT} >/dev/null 2>&1 &");
        lab.pod_run("crr", name, &["sh", "-c", &serve])?;
    }
    let targets = [
        lab.pod_ip("crr", "same")?,
        lab.cluster_ip("crr", "crr-same")?,
        lab.pod_ip("crr", "other")?,
        lab.cluster_ip("crr", "crr-other")?,
    ];
    for target in &targets {
        lab.pod_until(
            "crr",
            "client",
            &["toolbox", "connect", &format!("{target}:{PORT}")],
        )?;
    }
    Ok(targets)
}
