//! Whether the node takes a new pod (upstream: `pkg/kubelet/lifecycle/predicate.go`, `pkg/kubelet/sysctl`).
//! The scheduler has asked before; this is for pods that name their node themselves, and for what
//! happened since. A pod that is refused is Failed, with upstream's reasons. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::plan::Waiting;
use super::resources;
use super::spec;

/// Sysctls a pod may set: those of its own namespaces that cannot harm others
/// (upstream: `safe_sysctls.go`).
const SAFE_SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

/// What the node has.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Milli-CPUs and bytes for pods.
    pub allocatable: (i64, i64),
    pub pods: u32,
}

/// Refuses the pod for a reason, or takes it; `others` are the pods that were taken and have not ended.
pub fn admit(pod: &Pod, others: &[&Pod], capacity: Capacity) -> Result<(), Waiting> {
    sysctls(pod)?;
    room(pod, others, capacity)?;
    ports(pod, others)
}

fn refuse(reason: &str, message: String) -> Waiting {
    Waiting {
        reason: reason.to_owned(),
        message: format!("Pod was rejected: {message}"),
    }
}

fn sysctls(pod: &Pod) -> Result<(), Waiting> {
    let context = spec::spec(pod).security_context.as_ref();
    for sysctl in context
        .and_then(|c| c.sysctls.as_ref())
        .into_iter()
        .flatten()
    {
        // Both notations are in use: dots and slashes.
        let name = sysctl.name.replace('/', ".");
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            let message = format!("forbidden sysctl: {name:?} not allowlisted");
            return Err(refuse("SysctlForbidden", message));
        }
        if spec::host_network(pod) && name.starts_with("net.") {
            let message = format!("forbidden sysctl: {name:?} not allowed with host net enabled");
            return Err(refuse("SysctlForbidden", message));
        }
    }
    Ok(())
}

fn room(pod: &Pod, others: &[&Pod], capacity: Capacity) -> Result<(), Waiting> {
    let used = others
        .iter()
        .map(|other| resources::requests_of_pod(other))
        .fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1));
    let count = |pods: usize| i64::try_from(pods).unwrap_or(i64::MAX);
    let wanted = resources::requests_of_pod(pod);
    let has = capacity.allocatable;
    for (name, wanted, used, has) in [
        ("pods", 1, count(others.len()), i64::from(capacity.pods)),
        ("cpu", wanted.0, used.0, has.0),
        ("memory", wanted.1, used.1, has.1),
    ] {
        if wanted > 0 && wanted.saturating_add(used) > has {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {has}"
            );
            return Err(refuse(&format!("OutOf{name}"), message));
        }
    }
    Ok(())
}

fn ports(pod: &Pod, others: &[&Pod]) -> Result<(), Waiting> {
    let wanted = host_ports(pod);
    let taken: Vec<_> = others.iter().flat_map(|other| host_ports(other)).collect();
    let overlap = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() || b.is_unspecified();
    let conflict = wanted.iter().any(|(ip, protocol, port)| {
        let mut taken = taken.iter();
        taken.any(|(at, of, number)| of == protocol && number == port && overlap(*at, *ip))
    });
    if conflict {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Err(refuse("NodePorts", message.to_owned()));
    }
    Ok(())
}

fn host_ports(pod: &Pod) -> Vec<(IpAddr, String, i32)> {
    let any = IpAddr::from([0, 0, 0, 0]);
    let containers = spec::containers(pod);
    let ports = containers
        .iter()
        .flat_map(|(_, container)| container.ports.iter().flatten());
    let on_host = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number != 0)?;
        let ip = port.host_ip.as_ref().and_then(|ip| ip.parse().ok());
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some((ip.unwrap_or(any), protocol, number))
    });
    on_host.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CAPACITY: Capacity = Capacity {
        allocatable: (1000, 1 << 30),
        pods: 2,
    };

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "spec": spec })).unwrap()
    }

    fn with_cpu(cpu: &str) -> Pod {
        pod(json!({ "containers": [{ "name": "c",
            "resources": { "requests": { "cpu": cpu } } }] }))
    }

    fn with_port(ip: &str, protocol: &str) -> Pod {
        pod(json!({ "containers": [{ "name": "c", "ports": [
            { "containerPort": 80, "hostPort": 8080, "hostIP": ip, "protocol": protocol }] }] }))
    }

    fn reason(pod: &Pod, others: &[&Pod]) -> String {
        admit(pod, others, CAPACITY).map_or_else(|why| why.reason, |()| "admitted".to_owned())
    }

    #[test]
    fn a_pod_needs_room_beside_the_others() {
        let half = with_cpu("500m");
        assert_eq!(reason(&half, &[]), "admitted");
        assert_eq!(reason(&half, &[&half]), "admitted");
        assert_eq!(reason(&with_cpu("501m"), &[&half]), "OutOfcpu");
        let small = pod(json!({ "containers": [] }));
        assert_eq!(reason(&small, &[&small, &small]), "OutOfpods");
        // A node that is overcommitted still takes what asks for nothing.
        assert_eq!(reason(&small, &[&with_cpu("2")]), "admitted");
    }

    #[test]
    fn host_ports_conflict_by_address_and_protocol() {
        let all = with_port("", "TCP");
        assert_eq!(reason(&all, &[&with_port("127.0.0.1", "TCP")]), "NodePorts");
        assert_eq!(reason(&with_port("10.0.0.1", "TCP"), &[&all]), "NodePorts");
        let one = with_port("10.0.0.1", "TCP");
        assert_eq!(reason(&one, &[&with_port("10.0.0.2", "TCP")]), "admitted");
        assert_eq!(reason(&one, &[&with_port("10.0.0.1", "UDP")]), "admitted");
    }

    #[test]
    fn only_sysctls_of_the_pod_itself_are_taken() {
        let with = |name: &str, host: bool| {
            pod(json!({ "containers": [], "hostNetwork": host,
                "securityContext": { "sysctls": [{ "name": name, "value": "1" }] } }))
        };
        assert_eq!(
            reason(&with("kernel.shm_rmid_forced", false), &[]),
            "admitted"
        );
        assert_eq!(reason(&with("net/ipv4/tcp_rmem", false), &[]), "admitted");
        assert_eq!(
            reason(&with("kernel.msgmax", false), &[]),
            "SysctlForbidden"
        );
        assert_eq!(
            reason(&with("net.ipv4.tcp_rmem", true), &[]),
            "SysctlForbidden"
        );
    }
}
