//! Two families: pod to pod and ClusterIP over IPv6.
#![expect(clippy::unwrap_used, reason = "a failing test says where")]

use serde_json::Value;
use xtask::lab::cluster::ToolboxPod;
use xtask::lab::{Lab, Spec, shared};

const NS: &str = "six";

/// The IPv6 entry of a list of addresses.
fn six(list: &Value) -> String {
    let all = list.as_array().unwrap().iter();
    let texts = all.filter_map(|ip| ip.as_str().or_else(|| ip["ip"].as_str()));
    texts
        .filter(|ip| ip.contains(':'))
        .map(str::to_owned)
        .next()
        .unwrap()
}

fn pod6(lab: &Lab, pod: &str) -> String {
    six(&lab.get(&["-n", NS, "pod", pod]).unwrap()["status"]["podIPs"])
}

#[test]
fn pods_and_services_answer_over_ipv6() {
    let lab = shared::start(Spec {
        ipv6: true,
        ..Spec::new("t-ipv6")
    })
    .unwrap();
    lab.fresh_namespace(NS).unwrap();
    let pod = |name, node| ToolboxPod {
        namespace: NS,
        name,
        node: Some(node),
        ..Default::default()
    };
    let labels = &[("app", "web")];
    let args: &[&str] = &["serve"];
    lab.run_pods(&[
        ToolboxPod {
            labels,
            args,
            ..pod("web2", 2)
        },
        ToolboxPod {
            labels,
            args,
            ..pod("web3", 3)
        },
        pod("client", 2),
    ])
    .unwrap();
    lab.apply(
        "---\n{apiVersion: v1, kind: Service, metadata: {name: web, namespace: six}, spec: \
         {ipFamilyPolicy: RequireDualStack, selector: {app: web}, \
         ports: [{port: 80, targetPort: 8080}]}}",
    )
    .unwrap();
    let own = pod6(&lab, "client");
    for web in ["web2", "web3"] {
        let url = format!("http://[{}]:8080/client", pod6(&lab, web));
        let seen = lab
            .pod_until(NS, "client", &["toolbox", "get", &url])
            .unwrap();
        assert_eq!(seen.trim(), own, "{web}");
    }
    let service = lab.get(&["-n", NS, "service", "web"]).unwrap();
    let vip = six(&service["spec"]["clusterIPs"]);
    let url = format!("http://[{vip}]/");
    lab.pod_until(NS, "client", &["toolbox", "get", &url])
        .unwrap();
    let script = format!("for i in $(seq 30); do toolbox get {url} || exit; done");
    let text = lab.pod_run(NS, "client", &["sh", "-c", &script]).unwrap();
    assert!(text.contains("web2") && text.contains("web3"), "{text}");
    let resolve = [
        "toolbox",
        "resolve",
        "web.six.svc.cluster.local",
        "--type",
        "AAAA",
    ];
    let answer = lab.pod_run(NS, "client", &resolve).unwrap();
    assert!(answer.contains("AAAA"), "{answer}");
}
