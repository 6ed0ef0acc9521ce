//! The objects as they come over the wire, reduced to the fields that are projected, and their
//! conversion into `state`. Unknown fields and malformed values are skipped, never an error: the API
//! server has validated them.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::api::ObjectMeta;
use serde::Deserialize;

use crate::state::{
    ContainerPort, Endpoint, EndpointSlice, Labels, Namespace, NetworkPolicy, Node, ObjectKey, Pod,
    Protocol, Service, ServiceKind, ServicePort, SliceKey, SlicePort,
};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Set by kubelets on the mirror of a static pod (pkg/kubelet/types/pod_update.go).
const STATIC_UID_ANNOTATION: &str = "kubernetes.io/config.hash";
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// A kind that is watched: its wire form and what becomes of it.
pub trait Projection: Sized + Send + Sync + PartialEq + 'static {
    type Key: Ord + Clone + Send + std::fmt::Debug + 'static;
    type Raw: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static;

    /// `None` for objects that do not concern the agent.
    fn key(raw: &Self::Raw) -> Option<Self::Key>;
    fn project(key: Self::Key, raw: Self::Raw) -> Self;
}

/// Declares the wire form of a kind with metadata and only the named fields.
macro_rules! raw {
    ($name:ident, $kind:literal, $plural:literal { $($field:ident: $ty:ty),* }) => {
        #[derive(Debug, Clone, Deserialize)]
        pub struct $name {
            #[serde(default)]
            metadata: ObjectMeta,
            $(#[serde(default)] $field: $ty,)*
        }

        impl kube::Resource for $name {
            type DynamicType = ();
            type Scope = kube::core::DynamicResourceScope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }
            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                "".into()
            }
            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                "v1".into()
            }
            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

raw!(RawNode, "Node", "nodes" { spec: RawNodeSpec, status: RawNodeStatus });
raw!(RawPod, "Pod", "pods" { spec: RawPodSpec, status: RawPodStatus });
raw!(RawNamespace, "Namespace", "namespaces" {});

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawNodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawNodeStatus {
    addresses: Vec<RawNodeAddress>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawNodeAddress {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodSpec {
    node_name: Option<String>,
    host_network: bool,
    init_containers: Vec<RawContainer>,
    containers: Vec<RawContainer>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    restart_policy: Option<String>,
    ports: Vec<RawContainerPort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainerPort {
    name: String,
    protocol: Option<String>,
    container_port: u16,
    host_port: Option<u16>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<RawPodIp>,
    start_time: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawPodIp {
    ip: String,
}

fn object_key(metadata: &ObjectMeta) -> Option<ObjectKey> {
    Some(ObjectKey::new(
        metadata.namespace.as_deref()?,
        metadata.name.as_deref()?,
    ))
}

fn labels(metadata: ObjectMeta) -> Labels {
    metadata.labels.unwrap_or_default()
}

fn parse_all<T: std::str::FromStr, S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Vec<T> {
    texts
        .into_iter()
        .filter_map(|t| t.as_ref().parse().ok())
        .collect()
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|p| *p != 0)
}

impl Projection for Node {
    type Key = Arc<str>;
    type Raw = RawNode;

    fn key(raw: &RawNode) -> Option<Arc<str>> {
        raw.metadata.name.as_deref().map(Into::into)
    }

    fn project(name: Arc<str>, raw: RawNode) -> Self {
        let RawNodeSpec {
            pod_cidr,
            pod_cidrs,
        } = raw.spec;
        let pod_cidrs = if pod_cidrs.is_empty() {
            vec![pod_cidr]
        } else {
            pod_cidrs
        };
        let internal = raw
            .status
            .addresses
            .iter()
            .filter(|a| a.kind == "InternalIP");
        Node {
            name,
            addresses: parse_all(internal.map(|a| &a.address)),
            pod_cidrs: parse_all(pod_cidrs),
            labels: labels(raw.metadata),
        }
    }
}

impl Projection for Namespace {
    type Key = Arc<str>;
    type Raw = RawNamespace;

    fn key(raw: &RawNamespace) -> Option<Arc<str>> {
        raw.metadata.name.as_deref().map(Into::into)
    }

    fn project(name: Arc<str>, raw: RawNamespace) -> Self {
        Namespace {
            name,
            labels: Arc::new(labels(raw.metadata)),
        }
    }
}

impl Projection for Pod {
    type Key = ObjectKey;
    type Raw = RawPod;

    fn key(raw: &RawPod) -> Option<ObjectKey> {
        object_key(&raw.metadata)
    }

    fn project(key: ObjectKey, raw: RawPod) -> Self {
        let RawPodSpec {
            node_name,
            host_network,
            init_containers,
            containers,
        } = raw.spec;
        let RawPodStatus {
            phase,
            pod_ip,
            pod_ips,
            start_time,
        } = raw.status;
        let sidecars = init_containers
            .iter()
            .filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let ports = sidecars.chain(&containers).flat_map(|c| &c.ports);
        let mut ips: Vec<IpAddr> = parse_all(pod_ips.iter().map(|i| &i.ip));
        if ips.is_empty() {
            ips = parse_all(pod_ip);
        }
        Pod {
            key,
            uid: raw.metadata.uid.as_deref().unwrap_or_default().into(),
            static_uid: raw
                .metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get(STATIC_UID_ANNOTATION))
                .map(|uid| uid.as_str().into()),
            deleting: raw.metadata.deletion_timestamp.is_some(),
            node: node_name.filter(|n| !n.is_empty()).map(Into::into),
            host_network,
            ips,
            ports: ports.filter_map(container_port).collect(),
            terminal: phase == "Succeeded" || phase == "Failed",
            started: start_time.map_or(0, |t| t.0.as_second()),
            labels: Arc::new(labels(raw.metadata)),
        }
    }
}

fn container_port(raw: &RawContainerPort) -> Option<ContainerPort> {
    Some(ContainerPort {
        name: raw.name.clone(),
        protocol: Protocol::parse(raw.protocol.as_deref())?,
        port: raw.container_port,
        host_port: raw.host_port.filter(|p| *p != 0),
        host_ip: raw.host_ip.as_ref().and_then(|ip| ip.parse().ok()),
    })
}

impl Projection for NetworkPolicy {
    type Key = ObjectKey;
    type Raw = networking::NetworkPolicy;

    fn key(raw: &networking::NetworkPolicy) -> Option<ObjectKey> {
        object_key(&raw.metadata)
    }

    fn project(key: ObjectKey, raw: networking::NetworkPolicy) -> Self {
        NetworkPolicy {
            key,
            spec: raw.spec.unwrap_or_default(),
        }
    }
}

impl Projection for EndpointSlice {
    type Key = SliceKey;
    type Raw = discovery::EndpointSlice;

    fn key(raw: &discovery::EndpointSlice) -> Option<SliceKey> {
        let own = object_key(&raw.metadata)?;
        let service = raw.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
        if raw.address_type == "FQDN" {
            return None;
        }
        Some(SliceKey {
            service: ObjectKey::new(&own.namespace, service),
            name: own.name,
        })
    }

    fn project(key: SliceKey, raw: discovery::EndpointSlice) -> Self {
        let ports = raw.ports.unwrap_or_default().into_iter().filter_map(|p| {
            Some(SlicePort {
                protocol: Protocol::parse(p.protocol.as_deref())?,
                name: p.name.unwrap_or_default(),
                port: p.port.and_then(port),
            })
        });
        let endpoints = raw.endpoints.unwrap_or_default();
        EndpointSlice {
            key,
            ports: ports.collect(),
            endpoints: endpoints.into_iter().map(endpoint).collect(),
        }
    }
}

/// Absent conditions mean ready; `serving` defaults to `ready` (discovery.k8s.io/v1).
fn endpoint(raw: discovery::Endpoint) -> Endpoint {
    let conditions = raw.conditions.unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = raw.hints.unwrap_or_default();
    Endpoint {
        addresses: parse_all(raw.addresses),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node: raw.node_name.map(Into::into),
        hostname: raw.hostname,
        zone_hints: hints
            .for_zones
            .into_iter()
            .flatten()
            .map(|z| z.name)
            .collect(),
        node_hints: hints
            .for_nodes
            .into_iter()
            .flatten()
            .map(|n| n.name)
            .collect(),
    }
}

impl Projection for Service {
    type Key = ObjectKey;
    type Raw = core::Service;

    fn key(raw: &core::Service) -> Option<ObjectKey> {
        object_key(&raw.metadata)
    }

    fn project(key: ObjectKey, raw: core::Service) -> Self {
        let spec = raw.spec.unwrap_or_default();
        let ingress = raw
            .status
            .and_then(|s| s.load_balancer)
            .and_then(|l| l.ingress);
        let vips = ingress
            .into_iter()
            .flatten()
            .filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
        let mut cluster_ips = spec.cluster_ips.unwrap_or_default();
        if cluster_ips.is_empty() {
            cluster_ips.extend(spec.cluster_ip);
        }
        let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
        let timeout = spec
            .session_affinity_config
            .and_then(|c| c.client_ip)
            .and_then(|c| c.timeout_seconds)
            .and_then(|s| u32::try_from(s).ok())
            .unwrap_or(DEFAULT_AFFINITY_SECONDS);
        let ports = spec.ports.unwrap_or_default();
        Service {
            key,
            kind: service_kind(spec.type_.as_deref()),
            headless: cluster_ips.iter().any(|ip| ip == "None"),
            cluster_ips: parse_all(cluster_ips),
            external_name: spec.external_name,
            external_ips: parse_all(spec.external_ips.unwrap_or_default()),
            load_balancer_ips: parse_all(vips.filter_map(|i| i.ip)),
            load_balancer_source_ranges: parse_all(
                spec.load_balancer_source_ranges.unwrap_or_default(),
            ),
            ports: ports.into_iter().filter_map(service_port).collect(),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            health_check_node_port: spec.health_check_node_port.and_then(port),
            affinity_seconds: affinity.then_some(timeout),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            foreign_proxy: labels(raw.metadata).contains_key(PROXY_NAME_LABEL),
        }
    }
}

fn service_kind(text: Option<&str>) -> ServiceKind {
    match text {
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some("ExternalName") => ServiceKind::ExternalName,
        _ => ServiceKind::ClusterIp,
    }
}

fn service_port(raw: core::ServicePort) -> Option<ServicePort> {
    Some(ServicePort {
        name: raw.name.unwrap_or_default(),
        protocol: Protocol::parse(raw.protocol.as_deref())?,
        port: port(raw.port)?,
        node_port: raw.node_port.and_then(port),
    })
}
