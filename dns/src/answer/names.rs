//! What a name stands for: the grammar of cluster names.
//!
//! ```text
//! SERVICE.NS.svc.DOMAIN              _PORT._PROTO.SERVICE.NS.svc.DOMAIN
//! ENDPOINT.SERVICE.NS.svc.DOMAIN     A-B-C-D.NS.pod.DOMAIN
//! dns-version.DOMAIN  ns.dns.DOMAIN  …in-addr.arpa  …ip6.arpa
//! ```

use std::net::IpAddr;

use hickory_proto::rr::Name;

use crate::zone::{Entry, Kind, Port, Protocol, Service, ServiceKey, Zone};

/// What a name of the cluster stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Address(IpAddr),
    /// A port at a name, with the addresses of that name.
    Target {
        port: u16,
        name: Name,
        addresses: Vec<IpAddr>,
    },
    Pointer(Name),
    /// The version of the specification.
    Version,
    /// The cluster's domain itself.
    Apex,
}

/// Result of looking a name up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Not a name of this cluster.
    Elsewhere,
    /// Would be one, does not exist.
    Nothing,
    /// Exists; an empty list if only longer names have records.
    Items(Vec<Item>),
    /// An ExternalName Service.
    Alias(Name),
}

/// The cluster's domain as a name.
pub fn apex(zone: &Zone) -> Name {
    name(zone.domain())
}

/// Name of the server that the SOA and NS records give.
pub fn server(zone: &Zone) -> Name {
    name(&format!("ns.dns.{}", zone.domain()))
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap_or_else(|_| Name::root());
    name.set_fqdn(true);
    name
}

/// Looks a name up, in any case of letters.
pub fn find(zone: &Zone, asked: &Name) -> Found {
    let text = asked.to_lowercase().to_ascii();
    let text = text.trim_end_matches('.');
    let rest = match text.strip_suffix(zone.domain()) {
        Some("") => return Found::Items(vec![Item::Apex]),
        Some(rest) if rest.ends_with('.') => &rest[..rest.len() - 1],
        _ => return reverse(zone, text, asked),
    };
    let mut labels: Vec<&str> = rest.split('.').collect();
    labels.reverse();
    match labels.as_slice() {
        ["dns-version"] => Found::Items(vec![Item::Version]),
        ["dns", "ns"] => Found::Items(zone.servers().iter().copied().map(Item::Address).collect()),
        ["dns" | "svc" | "pod"] => Found::Items(vec![]),
        ["pod", namespace] | ["svc", namespace] => exists(zone.has_namespace(namespace)),
        ["pod", namespace, dashed] => match address(dashed) {
            Some(ip) if zone.has_namespace(namespace) => Found::Items(vec![Item::Address(ip)]),
            _ => Found::Nothing,
        },
        ["svc", namespace, service, below @ ..] => {
            let key = ServiceKey::new(namespace, service);
            match zone.service(&key) {
                Some((service, entry)) => below_service(zone, &key, service, entry, below),
                None => Found::Nothing,
            }
        }
        _ => Found::Nothing,
    }
}

fn exists(it_does: bool) -> Found {
    if it_does {
        Found::Items(vec![])
    } else {
        Found::Nothing
    }
}

fn some(items: Vec<Item>) -> Found {
    if items.is_empty() {
        Found::Nothing
    } else {
        Found::Items(items)
    }
}

/// `10-244-1-3` or `fd10--3`.
fn address(dashed: &str) -> Option<IpAddr> {
    dashed
        .replace('-', ".")
        .parse()
        .or_else(|_| dashed.replace('-', ":").parse())
        .ok()
}

fn service_name(zone: &Zone, key: &ServiceKey) -> Name {
    name(&format!(
        "{}.{}.svc.{}",
        key.name,
        key.namespace,
        zone.domain()
    ))
}

/// A Service's name and the names below it; `below` is read from the right.
fn below_service(
    zone: &Zone,
    key: &ServiceKey,
    service: &Service,
    entry: &Entry,
    below: &[&str],
) -> Found {
    if let Kind::ExternalName(target) = &service.kind {
        let alias = Name::from_ascii(target.trim_end_matches('.'));
        return match alias {
            Ok(mut target) if below.is_empty() => {
                target.set_fqdn(true);
                Found::Alias(target)
            }
            _ => Found::Nothing,
        };
    }
    match below {
        [] => match &service.kind {
            Kind::ClusterIp(ips) => {
                let mut items: Vec<Item> = ips.iter().copied().map(Item::Address).collect();
                items.extend(targets(zone, key, service, entry, |_| true));
                Found::Items(items)
            }
            // the specification: without a ready endpoint, NXDOMAIN
            Kind::Headless => some(headless(zone, key, service, entry)),
            Kind::ExternalName(_) => Found::Nothing,
        },
        [label] => match label.strip_prefix('_') {
            Some(protocol) => exists(ports(service, entry).any(|port| {
                Some(port.protocol) == Protocol::of_label(protocol) && !port.name.is_empty()
            })),
            None => endpoint(entry, label),
        },
        [protocol, port] => {
            let (Some(protocol), Some(port)) = (protocol.strip_prefix('_'), port.strip_prefix('_'))
            else {
                return Found::Nothing;
            };
            let protocol = Protocol::of_label(protocol);
            some(targets(zone, key, service, entry, |own| {
                Some(own.protocol) == protocol && own.name.eq_ignore_ascii_case(port)
            }))
        }
        _ => Found::Nothing,
    }
}

fn ports<'a>(service: &'a Service, entry: &'a Entry) -> impl Iterator<Item = &'a Port> {
    service
        .ports
        .iter()
        .chain(entry.slices.values().flat_map(|slice| slice.ports.iter()))
}

fn headless(zone: &Zone, key: &ServiceKey, service: &Service, entry: &Entry) -> Vec<Item> {
    let mut addresses: Vec<IpAddr> = entry
        .ready()
        .flat_map(|(_, endpoint)| endpoint.addresses.iter().copied())
        .collect();
    // an endpoint moving between slices is for a moment in both
    addresses.sort_unstable();
    addresses.dedup();
    let mut items: Vec<Item> = addresses.into_iter().map(Item::Address).collect();
    items.extend(targets(zone, key, service, entry, |_| true));
    items
}

/// Addresses of the endpoints with this label.
fn endpoint(entry: &Entry, label: &str) -> Found {
    let mut found: Vec<IpAddr> = Vec::new();
    for (_, endpoint) in entry.ready() {
        let own = endpoint.addresses.iter().copied();
        found.extend(own.filter(|address| endpoint.label(*address) == label));
    }
    found.sort_unstable();
    found.dedup();
    some(found.into_iter().map(Item::Address).collect())
}

/// Ports with where they are: a ClusterIP's at the Service's name, a headless one's at each
/// endpoint's name.
fn targets(
    zone: &Zone,
    key: &ServiceKey,
    service: &Service,
    entry: &Entry,
    wanted: impl Fn(&Port) -> bool,
) -> Vec<Item> {
    let own = service_name(zone, key);
    let mut items = Vec::new();
    match &service.kind {
        Kind::ClusterIp(ips) => {
            for port in service.ports.iter().filter(|port| wanted(port)) {
                let (name, addresses) = (own.clone(), ips.clone());
                items.push(Item::Target {
                    port: port.port,
                    name,
                    addresses,
                });
            }
        }
        Kind::Headless => {
            for (ports, endpoint) in entry.ready() {
                for address in &endpoint.addresses {
                    let Ok(name) = own.prepend_label(endpoint.label(*address)) else {
                        continue;
                    };
                    for port in ports.iter().filter(|port| wanted(port)) {
                        let (name, addresses) = (name.clone(), vec![*address]);
                        items.push(Item::Target {
                            port: port.port,
                            name,
                            addresses,
                        });
                    }
                }
            }
        }
        Kind::ExternalName(_) => {}
    }
    items.dedup();
    items
}

/// `3.1.244.10.in-addr.arpa`: only addresses of the cluster are answered here.
fn reverse(zone: &Zone, text: &str, asked: &Name) -> Found {
    if !text.ends_with(".arpa") {
        return Found::Elsewhere;
    }
    let mut asked = asked.clone();
    asked.set_fqdn(true);
    let Ok(net) = asked.parse_arpa_name() else {
        return Found::Elsewhere;
    };
    if net.prefix_len() != net.max_prefix_len() {
        return Found::Elsewhere;
    }
    let address = net.addr();
    let mut items = Vec::new();
    for key in zone.owners(address) {
        let Some((service, entry)) = zone.service(key) else {
            continue;
        };
        let own = service_name(zone, key);
        match &service.kind {
            Kind::ClusterIp(ips) if ips.contains(&address) => items.push(Item::Pointer(own)),
            Kind::ClusterIp(_) | Kind::Headless => {
                let endpoints = entry
                    .ready()
                    .filter(|(_, e)| e.addresses.contains(&address));
                let names = endpoints.filter_map(|(_, e)| own.prepend_label(e.label(address)).ok());
                items.extend(names.map(Item::Pointer));
            }
            Kind::ExternalName(_) => {}
        }
    }
    items.dedup();
    if items.is_empty() {
        Found::Elsewhere
    } else {
        Found::Items(items)
    }
}
