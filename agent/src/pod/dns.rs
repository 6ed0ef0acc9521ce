//! What a pod finds in its /etc/resolv.conf (upstream: `pkg/kubelet/network/dns/dns.go`). Pure; the
//! node's own resolv.conf is handed in as text.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::spec;
use crate::cri::messages::DnsConfig;

/// Limits of the API: name servers, search domains, characters of all of them.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const CLUSTER_OPTIONS: &str = "ndots:5";

/// The cluster's DNS as pods are told about it.
#[derive(Debug, Clone)]
pub struct Cluster<'a> {
    pub servers: &'a [IpAddr],
    pub domain: &'a str,
    /// The node's resolv.conf.
    pub host: &'a str,
}

pub fn config(pod: &Pod, cluster: &Cluster<'_>) -> DnsConfig {
    let spec = spec::spec(pod);
    let host_network = spec::host_network(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let wants_cluster =
        policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !host_network);
    let host = parse(cluster.host);
    let mut config = if policy == "None" {
        DnsConfig::default()
    } else if wants_cluster && !cluster.servers.is_empty() {
        let (ns, domain) = (spec::namespace(pod), cluster.domain);
        let mut searches = vec![
            format!("{ns}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.to_owned(),
        ];
        searches.extend(host.searches);
        DnsConfig {
            servers: cluster.servers.iter().map(ToString::to_string).collect(),
            searches,
            options: vec![CLUSTER_OPTIONS.to_owned()],
        }
    } else {
        host
    };
    if let Some(own) = &spec.dns_config {
        config
            .servers
            .extend(own.nameservers.iter().flatten().cloned());
        config
            .searches
            .extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config
                .options
                .retain(|have| have.split(':').next() != Some(name));
            config.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    bounded(config)
}

fn bounded(mut config: DnsConfig) -> DnsConfig {
    let mut seen = std::collections::BTreeSet::new();
    config.servers.retain(|server| seen.insert(server.clone()));
    config.servers.truncate(MAX_SERVERS);
    seen.clear();
    let mut chars = 0;
    config.searches.retain(|search| {
        chars += search.len() + 1;
        seen.insert(search.clone()) && chars <= MAX_SEARCH_CHARS + 1
    });
    config.searches.truncate(MAX_SEARCHES);
    config
}

/// A resolv.conf; the last `search` and `options` lines count.
pub fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(ToOwned::to_owned)),
            Some("search") => {
                let trimmed = |word: &str| match word.trim_end_matches('.') {
                    "" => ".".to_owned(),
                    name => name.to_owned(),
                };
                config.searches = words.map(trimmed).collect();
            }
            Some("options") => config.options = words.map(ToOwned::to_owned).collect(),
            Some(_) | None => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config_of(spec: serde_json::Value) -> DnsConfig {
        let pod: Pod = serde_json::from_value(
            json!({ "metadata": { "name": "p", "namespace": "ns" }, "spec": spec }),
        )
        .unwrap();
        let servers = ["10.96.0.10".parse().unwrap()];
        let host = "nameserver 192.0.2.1\nsearch example.org.\noptions edns0\n";
        config(
            &pod,
            &Cluster {
                servers: &servers,
                domain: "cluster.local",
                host,
            },
        )
    }

    #[test]
    fn cluster_first_searches_the_namespace_then_the_cluster_then_the_hosts_domains() {
        let config = config_of(json!({ "containers": [] }));
        assert_eq!(config.servers, ["10.96.0.10"]);
        let expected = [
            "ns.svc.cluster.local",
            "svc.cluster.local",
            "cluster.local",
            "example.org",
        ];
        assert_eq!(config.searches, expected);
        assert_eq!(config.options, ["ndots:5"]);
    }

    #[test]
    fn host_network_pods_use_the_hosts_servers_unless_they_ask() {
        let host = config_of(json!({ "containers": [], "hostNetwork": true }));
        assert_eq!(
            (host.servers, host.options),
            (vec!["192.0.2.1".to_owned()], vec!["edns0".to_owned()])
        );
        let asked = json!({ "containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet" });
        assert_eq!(config_of(asked).servers, ["10.96.0.10"]);
    }

    #[test]
    fn the_pods_own_configuration_is_merged_and_its_options_win() {
        let config = config_of(json!({ "containers": [], "dnsConfig": {
            "nameservers": ["192.0.2.7"], "options": [{ "name": "ndots", "value": "2" }] } }));
        assert_eq!(config.servers, ["10.96.0.10", "192.0.2.7"]);
        assert_eq!(config.options, ["ndots:2"]);
        let none = config_of(json!({ "containers": [], "dnsPolicy": "None",
            "dnsConfig": { "nameservers": ["192.0.2.7"] } }));
        assert_eq!(none.servers, ["192.0.2.7"]);
        assert!(none.searches.is_empty());
    }
}
