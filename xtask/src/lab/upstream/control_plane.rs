//! Upstream's control plane as units of node 1, with kubeadm's objects for joining nodes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use super::argv;
use super::pki::Pki;
use crate::lab::{
    API_PORT, CLUSTER_RANGE, Lab, Place, SERVICE_RANGE, STEP, credentials, node, node_ip, ready,
    readyz,
};
use crate::progress::{self, Progress};
use crate::upstream::{self, Program};

pub const PROGRAMS: [Program; 4] = [
    upstream::ETCD,
    upstream::KUBE_APISERVER,
    upstream::KUBE_CONTROLLER_MANAGER,
    upstream::KUBE_SCHEDULER,
];

/// The first address of the range of Services, by which pods reach the API.
const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const ETCD: &str = "http://127.0.0.1:2379";
/// The bootstrap token of every lab: nothing outside of it can reach the API.
const TOKEN: (&str, &str) = ("lab000", "0123456789abcdef");

/// Starts the control plane and waits until it is ready.
pub fn start(lab: &Lab, port: u16, progress: &Progress) -> Result<()> {
    let pki = Pki::open(credentials::dir(lab)?);
    certificates(lab, &pki)?;
    if lab.unit(1, "kube-apiserver").is_err() {
        let dir = lab.place_dir(Place::Node(1));
        for (name, flags) in [
            ("etcd", etcd(lab)),
            ("kube-apiserver", apiserver(&pki)),
            ("kube-controller-manager", controller_manager(&pki)),
            ("kube-scheduler", scheduler(&pki)),
        ] {
            node::write_unit(&dir, name, &argv(lab, name, &flags), &[])?;
            node::tell(&dir, &format!("start {name}"))?;
        }
        progress.mark("control plane started");
    }
    let admin = fs::read_to_string(pki.path("admin.kubeconfig"))?;
    credentials::write_admin(lab, &admin, port)?;
    let netns = PathBuf::from(format!("/run/netns/{}", lab.netns(Place::Node(1))));
    let to = SocketAddr::from(([127, 0, 0, 1], API_PORT));
    let ca = credentials::ca(lab)?;
    progress::wait("the API server is ready", STEP, || {
        Ok(readyz::is_ready(&netns, to, &ca))
    })
    .with_context(|| ready::tail(&lab.log(1, "kube-apiserver")))?;
    // made by the server itself, a moment after it is ready
    progress::wait("namespace kube-system is there", STEP, || {
        Ok(lab.get(&["namespace", "kube-system"]).is_ok())
    })?;
    progress.mark("API server is ready");
    lab.apply(&joining()).context("objects for joining nodes")?;
    credentials::write_bootstrap(lab, &format!("{}.{}", TOKEN.0, TOKEN.1))
}

fn certificates(lab: &Lab, pki: &Pki) -> Result<()> {
    pki.authority("ca")?;
    pki.authority("front-proxy-ca")?;
    pki.service_accounts()?;
    let own = node_ip(1);
    let names = ["", ".default", ".default.svc", ".default.svc.cluster.local"]
        .map(|suffix| format!("DNS:kubernetes{suffix}"))
        .join(",");
    let sans = format!("{names},DNS:localhost,IP:127.0.0.1,IP:{own},IP:{API_SERVICE}");
    pki.identity("apiserver", "ca", "/CN=kube-apiserver", &sans)?;
    let masters = "/O=system:masters/CN=";
    let kubelet = format!("{masters}kube-apiserver-kubelet-client");
    pki.identity("apiserver-kubelet-client", "ca", &kubelet, "")?;
    let front = "/CN=front-proxy-client";
    pki.identity("front-proxy-client", "front-proxy-ca", front, "")?;
    for (name, subject) in [
        ("admin", format!("{masters}kubernetes-admin")),
        (
            "controller-manager",
            "/CN=system:kube-controller-manager".to_owned(),
        ),
        ("scheduler", "/CN=system:kube-scheduler".to_owned()),
    ] {
        pki.identity(name, "ca", &subject, "")?;
        let kubeconfig = credentials::member(lab, pki.user(name))?;
        fs::write(pki.path(&format!("{name}.kubeconfig")), kubeconfig)?;
    }
    Ok(())
}

fn etcd(lab: &Lab) -> Vec<String> {
    let data = lab.place_dir(Place::Node(1)).join("etcd");
    let peer = "http://127.0.0.1:2380";
    vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--log-level=warn".to_owned(),
    ]
}

/// What aggregated API servers trust, in apiserver and controller manager.
fn front_proxy(pki: &Pki) -> String {
    format!(
        "--requestheader-client-ca-file={}",
        pki.path("front-proxy-ca.crt")
    )
}

fn apiserver(pki: &Pki) -> Vec<String> {
    let file = |flag: &str, file: &str| format!("--{flag}={}", pki.path(file));
    vec![
        format!("--etcd-servers={ETCD}"),
        format!("--advertise-address={}", node_ip(1)),
        format!("--secure-port={API_PORT}"),
        file("tls-cert-file", "apiserver.crt"),
        file("tls-private-key-file", "apiserver.key"),
        file("client-ca-file", "ca.crt"),
        file("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
        file("kubelet-client-key", "apiserver-kubelet-client.key"),
        "--kubelet-preferred-address-types=InternalIP,Hostname".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        file("service-account-key-file", "sa.pub"),
        file("service-account-signing-key-file", "sa.key"),
        front_proxy(pki),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        file("proxy-client-cert-file", "front-proxy-client.crt"),
        file("proxy-client-key-file", "front-proxy-client.key"),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--enable-bootstrap-token-auth".to_owned(),
        "--allow-privileged".to_owned(),
    ]
}

/// The flags by which a component knows the API server and who may ask it.
fn client(pki: &Pki, name: &str) -> Vec<String> {
    let kubeconfig = pki.path(&format!("{name}.kubeconfig"));
    [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ]
    .map(|flag| format!("--{flag}={kubeconfig}"))
    .to_vec()
}

fn controller_manager(pki: &Pki) -> Vec<String> {
    let file = |flag: &str, file: &str| format!("--{flag}={}", pki.path(file));
    let mut flags = client(pki, "controller-manager");
    flags.extend([
        "--bind-address=127.0.0.1".to_owned(),
        "--allocate-node-cidrs".to_owned(),
        format!("--cluster-cidr={CLUSTER_RANGE}"),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        file("cluster-signing-cert-file", "ca.crt"),
        file("cluster-signing-key-file", "ca.key"),
        file("root-ca-file", "ca.crt"),
        file("client-ca-file", "ca.crt"),
        file("service-account-private-key-file", "sa.key"),
        front_proxy(pki),
        "--use-service-account-credentials".to_owned(),
        "--controllers=*,bootstrapsigner,tokencleaner".to_owned(),
    ]);
    flags
}

fn scheduler(pki: &Pki) -> Vec<String> {
    let mut flags = client(pki, "scheduler");
    flags.push("--bind-address=127.0.0.1".to_owned());
    flags
}

/// A bootstrap token, and the bindings by which its holders and nodes get client certificates:
/// what `kubeadm init` leaves in a cluster.
fn joining() -> String {
    let bootstrappers = "system:bootstrappers:kubeadm:default-node-token";
    let signing = "system:certificates.k8s.io:certificatesigningrequests";
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": format!("bootstrap-token-{}", TOKEN.0), "namespace": "kube-system",
        },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": TOKEN.0,
            "token-secret": TOKEN.1,
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": bootstrappers,
        },
    });
    let bind = |name: &str, role: &str, group: &str| {
        let api = "rbac.authorization.k8s.io";
        json!({
            "apiVersion": format!("{api}/v1"),
            "kind": "ClusterRoleBinding",
            "metadata": { "name": name },
            "roleRef": { "apiGroup": api, "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": api, "kind": "Group", "name": group }],
        })
    };
    [
        secret,
        bind(
            "kubeadm:kubelet-bootstrap",
            "system:node-bootstrapper",
            bootstrappers,
        ),
        bind(
            "kubeadm:node-autoapprove-bootstrap",
            &format!("{signing}:nodeclient"),
            bootstrappers,
        ),
        bind(
            "kubeadm:node-autoapprove-certificate-rotation",
            &format!("{signing}:selfnodeclient"),
            "system:nodes",
        ),
    ]
    .map(|object| object.to_string())
    .join("\n")
}
