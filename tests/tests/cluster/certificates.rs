//! Certificates of nodes: asked for, approved by rule, signed.

use std::net::IpAddr;
use std::time::Duration;

use agent::config::KeyPair as Pair;
use agent::join::Membership;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use tokio_util::sync::CancellationToken;

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

/// A certificate of which nine tenths are over.
fn nearly_over() -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["n".to_owned()]).unwrap();
    let now = std::time::SystemTime::now();
    params.not_before = (now - Duration::from_secs(900)).into();
    params.not_after = (now + Duration::from_secs(60)).into();
    Pair {
        cert_pem: params.self_signed(&key).unwrap().pem().into_bytes(),
        key_pem: key.serialize_pem().into_bytes(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_serving_certificate_is_replaced_while_it_runs() {
    let cluster = Cluster::with_nodes(&[]).await;
    let clients = (
        cluster.running.client_of_node("n"),
        cluster.running.client_of_net("n"),
    );
    let ips: [IpAddr; 1] = ["10.0.0.9".parse().unwrap()];
    let (membership, mut identities) = Membership::of_server("n", &ips, clients, nearly_over());
    let stop = CancellationToken::new();
    let running = tokio::spawn(membership.run(stop.clone()));
    let renewed = identities.serving.changed();
    tokio::time::timeout(Duration::from_secs(60), renewed)
        .await
        .expect("a certificate before the old one ends")
        .unwrap();
    let pem = identities.serving.borrow().cert_pem.clone();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let certificate = pem.parse_x509().unwrap();
    assert!(certificate.subject().to_string().contains("system:node:n"));
    assert_ne!(certificate.issuer(), certificate.subject());
    stop.cancel();
    running.await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_datapaths_seed_is_read_by_network_halves_alone() {
    use k8s_openapi::api::core::v1::Secret;
    let cluster = Cluster::with_nodes(&[]).await;
    let get = |client: Client| async move {
        let api = Api::<Secret>::namespaced(client, "kube-system");
        api.get("windlass-datapath").await
    };
    let secret = get(cluster.running.client_of_net("n")).await.unwrap();
    assert_eq!(secret.data.unwrap()["seed"].0.len(), 16);
    let refused = get(cluster.running.client_of_node("n")).await.unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 403),
        "{refused}"
    );
    cluster.stop().await;
}
