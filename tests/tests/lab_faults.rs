//! Crashes under load: what the kernel does, it goes on doing; what was acknowledged, stays.
#![expect(clippy::unwrap_used, reason = "a failing test says where")]

use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData, MapType};
use serde_json::Value;
use xtask::lab::cluster::ToolboxPod;
use xtask::lab::{Lab, Spec, shared::shared};
use xtask::progress;

const NS: &str = "faults";
/// Length of the load that crashes happen in, seconds.
const LOAD: &str = "10";
const PATIENCE: Duration = Duration::from_secs(60);

const SERVERS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: faults}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: echo, port: 7, targetPort: 7007}]
---
apiVersion: v1
kind: Service
metadata: {name: iperf, namespace: faults}
spec: {selector: {app: iperf}, ports: [{port: 5201}]}
---
apiVersion: v1
kind: Pod
metadata: {name: iperf, namespace: faults, labels: {app: iperf}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "lab.windlass/iperf3:1", args: [-s]}]
"#;

const LOADS: [(&str, u8, &[&str]); 4] = [
    (
        "load2",
        2,
        &["load", "web:80", "--rate", "200", "--seconds", LOAD],
    ),
    (
        "load3",
        3,
        &["load", "web:80", "--rate", "200", "--seconds", LOAD],
    ),
    ("hold2", 2, &["hold", "web:7", "--seconds", LOAD]),
    ("hold3", 3, &["hold", "web:7", "--seconds", LOAD]),
];

fn lab() -> MutexGuard<'static, Lab> {
    shared(Spec::new("t-faults"))
}

fn pod(name: &str, node: u8) -> ToolboxPod<'_> {
    ToolboxPod {
        namespace: NS,
        name,
        node: Some(node),
        ..ToolboxPod::default()
    }
}

/// Servers on nodes 2 and 3, clients on nodes 2 and 3: short requests through a Service, held
/// connections, and iperf3 at full speed.
fn start_load(lab: &Lab) {
    lab.fresh_namespace(NS).unwrap();
    lab.apply(SERVERS).unwrap();
    let labels = &[("app", "web")];
    let args = &["serve", "--echo", "7007"][..];
    lab.run_pods(&[
        ToolboxPod {
            labels,
            args,
            ..pod("web-a", 2)
        },
        ToolboxPod {
            labels,
            args,
            ..pod("web-b", 3)
        },
        pod("probe", 3),
    ])
    .unwrap();
    lab.ready(NS, &["pod/iperf"]).unwrap();
    for to in ["web:80", "web:7", "iperf:5201"] {
        lab.pod_until(NS, "probe", &["toolbox", "connect", to])
            .unwrap();
    }
    for (name, node, args) in LOADS {
        lab.start_once(&ToolboxPod {
            args,
            once: true,
            ..pod(name, node)
        })
        .unwrap();
    }
    let client = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "iperf-client", "namespace": NS },
        "spec": {
            "nodeName": "node3", "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": "lab.windlass/iperf3:1",
                "args": ["-c", "iperf", "-t", LOAD],
            }],
        },
    });
    lab.apply(&client.to_string()).unwrap();
    lab.running(NS, "iperf-client").unwrap();
}

fn check_load(lab: &Lab) {
    for name in LOADS
        .map(|(name, _, _)| name)
        .into_iter()
        .chain(["iperf-client"])
    {
        let (phase, log) = lab.ended(NS, name, PATIENCE).unwrap();
        assert_eq!(phase, "Succeeded", "{name}: {log}");
    }
}

/// Identity of every running server's container: a restarted one has another id.
fn containers(lab: &Lab, namespace: &str) -> Vec<String> {
    let pods = lab.get(&["-n", namespace, "pods"]).unwrap();
    let mut found = Vec::new();
    for pod in pods["items"].as_array().unwrap() {
        for status in pod["status"]["containerStatuses"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let name = &pod["metadata"]["name"];
            found.push(format!(
                "{name} {} {}",
                status["containerID"], status["restartCount"]
            ));
        }
    }
    found
}

fn kill_windlass(lab: &Lab, n: u8) {
    let old = lab.unit(n, "windlass").unwrap().pid();
    lab.kill_unit(n, "windlass").unwrap();
    progress::wait(&format!("windlass of node{n} is back"), PATIENCE, || {
        Ok(lab.unit(n, "windlass").is_ok_and(|unit| unit.pid() != old))
    })
    .unwrap();
}

#[test]
fn killing_the_agents_cuts_and_refuses_nothing_and_pods_are_adopted() {
    let lab = lab();
    start_load(&lab);
    let before = containers(&lab, NS);
    for n in [2, 3, 2, 3] {
        kill_windlass(&lab, n);
        std::thread::sleep(Duration::from_secs(1));
    }
    check_load(&lab);
    assert_eq!(before, containers(&lab, NS), "a container was restarted");
    // the restarted agents still work: a new pod, its address, its Service
    lab.run_pods(&[pod("late", 2)]).unwrap();
    lab.pod_until(NS, "late", &["toolbox", "get", "http://web/"])
        .unwrap();
}

/// Name and uid of what a crash must not lose.
fn objects(lab: &Lab) -> Vec<String> {
    let kinds = "deployments,services,configmaps,secrets,serviceaccounts,networkpolicies";
    let list = lab.get(&["-A", kinds]).unwrap();
    let id = |object: &Value| {
        format!(
            "{} {}",
            object["metadata"]["name"], object["metadata"]["uid"]
        )
    };
    list["items"].as_array().unwrap().iter().map(id).collect()
}

#[test]
fn killing_the_server_loses_no_object_and_touches_no_pod() {
    let lab = lab();
    start_load(&lab);
    for n in 0..20 {
        let name = format!("written-{n}");
        let args = ["-n", NS, "create", "configmap", &name, "--from-literal=a=b"];
        lab.kubectl_output(&args).unwrap();
    }
    let (before, pods) = (objects(&lab), containers(&lab, NS));
    assert_eq!(
        before
            .iter()
            .filter(|object| object.contains("written-"))
            .count(),
        20
    );
    kill_windlass(&lab, 1);
    progress::wait("the API answers again", PATIENCE, || {
        Ok(lab.kubectl_output(&["get", "--raw", "/readyz"]).is_ok())
    })
    .unwrap();
    let after = objects(&lab);
    for object in &before {
        assert!(after.contains(object), "{object} is gone");
    }
    check_load(&lab);
    assert_eq!(pods, containers(&lab, NS));
    let ready = [
        "wait",
        "--for=condition=Ready",
        "nodes",
        "--all",
        "--timeout=60s",
    ];
    lab.kubectl_output(&ready).unwrap();
}

#[test]
fn deleting_every_conntrack_entry_resets_and_refuses_nothing() {
    let lab = lab();
    start_load(&lab);
    let mut deleted = 0;
    for _ in 0..3 {
        deleted += lab.nodes().map(|n| forget_flows(&lab, n)).sum::<usize>();
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(deleted > 100, "only {deleted} entries were deleted");
    check_load(&lab);
}

/// Deletes all entries of the node's pinned conntrack maps.
fn forget_flows(lab: &Lab, n: u8) -> usize {
    let init = lab.init(n).unwrap();
    let dir = format!("/proc/{}/root/sys/fs/bpf/windlass", init.pid());
    conntrack_pins(Path::new(&dir))
        .iter()
        .map(|pin| delete_all(pin))
        .sum()
}

fn conntrack_pins(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut pins = Vec::new();
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pins.extend(conntrack_pins(&entry.path()));
        } else if entry.file_name().to_string_lossy().starts_with("ct") {
            pins.push(entry.path());
        }
    }
    pins
}

fn delete_all(pin: &Path) -> usize {
    let data = MapData::from_pin(pin).unwrap();
    let info = data.info().unwrap();
    if info.map_type().unwrap() != MapType::LruHash {
        return 0;
    }
    match info.key_size() {
        16 => delete_keys::<16, 48>(data),
        40 => delete_keys::<40, 72>(data),
        other => panic!("{}: key of {other} bytes", pin.display()),
    }
}

fn delete_keys<const KEY: usize, const VALUE: usize>(data: MapData) -> usize
where
    [u8; KEY]: aya::Pod,
    [u8; VALUE]: aya::Pod,
{
    let map = Map::LruHashMap(data);
    let mut map = HashMap::<_, [u8; KEY], [u8; VALUE]>::try_from(map).unwrap();
    let keys: Vec<[u8; KEY]> = map.keys().filter_map(Result::ok).collect();
    keys.iter().filter(|key| map.remove(*key).is_ok()).count()
}

#[test]
fn a_containerd_crash_leaves_pods_running() {
    let lab = lab();
    lab.fresh_namespace(NS).unwrap();
    lab.run_pods(&[ToolboxPod {
        args: &["serve"],
        ..pod("a", 3)
    }])
    .unwrap();
    let before = containers(&lab, NS);
    lab.kill_unit(3, "containerd").unwrap();
    lab.run_pods(&[pod("b", 3)]).unwrap();
    let after = containers(&lab, NS);
    assert!(after.contains(&before[0]), "{before:?} {after:?}");
}
