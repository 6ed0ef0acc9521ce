//! Certificates of nodes: asked for, approved by rule, signed.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use crate::Cluster;
use crate::wait::until_one;

/// A request for `user` in `group`, with `names` in it, as `client` makes it.
async fn ask(client: &Client, signer: &str, purpose: &str, user: (&str, &str), names: &[&str]) {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user.0);
    params
        .distinguished_name
        .push(DnType::OrganizationName, user.1);
    let key = KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let request = CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some("r".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: format!("kubernetes.io/{signer}"),
            usages: Some(vec!["digital signature".to_owned(), purpose.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    api.create(&PostParams::default(), &request).await.unwrap();
}

async fn signed(cluster: &Cluster) -> String {
    let all = Api::<CertificateSigningRequest>::all(cluster.client.clone());
    let request = until_one("a certificate", all, "r", |request| {
        request
            .status
            .as_ref()
            .is_some_and(|s| s.certificate.is_some())
    })
    .await;
    String::from_utf8(request.status.unwrap().certificate.unwrap().0).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joining_node_gets_a_serving_certificate_for_its_own_address() {
    let cluster = Cluster::with_nodes(&[]).await;
    let node = cluster.running.client_of_node("n");
    let user = ("system:node:n", "system:nodes");
    ask(
        &node,
        "kubelet-serving",
        "server auth",
        user,
        &["n", "10.0.0.9"],
    )
    .await;
    assert!(signed(&cluster).await.contains("BEGIN CERTIFICATE"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_the_client_certificate_of_its_network_half() {
    let cluster = Cluster::with_nodes(&[]).await;
    let node = cluster.running.client_of_node("n");
    let user = ("windlass:net:n", "windlass:net");
    ask(&node, "kube-apiserver-client", "client auth", user, &[]).await;
    assert!(signed(&cluster).await.contains("BEGIN CERTIFICATE"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_renews_its_own_client_certificate() {
    let cluster = Cluster::with_nodes(&[]).await;
    let node = cluster.running.client_of_node("n");
    let user = ("system:node:n", "system:nodes");
    ask(
        &node,
        "kube-apiserver-client-kubelet",
        "client auth",
        user,
        &[],
    )
    .await;
    assert!(signed(&cluster).await.contains("BEGIN CERTIFICATE"));
    cluster.stop().await;
}
