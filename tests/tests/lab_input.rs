//! Bad input: each gives a clear error, and nothing else suffers.
#![expect(clippy::unwrap_used, reason = "a failing test says where")]

use std::sync::MutexGuard;
use std::time::Duration;

use xtask::lab::cluster::ToolboxPod;
use xtask::lab::{Lab, Place, Spec, shared};
use xtask::{command, progress};

const NS: &str = "input";
/// Size of the file system of the store, MiB: enough to start, soon full.
const STORE_MIB: u32 = 24;

fn lab() -> MutexGuard<'static, Lab> {
    let lab = shared::shared(Spec {
        store_mib: STORE_MIB,
        ..Spec::new("t-input")
    });
    if lab.get(&["namespace", NS]).is_err() {
        lab.fresh_namespace(NS).unwrap();
    }
    lab
}

/// The error kubectl prints for a manifest.
fn refused(lab: &Lab, args: &[&str], manifest: &str) -> String {
    format!(
        "{:#}",
        lab.try_manifest(args, manifest)
            .expect_err("it was accepted")
    )
}

/// The cluster still does its work.
fn works(lab: &Lab) {
    lab.kubectl_output(&["get", "--raw", "/readyz"]).unwrap();
    let conditions = lab.get(&["nodes"]).unwrap().to_string();
    assert_eq!(
        conditions.matches("KubeletReady").count(),
        lab.nodes().count(),
        "{conditions}"
    );
}

#[test]
fn malformed_bodies_are_refused_with_what_is_wrong() {
    let lab = lab();
    let raw = [
        "create",
        "--raw",
        "/api/v1/namespaces/input/configmaps",
        "-f",
        "-",
    ];
    for body in ["{\"kind\": \"ConfigMap\"", "[1, 2]", "{\"metadata\": 7}"] {
        let error = refused(&lab, &raw, body);
        assert!(
            error.contains("BadRequest") || error.contains("bad request"),
            "{body}: {error}"
        );
    }
    let error = refused(&lab, &["create", "-f", "-"], "a: b: c\n- d");
    assert!(error.contains("error"), "{error}");
    works(&lab);
}

#[test]
fn unknown_fields_are_refused_when_validation_is_strict() {
    let lab = lab();
    let manifest = "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: input}, \
                    dta: {b: c}}";
    let error = refused(&lab, &["create", "--validate=strict", "-f", "-"], manifest);
    assert!(
        error.contains("unknown field") && error.contains("dta"),
        "{error}"
    );
    lab.try_manifest(&["create", "--validate=ignore", "-f", "-"], manifest)
        .unwrap();
}

#[test]
fn invalid_names_and_values_name_the_field() {
    let lab = lab();
    for (manifest, field) in [
        (
            "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: A_b, namespace: input}}",
            "metadata.name",
        ),
        (
            "---\n{apiVersion: v1, kind: Service, metadata: {name: s, namespace: input}, \
             spec: {ports: [{port: 99999}]}}",
            "spec.ports[0].port",
        ),
        (
            "---\n{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: input}, \
             spec: {containers: []}}",
            "spec.containers",
        ),
        (
            "---\n{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: input, labels: {a: 'b c'}}, \
             spec: {containers: [{name: a, image: b}]}}",
            "metadata.labels",
        ),
    ] {
        let error = refused(&lab, &["create", "-f", "-"], manifest);
        assert!(
            error.contains("Invalid") || error.contains("invalid"),
            "{error}"
        );
        assert!(error.contains(field), "{field}: {error}");
    }
}

#[test]
fn a_taken_node_port_is_refused() {
    let lab = lab();
    let service = |name: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: input}}, \
             spec: {{type: NodePort, ports: [{{port: 80, nodePort: 30999}}]}}}}"
        )
    };
    lab.apply(&service("first")).unwrap();
    let error = refused(&lab, &["create", "-f", "-"], &service("second"));
    assert!(
        error.contains("provided port is already allocated"),
        "{error}"
    );
    lab.kubectl_output(&["-n", NS, "delete", "service", "first"])
        .unwrap();
    lab.apply(&service("second")).unwrap();
}

#[test]
fn a_missing_image_is_shown_in_status_and_events_and_stops_no_other_pod() {
    let lab = lab();
    lab.apply(
        "---\n{apiVersion: v1, kind: Pod, metadata: {name: missing, namespace: input}, \
         spec: {terminationGracePeriodSeconds: 1, \
         containers: [{name: main, image: 'lab.windlass/no-such-image:1'}]}}",
    )
    .unwrap();
    progress::wait("the reason is shown", Duration::from_secs(30), || {
        let pod = lab.get(&["-n", NS, "pod", "missing"])?.to_string();
        let events = lab.kubectl_output(&["-n", NS, "get", "events"])?;
        let shown = pod.contains("ErrImagePull") || pod.contains("ImagePullBackOff");
        Ok(shown && events.contains("no-such-image"))
    })
    .unwrap();
    let good = ToolboxPod {
        namespace: NS,
        name: "good",
        ..ToolboxPod::default()
    };
    lab.run_pods(&[good]).unwrap();
    lab.kubectl_output(&["-n", NS, "delete", "pod", "missing", "--timeout=30s"])
        .unwrap();
}

#[test]
fn a_wrong_join_token_is_refused_with_a_reason() {
    let lab = lab();
    let init = lab.init(1).unwrap();
    let token = format!(
        "/proc/{}/root/var/lib/windlass/server/join-token",
        init.pid()
    );
    let token = std::fs::read_to_string(token).unwrap();
    let (secret, hash) = token.trim().split_once(':').unwrap();
    let other_secret = format!("{}0000000000000000:{hash}", &secret[..7]);
    let other_hash = format!("{secret}:{}", "0".repeat(hash.len()));
    for (token, words) in [
        (other_secret, "token"),
        (other_hash, "certificate"),
        ("x".into(), "token"),
    ] {
        let dir = format!("/run/windlass-wrong-{}", std::process::id());
        let argv = [
            "timeout",
            "15",
            "windlass",
            "agent",
            "--server",
            "https://10.90.0.11:6443",
            "--token",
            &token,
            "--node-name",
            "stranger",
            "--root-dir",
            &dir,
            "--run-dir",
            &dir,
        ];
        let mut agent = lab.exec(Place::Node(2), &argv).unwrap();
        let out = command::raw(&mut agent).unwrap();
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8_lossy(&text).to_lowercase();
        assert!(!out.status.success());
        assert!(text.contains(words), "{token}: {text}");
    }
    assert!(lab.get(&["node", "stranger"]).is_err());
    works(&lab);
}

/// Named to run last: it leaves the store as it found it, but every write fails meanwhile.
#[test]
fn zz_a_full_disk_refuses_writes_and_serves_reads_until_there_is_room() {
    let lab = lab();
    let good = ToolboxPod {
        namespace: NS,
        name: "before",
        args: &["serve"],
        ..Default::default()
    };
    lab.run_pods(&[good]).unwrap();
    let ballast = "/var/lib/windlass/server/ballast";
    let fill = format!(
        "dd if=/dev/zero of={ballast} bs=1M 2>/dev/null; dd if=/dev/zero of={ballast}2 bs=1k 2>/dev/null; true"
    );
    lab.run(Place::Node(1), &["sh", "-c", &fill]).unwrap();
    let large = "x".repeat(900_000);
    let mut error = String::new();
    for n in 0..2 * STORE_MIB {
        let manifest = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": { "a": large },
            "metadata": { "name": format!("large-{n}"), "namespace": NS },
        });
        if let Err(refused) = lab.try_manifest(&["create", "-f", "-"], &manifest.to_string()) {
            error = format!("{refused:#}");
            break;
        }
    }
    assert!(error.contains("space") || error.contains("full"), "{error}");
    // reads, pods and the datapath go on
    lab.get(&["-n", NS, "pod", "before"]).unwrap();
    let ip = lab.pod_ip(NS, "before").unwrap();
    let url = format!("http://{ip}:8080/");
    lab.run(Place::Node(1), &["toolbox", "get", &url]).unwrap();
    lab.run(
        Place::Node(1),
        &["sh", "-c", &format!("rm {ballast} {ballast}2")],
    )
    .unwrap();
    progress::wait("writes work again", Duration::from_secs(30), || {
        let args = ["-n", NS, "create", "configmap", "afterwards"];
        Ok(lab.kubectl_output(&args).is_ok())
    })
    .unwrap();
}
