//! Objects a Windlass cluster has besides those of every Kubernetes cluster: the join token's Secret,
//! the seed of the agents' datapath, and the DNS Service that they answer themselves. Level-triggered:
//! run at each start.

use std::net::IpAddr;

use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use rand::Rng;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::Config;
use crate::token::Token;

const NAMESPACE: &str = "kube-system";
/// Bytes of the datapath's seed.
const SEED: usize = 16;

/// Creates or corrects the objects.
pub async fn run(client: &Client, token: &Token, config: &Config) -> kube::Result<()> {
    use k8s_openapi::api::core::v1::{Secret, Service};
    // Together, so that they share a sync.
    futures::try_join!(
        ensure::<Secret>(client, token_secret(token)),
        ensure_seed(client),
        ensure::<Service>(client, dns_service(&config.cluster_dns)),
    )?;
    Ok(())
}

async fn ensure<K>(client: &Client, object: Value) -> kube::Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + serde::Serialize,
{
    let api = Api::<K>::namespaced(client.clone(), NAMESPACE);
    let typed: K = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &typed).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let name = typed.meta().name.clone().unwrap_or_default();
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&object))
                .await
                .map(drop)
        }
        result => result.map(drop),
    }
}

/// Random, made once: another one would move new connections to other backends.
async fn ensure_seed(client: &Client) -> kube::Result<()> {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::core::v1::Secret;
    let mut seed = vec![0; SEED];
    rand::rng().fill_bytes(&mut seed);
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some("windlass-datapath".to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([("seed".to_owned(), ByteString(seed))].into()),
        immutable: Some(true),
        ..Secret::default()
    };
    let api = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    match api.create(&PostParams::default(), &secret).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => result.map(drop),
    }
}

/// A bootstrap token in the form of k8s.io/cluster-bootstrap: nodes may join with it.
fn token_secret(token: &Token) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": NAMESPACE},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": token.id,
            "token-secret": token.secret,
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "description": "join token of this server",
        },
    })
}

/// The Service `kube-dns` names the address; the agents answer it on every node, so it has no
/// selector and no endpoints.
fn dns_service(addresses: &[IpAddr]) -> Value {
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": NAMESPACE,
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": addresses.first(),
            "clusterIPs": addresses,
            "ipFamilyPolicy": if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    })
}
