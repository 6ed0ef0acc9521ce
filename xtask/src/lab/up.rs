//! Brings a lab up, from whatever state it is in: each step looks whether it is already done.
//! Order: namespaces → node inits and containerd → images and server at the same time → agents →
//! all nodes `Ready`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process::Process;
use super::{
    Lab, OUTSIDE, Place, Spec, cgroups, containerd, links, node, node_ip, node_ip6, nodes, ready,
};
use crate::progress::{self, Progress};
use crate::workspace;

/// Longest wait for a small step (a process to appear, a file to be written).
const STEP: Duration = Duration::from_secs(20);
/// Longest wait for all nodes to be Ready.
const READY: Duration = Duration::from_secs(90);
/// Port of the API server in node 1.
const API_PORT: u16 = 6443;

pub fn up(lab: &Lab, spec: &Spec, progress: &Progress) -> Result<()> {
    namespaces(lab, progress)?;
    install(lab, spec, progress)?;
    for n in nodes() {
        start_node(lab, n, spec)?;
    }
    outside(lab, spec)?;
    let port = start_proxy(lab, spec)?;
    progress.mark(format!("nodes started, API proxy on 127.0.0.1:{port}"));
    // images take the disk, the server takes a moment to answer: at the same time
    thread::scope(|scope| -> Result<()> {
        let imports: Vec<_> = nodes()
            .map(|n| scope.spawn(move || start_containerd(lab, n, spec)))
            .collect();
        let server = (!spec.without_windlass).then(|| server(lab, spec, port, progress));
        for import in imports {
            import.join().expect("an import returns its error")?;
        }
        progress.mark("containerd runs, images imported");
        server.unwrap_or(Ok(()))
    })?;
    if spec.without_windlass {
        return Ok(());
    }
    wait_ready(lab)?;
    progress.mark(format!("{} nodes Ready", nodes().count()));
    Ok(())
}

fn namespaces(lab: &Lab, progress: &Progress) -> Result<()> {
    let there = links::named(&lab.object(""));
    let missing = links::places()
        .filter(|place| !there.contains(&lab.netns(*place)))
        .count();
    if missing > 0 {
        if missing < links::places().count() {
            lab.down()
                .context("half a lab was left by an earlier run")?;
        }
        links::create(lab)?;
        progress.mark("network namespaces");
    }
    for place in links::places().filter(|place| *place != Place::Switch) {
        cgroups::create(lab, place)?;
    }
    Ok(())
}

/// Puts the binary where every node sees it. A changed one replaces the old by rename, and the
/// units are killed: the upgrade of a machine.
fn install(lab: &Lab, spec: &Spec, progress: &Progress) -> Result<()> {
    fs::create_dir_all(lab.programs())?;
    if let Some(toolbox) = &spec.toolbox {
        replace(toolbox, &lab.programs().join("toolbox"))?;
    }
    if spec.without_windlass {
        return Ok(());
    }
    let upgrade = binary(lab).exists();
    let replaced = replace(&spec.windlass, &binary(lab)).with_context(|| {
        format!(
            "{}: build it with `cargo xtask build`",
            spec.windlass.display()
        )
    })?;
    if replaced && upgrade {
        for n in nodes().filter(|n| lab.unit(*n, "windlass").is_ok()) {
            lab.kill_unit(n, "windlass")?;
        }
        progress.mark("new binary installed, windlass restarted on every node");
    }
    Ok(())
}

/// Copies a program by rename, unless it is there already.
fn replace(from: &Path, to: &Path) -> Result<bool> {
    if same(from, to) {
        return Ok(false);
    }
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary).with_context(|| from.display().to_string())?;
    fs::rename(&temporary, to)?;
    Ok(true)
}

fn binary(lab: &Lab) -> PathBuf {
    lab.programs().join("windlass")
}

fn same(a: &Path, b: &Path) -> bool {
    let (Ok(meta), Ok(other)) = (fs::metadata(a), fs::metadata(b)) else {
        return false;
    };
    meta.len() == other.len() && fs::read(a).ok() == fs::read(b).ok()
}

fn start_node(lab: &Lab, n: u8, spec: &Spec) -> Result<()> {
    if lab.init(n).is_ok() {
        return Ok(());
    }
    let place = Place::Node(n);
    let dir = lab.place_dir(place);
    node::Config {
        dir: dir.clone(),
        lab_dir: lab.dir().to_owned(),
        name: place.to_string(),
        ips: vec![node_ip(n).to_string(), node_ip6(n).to_string()],
        dns: OUTSIDE.to_string(),
        store_mib: if n == 1 { spec.store_mib } else { 0 },
    }
    .write()?;
    let mut init = cgroups::joined(lab, place);
    init.args([
        "setsid",
        "nsenter",
        &format!("--net=/run/netns/{}", lab.netns(place)),
    ]);
    init.args([
        "unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup",
    ]);
    init.arg("--kill-child")
        .arg(workspace::xtask())
        .arg("node-init")
        .arg(&dir);
    node::environment(&mut init);
    let log = fs::File::create(dir.join("log/init.log"))?;
    init.stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut child = init.spawn().context("start of a node")?;
    containerd::write(lab, n, spec)?;
    progress::wait(&format!("{place} starts"), STEP, || {
        if let Some(status) = child.try_wait()? {
            let text = fs::read_to_string(dir.join("log/init.log")).unwrap_or_default();
            bail!("init of {place} ended ({status}): {}", text.trim());
        }
        Ok(lab.init(n).is_ok() && node::tell(&dir, "start containerd").is_ok())
    })
}

fn start_containerd(lab: &Lab, n: u8, spec: &Spec) -> Result<()> {
    containerd::wait(lab, n)?;
    containerd::import(lab, n, &spec.images)
}

/// The upstream name server and the web server of the outside world.
fn outside(lab: &Lab, spec: &Spec) -> Result<()> {
    let dir = lab.place_dir(Place::Outside);
    let record = dir.join("toolbox.pid");
    if spec.toolbox.is_none() || Process::recorded(&record)?.is_some() {
        return Ok(());
    }
    let argv = ["setsid", "toolbox", "outside", &OUTSIDE.to_string()];
    let mut command = lab.exec(Place::Outside, &argv)?;
    background(&mut command, &dir, "toolbox")
}

fn start_proxy(lab: &Lab, spec: &Spec) -> Result<u16> {
    let (dir, file) = (lab.place_dir(Place::Outside), lab.dir().join("proxy.port"));
    let read = || {
        fs::read_to_string(&file)
            .ok()
            .and_then(|text| text.trim().parse().ok())
    };
    if Process::recorded(&dir.join("proxy.pid"))?.is_none() {
        // the port of an earlier start keeps the kubeconfig valid
        let port: u16 = read().unwrap_or(spec.port);
        let _ = fs::remove_file(&file);
        let mut command = cgroups::joined(lab, Place::Outside);
        command
            .arg("setsid")
            .arg(workspace::xtask())
            .arg("lab-proxy");
        command.arg(format!("/run/netns/{}", lab.netns(Place::Node(1))));
        command
            .args([format!("127.0.0.1:{API_PORT}"), port.to_string()])
            .arg(&file);
        background(&mut command, &dir, "proxy")?;
    }
    progress::wait("the API proxy starts", STEP, || Ok(file.exists()))?;
    read().context("the proxy wrote no port")
}

/// Starts a process that outlives this one and records it.
fn background(command: &mut std::process::Command, dir: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(dir)?;
    let log = fs::File::create(dir.join(format!("{name}.log")))?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command.spawn().with_context(|| name.to_owned())?;
    let process =
        Process::of(child.id() as i32).with_context(|| format!("{name} ended at once"))?;
    process.record(&dir.join(format!("{name}.pid")))
}

// === windlass ===

fn server(lab: &Lab, spec: &Spec, port: u16, progress: &Progress) -> Result<()> {
    if lab.unit(1, "windlass").is_err() {
        unit(lab, 1, server_argv(lab, spec))?;
        progress.mark("server started");
    }
    let data = inside(lab, 1, node::STORE)?;
    let netns = PathBuf::from(format!("/run/netns/{}", lab.netns(Place::Node(1))));
    let to = SocketAddr::from(([127, 0, 0, 1], API_PORT));
    let (token, admin) = (data.join("join-token"), data.join("admin.kubeconfig"));
    progress::wait("the API server is ready", STEP, || {
        Ok(ready::is_ready(&netns, to, &data))
    })
    .with_context(|| tail(&lab.log(1, "windlass")))?;
    progress.mark("API server is ready");
    fs::write(
        lab.kubeconfig(),
        redirect(&fs::read_to_string(admin)?, port),
    )?;
    let token = fs::read_to_string(token)?;
    for n in nodes().skip(1) {
        if lab.unit(n, "windlass").is_err() {
            unit(lab, n, agent_argv(lab, n, token.trim()))?;
        }
    }
    progress.mark("agents started");
    Ok(())
}

fn unit(lab: &Lab, n: u8, argv: Vec<String>) -> Result<()> {
    let dir = lab.place_dir(Place::Node(n));
    node::write_unit(&dir, "windlass", &argv, &[])?;
    node::tell(&dir, "start windlass")
}

fn server_argv(lab: &Lab, spec: &Spec) -> Vec<String> {
    let mut argv = vec![binary(lab).display().to_string(), "server".to_owned()];
    let ip = node_ip(1).to_string();
    argv.extend(["--advertise-address", &ip, "--tls-san", "127.0.0.1"].map(str::to_owned));
    if spec.ipv6 {
        argv.extend(["--cluster-cidr", "10.244.0.0/16,fd10:244::/48"].map(str::to_owned));
        argv.extend(["--service-cidr", "10.96.0.0/16,fd10:96::/112"].map(str::to_owned));
    }
    argv.extend(spec.server_args.iter().cloned());
    argv.extend(node_flags(1, spec.ipv6));
    argv
}

fn agent_argv(lab: &Lab, n: u8, token: &str) -> Vec<String> {
    let server = format!("https://{}:{API_PORT}", node_ip(1));
    let mut argv = vec![binary(lab).display().to_string()];
    argv.extend(["agent", "--server", &server, "--token", token].map(str::to_owned));
    argv.extend(node_flags(n, true));
    argv
}

/// Differences of a simulated node from a machine's defaults: only its name and addresses.
fn node_flags(n: u8, ipv6: bool) -> Vec<String> {
    let ips = match ipv6 {
        true => format!("{},{}", node_ip(n), node_ip6(n)),
        false => node_ip(n).to_string(),
    };
    [
        "--node-name",
        &Place::Node(n).to_string(),
        "--node-ip",
        &ips,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A path of a node's root file system, as this machine reaches it.
fn inside(lab: &Lab, n: u8, path: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(format!(
        "/proc/{}/root{path}",
        lab.init(n)?.pid()
    )))
}

/// The same kubeconfig, pointing at the proxy.
fn redirect(kubeconfig: &str, port: u16) -> String {
    let Some(start) = kubeconfig.find("https://") else {
        return kubeconfig.to_owned();
    };
    let rest = &kubeconfig[start..];
    let end = rest
        .find(|c: char| c.is_whitespace() || c == '"' || c == '\'')
        .unwrap_or(rest.len());
    format!(
        "{}https://127.0.0.1:{port}{}",
        &kubeconfig[..start],
        &rest[end..]
    )
}

/// Waits until every node is Ready, by one watch instead of many requests.
fn wait_ready(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + READY;
    let mut last = Vec::new();
    while Instant::now() < deadline {
        if watch_ready(lab, deadline, &mut last)? {
            return Ok(());
        }
        // the watch ended (a restarting server): begin again
        thread::sleep(Duration::from_millis(100));
    }
    let logs: Vec<String> = nodes().map(|n| tail(&lab.log(n, "windlass"))).collect();
    bail!(
        "nodes are not Ready after {} s: {last:?}\n{}",
        READY.as_secs(),
        logs.join("\n")
    );
}

fn watch_ready(lab: &Lab, deadline: Instant, last: &mut Vec<String>) -> Result<bool> {
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
        all = nodes().all(|n| ready.get(&Place::Node(n).to_string()) == Some(&true));
    }
    let _ = child.kill();
    let _ = child.wait();
    drop(lines);
    let _ = reader.join();
    Ok(all)
}

/// The end of a log, for an error message.
fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(15);
    format!("--- {} ---\n{}", path.display(), lines[from..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_points_at_the_proxy_in_yaml_and_json() {
        let yaml = redirect("  server: https://10.90.0.11:6443\n  x: y\n", 7);
        assert_eq!(yaml, "  server: https://127.0.0.1:7\n  x: y\n");
        let json = redirect(r#"{"server":"https://[fd90::11]:6443"}"#, 7);
        assert_eq!(json, r#"{"server":"https://127.0.0.1:7"}"#);
    }
}
