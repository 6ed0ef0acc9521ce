//! Ports of a pod's containers that say the same thing twice.

use std::collections::HashMap;

use super::containers;
use crate::doc::Value;
use crate::status::quote;

/// A port and where it is.
struct Port<'v> {
    path: String,
    host_ip: &'v str,
    host_port: i64,
}

/// Warnings about definitions of ports, then about their names.
pub(super) fn warnings(spec: &Value<'_>, at: &str, out: &mut Vec<String>) {
    let mut known: HashMap<(i64, &str), Vec<Port<'_>>> = HashMap::new();
    let mut names: HashMap<&str, String> = HashMap::new();
    let mut about_names = Vec::new();
    for (list, c, container) in containers(spec) {
        for (p, port) in container.list_of("ports").iter().enumerate() {
            let path = format!("{at}spec.{list}[{c}].ports[{p}]");
            let text = |field| port.str_of(field).unwrap_or_default();
            let number = |field| port.int_of(field).unwrap_or(0);
            let (host_ip, host_port) = (text("hostIP"), number("hostPort"));
            if !host_ip.is_empty() && host_port == 0 {
                out.push(format!(
                    "{path}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} \
                     Protocol:{} HostIP:{host_ip}}}",
                    text("name"),
                    number("containerPort"),
                    text("protocol"),
                ));
            }
            let others = known
                .entry((number("containerPort"), text("protocol")))
                .or_default();
            for other in others.iter() {
                if let Some(what) = conflict(host_ip, host_port, other) {
                    out.push(format!(
                        "{path}: {what} port definition with {}",
                        other.path
                    ));
                }
            }
            others.push(Port {
                path: path.clone(),
                host_ip,
                host_port,
            });
            let name = text("name");
            match names.get(name) {
                _ if name.is_empty() => {}
                Some(other) => about_names.push(format!(
                    "{path}: duplicate port name {} with {other}, services and probes that select \
                     ports by name will use {other}",
                    quote(name)
                )),
                None => drop(names.insert(name, path)),
            }
        }
    }
    out.append(&mut about_names);
}

fn conflict(host_ip: &str, host_port: i64, other: &Port<'_>) -> Option<&'static str> {
    if host_ip == other.host_ip && host_port == other.host_port {
        Some("duplicate")
    } else if host_port == 0 || other.host_port == 0 {
        Some("overlapping")
    } else if host_port == other.host_port && host_ip.is_empty() != other.host_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}
