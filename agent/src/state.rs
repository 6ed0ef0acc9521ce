//! What the agent knows of the cluster: an immutable snapshot of small projections, one table per
//! kind, in persistent maps (a new revision costs O(change)). Filled by `watch`, read by the plans.
//! An unchanged object keeps its `Arc`, so plans memoise by pointer. It knows no API client.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1::NetworkPolicySpec;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// Key of an EndpointSlice: those of one Service are neighbours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceKey {
    pub service: ObjectKey,
    pub name: Arc<str>,
}

/// One snapshot.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub nodes: OrdMap<Arc<str>, Arc<Node>>,
    pub services: OrdMap<ObjectKey, Arc<Service>>,
    pub slices: OrdMap<SliceKey, Arc<EndpointSlice>>,
    pub policies: OrdMap<ObjectKey, Arc<NetworkPolicy>>,
    pub namespaces: OrdMap<Arc<str>, Arc<Namespace>>,
    pub pods: OrdMap<ObjectKey, Arc<Pod>>,
    pub synced: Synced,
}

/// Which tables have been complete at least once. Nothing may be pruned before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synced {
    pub nodes: bool,
    pub services: bool,
    pub slices: bool,
    pub policies: bool,
    pub namespaces: bool,
    pub pods: bool,
}

/// A Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    pub labels: Labels,
    /// InternalIP addresses, in the order of `status.addresses`.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNetwork>,
}

/// A Service port's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub key: ObjectKey,
    pub kind: ServiceKind,
    /// Empty for headless Services.
    pub cluster_ips: Vec<IpAddr>,
    pub headless: bool,
    pub external_name: Option<String>,
    pub external_ips: Vec<IpAddr>,
    /// Ingress addresses of `status.loadBalancer` whose mode is VIP.
    pub load_balancer_ips: Vec<IpAddr>,
    pub load_balancer_source_ranges: Vec<IpNetwork>,
    pub ports: Vec<ServicePort>,
    pub internal_local: bool,
    pub external_local: bool,
    pub health_check_node_port: Option<u16>,
    /// Seconds; `None` without `sessionAffinity: ClientIP`.
    pub affinity_seconds: Option<u32>,
    pub publish_not_ready: bool,
    /// `service.kubernetes.io/service-proxy-name`: another proxy serves it.
    pub foreign_proxy: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// An EndpointSlice with IP addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    pub key: SliceKey,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    pub name: String,
    pub protocol: Protocol,
    /// `None`: all ports (headless only).
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<Arc<str>>,
    pub hostname: Option<String>,
    pub zone_hints: Vec<String>,
    pub node_hints: Vec<String>,
}

/// A NetworkPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkPolicy {
    pub key: ObjectKey,
    pub spec: NetworkPolicySpec,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    pub name: Arc<str>,
    pub labels: Arc<Labels>,
}

/// A Pod, as far as the network is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub key: ObjectKey,
    pub uid: Arc<str>,
    /// Uid the runtime knows the pod by, if this is the mirror of a static pod.
    pub static_uid: Option<Arc<str>>,
    pub labels: Arc<Labels>,
    pub node: Option<Arc<str>>,
    pub host_network: bool,
    pub ips: Vec<IpAddr>,
    pub ports: Vec<ContainerPort>,
    /// Phase Succeeded or Failed: its address belongs to somebody else.
    pub terminal: bool,
    pub deleting: bool,
    /// `status.startTime` in seconds since 1970, 0 if not started.
    pub started: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub host_port: Option<u16>,
    pub host_ip: Option<IpAddr>,
}

// === impl ===

impl ObjectKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Protocol {
    /// `TCP` is the API's default.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// IANA's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => abi::PROTO_TCP,
            Self::Udp => abi::PROTO_UDP,
            Self::Sctp => abi::PROTO_SCTP,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl State {
    /// Whether Services and their endpoints are what they are in `other`, and as known.
    pub fn same_services(&self, other: &State) -> bool {
        self.synced.services == other.synced.services
            && self.synced.slices == other.synced.slices
            && self.services.ptr_eq(&other.services)
            && self.slices.ptr_eq(&other.slices)
    }

    /// The slices of one Service, in order of their names.
    pub fn slices_of<'a>(
        &'a self,
        service: &ObjectKey,
    ) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
        let from = SliceKey {
            service: service.clone(),
            name: "".into(),
        };
        let service = service.clone();
        self.slices
            .range(from..)
            .take_while(move |(k, _)| k.service == service)
            .map(|(_, s)| s)
    }
}

impl Synced {
    /// Everything Services and routes need.
    pub fn services_and_nodes(&self) -> bool {
        self.nodes && self.services && self.slices
    }

    /// Everything policies need.
    pub fn policy(&self) -> bool {
        self.policies && self.namespaces && self.pods
    }
}

impl Pod {
    /// Whether the runtime's sandbox of that uid is this pod's; runtimes may not say (empty).
    pub fn is_called(&self, uid: &str) -> bool {
        uid.is_empty() || *self.uid == *uid || self.static_uid.as_deref() == Some(uid)
    }

    /// The pod an address belongs to is the non-terminal one with the newest start.
    pub fn owns_its_addresses(&self) -> bool {
        !self.terminal && !self.host_network
    }
}
