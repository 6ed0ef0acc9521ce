//! Upstream's node: kubelet and kube-proxy as units, the bridge of its CNI plugins, CoreDNS in pods.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::argv;
use crate::images::conformance;
use crate::lab::{
    CLUSTER_RANGE, DNS_ADDRESS, Half, Lab, Place, Spec, containerd, credentials, node, node_ip, up,
};
use crate::progress::Progress;
use crate::upstream::{self, Program};
use crate::workspace;

pub const PROGRAMS: [Program; 2] = [upstream::KUBELET, upstream::KUBE_PROXY];

/// Settings of the whole machine that the kubelet writes unless they are so already: a node shows
/// it files that say so.
pub const MACHINE_SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Puts the CNI plugins where every node's containerd looks for them.
pub fn install_plugins(lab: &Lab, progress: &Progress) -> Result<()> {
    for program in &upstream::CNI {
        let built = upstream::program(progress, program)?;
        for n in lab.nodes() {
            let dir = lab.place_dir(Place::Node(n)).join("opt/cni/bin");
            fs::create_dir_all(&dir)?;
            up::link(&built, &dir)?;
        }
    }
    Ok(())
}

/// What containerd makes a CNI configuration of once the kubelet tells it the node's pod ranges.
pub fn cni_template(lab: &Lab) -> Result<PathBuf> {
    let file = lab.dir().join("cni.template");
    fs::write(&file, CNI)?;
    Ok(file)
}

const CNI: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "lab",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}
"#;

/// Starts a node: it joins with the bootstrap token.
pub fn start(lab: &Lab, n: u8, spec: &Spec) -> Result<()> {
    if lab.unit(n, "kubelet").is_ok() {
        return Ok(());
    }
    let dir = lab.place_dir(Place::Node(n));
    let name = Place::Node(n).to_string();
    let config = |file: &str, value: Value| -> Result<String> {
        let path = dir.join(file);
        fs::write(&path, value.to_string()).with_context(|| path.display().to_string())?;
        Ok(format!("--config={}", path.display()))
    };
    let kubelet = [
        config("kubelet.json", kubelet(lab, spec)?)?,
        format!(
            "--bootstrap-kubeconfig={}",
            credentials::bootstrap(lab)?.display()
        ),
        "--kubeconfig=/var/lib/kubelet/kubeconfig".to_owned(),
        format!("--hostname-override={name}"),
        format!("--node-ip={}", node_ip(n)),
    ];
    lab.apply(&proxy_account())?;
    let account = credentials::of_service_account(lab, "kube-proxy")?;
    let proxy = [config("kube-proxy.json", kube_proxy(&name, &account))?];
    for (unit, flags) in [("kubelet", &kubelet[..]), ("kube-proxy", &proxy[..])] {
        node::write_unit(&dir, unit, &argv(lab, unit, flags), &[])?;
        node::tell(&dir, &format!("start {unit}"))?;
    }
    Ok(())
}

fn kubelet(lab: &Lab, spec: &Spec) -> Result<Value> {
    // our server knows a kubelet by the cluster's CA and signs for it; upstream's takes any
    // certificate, and nobody there signs these requests unasked
    let serving_by_request = spec.control_plane == Half::Windlass;
    Ok(json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "failSwapOn": false,
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": format!("unix://{}", containerd::SOCKET),
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "staticPodPath": "/etc/kubernetes/manifests",
        "rotateCertificates": true,
        "serverTLSBootstrap": serving_by_request,
        // shares of the machine's disk say nothing about a node that is one of its guests
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1Gi",
            "imagefs.available": "1Gi",
        },
        "imageGCHighThresholdPercent": 100,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": credentials::ca(lab)? },
        },
        "authorization": { "mode": "Webhook" },
    }))
}

/// `conntrack`: its limits are the machine's, not the node's.
fn kube_proxy(node: &str, kubeconfig: &PathBuf) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node,
        "clusterCIDR": CLUSTER_RANGE,
        "clientConnection": { "kubeconfig": kubeconfig },
        "conntrack": { "maxPerCore": 0, "min": 0 },
    })
}

/// The service account of kube-proxy, as kubeadm makes it.
fn proxy_account() -> String {
    let (api, namespace) = ("rbac.authorization.k8s.io", "kube-system");
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": "kube-proxy", "namespace": namespace },
    });
    let binding = json!({
        "apiVersion": format!("{api}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "kubeadm:node-proxier" },
        "roleRef": { "apiGroup": api, "kind": "ClusterRole", "name": "system:node-proxier" },
        "subjects": [{ "kind": "ServiceAccount", "name": "kube-proxy", "namespace": namespace }],
    });
    format!("{account}\n{binding}")
}

/// Makes CoreDNS and waits until it answers.
pub fn dns(lab: &Lab) -> Result<()> {
    let file = workspace::root().join("tests/upstream/coredns/coredns.yaml");
    let manifest = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let manifest = manifest
        .replace("IMAGE", &conformance::coredns_image()?)
        .replace("ADDRESS", &DNS_ADDRESS.to_string());
    lab.apply(&manifest)?;
    lab.rolled_out("kube-system", "deployment/coredns")
}
