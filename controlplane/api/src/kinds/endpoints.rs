//! Endpoints and EndpointSlices: validation.
//!
//! Port of `ValidateEndpoints` and of `pkg/apis/discovery/validation/validation.go`.

use std::collections::HashSet;

use crate::doc::{Doc, Value};
use crate::strategy::same;
use crate::validate::ip;
use crate::validate::meta::IMMUTABLE;
use crate::validate::names::{dns_label, dns_subdomain, label_key, port_number};
use crate::validate::path::{Errors, Path};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
/// Limits of a slice.
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;

/// Endpoints; an update that leaves the subsets alone may keep invalid ones.
pub(crate) fn endpoints(new: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    if old.is_some_and(|old| same(new, old, &["subsets"])) {
        return;
    }
    let path = Path::new("subsets");
    for (i, subset) in new.list_at(&["subsets"]).iter().enumerate() {
        let at = path.index(i);
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| subset.list_of(list).is_empty()) {
            errors.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in lists {
            let list_at = at.child(list);
            for (a, address) in subset.list_of(list).iter().enumerate() {
                endpoint_address(address, &list_at.index(a), errors);
            }
        }
        let ports = subset.list_of("ports");
        let ports_at = at.child("ports");
        for (p, port) in ports.iter().enumerate() {
            let at = ports_at.index(p);
            let name = port.str_of("name").unwrap_or_default();
            if ports.len() > 1 || !name.is_empty() {
                errors.named(&at.child("name"), Some(name), dns_label);
            }
            let number = port.int_of("port").unwrap_or(0);
            errors.each_number(&at.child("port"), number, port_number(number));
            protocol(port, &at, errors);
        }
    }
}

fn protocol(port: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    errors.one_of(
        &at.child("protocol"),
        port.str_of("protocol"),
        &PROTOCOLS,
        true,
    );
    if let Some(app) = port.str_of("appProtocol") {
        errors.each(&at.child("appProtocol"), app, label_key(app));
    }
}

fn endpoint_address(address: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let text = address.str_of("ip").unwrap_or_default();
    let ip_at = at.child("ip");
    ip::ip(text, &[], &ip_at, errors);
    ip::endpoint(text, &ip_at, errors);
    if let Some(name) = address.str_of("hostname").filter(|n| !n.is_empty()) {
        errors.each(&at.child("hostname"), name, dns_label(name));
    }
    if let Some(name) = address.str_of("nodeName") {
        errors.each(&at.child("nodeName"), name, dns_subdomain(name));
    }
}

/// v1 does not write `deprecatedTopology`; its host name becomes the node's name where the stored slice
/// had it there (`dropTopologyOnV1` in `pkg/registry/discovery/endpointslice/strategy.go`).
pub(crate) fn drop_topology<'a>(new: &mut Doc<'a>, old: Option<&Doc<'a>>) {
    const HOST: [&str; 2] = ["deprecatedTopology", "kubernetes.io/hostname"];
    if old.is_some_and(|old| same(new, old, &["endpoints"])) {
        return;
    }
    let before = old
        .map(|old| old.list_at(&["endpoints"]))
        .unwrap_or_default();
    let known: HashSet<&'a str> = before
        .iter()
        .filter_map(|endpoint| endpoint.at(&HOST)?.as_str())
        .collect();
    let list = new.get_mut(&["endpoints"]).and_then(Value::as_list_mut);
    for endpoint in list.into_iter().flat_map(|list| list.iter_mut()) {
        let host = endpoint.at(&HOST).and_then(Value::as_str).filter(|host| {
            known.contains(host)
                && endpoint.get("nodeName").is_none()
                && dns_subdomain(host).is_empty()
        });
        let host = host.map(Value::String);
        let Some(endpoint) = endpoint.as_object_mut() else {
            continue;
        };
        endpoint.remove("deprecatedTopology");
        if let Some(host) = host {
            endpoint.set("nodeName", host);
        }
    }
}

/// An EndpointSlice.
pub(crate) fn slice(new: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let kind = new.str_at(&["addressType"]);
    errors.one_of(&Path::new("addressType"), kind, &ADDRESS_TYPES, true);
    slice_ports(new, errors);
    if let Some(old) = old {
        if new.str_at(&["addressType"]) != old.str_at(&["addressType"]) {
            errors.invalid_value(&Path::new("addressType"), None, IMMUTABLE);
        }
        if same(new, old, &["endpoints"]) {
            return;
        }
    }
    let path = Path::new("endpoints");
    let list = new.list_at(&["endpoints"]);
    if list.len() > MAX_ENDPOINTS {
        return errors.too_many(&path, list.len(), MAX_ENDPOINTS);
    }
    for (i, endpoint) in list.iter().enumerate() {
        let at = path.index(i);
        addresses(
            endpoint,
            kind.unwrap_or_default(),
            &at.child("addresses"),
            errors,
        );
        if let Some(name) = endpoint.str_of("nodeName") {
            errors.each(&at.child("nodeName"), name, dns_subdomain(name));
        }
        if let Some(name) = endpoint.str_of("hostname") {
            errors.each(&at.child("hostname"), name, dns_label(name));
        }
    }
}

fn slice_ports(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("ports");
    let ports = doc.list_at(&["ports"]);
    if ports.len() > MAX_PORTS {
        return errors.too_many(&path, ports.len(), MAX_PORTS);
    }
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = port.str_of("name").unwrap_or_default();
        if !name.is_empty() {
            errors.each(&at.child("name"), name, dns_label(name));
        }
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        protocol(port, &at, errors);
    }
}

fn addresses(endpoint: &Value<'_>, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let list = endpoint.list_of("addresses");
    if list.is_empty() {
        errors.required(path, "");
    } else if list.len() > MAX_ADDRESSES {
        errors.too_many(path, list.len(), MAX_ADDRESSES);
    }
    for (i, text) in list.iter().filter_map(Value::as_str).enumerate() {
        let at = path.index(i);
        match kind {
            "IPv4" | "IPv6" => {
                if !ip::ip(text, &[], &at, errors) {
                    continue;
                }
                if ip::is_v6(text) != (kind == "IPv6") {
                    errors.invalid(path, text, format!("must be an {kind} address"));
                }
                ip::endpoint(text, &at, errors);
            }
            "FQDN" => {
                let name = text.strip_suffix('.').unwrap_or(text);
                let problems = dns_subdomain(name);
                if !problems.is_empty() {
                    errors.invalid(&at, text, problems.join(","));
                } else if !name.contains('.') {
                    let detail = "should be a domain with at least two segments separated by dots";
                    errors.invalid(&at, text, detail);
                }
            }
            _ => {}
        }
    }
}
