//! Brings a lab up, from whatever state it is in: each step looks whether it is already done.
//! Order: namespaces → node inits and containerd → images and control plane at the same time → nodes →
//! all nodes `Ready`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, bail};

use super::process::Process;
use super::{
    API_PORT, Half, Lab, NODES_FILE, OUTSIDE, Place, REGISTRY_PORT, STEP, Spec, cgroups,
    containerd, links, node, node_ip, node_ip6, ready, upstream, windlass,
};
use crate::progress::{self, Progress};
use crate::workspace;

pub fn up(lab: &Lab, spec: &Spec, progress: &Progress) -> Result<()> {
    namespaces(lab, progress)?;
    install(lab, spec, progress)?;
    for n in lab.nodes() {
        start_node(lab, n, spec)?;
    }
    outside(lab, spec)?;
    let port = start_proxy(lab, spec)?;
    progress.mark(format!("nodes started, API proxy on 127.0.0.1:{port}"));
    // images take the disk, the server takes a moment to answer: at the same time
    thread::scope(|scope| -> Result<()> {
        let imports: Vec<_> = lab
            .nodes()
            .map(|n| scope.spawn(move || start_containerd(lab, n, spec)))
            .collect();
        let cluster = (!spec.without_windlass).then(|| cluster(lab, spec, port, progress));
        for import in imports {
            import.join().expect("an import returns its error")?;
        }
        progress.mark("containerd runs, images imported");
        cluster.unwrap_or(Ok(()))
    })?;
    if spec.without_windlass {
        return Ok(());
    }
    ready::wait(lab)?;
    progress.mark(format!("{} nodes Ready", lab.nodes));
    routes(lab, spec)?;
    if spec.node == Half::Upstream {
        upstream::dns(lab)?;
        progress.mark("CoreDNS answers");
    }
    Ok(())
}

/// Starts the control plane, then the nodes, whosever they are.
fn cluster(lab: &Lab, spec: &Spec, port: u16, progress: &Progress) -> Result<()> {
    match spec.control_plane {
        Half::Windlass => windlass::control_plane(lab, spec, port, progress)?,
        Half::Upstream => upstream::control_plane(lab, port, progress)?,
    }
    match spec.node {
        Half::Windlass => windlass::agents(lab, spec)?,
        Half::Upstream => {
            for n in lab.nodes() {
                upstream::node(lab, n, spec)?;
            }
        }
    }
    progress.mark("nodes' agents started");
    Ok(())
}

/// Routes to pods: those the [`Spec`] asks for, and those that upstream's nodes leave to whoever
/// runs the network.
fn routes(lab: &Lab, spec: &Spec) -> Result<()> {
    let theirs = spec.node == Half::Upstream;
    if !spec.routes_to_pods && !theirs {
        return Ok(());
    }
    let ranges = pod_ranges(lab)?;
    links::routes(lab, Place::Switch, &ranges)?;
    for own in lab.nodes().filter(|_| theirs) {
        let others: Vec<_> = ranges.iter().filter(|(n, _)| *n != own).cloned().collect();
        links::routes(lab, Place::Node(own), &others)?;
    }
    Ok(())
}

/// Every node's pod ranges, as its Node object has them.
fn pod_ranges(lab: &Lab) -> Result<Vec<(u8, String)>> {
    let mut ranges = Vec::new();
    for n in lab.nodes() {
        let node = lab.get(&["node", &Place::Node(n).to_string()])?;
        let own = node["spec"]["podCIDRs"].as_array();
        let own = own.with_context(|| format!("node{n} has no pod range"))?;
        let own = own.iter().filter_map(|range| range.as_str());
        ranges.extend(own.map(|range| (n, range.to_owned())));
    }
    Ok(ranges)
}

fn namespaces(lab: &Lab, progress: &Progress) -> Result<()> {
    let wanted: BTreeSet<String> = links::places(lab).map(|place| lab.netns(place)).collect();
    let possible = links::possible().map(|place| lab.netns(place));
    let named = links::named(&lab.object(""));
    let there: BTreeSet<String> = possible.filter(|name| named.contains(name)).collect();
    if there != wanted {
        if !there.is_empty() {
            lab.down()
                .context("half a lab was left by an earlier run")?;
        }
        links::create(lab)?;
        progress.mark("network namespaces");
    }
    fs::create_dir_all(lab.dir()).with_context(|| lab.dir().display().to_string())?;
    fs::write(lab.dir().join(NODES_FILE), lab.nodes.to_string())?;
    for place in links::places(lab).filter(|place| *place != Place::Switch) {
        cgroups::create(lab, place)?;
    }
    Ok(())
}

/// Puts the programs where every node sees them.
fn install(lab: &Lab, spec: &Spec, progress: &Progress) -> Result<()> {
    fs::create_dir_all(lab.programs())?;
    if let Some(toolbox) = &spec.toolbox {
        replace(toolbox, &lab.programs().join("toolbox"))?;
    }
    containerd::install(lab, spec)?;
    if spec.without_windlass {
        return Ok(());
    }
    upstream::install(lab, spec, progress)?;
    if spec.control_plane == Half::Windlass || spec.node == Half::Windlass {
        windlass::install(lab, spec, progress)?;
    }
    Ok(())
}

/// Copies a program by rename, unless it is there already.
pub fn replace(from: &Path, to: &Path) -> Result<bool> {
    if same(from, to) {
        return Ok(false);
    }
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary).with_context(|| from.display().to_string())?;
    fs::rename(&temporary, to)?;
    Ok(true)
}

/// Puts a large program, which does not change while it lies there, in a directory: by a hard
/// link, or by a copy from another file system.
pub fn link(program: &Path, dir: &Path) -> Result<()> {
    let to = dir.join(program.file_name().context("a program has a name")?);
    let meta = |path: &Path| fs::metadata(path).map(|m| (m.len(), m.modified().ok()));
    if meta(&to).ok() == meta(program).ok() {
        return Ok(());
    }
    let temporary = to.with_extension("new");
    let _ = fs::remove_file(&temporary);
    if fs::hard_link(program, &temporary).is_err() {
        fs::copy(program, &temporary).with_context(|| program.display().to_string())?;
    }
    fs::rename(&temporary, &to)?;
    Ok(())
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
        kubelet: spec.node == Half::Upstream,
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

/// The upstream name server, the web server and the image registry of the outside world.
fn outside(lab: &Lab, spec: &Spec) -> Result<()> {
    if spec.toolbox.is_none() {
        return Ok(());
    }
    let dir = lab.place_dir(Place::Outside);
    let start = |name: &str, argv: &[&str]| -> Result<()> {
        if Process::recorded(&dir.join(format!("{name}.pid")))?.is_some() {
            return Ok(());
        }
        background(&mut lab.exec(Place::Outside, argv)?, &dir, name)
    };
    let own = OUTSIDE.to_string();
    start("toolbox", &["setsid", "toolbox", "outside", &own])?;
    if let Some(layout) = &spec.registry {
        let at = format!("{OUTSIDE}:{REGISTRY_PORT}");
        let layout = layout.display().to_string();
        let argv = ["setsid", "toolbox", "registry", &at, &layout];
        start("registry", &argv)?;
    }
    Ok(())
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
