//! hostPorts of the local pods: each pod with some is planned as a Service of its own whose frontends
//! are the node's ports and whose backends are the pod's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use super::{Core, Phase};
use crate::net::plan::backend::{Backends, Target};
use crate::net::plan::service::{Frontend, PortId, PortProgram, Program};
use crate::state::{ContainerPort, ObjectKey, Pod};

/// Marks the name of a pod that is planned as a Service; no Service has a colon in its name.
const HOST_PORTS: &str = ":hostport";

impl Core {
    /// Makes the frontends show the hostPorts of the pods that have an open endpoint.
    pub(super) fn plan_host_ports(&mut self, now: Instant) {
        let mut wanted: BTreeMap<ObjectKey, Program> = BTreeMap::new();
        for attachment in self.attachments.values() {
            let key = attachment.sandbox.pod_key();
            let Some(pod) = self.state.pods.get(&key).filter(|p| !p.terminal) else {
                continue;
            };
            if matches!(attachment.phase, Phase::Reserved) {
                continue;
            }
            let program = program(pod, &attachment.sandbox.addresses, &self.node_name);
            if !program.ports.is_empty() {
                wanted.insert(service_key(&key), program);
            }
        }
        let gone: Vec<ObjectKey> = self
            .host_ports
            .keys()
            .filter(|k| !wanted.contains_key(k))
            .cloned()
            .collect();
        let removed = gone.into_iter().map(|key| (key, Program::default()));
        for (key, program) in removed.chain(wanted) {
            if self.host_ports.get(&key) == Some(&program) {
                continue;
            }
            let nodes = &self.node_program.nodes;
            let (steps, refused) = self
                .services
                .plan(&key, &program, nodes, self.writer.tables());
            self.writer.apply(&steps, now);
            self.note_refused(&key, refused);
            if program.ports.is_empty() {
                self.host_ports.remove(&key);
            } else {
                self.host_ports.insert(key, program);
            }
        }
    }
}

fn service_key(pod: &ObjectKey) -> ObjectKey {
    ObjectKey {
        namespace: pod.namespace.clone(),
        name: format!("{}{HOST_PORTS}", pod.name).into(),
    }
}

/// The pod whose hostPorts are planned under this name.
pub(super) fn pod_of(key: &ObjectKey) -> Option<ObjectKey> {
    let name = key.name.strip_suffix(HOST_PORTS)?;
    Some(ObjectKey::new(&key.namespace, name))
}

fn program(pod: &Pod, addresses: &[IpAddr], node: &str) -> Program {
    let mut ports = Vec::new();
    for port in &pod.ports {
        for address in addresses {
            ports.extend(port_program(&pod.key, port, *address, node));
        }
    }
    Program {
        ports,
        markers: BTreeSet::new(),
    }
}

fn port_program(
    pod: &ObjectKey,
    port: &ContainerPort,
    address: IpAddr,
    node: &str,
) -> Option<PortProgram> {
    let host_port = port.host_port?;
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let at = port
        .host_ip
        .filter(|ip| !ip.is_unspecified())
        .unwrap_or(any);
    if at.is_ipv4() != address.is_ipv4() {
        return None;
    }
    let frontend = |scope| Frontend {
        address: at,
        port: host_port,
        protocol: port.protocol,
        scope,
        flags: abi::FE_NODE_PORT,
    };
    let target = Target {
        address,
        port: port.port,
    };
    let node: Arc<str> = node.into();
    Some(PortProgram {
        id: PortId {
            service: service_key(pod),
            name: format!("{at}:{host_port}"),
            protocol: port.protocol,
            ipv4: address.is_ipv4(),
        },
        frontends: vec![frontend(abi::SCOPE_INTERNAL), frontend(abi::SCOPE_EXTERNAL)],
        backends: Backends {
            cluster: vec![target],
            local: vec![target],
            serving: BTreeMap::from([(target, Some(node))]),
        },
        affinity_seconds: 0,
    })
}
