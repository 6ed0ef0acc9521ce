//! The runtime's configuration of a pod's sandbox, and the files beside it. Pure but for none: every
//! function returns text or messages (upstream: `kuberuntime_sandbox.go`, `kubelet_pods.go`).

use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use super::dns;
use super::observed::{POD_NAME, POD_NAMESPACE, POD_UID};
use super::security;
use super::spec;
use crate::cri::messages as m;

/// Longest host name Linux accepts.
const MAX_HOSTNAME: usize = 63;

/// What the configuration needs from the node.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    pub name: &'a str,
    pub log_dir: &'a Path,
    pub cgroup_parent: String,
    pub dns: dns::Cluster<'a>,
}

pub fn config(pod: &Pod, node: &Node<'_>, attempt: u32) -> m::PodSandboxConfig {
    let metadata = m::PodSandboxMetadata {
        name: spec::name(pod).to_owned(),
        uid: spec::uid(pod).to_owned(),
        namespace: spec::namespace(pod).to_owned(),
        attempt,
    };
    let host_network = spec::host_network(pod);
    let sysctls = spec::spec(pod)
        .security_context
        .as_ref()
        .and_then(|s| s.sysctls.as_ref());
    m::PodSandboxConfig {
        metadata: Some(metadata),
        hostname: if host_network {
            String::new()
        } else {
            hostname(pod, node.dns.domain).0
        },
        log_directory: log_directory(node.log_dir, pod),
        dns_config: Some(dns::config(pod, &node.dns)),
        port_mappings: if host_network {
            Vec::new()
        } else {
            port_mappings(pod)
        },
        labels: labels(pod),
        annotations: annotations(pod),
        linux: Some(m::LinuxPodSandboxConfig {
            cgroup_parent: node.cgroup_parent.clone(),
            security_context: Some(security::of_sandbox(pod)),
            sysctls: sysctls
                .into_iter()
                .flatten()
                .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
                .collect(),
            resources: None,
        }),
    }
}

pub fn labels(pod: &Pod) -> HashMap<String, String> {
    let own = pod.metadata.labels.iter().flatten();
    let mut labels: HashMap<String, String> = own
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert(POD_NAME.to_owned(), spec::name(pod).to_owned());
    labels.insert(POD_NAMESPACE.to_owned(), spec::namespace(pod).to_owned());
    labels.insert(POD_UID.to_owned(), spec::uid(pod).to_owned());
    labels
}

fn annotations(pod: &Pod) -> HashMap<String, String> {
    let own = pod.metadata.annotations.iter().flatten();
    own.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// `LOGS/NAMESPACE_NAME_UID`, the layout log collectors expect.
pub fn log_directory(base: &Path, pod: &Pod) -> String {
    let name = format!(
        "{}_{}_{}",
        spec::namespace(pod),
        spec::name(pod),
        spec::uid(pod)
    );
    base.join(name).display().to_string()
}

/// Host name, and the domain when the pod has a subdomain.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = spec::spec(pod);
    if let Some(name) = &spec.hostname_override {
        return (name.clone(), None);
    }
    let name = spec
        .hostname
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(spec::name(pod));
    let cut = &name[..name.len().min(MAX_HOSTNAME)];
    let host = cut.trim_end_matches(['-', '.']).to_owned();
    let domain = spec
        .subdomain
        .as_ref()
        .filter(|s| !s.is_empty())
        .map(|sub| format!("{sub}.{}.svc.{cluster_domain}", spec::namespace(pod)));
    match (&domain, spec.set_hostname_as_fqdn) {
        (Some(domain), Some(true)) => (format!("{host}.{domain}"), Some(domain.clone())),
        _ => (host, domain),
    }
}

fn port_mappings(pod: &Pod) -> Vec<m::PortMapping> {
    let all = spec::containers(pod);
    let ports = all.iter().flat_map(|(_, c)| c.ports.iter().flatten());
    ports
        .filter(|port| port.host_port.is_some_and(|p| p != 0))
        .map(|port| m::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => m::Protocol::Udp,
                Some("SCTP") => m::Protocol::Sctp,
                Some(_) | None => m::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or_default(),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// The pod's /etc/hosts: of its own for pod networks, the node's plus aliases for host networks.
pub fn hosts_file(pod: &Pod, ips: &[IpAddr], cluster_domain: &str, host_file: &str) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail; results are ignored for that reason.
    if spec::host_network(pod) {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(host_file);
    } else {
        text.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost \
             ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        let (host, domain) = hostname(pod, cluster_domain);
        let short = host.split('.').next().unwrap_or(&host);
        for ip in ips {
            let _ = match &domain {
                Some(domain) => writeln!(text, "{ip}\t{short}.{domain}\t{short}"),
                None => writeln!(text, "{ip}\t{host}"),
            };
        }
    }
    if let Some(aliases) = spec::spec(pod)
        .host_aliases
        .as_ref()
        .filter(|list| !list.is_empty())
    {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            let _ = writeln!(text, "{}\t{names}", alias.ip);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({ "metadata": { "name": "web-0", "namespace": "ns", "uid": "u1" }, "spec": spec }),
        )
        .unwrap()
    }

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let pod = pod(
            json!({ "containers": [], "hostname": "db", "subdomain": "sub",
            "hostAliases": [{ "ip": "192.0.2.1", "hostnames": ["a", "b"] }] }),
        );
        let text = hosts_file(&pod, &["10.0.0.9".parse().unwrap()], "cluster.local", "");
        assert!(
            text.contains("10.0.0.9\tdb.sub.ns.svc.cluster.local\tdb\n"),
            "{text}"
        );
        assert!(text.ends_with("192.0.2.1\ta\tb\n"), "{text}");
    }

    #[test]
    fn the_host_name_is_cut_to_what_linux_takes() {
        let mut long = pod(json!({ "containers": [] }));
        long.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b".repeat(9)));
        assert_eq!(hostname(&long, "cluster.local").0, "a".repeat(62));
    }

    #[test]
    fn only_host_ports_are_mapped() {
        let pod = pod(json!({ "containers": [{ "name": "c", "ports": [
            { "containerPort": 80 }, { "containerPort": 53, "hostPort": 5353, "protocol": "UDP" }] }] }));
        let mapped = port_mappings(&pod);
        assert_eq!(mapped.len(), 1);
        assert_eq!(
            (mapped[0].host_port, mapped[0].protocol),
            (5353, m::Protocol::Udp as i32)
        );
    }
}
