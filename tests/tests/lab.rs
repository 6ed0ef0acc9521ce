//! The lab as a newcomer sees it: three nodes, the demo, names, kubectl's everyday commands.
#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::sync::MutexGuard;

use xtask::command;
use xtask::lab::cluster::ToolboxPod;
use xtask::lab::{Lab, Place, Spec, shared::shared};

fn lab() -> MutexGuard<'static, Lab> {
    shared(Spec::new("t-lab"))
}

#[test]
fn three_nodes_are_ready() {
    let lab = lab();
    let list = lab.get(&["nodes"]).unwrap();
    let items = list["items"].as_array().unwrap();
    let names: Vec<_> = items
        .iter()
        .map(|node| node["metadata"]["name"].as_str())
        .collect();
    assert_eq!(names, [Some("node1"), Some("node2"), Some("node3")]);
    for node in items {
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|c| c["type"] == "Ready").unwrap();
        assert_eq!(ready["status"], "True", "{node}");
        assert!(node["spec"]["podCIDR"].is_string(), "{node}");
    }
}

#[test]
fn no_node_holds_an_iptables_or_nftables_rule_or_a_bridge() {
    let lab = lab();
    for n in lab.nodes() {
        let place = Place::Node(n);
        assert_eq!(
            lab.run(place, &["nft", "list", "ruleset"]).unwrap().trim(),
            "",
            "{place}"
        );
        let rules = lab.run(place, &["iptables-save"]).unwrap();
        let rules: Vec<&str> = rules
            .lines()
            .filter(|line| line.starts_with("-A"))
            .collect();
        assert!(rules.is_empty(), "{place}: {rules:?}");
        let bridges = lab
            .run(place, &["ip", "-o", "link", "show", "type", "bridge"])
            .unwrap();
        assert_eq!(bridges.trim(), "", "{place}");
    }
}

#[test]
fn the_demo_shows_what_it_promises() {
    xtask::demo::run(&lab()).unwrap();
}

const NAMES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: db, namespace: names}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: web, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: names}
spec:
  selector: {app: db}
  ports: [{name: web, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: world, namespace: names}
spec: {type: ExternalName, externalName: www.outside.test}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: names, labels: {app: db}}
spec:
  hostname: db-0
  subdomain: db
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "lab.windlass/toolbox:1", args: [serve]}]
"#;

#[test]
fn dns_answers_services_pods_and_the_world() {
    let lab = lab();
    lab.fresh_namespace("names").unwrap();
    lab.apply(NAMES).unwrap();
    let client = ToolboxPod {
        namespace: "names",
        name: "client",
        ..ToolboxPod::default()
    };
    lab.run_pods(&[client]).unwrap();
    lab.ready("names", &["pod/db-0"]).unwrap();
    let pod = lab.pod_ip("names", "db-0").unwrap();
    let vip = lab.cluster_ip("names", "web").unwrap();
    let until = [
        "toolbox",
        "get",
        "http://db-0.db.names.svc.cluster.local:8080/",
    ];
    assert_eq!(
        lab.pod_until("names", "client", &until).unwrap().trim(),
        "db-0"
    );
    let resolve = |name: &str, kind: &str, more: &[&str]| {
        let argv = [&["toolbox", "resolve", name, "--type", kind], more].concat();
        let text = lab.pod_run("names", "client", &argv).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let zone = "names.svc.cluster.local";
    let reverse: Vec<&str> = pod.split('.').rev().collect();
    let reverse = format!("{}.in-addr.arpa", reverse.join("."));
    let port = format!("_web._tcp.db.{zone}");
    let table = [
        (format!("web.{zone}"), "A", vip.clone()),
        (format!("db.{zone}"), "A", pod.clone()),
        (port, "SRV", format!("8080 db-0.db.{zone}")),
        (reverse, "PTR", format!("db-0.db.{zone}")),
        (
            format!("world.{zone}"),
            "CNAME",
            "www.outside.test".to_owned(),
        ),
        ("www.outside.test".to_owned(), "A", "10.91.0.2".to_owned()),
    ];
    for (name, kind, data) in &table {
        for more in [&[][..], &["--tcp"]] {
            let lines = resolve(name, kind, more);
            assert_eq!(lines[0], "NOERROR", "{name} {kind}");
            let expected = format!("{name} {kind} {data}");
            assert!(lines.contains(&expected), "{expected} {more:?}: {lines:?}");
        }
    }
    let followed = resolve(&format!("world.{zone}"), "A", &[]);
    assert!(
        followed.contains(&"www.outside.test A 10.91.0.2".to_owned()),
        "{followed:?}"
    );
    assert_eq!(resolve(&format!("no.{zone}"), "A", &[]), ["NXDOMAIN"]);
    assert_eq!(resolve(&format!("web.{zone}"), "AAAA", &[]), ["NOERROR"]);
    assert_eq!(resolve("missing.outside.test", "A", &[]), ["NXDOMAIN"]);
}

#[test]
fn a_pod_reaches_the_world_under_its_nodes_address() {
    let lab = lab();
    lab.fresh_namespace("world").unwrap();
    let pod = ToolboxPod {
        namespace: "world",
        name: "client",
        node: Some(2),
        ..Default::default()
    };
    lab.run_pods(&[pod]).unwrap();
    let argv = ["toolbox", "get", "http://www.outside.test/client"];
    let seen = lab.pod_run("world", "client", &argv);
    assert_eq!(seen.unwrap().trim(), "10.90.0.12");
    let udp = lab
        .pod_run(
            "world",
            "client",
            &["toolbox", "udp", "10.91.0.2:7", "hello"],
        )
        .unwrap();
    assert!(udp.contains("10.90.0.12") && udp.contains("hello"), "{udp}");
}

const DAILY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: daily, namespace: daily}
spec:
  replicas: 1
  selector: {matchLabels: {app: daily}}
  template:
    metadata: {labels: {app: daily}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
        - name: first
          image: lab.windlass/toolbox:1
          command: [sh, -c, "echo first > /shared/file"]
          volumeMounts: [{name: shared, mountPath: /shared}]
      containers:
        - name: main
          image: lab.windlass/toolbox:1
          args: [serve]
          volumeMounts: [{name: shared, mountPath: /shared}]
          env: [{name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
      volumes: [{name: shared, emptyDir: {}}]
"#;

#[test]
fn logs_exec_and_scale_work_as_everywhere() {
    let lab = lab();
    lab.fresh_namespace("daily").unwrap();
    lab.apply(DAILY).unwrap();
    lab.rolled_out("daily", "deployment/daily").unwrap();
    let in_pod = |argv: &[&str]| lab.pod_run("daily", "deployment/daily", argv).unwrap();
    assert_eq!(in_pod(&["cat", "/shared/file"]).trim(), "first");
    let name = in_pod(&["sh", "-c", "echo $WHO"]);
    assert_eq!(in_pod(&["hostname"]), name);
    let logs = ["-n", "daily", "logs", "deployment/daily", "-c", "main"];
    let logs = lab.kubectl_output(&logs).unwrap();
    assert!(logs.contains(&format!("{} serves", name.trim())), "{logs}");
    let failing = lab
        .pod_try("daily", "deployment/daily", &["sh", "-c", "exit 7"])
        .unwrap();
    assert_eq!(failing.status.code(), Some(7));
    let argv = ["-n", "daily", "exec", "-i", "deployment/daily", "--", "cat"];
    let mut echo = lab.kubectl(&argv);
    echo.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "true");
    assert_eq!(
        command::fed(&mut echo, "over WebSocket").unwrap(),
        "over WebSocket"
    );
    lab.kubectl_output(&["-n", "daily", "scale", "deployment/daily", "--replicas=3"])
        .unwrap();
    lab.rolled_out("daily", "deployment/daily").unwrap();
    let changed = ["-n", "daily", "set", "env", "deployment/daily", "A=b"];
    lab.kubectl_output(&changed).unwrap();
    lab.rolled_out("daily", "deployment/daily").unwrap();
    lab.kubectl_output(&["-n", "daily", "rollout", "undo", "deployment/daily"])
        .unwrap();
    lab.rolled_out("daily", "deployment/daily").unwrap();
    let env = lab.get(&["-n", "daily", "deployment", "daily"]).unwrap();
    assert!(!env.to_string().contains(r#""name":"A""#), "{env}");
    lab.kubectl_output(&["explain", "deployment.spec.strategy"])
        .unwrap();
    let table = lab
        .kubectl_output(&["-n", "daily", "get", "pods", "-o", "wide"])
        .unwrap();
    assert!(
        table.starts_with("NAME") && table.contains("Running"),
        "{table}"
    );
}
