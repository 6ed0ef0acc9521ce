//! What a Service uses. Port of `pkg/quota/v1/evaluator/core/services.go`.

use serde::Deserialize;

use crate::resources::Amounts;

const SERVICES: &str = "services";
const NODE_PORTS: &str = "services.nodeports";
const LOAD_BALANCERS: &str = "services.loadbalancers";
const COUNT: &str = "count/services";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "type")]
    type_: String,
    ports: Vec<Port>,
    allocate_load_balancer_node_ports: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    node_port: i32,
}

pub(super) fn is_resource(name: &str) -> bool {
    [COUNT, SERVICES, NODE_PORTS, LOAD_BALANCERS].contains(&name)
}

impl Service {
    pub(super) fn usage(&self) -> Amounts {
        let Spec {
            type_,
            ports,
            allocate_load_balancer_node_ports,
        } = &self.spec;
        let explicit = || ports.iter().filter(|port| port.node_port != 0).count();
        let (node_ports, load_balancers) = match type_.as_str() {
            "NodePort" => (ports.len(), 0),
            // Ports are not allocated yet: what counts is the intent.
            "LoadBalancer" if *allocate_load_balancer_node_ports == Some(false) => (explicit(), 1),
            "LoadBalancer" => (ports.len(), 1),
            _ => (0, 0),
        };
        let node_ports = i64::try_from(node_ports).unwrap_or(i64::MAX);
        [
            (COUNT, 1),
            (SERVICES, 1),
            (NODE_PORTS, node_ports),
            (LOAD_BALANCERS, load_balancers),
        ]
        .into_iter()
        .collect()
    }
}
