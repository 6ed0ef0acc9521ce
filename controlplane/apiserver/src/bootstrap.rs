//! What every cluster has from its first moment: system namespaces, the RBAC objects, the priority
//! classes, the Service `default/kubernetes` with its endpoints.
//!
//! Everything goes through the server's own verbs under its own identity, in two waves (what lives in
//! a namespace comes second) whose members are written together, so that they share syncs. RBAC
//! objects that exist are reconciled (port of `EnsureRBACPolicy` in
//! `pkg/registry/rbac/rest/storage_rbac.go`; its migrations of objects of old releases are left out,
//! since no such cluster can be opened), endpoints follow the address, others are left alone.

use std::net::IpAddr;

use api::Facts;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::Service;

use crate::{
    ApiServer, ResourceId,
    auth::{self, Reconciled},
    body,
    cache::Object,
    identity::UserInfo,
};

/// Objects written at the same time.
const MAX_WRITES: usize = 256;
/// Attempts on an object that somebody else changes at the same time.
const MAX_ATTEMPTS: usize = 5;
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

/// An object that has to be there.
struct Wanted {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    namespace: String,
    name: String,
    /// Complete JSON.
    json: Value,
    existing: Existing,
}

/// What becomes of an object that is there already.
enum Existing {
    Kept,
    Replaced,
    Reconciled(fn(&Value, &Value) -> Reconciled),
}

/// Creates what is missing and corrects what is the server's own.
pub async fn run(server: &ApiServer) -> Result<(), BootstrapError> {
    let mut wanted: Vec<Wanted> = NAMESPACES.iter().map(|name| namespace(name)).collect();
    wanted.extend(auth::seeds().into_iter().map(seed));
    wanted.extend(priority_classes());
    wanted.push(service_cidr(server));
    if let Some((address, port)) = server.options().advertise {
        wanted.extend(kubernetes_service(server, address, port));
    }
    let (cluster, namespaced): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|w| w.namespace.is_empty());
    for wave in [cluster, namespaced] {
        futures::stream::iter(wave)
            .map(|wanted| async move { wanted.ensure(server).await })
            .buffer_unordered(MAX_WRITES)
            .try_collect::<()>()
            .await?;
    }
    Ok(())
}

fn namespace(name: &str) -> Wanted {
    Wanted {
        group: "",
        version: "v1",
        plural: "namespaces",
        namespace: String::new(),
        name: name.to_owned(),
        json: json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}),
        existing: Existing::Kept,
    }
}

fn seed(seed: auth::Seed) -> Wanted {
    let auth::Seed {
        group,
        version,
        resource,
        namespace,
        name,
        json,
        reconcile,
    } = seed;
    Wanted {
        group,
        version,
        plural: resource,
        namespace,
        name,
        json,
        existing: Existing::Reconciled(reconcile),
    }
}

fn priority_classes() -> impl Iterator<Item = Wanted> {
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
    classes
        .into_iter()
        .map(|(name, value, description)| Wanted {
            group: "scheduling.k8s.io",
            version: "v1",
            plural: "priorityclasses",
            namespace: String::new(),
            name: name.to_owned(),
            json: json!({
                "kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1",
                "metadata": {"name": name}, "value": value, "description": description,
            }),
            existing: Existing::Kept,
        })
}

/// The ranges addresses of Services come from, for everyone to read (KEP-1880).
fn service_cidr(server: &ApiServer) -> Wanted {
    let cidrs: Vec<String> = server
        .options()
        .service_cidrs
        .iter()
        .map(ToString::to_string)
        .collect();
    Wanted {
        group: "networking.k8s.io",
        version: "v1",
        plural: "servicecidrs",
        namespace: String::new(),
        name: "kubernetes".to_owned(),
        json: json!({
            "kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
            "metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs},
        }),
        existing: Existing::Kept,
    }
}

/// The Service by which pods reach the API, and its only endpoint: this server.
///
/// Port of `pkg/controlplane/controller/kubernetesservice` for one server.
fn kubernetes_service(server: &ApiServer, address: IpAddr, port: u16) -> [Wanted; 3] {
    let wanted = |group, plural, json, existing| Wanted {
        group,
        version: "v1",
        plural,
        namespace: "default".to_owned(),
        name: "kubernetes".to_owned(),
        json,
        existing,
    };
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
    [
        wanted("", "services", service, Existing::Kept),
        wanted("", "endpoints", endpoints, Existing::Replaced),
        wanted(
            "discovery.k8s.io",
            "endpointslices",
            slice,
            Existing::Replaced,
        ),
    ]
}

/// The first address of the primary service range.
pub fn service_ip(server: &ApiServer) -> Option<IpAddr> {
    match server.options().service_cidrs.first()?.network() {
        IpAddr::V4(base) => Some(IpAddr::V4((u32::from(base) + 1).into())),
        IpAddr::V6(base) => Some(IpAddr::V6((u128::from(base) + 1).into())),
    }
}

// === impl Wanted ===

impl Wanted {
    async fn ensure(&self, server: &ApiServer) -> Result<(), BootstrapError> {
        // A resource the facts do not have cannot be created; the server serves what it has.
        if Facts::get()
            .resource(self.group, self.version, self.plural)
            .is_none()
        {
            return Ok(());
        }
        let id = ResourceId::named(self.group, self.plural);
        let mut result = Ok(());
        for _ in 0..MAX_ATTEMPTS {
            let existing = server.cache().get(id, &self.namespace, &self.name);
            result = self.write(server, existing.as_deref()).await;
            match &result {
                // Changed or deleted meanwhile: look again.
                Err(error) if matches!(error.code.as_u16(), 404 | 409) => {}
                _ => return result,
            }
        }
        result
    }

    async fn write(
        &self,
        server: &ApiServer,
        existing: Option<&Object>,
    ) -> Result<(), BootstrapError> {
        let collection = self.collection_path();
        let path = format!("{collection}/{}", self.name);
        let Some(existing) = existing else {
            return send(server, Method::POST, &collection, &self.json).await;
        };
        let reconcile = match self.existing {
            Existing::Kept => return Ok(()),
            Existing::Replaced => return send(server, Method::PUT, &path, &self.json).await,
            Existing::Reconciled(reconcile) => reconcile,
        };
        let current: Value = serde_json::from_slice(&existing.json()).unwrap_or_default();
        match reconcile(&current, &self.json) {
            Reconciled::Same => Ok(()),
            Reconciled::Protected => {
                tracing::warn!(path, "differs from the bootstrap policy and is protected");
                Ok(())
            }
            Reconciled::Update(updated) => {
                tracing::info!(path, "brought up to the bootstrap policy");
                send(server, Method::PUT, &path, &updated).await
            }
            Reconciled::Recreate => {
                let only_this = json!({"preconditions": {"uid": existing.uid()}});
                send(server, Method::DELETE, &path, &only_this).await?;
                send(server, Method::POST, &collection, &self.json).await
            }
        }
    }

    fn collection_path(&self) -> String {
        let root = if self.group.is_empty() {
            "/api".to_owned()
        } else {
            format!("/apis/{}", self.group)
        };
        let scope = if self.namespace.is_empty() {
            String::new()
        } else {
            format!("/namespaces/{}", self.namespace)
        };
        format!("{root}/{}{scope}/{}", self.version, self.plural)
    }
}

async fn send(
    server: &ApiServer,
    method: Method,
    path: &str,
    object: &Value,
) -> Result<(), BootstrapError> {
    let mut request = Request::new(body::full(Bytes::from(object.to_string())));
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
