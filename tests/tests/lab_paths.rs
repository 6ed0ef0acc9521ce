//! Every row of the table of paths that begin or end in the host's stack (docs of the datapath), and
//! the paths between pods, on three nodes.
#![expect(clippy::unwrap_used, reason = "a failing test says where")]

use std::process::Stdio;
use std::sync::{MutexGuard, OnceLock};
use std::time::Duration;

use xtask::lab::cluster::ToolboxPod;
use xtask::lab::{Lab, Place, Spec, node_ip, shared::shared};
use xtask::{command, progress};

const NS: &str = "paths";
const NODE_PORT: u16 = 30081;
/// Port of a server in the host network of each node, outside of Kubernetes.
const HOST_PORT: u16 = 9300;

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: paths}
spec:
  type: NodePort
  selector: {app: web}
  ports:
    - {name: http, port: 80, targetPort: 8080, nodePort: 30081}
    - {name: echo, port: 7, targetPort: 7007, protocol: UDP, nodePort: 30082}
---
apiVersion: v1
kind: Service
metadata: {name: local, namespace: paths}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30083}]
---
apiVersion: v1
kind: Service
metadata: {name: hostweb, namespace: paths}
spec:
  selector: {app: hostweb}
  ports: [{port: 80, targetPort: 9400}]
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: paths}
spec:
  selector: {app: none}
  ports: [{port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: isolated, namespace: paths}
spec:
  podSelector: {matchLabels: {isolated: "yes"}}
  policyTypes: [Ingress, Egress]
"#;

struct Paths {
    lab: MutexGuard<'static, Lab>,
    web: [String; 2],
    vip: String,
    hostweb: String,
}

/// A lab with: web servers on nodes 2 and 3, a client on each node, an isolated pod on node 2, a
/// host-network pod on node 3, a plain server on each host.
fn paths() -> Paths {
    static READY: OnceLock<()> = OnceLock::new();
    let lab = shared(Spec::new("t-paths"));
    READY.get_or_init(|| prepare(&lab));
    Paths {
        web: [
            lab.pod_ip(NS, "web2").unwrap(),
            lab.pod_ip(NS, "web3").unwrap(),
        ],
        vip: lab.cluster_ip(NS, "web").unwrap(),
        hostweb: lab.cluster_ip(NS, "hostweb").unwrap(),
        lab,
    }
}

fn prepare(lab: &Lab) {
    lab.fresh_namespace(NS).unwrap();
    lab.apply(SERVICES).unwrap();
    let pod = |name, node| ToolboxPod {
        namespace: NS,
        name,
        node: Some(node),
        ..Default::default()
    };
    let serve: &[&str] = &["serve", "--udp", "7007"];
    let web = &[("app", "web")];
    lab.run_pods(&[
        ToolboxPod {
            labels: web,
            args: serve,
            ..pod("web2", 2)
        },
        ToolboxPod {
            labels: web,
            args: serve,
            ..pod("web3", 3)
        },
        pod("client1", 1),
        pod("client2", 2),
        pod("client3", 3),
        ToolboxPod {
            labels: &[("isolated", "yes")],
            args: serve,
            ..pod("isolated2", 2)
        },
        ToolboxPod {
            labels: &[("app", "hostweb")],
            args: &["serve", "--port", "9400"],
            host_network: true,
            ..pod("hostweb", 3)
        },
    ])
    .unwrap();
    let vip = lab.cluster_ip(NS, "web").unwrap();
    for n in lab.nodes() {
        host_server(lab, n);
        let url = format!("http://{vip}/");
        lab.pod_until(NS, &format!("client{n}"), &["toolbox", "get", &url])
            .unwrap();
    }
}

/// Runs until the lab goes.
fn host_server(lab: &Lab, n: u8) {
    let port = HOST_PORT.to_string();
    let argv = ["toolbox", "serve", "--port", &port, "--udp", &port];
    let mut server = lab.exec(Place::Node(n), &argv).unwrap();
    #[expect(
        clippy::zombie_processes,
        reason = "it ends with the lab, as does its parent"
    )]
    server
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let at = format!("127.0.0.1:{port}");
    progress::wait("a host's server", Duration::from_secs(5), || {
        Ok(lab
            .run(Place::Node(n), &["toolbox", "connect", &at])
            .is_ok())
    })
    .unwrap();
}

impl Paths {
    /// What a web server answers to a pod, or the error.
    fn asked_by_pod(&self, pod: &str, url: &str) -> Result<String, String> {
        let text = self
            .lab
            .pod_run(NS, pod, &["toolbox", "get", url, "--timeout", "3000"]);
        text.map(|text| text.trim().to_owned())
            .map_err(|e| format!("{pod} → {url}: {e:#}"))
    }

    fn from(&self, place: Place, url: &str) -> Result<String, String> {
        let text = self
            .lab
            .run(place, &["toolbox", "get", url, "--timeout", "3000"]);
        text.map(|text| text.trim().to_owned())
            .map_err(|e| format!("{place} → {url}: {e:#}"))
    }

    fn udp_from(&self, place: Place, to: &str) -> String {
        self.lab
            .run(place, &["toolbox", "udp", to, "hello"])
            .unwrap()
    }
}

fn is_web(answer: &str) -> bool {
    answer == "web2" || answer == "web3"
}

#[test]
fn pod_to_pod_on_the_same_and_another_node_keeps_the_source() {
    let paths = paths();
    let own = paths.lab.pod_ip(NS, "client2").unwrap();
    for ip in &paths.web {
        let url = format!("http://{ip}:8080/client");
        assert_eq!(paths.asked_by_pod("client2", &url).unwrap(), own);
        let udp = paths
            .lab
            .pod_run(NS, "client2", &["toolbox", "udp", &format!("{ip}:7007")]);
        assert!(udp.unwrap().contains(&own));
    }
}

#[test]
fn pod_to_its_own_node_and_the_nodes_dns_is_untranslated_and_always_allowed() {
    let paths = paths();
    let url = format!("http://{}:{HOST_PORT}/client", node_ip(2));
    for pod in ["client2", "isolated2"] {
        let own = paths.lab.pod_ip(NS, pod).unwrap();
        assert_eq!(paths.asked_by_pod(pod, &url).unwrap(), own);
        for more in [&[][..], &["--tcp"]] {
            let argv = ["toolbox", "resolve", "kubernetes.default.svc.cluster.local"];
            let text = paths.lab.pod_run(NS, pod, &[&argv, more].concat()).unwrap();
            assert!(text.starts_with("NOERROR"), "{pod}: {text}");
        }
    }
}

#[test]
fn pod_to_a_service_whose_backend_is_its_own_host() {
    let paths = paths();
    let api = format!(
        "{}:443",
        paths.lab.cluster_ip("default", "kubernetes").unwrap()
    );
    let text = paths
        .lab
        .pod_run(NS, "client1", &["toolbox", "connect", &api])
        .unwrap();
    assert_eq!(text.trim(), "connected");
    let url = format!("http://{}/", paths.hostweb);
    assert_eq!(paths.asked_by_pod("client3", &url).unwrap(), "node3");
}

#[test]
fn pod_to_a_service_whose_backend_is_another_host_keeps_the_pods_address() {
    let paths = paths();
    let api = format!(
        "{}:443",
        paths.lab.cluster_ip("default", "kubernetes").unwrap()
    );
    for pod in ["client2", "client3"] {
        let text = paths
            .lab
            .pod_run(NS, pod, &["toolbox", "connect", &api])
            .unwrap();
        assert_eq!(text.trim(), "connected", "{pod}");
    }
    let own = paths.lab.pod_ip(NS, "client2").unwrap();
    let url = format!("http://{}/client", paths.hostweb);
    assert_eq!(paths.asked_by_pod("client2", &url).unwrap(), own);
}

#[test]
fn pod_to_a_service_reaches_every_backend_also_itself() {
    let paths = paths();
    let url = format!("http://{}/", paths.vip);
    let script = format!("for i in $(seq 40); do toolbox get {url} || exit; done");
    for pod in ["client1", "web2"] {
        let text = paths.lab.pod_run(NS, pod, &["sh", "-c", &script]).unwrap();
        assert!(
            text.contains("web2") && text.contains("web3"),
            "{pod}: {text}"
        );
    }
    let udp = ["toolbox", "udp", &format!("{}:7", paths.vip)];
    assert!(
        paths
            .lab
            .pod_run(NS, "client1", &udp)
            .unwrap()
            .starts_with("web")
    );
}

#[test]
fn pod_to_the_node_port_of_its_own_node_and_of_another() {
    let paths = paths();
    for n in paths.lab.nodes() {
        let url = format!("http://{}:{NODE_PORT}/", node_ip(n));
        let answer = paths.asked_by_pod("client2", &url).unwrap();
        assert!(is_web(&answer), "{url}: {answer}");
    }
}

#[test]
fn host_to_a_local_pod_is_allowed_also_when_the_pod_is_isolated() {
    let paths = paths();
    let ip = paths.lab.pod_ip(NS, "isolated2").unwrap();
    let url = format!("http://{ip}:8080/");
    assert_eq!(paths.from(Place::Node(2), &url).unwrap(), "isolated2");
    paths.from(Place::Node(1), &url).unwrap_err();
    paths.asked_by_pod("client2", &url).unwrap_err();
}

#[test]
fn host_to_a_pod_on_another_node() {
    let paths = paths();
    let url = format!("http://{}:8080/", paths.web[0]);
    for n in paths.lab.nodes() {
        assert_eq!(paths.from(Place::Node(n), &url).unwrap(), "web2", "node{n}");
    }
}

#[test]
fn host_to_a_service_and_its_own_node_port() {
    let paths = paths();
    for n in paths.lab.nodes() {
        let place = Place::Node(n);
        let node_port = format!("http://{}:{NODE_PORT}/", node_ip(n));
        for url in [format!("http://{}/", paths.vip), node_port] {
            let answer = paths.from(place, &url).unwrap();
            assert!(is_web(&answer), "{place} {url}: {answer}");
        }
        let url = format!("http://{}/", paths.hostweb);
        assert_eq!(paths.from(place, &url).unwrap(), "node3", "{place}");
        assert!(
            paths
                .udp_from(place, &format!("{}:7", paths.vip))
                .starts_with("web")
        );
        let dns = [
            "toolbox",
            "resolve",
            "web.paths.svc.cluster.local",
            "--server",
            "10.96.0.10",
        ];
        assert!(
            paths.lab.run(place, &dns).unwrap().contains(&paths.vip),
            "{place}"
        );
    }
}

#[test]
fn outside_to_a_hosts_own_address_passes() {
    let paths = paths();
    for n in paths.lab.nodes() {
        let url = format!("http://{}:{HOST_PORT}/client", node_ip(n));
        assert_eq!(paths.from(Place::Outside, &url).unwrap(), "10.91.0.2");
        let udp = paths.udp_from(Place::Outside, &format!("{}:{HOST_PORT}", node_ip(n)));
        assert!(udp.contains("10.91.0.2"), "{udp}");
    }
}

#[test]
fn outside_to_a_node_port_with_policy_cluster_works_on_every_node() {
    let paths = paths();
    for n in paths.lab.nodes() {
        for _ in 0..8 {
            let url = format!("http://{}:{NODE_PORT}/", node_ip(n));
            let answer = paths.from(Place::Outside, &url).unwrap();
            assert!(is_web(&answer), "{url}: {answer}");
        }
        let udp = paths.udp_from(Place::Outside, &format!("{}:30082", node_ip(n)));
        assert!(udp.starts_with("web"), "{udp}");
    }
}

#[test]
fn outside_to_a_node_port_with_policy_local_keeps_the_source_or_is_dropped() {
    let paths = paths();
    for n in [2, 3] {
        let url = format!("http://{}:30083/", node_ip(n));
        assert_eq!(paths.from(Place::Outside, &url).unwrap(), format!("web{n}"));
        let url = format!("{url}client");
        assert_eq!(paths.from(Place::Outside, &url).unwrap(), "10.91.0.2");
    }
    let to = format!("{}:30083", node_ip(1));
    let argv = ["toolbox", "connect", &to, "--timeout", "1000"];
    let out = command::raw(&mut paths.lab.exec(Place::Outside, &argv).unwrap()).unwrap();
    assert_eq!(
        out.status.code(),
        Some(2),
        "no local backend: dropped, not refused"
    );
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let paths = paths();
    let to = format!("{}:80", paths.lab.cluster_ip(NS, "empty").unwrap());
    let out = paths
        .lab
        .pod_try(NS, "client2", &["toolbox", "connect", &to])
        .unwrap();
    assert_eq!(
        out.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&out.stdout)
    );
}
