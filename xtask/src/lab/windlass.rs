//! The halves of a cluster that are ours: `windlass server` on node 1, `windlass agent` on the
//! others, as a machine would run them. Knows their flags and files, nothing of namespaces.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{API_PORT, Lab, Place, STEP, Spec, node, node_ip, node_ip6, ready, readyz, up};
use crate::progress::{self, Progress};

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

/// Starts the server and, when it answers, the agents of the other nodes.
pub fn server(lab: &Lab, spec: &Spec, port: u16, progress: &Progress) -> Result<()> {
    if lab.unit(1, "windlass").is_err() {
        unit(lab, 1, server_argv(lab, spec))?;
        progress.mark("server started");
    }
    let data = inside(lab, 1, node::STORE)?;
    let netns = PathBuf::from(format!("/run/netns/{}", lab.netns(Place::Node(1))));
    let to = SocketAddr::from(([127, 0, 0, 1], API_PORT));
    let (token, admin) = (data.join("join-token"), data.join("admin.kubeconfig"));
    progress::wait("the API server is ready", STEP, || {
        Ok(readyz::is_ready(&netns, to, &data))
    })
    .with_context(|| ready::tail(&lab.log(1, "windlass")))?;
    progress.mark("API server is ready");
    fs::write(
        lab.kubeconfig(),
        redirect(&fs::read_to_string(admin)?, port),
    )?;
    let token = fs::read_to_string(token)?;
    for n in lab.nodes().skip(1) {
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
