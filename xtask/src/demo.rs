//! The demo: applies `docs/demo` and shows, step by step, what the cluster does with it. Each step
//! says what was seen; a failed one does not hide the next.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::{KUBECTL, Lab, Place, node_ip};
use crate::{command, progress, workspace};

/// Namespace of the demo.
pub const NAMESPACE: &str = "demo";
/// NodePort of the demo's web servers.
pub const NODE_PORT: u16 = 30080;
/// Requests by name before all replicas must have answered.
const REQUESTS: usize = 30;
/// Length of the load during the rolling update, seconds, and its rate per second.
const LOAD: (u32, u32) = (12, 100);

/// Result of a step.
pub struct Step {
    pub name: &'static str,
    pub took: Duration,
    pub result: Result<String>,
}

type Run = fn(&Lab) -> Result<String>;

const STEPS: [(&str, Run); 7] = [
    ("deploy", deploy),
    ("requests by DNS name reach every replica", by_name),
    (
        "requests from outside by NodePort on every node",
        from_outside,
    ),
    ("the forbidden client is refused by policy", refused),
    ("flows show the drop", flows),
    ("a rolling update under requests loses none", rolling_update),
    ("a deleted pod comes back", comes_back),
];

/// Runs all steps, printing each.
pub fn run(lab: &Lab) -> Result<()> {
    println!("\ndemo (docs/demo):");
    let mut failed = 0;
    for (name, step) in STEPS {
        let start = Instant::now();
        let step = Step {
            name,
            result: step(lab),
            took: start.elapsed(),
        };
        failed += usize::from(step.result.is_err());
        print(&step);
    }
    if failed > 0 {
        bail!("{failed} of {} steps of the demo failed", STEPS.len());
    }
    Ok(())
}

fn print(step: &Step) {
    let Step { name, took, result } = step;
    let (sign, text) = match result {
        Ok(text) => ("ok  ", text.clone()),
        Err(error) => ("FAIL", format!("{error:#}")),
    };
    println!("  {sign} {name} ({:.2} s)", took.as_secs_f64());
    for line in text.lines() {
        println!("         {line}");
    }
}

/// Applies the manifests and waits until all of it is Ready.
pub fn deploy(lab: &Lab) -> Result<String> {
    let dir = workspace::root().join("docs/demo").display().to_string();
    lab.kubectl_output(&["apply", "-f", &dir])?;
    lab.rolled_out(NAMESPACE, "deployment/web")?;
    lab.ready(NAMESPACE, &["pod/friend", "pod/stranger"])?;
    let pods = web_pods(lab)?;
    let spread: Vec<String> = pods
        .iter()
        .map(|(pod, node)| format!("{pod} on {node}"))
        .collect();
    Ok(spread.join("\n"))
}

/// Running web pods and their nodes.
fn web_pods(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let list = lab.get(&["-n", NAMESPACE, "pods", "-l", "app=web"])?;
    let mut pods = BTreeMap::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        if pod["metadata"]["deletionTimestamp"].is_null() {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            pods.insert(
                text(&pod["metadata"]["name"]),
                text(&pod["spec"]["nodeName"]),
            );
        }
    }
    Ok(pods)
}

fn by_name(lab: &Lab) -> Result<String> {
    let pods = web_pods(lab)?;
    lab.pod_until(NAMESPACE, "friend", &["toolbox", "get", "http://web/"])?;
    let script =
        format!("for i in $(seq {REQUESTS}); do toolbox get http://web.demo/ || exit; done");
    let text = lab.pod_run(NAMESPACE, "friend", &["sh", "-c", &script])?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in text.lines() {
        *counts.entry(name).or_default() += 1;
    }
    if counts.values().sum::<usize>() != REQUESTS || !counts.keys().copied().eq(pods.keys()) {
        bail!("{counts:?} answered, expected all of {:?}", pods.keys());
    }
    Ok(counts
        .iter()
        .map(|(name, n)| format!("{name}: {n}"))
        .collect::<Vec<_>>()
        .join("\n"))
}

fn from_outside(lab: &Lab) -> Result<String> {
    let mut lines = Vec::new();
    for n in lab.nodes() {
        let url = format!("http://{}:{NODE_PORT}/", node_ip(n));
        let answer = lab.run(Place::Outside, &["toolbox", "get", &url])?;
        lines.push(format!("{url} → {}", answer.trim()));
    }
    Ok(lines.join("\n"))
}

const FORBIDDEN: [&str; 5] = ["toolbox", "get", "http://web/", "--timeout", "1000"];

fn refused(lab: &Lab) -> Result<String> {
    let out = lab.pod_try(NAMESPACE, "stranger", &FORBIDDEN)?;
    if out.status.success() {
        bail!(
            "the stranger was served: {}",
            String::from_utf8_lossy(&out.stdout).trim()
        );
    }
    lab.pod_run(NAMESPACE, "friend", &["toolbox", "get", "http://web/"])
        .context("the friend is not served either")?;
    let text = String::from_utf8_lossy(&out.stderr);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// `windlass flows` on every node while the forbidden client tries again. Ingress is judged where
/// the web pod runs, so any node may be the one that sees it.
fn flows(lab: &Lab) -> Result<String> {
    let mut readers = Vec::new();
    for n in lab.nodes() {
        let mut flows = lab.exec(
            Place::Node(n),
            &["timeout", "-k", "2", "4", "windlass", "flows"],
        )?;
        flows
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        readers.push((n, flows.spawn().context("windlass flows")?));
    }
    // a drop from before a reader attached is not shown: the client tries more than once
    for _ in 0..3 {
        let _ = lab.pod_try(NAMESPACE, "stranger", &FORBIDDEN)?;
    }
    let (mut seen, mut errors) = (Vec::new(), String::new());
    for (n, reader) in readers {
        let out = command::end(reader, KUBECTL)?;
        errors.push_str(&String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8_lossy(&out.stdout);
        let shows =
            |line: &&str| line.contains("stranger") && line.to_lowercase().contains("polic");
        seen.extend(
            text.lines()
                .find(shows)
                .map(|line| format!("node{n}: {line}")),
        );
    }
    if seen.is_empty() {
        bail!(
            "no node reported a drop of the stranger by policy. {}",
            errors.trim()
        );
    }
    Ok(seen.join("\n"))
}

fn rolling_update(lab: &Lab) -> Result<String> {
    let before = web_pods(lab)?;
    let (seconds, rate) = (LOAD.0.to_string(), LOAD.1.to_string());
    let load = [
        "toolbox",
        "load",
        "web:80",
        "--seconds",
        &seconds,
        "--rate",
        &rate,
    ];
    let mut load = lab.in_pod(NAMESPACE, "friend", &load);
    let load = load
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let start = Instant::now();
    let version = format!("VERSION={}", std::process::id());
    lab.kubectl_output(&["-n", NAMESPACE, "set", "env", "deployment/web", &version])?;
    lab.rolled_out(NAMESPACE, "deployment/web")?;
    let took = start.elapsed();
    let out = command::end(load, KUBECTL).context("load")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!(
            "{} {}",
            text.trim(),
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    let after = web_pods(lab)?;
    if before.keys().any(|pod| after.contains_key(pod)) {
        bail!("pods of before the update are still there: {before:?}, {after:?}");
    }
    if took.as_secs() >= LOAD.0.into() {
        bail!(
            "the update took {:.1} s, longer than the load",
            took.as_secs_f64()
        );
    }
    Ok(format!(
        "updated in {:.1} s; {}",
        took.as_secs_f64(),
        text.trim()
    ))
}

fn comes_back(lab: &Lab) -> Result<String> {
    let before = web_pods(lab)?;
    let victim = before.keys().next().context("no web pod")?;
    let start = Instant::now();
    lab.kubectl_output(&["-n", NAMESPACE, "delete", "pod", victim, "--wait=false"])?;
    progress::wait(
        "three Ready replicas without the deleted one",
        Duration::from_secs(30),
        || {
            let after = web_pods(lab)?;
            let ready = lab.get(&["-n", NAMESPACE, "deployment", "web"])?;
            Ok(!after.contains_key(victim)
                && after.len() == 3
                && ready["status"]["readyReplicas"].as_u64() == Some(3))
        },
    )?;
    Ok(format!(
        "{victim} was replaced in {:.1} s",
        start.elapsed().as_secs_f64()
    ))
}

/// Waits for the first answer of the web servers through a NodePort.
pub fn answered(lab: &Lab) -> Result<()> {
    let url = format!("http://{}:{NODE_PORT}/", node_ip(1));
    progress::wait("the demo answers", Duration::from_secs(60), || {
        let argv = ["toolbox", "get", url.as_str(), "--timeout", "500"];
        Ok(command::output(&mut lab.exec(Place::Outside, &argv)?).is_ok())
    })
}
