//! Node ports of a Service. One number may serve several protocols of the same Service.

use std::collections::BTreeMap;

use api::{Doc, FieldError, Value};

use super::{Claims, claim, service_type, unclaim};
use crate::{ResourceId, call::Call, clock, storage::Write};

/// Random ports tried before the range is walked.
const RANDOM_TRIES: usize = 64;
const TAKEN: &str = "provided port is already allocated";

/// Keeps the old node ports where the client left them out (upstream: patchAllocatedValues).
pub fn keep(doc: &mut Doc<'_>, old: &Doc<'_>) {
    if !needs_ports(doc) || !needs_ports(old) {
        return;
    }
    let by_name: BTreeMap<&str, i64> = old
        .list_at(&["spec", "ports"])
        .iter()
        .map(|p| {
            (
                p.str_of("name").unwrap_or_default(),
                p.int_of("nodePort").unwrap_or(0),
            )
        })
        .collect();
    let mut used: Vec<i64> = doc
        .list_at(&["spec", "ports"])
        .iter()
        .filter_map(|p| p.int_of("nodePort"))
        .collect();
    let ports = doc.get_mut(&["spec", "ports"]).and_then(Value::as_list_mut);
    for port in ports.into_iter().flatten() {
        let known = by_name
            .get(port.str_of("name").unwrap_or_default())
            .copied()
            .unwrap_or(0);
        if port.int_of("nodePort").unwrap_or(0) == 0 && known != 0 && !used.contains(&known) {
            used.push(known);
            set_port(port, known);
        }
    }
}

/// The ports a Service holds, without repetition.
pub fn held(doc: &Doc<'_>) -> Vec<i64> {
    if service_type(doc) == "ExternalName" {
        return Vec::new();
    }
    let ports = doc
        .list_at(&["spec", "ports"])
        .iter()
        .filter_map(|p| p.int_of("nodePort"));
    let mut ports: Vec<i64> = ports
        .chain(doc.int_at(&["spec", "healthCheckNodePort"]))
        .filter(|p| *p != 0)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

pub fn release(call: &Call, ports: &[i64]) -> Vec<Write> {
    let table = ResourceId::node_ports();
    ports
        .iter()
        .filter_map(|p| unclaim(call, table, &p.to_string()))
        .collect()
}

/// Chooses missing node ports and claims what is new.
pub fn allocate(call: &Call, doc: &mut Doc<'_>, old: Option<&Doc<'_>>) -> Claims {
    let before = old.map(held).unwrap_or_default();
    let needs = needs_ports(doc);
    if !needs && old.is_some() {
        clear_copied(doc, &before);
    }
    let service = format!("{}/{}", doc.namespace(), doc.name());
    let mut mine: Vec<i64> = Vec::new();
    let mut errors = Vec::new();
    // Explicit ports first, so that a random one does not take theirs.
    for (index, port) in doc.list_at(&["spec", "ports"]).iter().enumerate() {
        let number = port.int_of("nodePort").unwrap_or(0);
        if number != 0 && !mine.contains(&number) {
            mine.push(number);
            if !before.contains(&number)
                && let Err(text) = explicit(call, number)
            {
                let path = format!("spec.ports[{index}].nodePort");
                errors.push(FieldError::invalid_raw(path, number, text));
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if needs {
        choose(call, doc, &mut mine)?;
    }
    if wants_health_port(doc) {
        let number = match doc.int_at(&["spec", "healthCheckNodePort"]).unwrap_or(0) {
            0 => free(call, &mine).map_err(full)?,
            held if before.contains(&held) && !mine.contains(&held) => held,
            given => {
                health_port(call, given, &mine)?;
                given
            }
        };
        doc.set_int(&["spec", "healthCheckNodePort"], number);
        mine.push(number);
    }
    let mut writes: Vec<Write> = mine
        .iter()
        .filter(|p| !before.contains(p))
        .map(|p| {
            claim(
                ResourceId::node_ports(),
                &p.to_string(),
                claim_json(*p, &service),
            )
        })
        .collect();
    let gone: Vec<i64> = before.into_iter().filter(|p| !mine.contains(p)).collect();
    writes.extend(release(call, &gone));
    Ok(writes)
}

fn choose(call: &Call, doc: &mut Doc<'_>, mine: &mut Vec<i64>) -> Result<(), Vec<FieldError>> {
    // The same port number under another protocol shares the node port.
    let mut shared: BTreeMap<i64, Vec<(String, i64)>> = BTreeMap::new();
    let ports = doc.get_mut(&["spec", "ports"]).and_then(Value::as_list_mut);
    for port in ports.into_iter().flatten() {
        let target = port.int_of("port").unwrap_or(0);
        let protocol = port.str_of("protocol").unwrap_or("TCP").to_owned();
        let known = shared.entry(target).or_default();
        let mut number = port.int_of("nodePort").unwrap_or(0);
        if number == 0 {
            let other = known
                .iter()
                .find(|(_, n)| !known.iter().any(|(p, m)| *p == protocol && m == n))
                .map(|(_, n)| *n);
            number = match other {
                Some(number) => number,
                None => free(call, mine).map_err(full)?,
            };
            set_port(port, number);
        }
        known.push((protocol, number));
        if !mine.contains(&number) {
            mine.push(number);
        }
    }
    Ok(())
}

fn needs_ports(doc: &Doc<'_>) -> bool {
    match service_type(doc) {
        "NodePort" => true,
        "LoadBalancer" => doc
            .bool_at(&["spec", "allocateLoadBalancerNodePorts"])
            .unwrap_or(true),
        _ => false,
    }
}

fn wants_health_port(doc: &Doc<'_>) -> bool {
    service_type(doc) == "LoadBalancer"
        && doc.str_at(&["spec", "externalTrafficPolicy"]) == Some("Local")
}

/// A Service that no longer needs node ports loses those it had, unless the client changed them
/// (upstream: dropTypeDependentFields).
fn clear_copied(doc: &mut Doc<'_>, before: &[i64]) {
    let ports = doc.get_mut(&["spec", "ports"]).and_then(Value::as_list_mut);
    for port in ports.into_iter().flatten() {
        if port.int_of("nodePort").is_some_and(|n| before.contains(&n))
            && let Some(object) = port.as_object_mut()
        {
            object.remove("nodePort");
        }
    }
    doc.remove(&["spec", "healthCheckNodePort"]);
}

/// Whether a Service without that port can have it for its health check.
fn health_port(call: &Call, number: i64, mine: &[i64]) -> Result<(), Vec<FieldError>> {
    let free = match mine.contains(&number) {
        true => Err(TAKEN.to_owned()),
        false => explicit(call, number),
    };
    free.map_err(|why| {
        let text = format!("failed to allocate requested HealthCheck NodePort {number}: {why}");
        let error = FieldError::invalid_raw("spec.healthCheckNodePort", number, text);
        vec![error]
    })
}

fn explicit(call: &Call, number: i64) -> Result<(), String> {
    let range = &call.server.options().node_ports;
    if !u16::try_from(number).is_ok_and(|n| range.contains(&n)) {
        return Err(format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            range.start(),
            range.end()
        ));
    }
    if is_taken(call, number) {
        return Err(TAKEN.to_owned());
    }
    Ok(())
}

fn free(call: &Call, mine: &[i64]) -> Result<i64, String> {
    let range = &call.server.options().node_ports;
    let (low, high) = (i64::from(*range.start()), i64::from(*range.end()));
    let fits = |n: &i64| !mine.contains(n) && !is_taken(call, *n);
    let random =
        (0..RANDOM_TRIES).map(|_| low + clock::random_index((high - low + 1) as u64) as i64);
    random
        .chain(low..=high)
        .find(fits)
        .ok_or_else(|| "range is full".to_owned())
}

fn full(text: String) -> Vec<FieldError> {
    vec![FieldError::internal(
        "spec.ports",
        format!("failed to allocate a nodePort: {text}"),
    )]
}

fn is_taken(call: &Call, number: i64) -> bool {
    call.server
        .cache()
        .get(ResourceId::node_ports(), "", &number.to_string())
        .is_some()
}

fn claim_json(number: i64, service: &str) -> String {
    format!(
        r#"{{"kind":"NodePort","apiVersion":"v1","metadata":{{"name":"{number}"}},"service":"{service}"}}"#
    )
}

fn set_port(port: &mut Value<'_>, number: i64) {
    if let Some(object) = port.as_object_mut() {
        object.set_copied("nodePort", Value::Int(number));
    }
}
