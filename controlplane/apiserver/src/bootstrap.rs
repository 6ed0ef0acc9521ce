//! What every cluster has from its first moment: system namespaces, the RBAC objects, the priority
//! classes, the Service `default/kubernetes` with its endpoints. Objects that exist are left alone.
//!
//! Everything goes through the server's own verbs under its own identity.

use std::net::IpAddr;

use api::Facts;
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::Service;

use crate::{ApiServer, ResourceId, auth, body, identity::UserInfo};

/// Objects created at the same time.
const MAX_CREATIONS: usize = 64;
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Why the server could not create what it needs.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path}: {code}: {message}")]
pub struct BootstrapError {
    method: Method,
    path: String,
    code: StatusCode,
    message: String,
}

/// Creates what is missing.
pub async fn run(server: &ApiServer) -> Result<(), BootstrapError> {
    for name in NAMESPACES {
        let namespace =
            json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}});
        ensure(
            server,
            "",
            "namespaces",
            "v1",
            "",
            name,
            namespace.to_string().into(),
        )
        .await?;
    }
    seed_roles(server).await?;
    priority_classes(server).await?;
    service_cidr(server).await?;
    if let Some((address, port)) = server.options().advertise {
        kubernetes_service(server, address, port).await?;
    }
    Ok(())
}

/// Roles, then bindings; together, so that they share syncs.
async fn seed_roles(server: &ApiServer) -> Result<(), BootstrapError> {
    let (bindings, roles): (Vec<_>, Vec<_>) = auth::seeds()
        .into_iter()
        .partition(|seed| seed.resource.ends_with("bindings"));
    for seeds in [roles, bindings] {
        let creations = seeds.into_iter().map(|seed| async move {
            let auth::Seed {
                group,
                version,
                resource,
                namespace,
                name,
                json,
            } = seed;
            ensure(
                server,
                group,
                resource,
                version,
                &namespace,
                &name,
                json.into(),
            )
            .await
        });
        let mut creations = futures::stream::iter(creations).buffer_unordered(MAX_CREATIONS);
        while let Some(created) = creations.next().await {
            created?;
        }
    }
    Ok(())
}

async fn priority_classes(server: &ApiServer) -> Result<(), BootstrapError> {
    // pkg/apis/scheduling/v1/helpers.go, SystemPriorityClasses.
    let classes = [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ];
    let group = "scheduling.k8s.io";
    for (name, value, description) in classes {
        let class = json!({
            "kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1",
            "metadata": {"name": name}, "value": value, "description": description,
        });
        let body = class.to_string().into();
        ensure(server, group, "priorityclasses", "v1", "", name, body).await?;
    }
    Ok(())
}

/// The ranges addresses of Services come from, for everyone to read (KEP-1880).
async fn service_cidr(server: &ApiServer) -> Result<(), BootstrapError> {
    let cidrs: Vec<String> = server
        .options()
        .service_cidrs
        .iter()
        .map(ToString::to_string)
        .collect();
    let object = json!({
        "kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs},
    });
    let (group, body) = ("networking.k8s.io", object.to_string().into());
    ensure(server, group, "servicecidrs", "v1", "", "kubernetes", body).await
}

/// The Service by which pods reach the API, and its only endpoint: this server.
///
/// Port of `pkg/controlplane/controller/kubernetesservice` for one server.
async fn kubernetes_service(
    server: &ApiServer,
    address: IpAddr,
    port: u16,
) -> Result<(), BootstrapError> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let mut spec = json!({
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
    });
    if let Some(ip) = service_ip(server) {
        spec["clusterIP"] = ip.to_string().into();
    }
    let service = json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": spec,
    });
    let text = service.to_string().into();
    ensure(server, "", "services", "v1", "default", "kubernetes", text).await?;

    let endpoints = json!({
        "kind": "Endpoints", "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": address.to_string()}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    });
    put(server, "", "endpoints", "v1", "kubernetes", endpoints).await?;
    let slice = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if address.is_ipv6() { "IPv6" } else { "IPv4" },
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    put(
        server,
        "discovery.k8s.io",
        "endpointslices",
        "v1",
        "kubernetes",
        slice,
    )
    .await
}

/// The first address of the primary service range.
pub fn service_ip(server: &ApiServer) -> Option<IpAddr> {
    match server.options().service_cidrs.first()?.network() {
        IpAddr::V4(base) => Some(IpAddr::V4((u32::from(base) + 1).into())),
        IpAddr::V6(base) => Some(IpAddr::V6((u128::from(base) + 1).into())),
    }
}

/// Creates an object unless it is there.
async fn ensure(
    server: &ApiServer,
    group: &str,
    plural: &'static str,
    version: &str,
    namespace: &str,
    name: &str,
    body: Bytes,
) -> Result<(), BootstrapError> {
    // A resource the facts do not have cannot be created; the server serves what it has.
    if Facts::get().resource(group, version, plural).is_none() {
        return Ok(());
    }
    let Some(id) = server.cache().resource(group, plural) else {
        return Ok(());
    };
    if server.cache().get(id, namespace, name).is_some() {
        return Ok(());
    }
    let path = collection_path(group, version, namespace, plural);
    send(server, Method::POST, &path, body).await
}

/// Makes an object of the default namespace be as given.
async fn put(
    server: &ApiServer,
    group: &'static str,
    plural: &'static str,
    version: &str,
    name: &str,
    object: Value,
) -> Result<(), BootstrapError> {
    let Some(id) = server.cache().resource(group, plural) else {
        return Ok(());
    };
    let collection = collection_path(group, version, "default", plural);
    let body = Bytes::from(object.to_string());
    if exists(server, id, name) {
        return send(server, Method::PUT, &format!("{collection}/{name}"), body).await;
    }
    send(server, Method::POST, &collection, body).await
}

fn exists(server: &ApiServer, id: ResourceId, name: &str) -> bool {
    server.cache().get(id, "default", name).is_some()
}

fn collection_path(group: &str, version: &str, namespace: &str, plural: &str) -> String {
    let root = if group.is_empty() {
        "/api".to_owned()
    } else {
        format!("/apis/{group}")
    };
    let scope = if namespace.is_empty() {
        String::new()
    } else {
        format!("/namespaces/{namespace}")
    };
    format!("{root}/{version}{scope}/{plural}")
}

async fn send(
    server: &ApiServer,
    method: Method,
    path: &str,
    bytes: Bytes,
) -> Result<(), BootstrapError> {
    let mut request = Request::new(body::full(bytes));
    *request.method_mut() = method.clone();
    *request.uri_mut() = path.parse().expect("paths are made of names");
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, body::JSON);
    request.extensions_mut().insert(UserInfo::apiserver());
    let response = match server.clone().call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let code = response.status();
    if code.is_success() {
        return Ok(());
    }
    let message = response
        .into_body()
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    let message = String::from_utf8_lossy(&message).into_owned();
    Err(BootstrapError {
        method,
        path: path.to_owned(),
        code,
        message,
    })
}
