//! The halves of a cluster that are ours: `windlass server` on node 1, `windlass agent` on the
//! others, as a machine would run them. Knows their flags and files, nothing of namespaces.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{
    API_PORT, Half, Lab, Place, STEP, Spec, credentials, node, node_ip, node_ip6, ready, readyz, up,
};
use crate::progress::{self, Progress};
use crate::workspace;

/// Puts the binary where every node sees it. A changed one replaces the old by rename, and the
/// units are killed: the upgrade of a machine.
pub fn install(lab: &Lab, spec: &Spec, progress: &Progress) -> Result<()> {
    let upgrade = binary(lab).exists();
    let replaced = up::replace(&spec.windlass, &binary(lab)).with_context(|| {
        format!(
            "{}: build it with `cargo xtask build`",
            spec.windlass.display()
        )
    })?;
    if replaced && upgrade {
        for n in lab.nodes().filter(|n| lab.unit(*n, "windlass").is_ok()) {
            lab.kill_unit(n, "windlass")?;
        }
        progress.mark("new binary installed, windlass restarted on every node");
    }
    Ok(())
}

fn binary(lab: &Lab) -> PathBuf {
    lab.programs().join("windlass")
}

/// Starts the server, with node 1's agent in it if the nodes are ours; returns when it is ready.
pub fn control_plane(lab: &Lab, spec: &Spec, port: u16, progress: &Progress) -> Result<()> {
    if lab.unit(1, "windlass").is_err() {
        unit(lab, 1, server_argv(lab, spec))?;
        progress.mark("server started");
    }
    let data = inside(lab, 1, node::STORE)?;
    let netns = PathBuf::from(format!("/run/netns/{}", lab.netns(Place::Node(1))));
    let to = SocketAddr::from(([127, 0, 0, 1], API_PORT));
    let (token, admin) = (data.join("join-token"), data.join("admin.kubeconfig"));
    let ca = data.join("pki/ca.crt");
    progress::wait("the API server is ready", STEP, || {
        Ok(readyz::is_ready(&netns, to, &ca) && admin.exists())
    })
    .with_context(|| ready::tail(&lab.log(1, "windlass")))?;
    progress.mark("API server is ready");
    credentials::write_admin(lab, &fs::read_to_string(admin)?, port)?;
    fs::copy(ca, credentials::ca(lab)?)?;
    // ID.SECRET:CAHASH; others than us know the first two
    let token = fs::read_to_string(token)?;
    let bearer = token.split(':').next().unwrap_or_default();
    credentials::write_bootstrap(lab, bearer)
}

/// Starts the agents that are not part of a server.
pub fn agents(lab: &Lab, spec: &Spec) -> Result<()> {
    let join = match spec.control_plane {
        Half::Windlass => {
            let token = fs::read_to_string(inside(lab, 1, node::STORE)?.join("join-token"))?;
            let token = token.trim().to_owned();
            [
                "--server".to_owned(),
                credentials::url(),
                "--token".to_owned(),
                token,
            ]
            .to_vec()
        }
        Half::Upstream => stock(lab)?,
    };
    let in_server = usize::from(spec.control_plane == Half::Windlass);
    for n in lab.nodes().skip(in_server) {
        if lab.unit(n, "windlass").is_err() {
            unit(lab, n, agent_argv(lab, spec, n, &join))?;
        }
    }
    Ok(())
}

/// How an agent joins a Kubernetes that is not ours, as docs/stock-kubernetes.md says.
fn stock(lab: &Lab) -> Result<Vec<String>> {
    let file = workspace::root().join("docs/stock-kubernetes.yaml");
    let manifest = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    lab.apply(&manifest)?;
    let net = credentials::of_service_account(lab, "windlass-net")?;
    let bootstrap = credentials::bootstrap(lab)?.display().to_string();
    let net = net.display().to_string();
    Ok(["--kubeconfig", &bootstrap, "--net-kubeconfig", &net]
        .map(str::to_owned)
        .to_vec())
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
    argv.extend(ranges(spec));
    if spec.node == Half::Upstream {
        argv.push("--disable-agent".to_owned());
    }
    argv.extend(spec.server_args.iter().cloned());
    argv.extend(node_flags(1, spec.ipv6));
    argv
}

/// Both families' ranges, which server and agents are told; one family's are the default.
fn ranges(spec: &Spec) -> Vec<String> {
    let both = [
        ("--cluster-cidr", "10.244.0.0/16,fd10:244::/48"),
        ("--service-cidr", "10.96.0.0/16,fd10:96::/112"),
    ];
    let both = both.iter().filter(|_| spec.ipv6);
    both.flat_map(|(flag, value)| [flag, value].map(|word| (*word).to_owned()))
        .collect()
}

fn agent_argv(lab: &Lab, spec: &Spec, n: u8, join: &[String]) -> Vec<String> {
    let mut argv = vec![binary(lab).display().to_string(), "agent".to_owned()];
    argv.extend_from_slice(join);
    argv.extend(ranges(spec));
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
