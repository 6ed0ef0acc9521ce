//! NetworkPolicy with real pods: what is denied is denied from the first instant.
#![expect(clippy::unwrap_used, reason = "a failing test says where")]

use std::sync::{MutexGuard, OnceLock};
use std::time::Duration;

use xtask::lab::cluster::ToolboxPod;
use xtask::lab::{Lab, Place, Spec, shared::shared};

const NS: &str = "deny";
const OPEN: &str = "open";
const PATIENCE: Duration = Duration::from_secs(60);

const POLICIES: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: deny}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends, namespace: deny}
spec:
  podSelector: {matchLabels: {role: server}}
  ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: open}}, podSelector: {matchLabels: {role: friend}}}]
      ports: [{port: 8080}]
"#;

fn lab() -> MutexGuard<'static, Lab> {
    static READY: OnceLock<()> = OnceLock::new();
    let lab = shared(Spec::new("t-policy"));
    READY.get_or_init(|| {
        lab.fresh_namespace(NS).unwrap();
        lab.fresh_namespace(OPEN).unwrap();
        lab.apply(POLICIES).unwrap();
        let serve: &[&str] = &["serve"];
        let open = |name, node| ToolboxPod {
            namespace: OPEN,
            name,
            node: Some(node),
            ..ToolboxPod::default()
        };
        lab.run_pods(&[
            ToolboxPod {
                args: serve,
                ..open("open2", 2)
            },
            ToolboxPod {
                args: serve,
                ..open("open3", 3)
            },
            ToolboxPod {
                labels: &[("role", "friend")],
                ..open("friend", 3)
            },
            ToolboxPod {
                labels: &[("role", "stranger")],
                ..open("stranger", 3)
            },
        ])
        .unwrap();
    });
    lab
}

/// A pod whose first act is to connect: every attempt of every pod must fail.
#[test]
fn an_isolated_pod_sends_nothing_from_its_first_instant() {
    let lab = lab();
    let targets = ["open2", "open3"].map(|pod| format!("{}:8080", lab.pod_ip(OPEN, pod).unwrap()));
    let mut names = Vec::new();
    for round in 0..4 {
        for (at, target) in targets.iter().enumerate() {
            let name = format!("first-{round}-{at}");
            let args = ["connect", target.as_str(), "--timeout", "1500"];
            let pod = ToolboxPod {
                namespace: NS,
                name: &name,
                node: Some(2),
                args: &args,
                once: true,
                ..ToolboxPod::default()
            };
            lab.apply(&pod.manifest().to_string()).unwrap();
            names.push(name);
        }
    }
    for name in names {
        let (phase, log) = lab.ended(NS, &name, PATIENCE).unwrap();
        assert_eq!(
            (phase.as_str(), log.trim()),
            ("Failed", "timed out"),
            "{name}"
        );
    }
}

/// Probes that were there before the pod, aimed at its address while it starts.
#[test]
fn an_isolated_pod_receives_nothing_from_its_first_instant() {
    let lab = lab();
    for round in 0..3 {
        let name = format!("server-{round}");
        let args: &[&str] = &["serve"];
        let pod = ToolboxPod {
            namespace: NS,
            name: &name,
            node: Some(2),
            args,
            ..Default::default()
        };
        lab.apply(&pod.manifest().to_string()).unwrap();
        let ip = loop {
            // the address is published when the sandbox exists, before the container runs
            if let Ok(ip) = lab.pod_ip(NS, &name) {
                break ip;
            }
        };
        let to = format!("{ip}:8080");
        let script = format!(
            "for i in $(seq 20); do toolbox connect {to} --timeout 100 && exit 1; done; exit 0"
        );
        lab.pod_run(OPEN, "stranger", &["sh", "-c", &script])
            .unwrap();
        lab.ready(NS, &[&format!("pod/{name}")]).unwrap();
        // its own node reaches it: it does serve
        lab.run(Place::Node(2), &["toolbox", "connect", &to])
            .unwrap();
        lab.pod_try(
            OPEN,
            "stranger",
            &["toolbox", "connect", &to, "--timeout", "500"],
        )
        .map(|out| assert_eq!(out.status.code(), Some(2)))
        .unwrap();
    }
}

#[test]
fn a_selected_peer_is_let_in_and_only_to_the_port() {
    let lab = lab();
    let labels = &[("role", "server")];
    let args: &[&str] = &["serve", "--echo", "7007"];
    let pod = ToolboxPod {
        namespace: NS,
        name: "server",
        node: Some(2),
        labels,
        args,
        ..ToolboxPod::default()
    };
    lab.run_pods(&[pod]).unwrap();
    let ip = lab.pod_ip(NS, "server").unwrap();
    let connect = |pod: &str, port: u16| {
        let to = format!("{ip}:{port}");
        let argv = ["toolbox", "connect", &to, "--timeout", "700"];
        lab.pod_try(OPEN, pod, &argv).unwrap().status.code()
    };
    let to = format!("{ip}:8080");
    lab.pod_until(OPEN, "friend", &["toolbox", "connect", &to])
        .unwrap();
    assert_eq!(connect("friend", 7007), Some(2));
    assert_eq!(connect("stranger", 8080), Some(2));
    // the world and other nodes are no friends either; the pod's own node is
    let argv = ["toolbox", "connect", &to, "--timeout", "700"];
    for n in lab.nodes() {
        let allowed = lab.run(Place::Node(n), &argv).is_ok();
        assert_eq!(allowed, n == 2, "node{n}");
    }
    // a label makes a friend, and its removal an end to it
    let label = |value: &str| {
        lab.kubectl_output(&["-n", OPEN, "label", "--overwrite", "pod", "stranger", value])
            .unwrap()
    };
    label("role=friend");
    lab.pod_until(OPEN, "stranger", &["toolbox", "connect", &to])
        .unwrap();
    label("role=stranger");
    let refused = ["sh", "-c", &format!("! toolbox connect {to} --timeout 700")];
    lab.pod_until(OPEN, "stranger", &refused).unwrap();
}
