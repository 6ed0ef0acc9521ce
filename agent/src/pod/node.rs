//! The Node object: registered at start, its status kept true. `desired` is pure; the shell asks the
//! runtime how it is, often while a node starts and every ten seconds after, and writes what changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node as NodeObject, NodeAddress, NodeCondition,
    NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Node;
use super::events::Subject;
use super::machine::Machine;
use super::pressure::{Measure, Pressure};
use super::status::seconds;
use crate::cri::messages as m;

pub const VERSION: &str = "v1.37.0";
/// Pause between looks at the runtime when the node is ready; the longest one when it is not.
const PAUSE: Duration = Duration::from_secs(10);
/// The shortest pause while it is not, or its status could not be written.
const SHORT_PAUSE: Duration = Duration::from_millis(100);
/// An unchanged status is written again after this time (upstream: nodeStatusReportFrequency).
const REPORT: Duration = Duration::from_secs(300);
/// Images listed in the status (upstream: nodeStatusMaxImages).
const MAX_IMAGES: usize = 50;
/// Memory kept for the system (upstream's hard eviction threshold).
const RESERVED_MEMORY: i64 = 100 << 20;

/// What a status is made of.
struct Facts<'a> {
    node: &'a Node,
    machine: &'a Machine,
    version: &'a m::VersionResponse,
    runtime: Result<Vec<m::RuntimeCondition>, String>,
    pressure: Pressure,
    images: Vec<m::Image>,
}

pub async fn run(
    node: Arc<Node>,
    machine: Machine,
    version: m::VersionResponse,
    shutdown: CancellationToken,
) {
    let api: Api<NodeObject> = Api::all(node.client.clone());
    let subject = Subject::node(&node.config.node_name);
    node.recorder
        .normal(&subject, "Starting", "Starting kubelet.");
    let mut written: Option<(NodeStatus, Instant)> = None;
    let mut was_ready = None;
    // Since when there is something to mend.
    let mut since: Option<Instant> = None;
    loop {
        let runtime = node.runtime.status().await;
        let facts = Facts {
            node: &node,
            machine: &machine,
            version: &version,
            runtime: match runtime {
                Ok(answer) => Ok(answer.status.unwrap_or_default().conditions),
                Err(error) => Err(error.to_string()),
            },
            pressure: measure(&node),
            images: node.runtime.list_images().await.unwrap_or_default(),
        };
        let old = written.as_ref().map(|(status, _)| status);
        let status = desired(&facts, old, Timestamp::now());
        let ready = is_ready(&status);
        let due = written.as_ref().is_none_or(|(_, at)| at.elapsed() > REPORT);
        let mut ok = true;
        if due || old.is_none_or(|old| differs(old, &status)) {
            match write(&api, &node, &status).await {
                Ok(()) => {
                    if was_ready != Some(ready) {
                        let reason = if ready { "NodeReady" } else { "NodeNotReady" };
                        let message =
                            format!("Node {} status is now: {reason}", node.config.node_name);
                        node.recorder.normal(&subject, reason, message);
                        was_ready = Some(ready);
                    }
                    written = Some((status, Instant::now()));
                }
                Err(error) => {
                    tracing::warn!(%error, "node status not written");
                    ok = false;
                }
            }
        }
        since = match ready && ok {
            true => None,
            false => Some(since.unwrap_or_else(Instant::now)),
        };
        tokio::select! {
            () = tokio::time::sleep(pause(since.map(|since| since.elapsed()))) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Looks are frequent at first, so that a start is quick, and rarer the longer it lasts.
fn pause(unsettled: Option<Duration>) -> Duration {
    match unsettled {
        None => PAUSE,
        Some(time) => (time / 10).clamp(SHORT_PAUSE, PAUSE),
    }
}

fn measure(node: &Node) -> Pressure {
    match Measure::take(&node.config.root_dir) {
        Ok(measure) => Pressure::of(&measure),
        Err(error) => {
            tracing::warn!(%error, "memory and disk not measured");
            Pressure::default()
        }
    }
}

/// Creates the Node, or brings labels and status of the existing one up to date.
async fn write(api: &Api<NodeObject>, node: &Node, status: &NodeStatus) -> Result<(), kube::Error> {
    let name = &node.config.node_name;
    let patch = json!({ "status": status_patch(status) });
    let params = PatchParams::default();
    match api
        .patch_status(name, &params, &Patch::Strategic(&patch))
        .await
    {
        Err(kube::Error::Api(error)) if error.code == 404 => {
            let object = NodeObject {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    labels: Some(labels(name, status)),
                    ..ObjectMeta::default()
                },
                status: Some(status.clone()),
                ..NodeObject::default()
            };
            match api.create(&PostParams::default(), &object).await {
                Err(kube::Error::Api(error)) if error.code == 409 => Ok(()),
                other => other.map(drop),
            }
        }
        Ok(current) => {
            let wanted = labels(name, status);
            let have = current.metadata.labels.unwrap_or_default();
            if wanted
                .iter()
                .all(|(key, value)| have.get(key) == Some(value))
            {
                return Ok(());
            }
            let patch = json!({ "metadata": { "labels": wanted } });
            api.patch(name, &params, &Patch::Merge(&patch))
                .await
                .map(drop)
        }
        Err(error) => Err(error),
    }
}

/// Addresses are replaced, not merged: an old one must not stay.
fn status_patch(status: &NodeStatus) -> Value {
    let mut patch = serde_json::to_value(status).unwrap_or_default();
    if let Some(addresses) = patch.get_mut("addresses").and_then(Value::as_array_mut) {
        addresses.insert(0, json!({ "$patch": "replace" }));
    }
    patch
}

fn labels(name: &str, status: &NodeStatus) -> BTreeMap<String, String> {
    let arch = status
        .node_info
        .as_ref()
        .map(|info| info.architecture.clone())
        .unwrap_or_default();
    [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", &arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", &arch),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

fn is_ready(status: &NodeStatus) -> bool {
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Ready");
    ready.is_some_and(|c| c.status == "True")
}

/// Whether anything but the heartbeat times differs.
fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    plain(old) != plain(new)
}

fn desired(facts: &Facts<'_>, old: Option<&NodeStatus>, now: Timestamp) -> NodeStatus {
    let Facts {
        node,
        machine,
        version,
        runtime,
        pressure,
        images,
    } = facts;
    let config = &node.config;
    let mut addresses: Vec<NodeAddress> = config
        .node_ips
        .iter()
        .map(|ip| NodeAddress {
            type_: "InternalIP".to_owned(),
            address: ip.to_string(),
        })
        .collect();
    addresses.push(NodeAddress {
        type_: "Hostname".to_owned(),
        address: config.node_name.clone(),
    });
    let amounts = |memory: i64| -> BTreeMap<String, Quantity> {
        [
            ("cpu", (machine.milli_cpus / 1000).to_string()),
            ("memory", format!("{}Ki", memory / 1024)),
            (
                "ephemeral-storage",
                format!("{}Ki", machine.storage_bytes / 1024),
            ),
            ("pods", config.max_pods.to_string()),
        ]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .collect()
    };
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(amounts(allocatable_memory(machine))),
        capacity: Some(amounts(machine.memory_bytes)),
        conditions: Some(conditions(runtime, *pressure, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(config.kubelet_address.port()),
            }),
        }),
        images: Some(image_list(images)),
        node_info: Some(NodeSystemInfo {
            architecture: machine.architecture.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: format!(
                "{}://{}",
                version.runtime_name, version.runtime_version
            ),
            kernel_version: machine.kernel_version.clone(),
            kubelet_version: VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

/// Bytes of memory for pods.
pub fn allocatable_memory(machine: &Machine) -> i64 {
    (machine.memory_bytes - RESERVED_MEMORY).max(0)
}

fn image_list(images: &[m::Image]) -> Vec<ContainerImage> {
    let mut images: Vec<&m::Image> = images.iter().collect();
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let names = |image: &m::Image| [image.repo_digests.clone(), image.repo_tags.clone()].concat();
    images
        .into_iter()
        .take(MAX_IMAGES)
        .map(|image| ContainerImage {
            names: Some(names(image)),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

fn conditions(
    runtime: &Result<Vec<m::RuntimeCondition>, String>,
    pressure: Pressure,
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let ready = match runtime_problem(runtime) {
        None => (
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status".to_owned(),
        ),
        Some(problem) => ("Ready", false, "KubeletNotReady", problem),
    };
    let Pressure { memory, disk, pids } = pressure;
    let short = [
        (
            "MemoryPressure",
            memory,
            ["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"],
            "sufficient memory available",
        ),
        (
            "DiskPressure",
            disk,
            ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"],
            "no disk pressure",
        ),
        (
            "PIDPressure",
            pids,
            ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"],
            "sufficient PID available",
        ),
    ];
    let short = short.map(|(kind, truth, [when_short, when_not], what)| match truth {
        true => (
            kind,
            true,
            when_short,
            format!("kubelet has {}", opposite(what)),
        ),
        false => (kind, false, when_not, format!("kubelet has {what}")),
    });
    let condition = |(kind, truth, reason, message): (&str, bool, &str, String)| {
        let status = if truth { "True" } else { "False" };
        let same = old
            .and_then(|old| old.conditions.as_ref()?.iter().find(|c| c.type_ == kind))
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone());
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(Time(seconds(now))),
            last_transition_time: Some(same.unwrap_or_else(|| Time(seconds(now)))),
        }
    };
    short.into_iter().chain([ready]).map(condition).collect()
}

/// Why the container runtime does not let the node be ready.
fn runtime_problem(runtime: &Result<Vec<m::RuntimeCondition>, String>) -> Option<String> {
    // Newer runtimes report conditions that do not matter for readiness.
    const NEEDED: [&str; 2] = ["RuntimeReady", "NetworkReady"];
    let conditions = match runtime {
        Ok(conditions) => conditions,
        Err(error) => return Some(format!("container runtime is down: {error}")),
    };
    let bad = conditions
        .iter()
        .find(|c| !c.status && NEEDED.contains(&c.r#type.as_str()))?;
    let message = &bad.message;
    Some(match bad.r#type.as_str() {
        "NetworkReady" => format!(
            "container runtime network not ready: NetworkReady=false reason:{} message:{message}",
            bad.reason
        ),
        kind => format!("container runtime status check failed: {kind}: {message}"),
    })
}

/// Upstream's words for a resource that is short.
fn opposite(what: &str) -> String {
    match what.strip_prefix("no ") {
        Some(what) => what.to_owned(),
        None => format!("in{what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_rarer_the_longer_a_node_is_not_ready() {
        let after = |seconds| pause(Some(Duration::from_secs(seconds)));
        assert_eq!(after(0), SHORT_PAUSE);
        assert_eq!(after(1), SHORT_PAUSE);
        assert_eq!(after(20), Duration::from_secs(2));
        assert_eq!(after(3600), PAUSE);
        assert_eq!(pause(None), PAUSE);
    }
}
