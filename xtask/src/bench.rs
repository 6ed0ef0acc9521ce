//! `cargo xtask bench idle`: what the cluster costs at rest, how long its first steps take, and what
//! a connection through a Service costs beside the bare veth of the same run. Prints a table in
//! Markdown for docs/benchmarks.md; compare ratios, absolute values are the machine's.

mod connections;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::cluster::ToolboxPod;
use crate::lab::{Lab, Place, Process, Spec, readyz};
use crate::progress::Progress;
use crate::{build, demo, images, setup, workspace};

/// Name of the lab that is measured.
const LAB: &str = "b-idle";
/// Time the cluster is left alone before and while it is measured.
const SETTLE: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(30);
/// Clock ticks per second in /proc/PID/stat; the same on every Linux we support.
const TICKS: f64 = 100.0;
/// Time between two looks at a server that starts: the error of that measurement.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Starts of the server and of pods, to take the median of.
const SAMPLES: usize = 5;

/// A line of the result.
struct Row {
    what: &'static str,
    value: String,
    aim: &'static str,
}

/// Measures everything and prints it.
pub fn idle(with_build: bool) -> Result<()> {
    let progress = Progress::shown();
    if with_build {
        setup::setup(&progress)?;
        build::build(&progress)?;
    }
    let images = images::build()?;
    progress.mark("images built");
    for name in [LAB, connections::BARE] {
        Lab::named(name)?.down()?;
    }
    let spec = Spec {
        images: images.archives,
        toolbox: Some(images.toolbox),
        ..Spec::new(LAB)
    };
    let result = measure(&spec, &progress);
    for name in [LAB, connections::BARE] {
        Lab::named(name)?.down()?;
    }
    print(&result?);
    Ok(())
}

fn measure(spec: &Spec, progress: &Progress) -> Result<Vec<Row>> {
    let start = Instant::now();
    let up = Progress::quiet();
    let lab = Lab::up(spec, &up)?;
    let ready = between(&up, "server started", "nodes Ready");
    let applied = Instant::now();
    let demo = workspace::root().join("docs/demo").display().to_string();
    lab.kubectl_output(&["apply", "-f", &demo])?;
    demo::answered(&lab)?;
    let (whole, apply) = (start.elapsed(), applied.elapsed());
    progress.mark("the demo answers");
    let pods = median(
        (0..SAMPLES)
            .map(|n| pod_ready(&lab, n))
            .collect::<Result<_>>()?,
    );
    progress.mark("pods started");
    lab.kubectl_output(&["delete", "-f", &demo, "--timeout=60s"])?;
    let answers = median(
        (0..SAMPLES)
            .map(|n| server_start(&lab, n))
            .collect::<Result<_>>()?,
    );
    progress.mark("servers started");
    std::thread::sleep(SETTLE);
    let mut rows = at_rest(&lab)?;
    progress.mark("measured at rest");
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let milliseconds = |time: Duration| format!("{} ms", time.as_millis());
    let size = fs::metadata(workspace::windlass())?.len() as f64 / 1e6;
    let mut row = |what, value, aim| rows.push(Row { what, value, aim });
    row("binary", format!("{size:.1} MB"), "");
    row(
        "process start → API ready, join token and kubeconfig written (empty store)",
        milliseconds(answers),
        "≤ 100 ms",
    );
    row(
        "server start → three nodes Ready",
        ready.map_or_else(|| "?".into(), seconds),
        "≤ 3 s",
    );
    row("`up`, everything built → demo answered", seconds(whole), "");
    row(
        "`kubectl apply` of the demo → HTTP 200 by NodePort",
        seconds(apply),
        "",
    );
    row(
        "pod create → Ready, as kubectl sees it",
        seconds(pods),
        "≤ 0.4 s",
    );
    rows.extend(connections::measure(&lab, progress)?);
    Ok(rows)
}

fn print(rows: &[Row]) {
    println!("| | measured | aim |\n|---|---|---|");
    for Row { what, value, aim } in rows {
        println!("| {what} | {value} | {aim} |");
    }
}

/// Time between two marks, each named by a part of it.
fn between(progress: &Progress, first: &str, last: &str) -> Option<Duration> {
    let marks = progress.marks();
    let at = |part: &str| {
        marks
            .iter()
            .find(|(what, _)| what.contains(part))
            .map(|(_, at)| *at)
    };
    Some(at(last)? - at(first)?)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Memory and CPU of the processes of nodes 1 (server and agent) and 2 (agent).
fn at_rest(lab: &Lab) -> Result<Vec<Row>> {
    let units = [
        (
            1,
            "windlass",
            "server with agent: PSS (anonymous)",
            "server: CPU at rest",
            "≤ 60 MB",
        ),
        (
            2,
            "windlass",
            "agent: PSS (anonymous)",
            "agent: CPU at rest",
            "≤ 40 MB",
        ),
        (
            2,
            "containerd",
            "containerd of a node: PSS (anonymous)",
            "containerd: CPU at rest",
            "",
        ),
    ];
    let processes: Vec<Process> = units
        .iter()
        .map(|(n, unit, ..)| lab.unit(*n, unit))
        .collect::<Result<_>>()?;
    let ticks = |process: &Process| process.cpu_ticks().context("the process ended");
    let before: Vec<u64> = processes.iter().map(ticks).collect::<Result<_>>()?;
    std::thread::sleep(IDLE);
    let mut rows = Vec::new();
    for ((process, before), (_, _, memory, cpu, aim)) in processes.iter().zip(before).zip(units) {
        let (all, anonymous) = process.pss_kib().context("no smaps")?;
        let mb = |kib: u64| kib as f64 * 1024.0 / 1e6;
        let value = format!("{:.1} MB ({:.1})", mb(all), mb(anonymous));
        rows.push(Row {
            what: memory,
            value,
            aim,
        });
        let share = (ticks(process)? - before) as f64 / TICKS / IDLE.as_secs_f64() * 100.0;
        rows.push(Row {
            what: cpu,
            value: format!("{share:.2} % of a core"),
            aim: "",
        });
    }
    Ok(rows)
}

/// From `kubectl create` to the line of a running watch that says Ready.
fn pod_ready(lab: &Lab, n: usize) -> Result<Duration> {
    let name = format!("ready-{n}");
    let columns =
        r#"custom-columns=N:.metadata.name,R:.status.conditions[?(@.type=="Ready")].status"#;
    let mut watch = lab.kubectl(&["get", "pods", "--watch", "--no-headers", "-o", columns]);
    watch
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut watch = watch.spawn().context("kubectl")?;
    // the watch must stand before the pod is made
    std::thread::sleep(Duration::from_millis(500));
    let pod = ToolboxPod {
        name: &name,
        args: &["serve"],
        ..ToolboxPod::default()
    };
    let start = Instant::now();
    lab.try_manifest(&["create", "-f", "-"], &pod.manifest().to_string())?;
    let stdout = watch.stdout.take().expect("stdout is piped");
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let ready = lines.any(|line| line.contains(&name) && line.contains("True"));
    let took = start.elapsed();
    let _ = watch.kill();
    let _ = watch.wait();
    lab.kubectl_output(&["delete", "pod", &name, "--timeout=30s"])?;
    anyhow::ensure!(ready, "the watch ended before the pod was Ready");
    Ok(took)
}

/// A server with an empty store in the outside world: from its start to `/readyz` answered with 200.
fn server_start(lab: &Lab, n: usize) -> Result<Duration> {
    const PORT: u16 = 16443;
    let dir = lab.dir().join(format!("start-{n}"));
    let netns = format!("/run/netns/{}", lab.netns(Place::Outside));
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let (dir_text, port) = (dir.display().to_string(), PORT.to_string());
    let argv = [
        "windlass",
        "server",
        "--disable-agent",
        "--data-dir",
        &dir_text,
        "--secure-port",
        &port,
        "--node-ip",
        "10.91.0.2",
    ];
    let mut server = lab.exec(Place::Outside, &argv)?;
    server
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let start = Instant::now();
    let mut child = server.spawn()?;
    let netns = Path::new(&netns);
    let limit = Duration::from_secs(20);
    let (ca, admin) = (dir.join("pki/ca.crt"), dir.join("admin.kubeconfig"));
    let ready = || readyz::is_ready(netns, to, &ca) && admin.exists();
    while !ready() && start.elapsed() < limit {
        std::thread::sleep(LOOK_EVERY);
    }
    let took = start.elapsed();
    let _ = child.kill();
    let _ = child.wait();
    fs::remove_dir_all(dir)?;
    anyhow::ensure!(took < limit, "the server is not ready after {took:?}");
    Ok(took)
}
