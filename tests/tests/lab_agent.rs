//! What an agent goes through: killed at awkward moments, without its datapath, on a full disk, with pods
//! whose parts come later. Pods get there in the end, and nothing is left behind.
#![expect(clippy::unwrap_used, reason = "a failing test says where")]

use std::sync::MutexGuard;
use std::time::Duration;

use serde_json::{Value, json};
use xtask::lab::cluster::ToolboxPod;
use xtask::lab::{Lab, Place, Spec, shared::shared};
use xtask::{images, progress};

const NS: &str = "agent";
const PATIENCE: Duration = Duration::from_secs(90);
/// The node these tests are hard on; another than the server's.
const NODE: u8 = 2;
/// Delays after which something is killed: while sandboxes are made, images looked at, containers started.
const MOMENTS: [u64; 8] = [20, 60, 110, 170, 240, 330, 450, 700];

fn lab() -> MutexGuard<'static, Lab> {
    shared(Spec::new("t-agent"))
}

fn pod(name: &str) -> ToolboxPod<'_> {
    ToolboxPod {
        namespace: NS,
        name,
        node: Some(NODE),
        ..ToolboxPod::default()
    }
}

fn wait(what: &str, test: impl FnMut() -> anyhow::Result<bool>) {
    progress::wait(what, PATIENCE, test).unwrap();
}

/// A condition of a node: status, reason and message.
fn condition(lab: &Lab, n: u8, kind: &str) -> (String, String, String) {
    let node = lab.get(&["node", &Place::Node(n).to_string()]).unwrap();
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|c| c["type"] == kind);
    let text = |field: &str| {
        let value = found.and_then(|c| c[field].as_str());
        value.unwrap_or_default().to_owned()
    };
    (text("status"), text("reason"), text("message"))
}

/// Messages of the events of that reason.
fn events(lab: &Lab, reason: &str) -> Vec<String> {
    let list = lab.get(&["-n", NS, "events"]).unwrap();
    let items = list["items"].as_array().unwrap().iter();
    let of = items.filter(|event| event["reason"] == reason);
    of.filter_map(|event| event["message"].as_str().map(str::to_owned))
        .collect()
}

fn names_of_pods(lab: &Lab) -> Vec<String> {
    let list = lab.get(&["-n", NS, "pods"]).unwrap();
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Interfaces, containers and pod directories on the node.
fn remains(lab: &Lab) -> Vec<String> {
    let at = Place::Node(NODE);
    let run = |argv: &[&str]| lab.run(at, argv).unwrap_or_default();
    let links = run(&["ip", "-o", "link", "show", "type", "veth"]);
    let veths = links.lines().filter(|line| line.contains(": wl"));
    let containers = run(&["ctr", "-n", "k8s.io", "containers", "ls", "-q"]);
    let pods = run(&["ls", "/var/lib/windlass/agent/pods"]);
    let records = run(&["ls", "/var/lib/windlass/agent/net/sandboxes"]);
    let lists = [containers, pods, records];
    veths
        .chain(lists.iter().flat_map(|text| text.lines()))
        .map(str::to_owned)
        .collect()
}

fn delete_pods(lab: &Lab) {
    let all = ["-n", NS, "delete", "pods", "--all", "--timeout=90s"];
    lab.kubectl_output(&all).unwrap();
}

/// Nothing of the namespace's pods is left on the node.
fn nothing_remains(lab: &Lab) {
    let mut left = Vec::new();
    let gone = progress::wait("nothing is left on the node", PATIENCE, || {
        left = remains(lab);
        Ok(left.is_empty())
    });
    assert!(gone.is_ok(), "{left:#?}");
}

fn kill_after(lab: &Lab, unit: &str, moment: u64) {
    std::thread::sleep(Duration::from_millis(moment));
    // It may be starting right now.
    wait(&format!("{unit} runs"), || {
        Ok(lab.kill_unit(NODE, unit).is_ok())
    });
}

/// Kills `unit` while pods are made and while they are deleted.
fn survives_kills_of(unit: &str) {
    let lab = lab();
    lab.fresh_namespace(NS).unwrap();
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let names: Vec<String> = (0..3).map(|i| format!("p{round}-{i}")).collect();
        let manifests: Vec<String> = names
            .iter()
            .map(|name| pod(name).manifest().to_string())
            .collect();
        lab.apply(&manifests.join("\n")).unwrap();
        kill_after(&lab, unit, moment);
        let objects: Vec<String> = names.iter().map(|name| format!("pod/{name}")).collect();
        let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
        lab.ready(NS, &objects).unwrap();
        let reached = ["toolbox", "resolve", "kubernetes.default.svc.cluster.local"];
        lab.pod_until(NS, &names[0], &reached).unwrap();
        let all = ["-n", NS, "delete", "pods", "--all", "--wait=false"];
        lab.kubectl_output(&all).unwrap();
        kill_after(&lab, unit, moment);
        wait("the pods are gone", || Ok(names_of_pods(&lab).is_empty()));
    }
    nothing_remains(&lab);
}

#[test]
fn an_agent_killed_while_pods_are_made_and_ended_leaves_nothing_half_done() {
    survives_kills_of("windlass");
}

#[test]
fn a_containerd_killed_while_pods_are_made_and_ended_leaves_nothing_half_done() {
    survives_kills_of("containerd");
}

#[test]
fn pods_changed_while_the_agent_was_away_are_caught_up_with() {
    let lab = lab();
    lab.fresh_namespace(NS).unwrap();
    lab.run_pods(&[pod("stays"), pod("forced"), pod("deleted")])
        .unwrap();
    lab.stop_unit(NODE, "windlass").unwrap();
    let force = [
        "-n",
        NS,
        "delete",
        "pod",
        "forced",
        "--force",
        "--grace-period=0",
    ];
    lab.kubectl_output(&force).unwrap();
    let later = ["-n", NS, "delete", "pod", "deleted", "--wait=false"];
    lab.kubectl_output(&later).unwrap();
    lab.apply(&pod("new").manifest().to_string()).unwrap();
    lab.start_unit(NODE, "windlass").unwrap();
    lab.ready(NS, &["pod/new", "pod/stays"]).unwrap();
    wait("deleted and forced are gone", || {
        Ok(names_of_pods(&lab) == ["new", "stays"])
    });
    let restarts = lab.get(&["-n", NS, "pod", "stays"]).unwrap();
    assert_eq!(
        restarts["status"]["containerStatuses"][0]["restartCount"],
        0
    );
    delete_pods(&lab);
    nothing_remains(&lab);
}

/// A pod with a volume and a variable from objects, and an image, that need not exist.
fn needy() -> Value {
    let mut manifest = pod("needy").manifest();
    let container = &mut manifest["spec"]["containers"][0];
    container["image"] = "late.windlass/toolbox:1".into();
    container["env"] = json!([{ "name": "WORD",
        "valueFrom": { "secretKeyRef": { "name": "late-secret", "key": "word" } } }]);
    container["volumeMounts"] = json!([{ "name": "late", "mountPath": "/late" }]);
    manifest["spec"]["volumes"] = json!([{ "name": "late", "configMap": { "name": "late-map" } }]);
    manifest
}

fn waiting_reason(lab: &Lab) -> String {
    let pod = lab.get(&["-n", NS, "pod", "needy"]).unwrap();
    let state = &pod["status"]["containerStatuses"][0]["state"];
    state["waiting"]["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn what_a_pod_lacks_is_said_and_may_come_later() {
    let lab = lab();
    lab.fresh_namespace(NS).unwrap();
    lab.apply(&needy().to_string()).unwrap();
    let missing = |reason: &str, text: &str| {
        wait(&format!("an event about {text}"), || {
            Ok(events(&lab, reason).iter().any(|m| m.contains(text)))
        });
    };
    missing("FailedMount", "configmap \"late-map\" not found");
    let create = |args: &[&str]| lab.kubectl_output(&[&["-n", NS, "create"], args].concat());
    create(&["configmap", "late-map", "--from-literal=file=hello"]).unwrap();
    missing("Failed", "late.windlass/toolbox:1");
    wait("the image is asked for less and less often", || {
        Ok(waiting_reason(&lab) == "ImagePullBackOff")
    });
    let tag = ["ctr", "-n", "k8s.io", "images", "tag", images::TOOLBOX];
    let tag = [&tag[..], &["late.windlass/toolbox:1"]].concat();
    lab.run(Place::Node(NODE), &tag).unwrap();
    missing("Failed", "secret \"late-secret\" not found");
    create(&["secret", "generic", "late-secret", "--from-literal=word=x"]).unwrap();
    lab.ready(NS, &["pod/needy"]).unwrap();
    let said = ["sh", "-c", "cat /late/file; echo $WORD"];
    let said = lab.pod_run(NS, "needy", &said).unwrap();
    assert_eq!(said.trim(), "hellox");
    delete_pods(&lab);
}

#[test]
fn a_node_without_its_datapath_says_why_and_goes_on_with_what_needs_none() {
    let lab = lab();
    lab.fresh_namespace(NS).unwrap();
    // The server's own node: the API must not go down with its network.
    const SERVER: u8 = 1;
    let at = Place::Node(SERVER);
    let on_server = |name: &'static str, host_network| ToolboxPod {
        node: Some(SERVER),
        host_network,
        ..pod(name)
    };
    lab.run_pods(&[on_server("before", false)]).unwrap();
    lab.stop_unit(SERVER, "windlass").unwrap();
    lab.run(at, &["mount", "-t", "tmpfs", "none", "/sys/fs/bpf"])
        .unwrap();
    lab.run(at, &["touch", "/sys/fs/bpf/windlass"]).unwrap();
    lab.start_unit(SERVER, "windlass").unwrap();
    wait("the API answers", || {
        Ok(lab.kubectl_output(&["get", "--raw", "/readyz"]).is_ok())
    });
    wait("the node says it has no network", || {
        let (status, reason, message) = condition(&lab, SERVER, "NetworkUnavailable");
        Ok(status == "True" && reason == "DatapathNotLoaded" && message.contains("bpf"))
    });
    let flows = lab.run(at, &["windlass", "flows"]).unwrap_err();
    assert!(
        format!("{flows:#}").contains("NetworkUnavailable"),
        "{flows:#}"
    );
    // Bound by hand: the taint would keep them away.
    for (name, host_network) in [("host", true), ("waits", false)] {
        let mut manifest = on_server(name, host_network).manifest();
        manifest["spec"]["nodeName"] = at.to_string().into();
        lab.apply(&manifest.to_string()).unwrap();
    }
    lab.ready(NS, &["pod/host"]).unwrap();
    wait("an event says why the pod waits", || {
        let said = events(&lab, "FailedCreatePodSandBox");
        Ok(said
            .iter()
            .any(|m| m.contains("the node's network is not up")))
    });
    let pending = lab.get(&["-n", NS, "pod", "waits"]).unwrap();
    assert_eq!(pending["status"]["phase"], "Pending");
    // A pod can end without it.
    let delete = ["-n", NS, "delete", "pod", "before", "--timeout=60s"];
    lab.kubectl_output(&delete).unwrap();
    lab.run(at, &["umount", "/sys/fs/bpf"]).unwrap();
    wait("the node has its network back", || {
        Ok(condition(&lab, SERVER, "NetworkUnavailable").0 == "False")
    });
    lab.ready(NS, &["pod/waits"]).unwrap();
    let reached = ["toolbox", "resolve", "kubernetes.default.svc.cluster.local"];
    lab.pod_until(NS, "waits", &reached).unwrap();
    delete_pods(&lab);
}

#[test]
fn a_full_disk_is_said_and_pods_start_when_there_is_room_again() {
    let lab = lab();
    lab.fresh_namespace(NS).unwrap();
    let at = Place::Node(NODE);
    let sh = |script: &str| lab.run(at, &["sh", "-c", script]);
    lab.stop_unit(NODE, "windlass").unwrap();
    let dir = "/var/lib/windlass/agent";
    sh(&format!(
        "cp -a {dir} /tmp/agent && mount -t tmpfs -o size=4m none {dir} && cp -a /tmp/agent/. {dir}/"
    ))
    .unwrap();
    let fill = format!("dd if=/dev/zero of={dir}/filler bs=4k 2>/dev/null; true");
    sh(&fill).unwrap();
    lab.start_unit(NODE, "windlass").unwrap();
    wait("the node says that its disk is full", || {
        Ok(condition(&lab, NODE, "DiskPressure").0 == "True")
    });
    lab.kubectl_output(&["-n", NS, "create", "configmap", "map", "--from-literal=a=b"])
        .unwrap();
    let mut manifest = pod("full").manifest();
    manifest["spec"]["nodeName"] = at.to_string().into();
    manifest["spec"]["volumes"] = json!([{ "name": "map", "configMap": { "name": "map" } }]);
    let mounts = json!([{ "name": "map", "mountPath": "/map" }]);
    manifest["spec"]["containers"][0]["volumeMounts"] = mounts;
    lab.apply(&manifest.to_string()).unwrap();
    wait("an event says that the disk is full", || {
        let said = [
            events(&lab, "FailedMount"),
            events(&lab, "FailedCreatePodSandBox"),
        ];
        let mut said = said.iter().flatten();
        Ok(said.any(|message| message.contains("No space left on device")))
    });
    sh(&format!("rm {dir}/filler")).unwrap();
    lab.ready(NS, &["pod/full"]).unwrap();
    let read = ["sh", "-c", "cat /map/a; grep -c full /etc/hosts"];
    assert_eq!(lab.pod_run(NS, "full", &read).unwrap().trim(), "b1");
    wait("the node says that its disk is not full", || {
        Ok(condition(&lab, NODE, "DiskPressure").0 == "False")
    });
    delete_pods(&lab);
    lab.stop_unit(NODE, "windlass").unwrap();
    sh(&format!("umount {dir}")).unwrap();
    lab.start_unit(NODE, "windlass").unwrap();
}
