//! What the cluster has, as DNS needs it: Services and the EndpointSlices of each, with an index
//! from addresses. Changed one object at a time; a clone is cheap and never changes, so readers
//! hold one while the writer goes on. It knows no names beyond its domain and no wire format.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// From a label without its underscore: `tcp`.
    pub fn of_label(label: &str) -> Option<Protocol> {
        match label {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "sctp" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// A port of a Service or of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Empty for the single port without a name.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// Namespace and name of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ServiceKey {
    /// From two texts; compared in lower case, as DNS names are.
    pub fn new(namespace: &str, name: &str) -> ServiceKey {
        ServiceKey {
            namespace: namespace.to_ascii_lowercase().into(),
            name: name.to_ascii_lowercase().into(),
        }
    }
}

/// How a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `spec.clusterIPs`, at most one per family.
    ClusterIp(Vec<IpAddr>),
    /// `clusterIP: None`: its endpoints are the answer.
    Headless,
    /// `spec.externalName`.
    ExternalName(String),
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub kind: Kind,
    pub ports: Vec<Port>,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`, absent meaning true. `publishNotReadyAddresses` is already in it.
    pub ready: bool,
    pub hostname: Option<String>,
}

impl Endpoint {
    /// The label of an endpoint's own name: its hostname, or the address with dashes, as CoreDNS
    /// names it (`plugin/kubernetes/kubernetes.go`, `endpointHostname`).
    pub fn label(&self, address: IpAddr) -> String {
        match &self.hostname {
            Some(name) => name.to_ascii_lowercase(),
            None => address.to_string().replace(['.', ':'], "-"),
        }
    }
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub ports: Vec<Port>,
    pub endpoints: Vec<Endpoint>,
}

/// A Service with its slices; either may come first.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub service: Option<Arc<Service>>,
    pub slices: OrdMap<Arc<str>, Arc<Slice>>,
}

impl Entry {
    /// Ready endpoints with the ports of their slice.
    pub fn ready(&self) -> impl Iterator<Item = (&[Port], &Endpoint)> {
        self.slices.values().flat_map(|slice| {
            let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
            ready.map(|endpoint| (slice.ports.as_slice(), endpoint))
        })
    }
}

/// The cluster's names.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Arc<str>,
    servers: Arc<[IpAddr]>,
    serial: u32,
    entries: OrdMap<ServiceKey, Entry>,
    /// Addresses of Services and of ready endpoints.
    reverse: OrdSet<(IpAddr, ServiceKey)>,
}

impl Zone {
    /// An empty zone. `domain` without dots at its ends (`cluster.local`); `servers` are the
    /// addresses this DNS is served at.
    pub fn new(domain: &str, servers: &[IpAddr]) -> Zone {
        Zone {
            domain: domain.trim_matches('.').to_ascii_lowercase().into(),
            servers: servers.into(),
            serial: 1,
            entries: OrdMap::new(),
            reverse: OrdSet::new(),
        }
    }

    /// The cluster's domain, lower case, without a final dot.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Addresses of the cluster DNS.
    pub fn servers(&self) -> &[IpAddr] {
        &self.servers
    }

    /// Counts changes.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Adds or replaces a Service.
    pub fn set_service(&mut self, key: &ServiceKey, service: Service) {
        self.change(key, |entry| entry.service = Some(Arc::new(service)));
    }

    /// Removes a Service; its slices stay until they are removed. Removing nothing is fine.
    pub fn remove_service(&mut self, key: &ServiceKey) {
        self.change(key, |entry| entry.service = None);
    }

    /// Adds or replaces one slice of a Service (label `kubernetes.io/service-name`).
    pub fn set_slice(&mut self, key: &ServiceKey, name: &str, slice: Slice) {
        self.change(key, |entry| {
            entry.slices.insert(name.into(), Arc::new(slice));
        });
    }

    /// Removes a slice. Removing nothing is fine.
    pub fn remove_slice(&mut self, key: &ServiceKey, name: &str) {
        self.change(key, |entry| {
            entry.slices.remove(name);
        });
    }

    /// A Service that exists.
    pub fn service(&self, key: &ServiceKey) -> Option<(&Service, &Entry)> {
        let entry = self.entries.get(key)?;
        Some((entry.service.as_deref()?, entry))
    }

    /// Whether any Service lives in a namespace.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        let first = ServiceKey::new(namespace, "");
        let mut range = self.entries.range(first..);
        range
            .by_ref()
            .take_while(|(key, _)| key.namespace.eq_ignore_ascii_case(namespace))
            .any(|(_, entry)| entry.service.is_some())
    }

    /// Services an address belongs to.
    pub fn owners(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        let first = (address, ServiceKey::new("", ""));
        let range = self.reverse.range(first..);
        range
            .take_while(move |(ip, _)| *ip == address)
            .map(|(_, key)| key)
    }

    fn change(&mut self, key: &ServiceKey, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.entries.get(key).cloned().unwrap_or_default();
        for address in addresses(&entry) {
            self.reverse.remove(&(address, key.clone()));
        }
        change(&mut entry);
        for address in addresses(&entry) {
            self.reverse.insert((address, key.clone()));
        }
        if entry.service.is_none() && entry.slices.is_empty() {
            self.entries.remove(key);
        } else {
            self.entries.insert(key.clone(), entry);
        }
        self.serial = self.serial.wrapping_add(1).max(1);
    }
}

/// Addresses that lead back to an entry.
fn addresses(entry: &Entry) -> Vec<IpAddr> {
    let Some(service) = &entry.service else {
        return Vec::new();
    };
    let mut all = match &service.kind {
        Kind::ClusterIp(ips) => ips.clone(),
        Kind::Headless => Vec::new(),
        Kind::ExternalName(_) => return Vec::new(),
    };
    all.extend(
        entry
            .ready()
            .flat_map(|(_, endpoint)| endpoint.addresses.iter().copied()),
    );
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(ip: &str) -> Slice {
        let endpoint = Endpoint {
            addresses: vec![ip.parse().unwrap()],
            ready: true,
            hostname: None,
        };
        Slice {
            ports: vec![],
            endpoints: vec![endpoint],
        }
    }

    #[test]
    fn a_slice_may_come_before_its_service_and_outlive_it() {
        let mut zone = Zone::new("Cluster.Local.", &[]);
        let key = ServiceKey::new("default", "web");
        let ip: IpAddr = "10.244.1.3".parse().unwrap();
        zone.set_slice(&key, "web-1", slice("10.244.1.3"));
        assert!(zone.service(&key).is_none());
        assert_eq!(zone.owners(ip).count(), 0);
        zone.set_service(
            &key,
            Service {
                kind: Kind::Headless,
                ports: vec![],
            },
        );
        assert_eq!(zone.owners(ip).collect::<Vec<_>>(), [&key]);
        zone.remove_service(&key);
        assert_eq!(zone.owners(ip).count(), 0);
        assert!(!zone.has_namespace("default"));
        zone.remove_slice(&key, "web-1");
        assert!(zone.entries.is_empty() && zone.reverse.is_empty());
    }

    #[test]
    fn a_clone_does_not_see_later_changes() {
        let mut zone = Zone::new("cluster.local", &[]);
        let old = zone.clone();
        let key = ServiceKey::new("a", "b");
        zone.set_service(
            &key,
            Service {
                kind: Kind::Headless,
                ports: vec![],
            },
        );
        assert!(old.service(&key).is_none() && zone.service(&key).is_some());
        assert!(zone.has_namespace("a") && !zone.has_namespace("A2"));
    }
}
