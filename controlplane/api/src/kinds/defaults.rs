//! The table of defaults by struct: upstream's `SetDefaults_*` functions.
//!
//! Ported from `pkg/apis/*/v1/defaults.go`. What needs more than an absent field has a function here or,
//! where it is long, in the kind's own file.

use bumpalo::Bump;

use super::{pod, service, workload};
use crate::codec::{self, Format};
use crate::default::Literal::{Bool, Empty, Int, Str};
use crate::default::{Rules, set_absent};
use crate::doc::{List, Object, Value};

/// Files of secrets, config maps, tokens and the downward API are readable by all.
const FILE_MODE: i64 = 0o644;
/// How long a projected service account token lives.
const TOKEN_SECONDS: i64 = 3600;

macro_rules! rules {
    ($($name:literal => [$($field:literal : $value:expr),*] $(, $code:path)?;)*) => {
        &[$(Rules {
            name: concat!("io.k8s.api.", $name),
            fields: &[$(($field, $value)),*],
            code: rules!(@code $($code)?),
        }),*]
    };
    (@code) => { None };
    (@code $code:path) => { Some($code) };
}

/// Every struct with defaults.
pub(crate) static TABLE: &[Rules] = rules! {
    "core.v1.Pod" => [], pod::default_pod;
    "core.v1.PodSpec" => [
        "dnsPolicy": Str("ClusterFirst"),
        "restartPolicy": Str("Always"),
        "securityContext": Empty,
        "terminationGracePeriodSeconds": Int(30),
        "schedulerName": Str("default-scheduler")
    ], pod::default_pod_spec;
    "core.v1.PodStatus" => [], pod::default_pod_status;
    "core.v1.Container" => [
        "terminationMessagePath": Str("/dev/termination-log"),
        "terminationMessagePolicy": Str("File")
    ], pod::default_pull_policy;
    "core.v1.EphemeralContainer" => [
        "terminationMessagePath": Str("/dev/termination-log"),
        "terminationMessagePolicy": Str("File")
    ], pod::default_pull_policy;
    "core.v1.Volume" => [], pod::default_volume;
    "core.v1.Probe" => [
        "timeoutSeconds": Int(1),
        "periodSeconds": Int(10),
        "successThreshold": Int(1),
        "failureThreshold": Int(3)
    ];
    "core.v1.HTTPGetAction" => ["path": Str("/"), "scheme": Str("HTTP")];
    "core.v1.SecretVolumeSource" => ["defaultMode": Int(FILE_MODE)];
    "core.v1.ConfigMapVolumeSource" => ["defaultMode": Int(FILE_MODE)];
    "core.v1.DownwardAPIVolumeSource" => ["defaultMode": Int(FILE_MODE)];
    "core.v1.ProjectedVolumeSource" => ["defaultMode": Int(FILE_MODE)];
    "core.v1.ServiceAccountTokenProjection" => ["expirationSeconds": Int(TOKEN_SECONDS)];
    "core.v1.HostPathVolumeSource" => ["type": Str("")];
    "core.v1.ObjectFieldSelector" => ["apiVersion": Str("v1")];
    "core.v1.Secret" => ["type": Str("Opaque")], default_secret;
    "core.v1.Service" => [], service::default_service;
    "core.v1.Namespace" => [], default_namespace;
    "core.v1.NamespaceStatus" => ["phase": Str("Active")];
    "core.v1.NodeSpec" => [], default_node_spec;
    "core.v1.NodeStatus" => [], default_node_status;
    "core.v1.EndpointPort" => ["protocol": Str("TCP")];
    "core.v1.PersistentVolumeSpec" => [
        "persistentVolumeReclaimPolicy": Str("Retain"),
        "volumeMode": Str("Filesystem")
    ];
    "core.v1.PersistentVolumeStatus" => ["phase": Str("Pending")];
    "core.v1.PersistentVolumeClaimSpec" => ["volumeMode": Str("Filesystem")];
    "core.v1.PersistentVolumeClaimStatus" => ["phase": Str("Pending")];
    "core.v1.LimitRangeItem" => [], default_limit_range_item;
    "core.v1.ReplicationController" => [], default_replication_controller;
    "apps.v1.DeploymentSpec" => [
        "replicas": Int(1),
        "revisionHistoryLimit": Int(10),
        "progressDeadlineSeconds": Int(600)
    ], default_deployment_spec;
    "apps.v1.ReplicaSetSpec" => ["replicas": Int(1)];
    "apps.v1.DaemonSet" => [], workload::default_daemon_set;
    "apps.v1.DaemonSetSpec" => ["revisionHistoryLimit": Int(10)], default_daemon_set_spec;
    "apps.v1.StatefulSetSpec" => [
        "podManagementPolicy": Str("OrderedReady"),
        "replicas": Int(1),
        "revisionHistoryLimit": Int(10)
    ], default_stateful_set_spec;
    "apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicy" => [
        "whenDeleted": Str("Retain"),
        "whenScaled": Str("Retain")
    ];
    "batch.v1.Job" => [], default_job;
    "batch.v1.CronJobSpec" => [
        "concurrencyPolicy": Str("Allow"),
        "suspend": Bool(false),
        "successfulJobsHistoryLimit": Int(3),
        "failedJobsHistoryLimit": Int(1)
    ];
    "batch.v1.PodFailurePolicyOnPodConditionsPattern" => ["status": Str("True")];
    "networking.v1.NetworkPolicyPort" => ["protocol": Str("TCP")];
    "networking.v1.NetworkPolicySpec" => [], default_network_policy_spec;
    "networking.v1.IngressClassParametersReference" => ["scope": Str("Cluster")];
    "rbac.v1.RoleRef" => ["apiGroup": Str("rbac.authorization.k8s.io")];
    "rbac.v1.Subject" => [], default_subject;
    "discovery.v1.EndpointPort" => ["name": Str(""), "protocol": Str("TCP")];
    "autoscaling.v1.HorizontalPodAutoscalerSpec" => ["minReplicas": Int(1)];
    "autoscaling.v2.HorizontalPodAutoscalerSpec" => ["minReplicas": Int(1)], default_metrics;
    "storage.v1.StorageClass" => [
        "reclaimPolicy": Str("Delete"),
        "volumeBindingMode": Str("Immediate")
    ];
    "storage.v1.CSIDriverSpec" => [
        "attachRequired": Bool(true),
        "podInfoOnMount": Bool(false),
        "storageCapacity": Bool(false),
        "fsGroupPolicy": Str("ReadWriteOnceWithFSType"),
        "requiresRepublish": Bool(false),
        "seLinuxMount": Bool(false),
        "preventPodSchedulingIfMissing": Bool(false)
    ], default_csi_driver_spec;
    "admissionregistration.v1.ValidatingWebhook" => [
        "failurePolicy": Str("Fail"),
        "matchPolicy": Str("Equivalent"),
        "namespaceSelector": Empty,
        "objectSelector": Empty,
        "timeoutSeconds": Int(10)
    ];
    "admissionregistration.v1.MutatingWebhook" => [
        "failurePolicy": Str("Fail"),
        "matchPolicy": Str("Equivalent"),
        "namespaceSelector": Empty,
        "objectSelector": Empty,
        "timeoutSeconds": Int(10),
        "reinvocationPolicy": Str("Never")
    ];
    "admissionregistration.v1.RuleWithOperations" => ["scope": Str("*")];
    "admissionregistration.v1.NamedRuleWithOperations" => ["scope": Str("*")];
    "admissionregistration.v1.ServiceReference" => ["port": Int(443)];
    "admissionregistration.v1.ValidatingAdmissionPolicySpec" => ["failurePolicy": Str("Fail")];
    "admissionregistration.v1.MutatingAdmissionPolicySpec" => ["failurePolicy": Str("Fail")];
    "admissionregistration.v1.MatchResources" => [
        "matchPolicy": Str("Equivalent"),
        "namespaceSelector": Empty,
        "objectSelector": Empty
    ];
    "scheduling.v1.PriorityClass" => ["preemptionPolicy": Str("PreemptLowerPriority")];
};

/// `stringData` is written into `data`; it is never stored.
fn default_secret<'a>(secret: &mut Object<'a>, arena: &'a Bump) {
    use base64::Engine;
    let Some(Value::Object(plain)) = secret.remove("stringData") else {
        return;
    };
    let data = secret.entry_or_object("data").make_object(arena);
    for (key, value) in plain.iter() {
        let text = value.as_str().unwrap_or_default();
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        data.set(key, Value::string_in(&encoded, arena));
    }
}

fn default_namespace<'a>(namespace: &mut Object<'a>, arena: &'a Bump) {
    let Some(metadata) = namespace.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(name) = metadata.get("name").and_then(Value::as_str) else {
        return;
    };
    let labels = metadata.entry_or_object("labels").make_object(arena);
    labels.set("kubernetes.io/metadata.name", Value::String(name));
}

/// `podCIDR` and `podCIDRs` say the same; the single one wins.
fn default_node_spec<'a>(spec: &mut Object<'a>, arena: &'a Bump) {
    let single = spec.get("podCIDR").and_then(Value::as_str);
    let first = spec
        .get("podCIDRs")
        .and_then(|v| v.as_list()?.first()?.as_str());
    match (single, first) {
        (None, Some(first)) => spec.set("podCIDR", Value::String(first)),
        (Some(single), first) if first != Some(single) => {
            let list = List::from_iter_in([Value::String(single)], arena);
            spec.set("podCIDRs", Value::List(list));
        }
        _ => {}
    }
}

fn default_node_status<'a>(status: &mut Object<'a>, _: &'a Bump) {
    if !status.contains("allocatable")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        status.set("allocatable", capacity);
    }
}

fn default_replication_controller<'a>(controller: &mut Object<'a>, arena: &'a Bump) {
    let labels = controller
        .get("spec")
        .and_then(|s| s.at(&["template", "metadata", "labels"]))
        .filter(|l| l.as_object().is_some_and(|o| !o.is_empty()))
        .cloned();
    let Some(labels) = labels else { return };
    let spec = controller.entry_or_object("spec").make_object(arena);
    if !spec.contains("selector") {
        spec.set("selector", labels.clone());
    }
    let metadata = controller.entry_or_object("metadata").make_object(arena);
    if !metadata.contains("labels") {
        metadata.set("labels", labels);
    }
}

fn default_deployment_spec<'a>(spec: &mut Object<'a>, arena: &'a Bump) {
    let strategy = spec.entry_or_object("strategy").make_object(arena);
    set_absent(strategy, "type", Str("RollingUpdate"));
    if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
        let rolling = strategy.entry_or_object("rollingUpdate").make_object(arena);
        set_absent(rolling, "maxUnavailable", Str("25%"));
        set_absent(rolling, "maxSurge", Str("25%"));
    }
}

fn default_daemon_set_spec<'a>(spec: &mut Object<'a>, arena: &'a Bump) {
    let strategy = spec.entry_or_object("updateStrategy").make_object(arena);
    set_absent(strategy, "type", Str("RollingUpdate"));
    if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
        let rolling = strategy.entry_or_object("rollingUpdate").make_object(arena);
        set_absent(rolling, "maxUnavailable", Int(1));
        set_absent(rolling, "maxSurge", Int(0));
    }
}

fn default_stateful_set_spec<'a>(spec: &mut Object<'a>, arena: &'a Bump) {
    set_absent(spec, "persistentVolumeClaimRetentionPolicy", Empty);
    let claims = spec
        .get_mut("volumeClaimTemplates")
        .and_then(Value::as_list_mut);
    for claim in claims
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        claim.set("kind", Value::String("PersistentVolumeClaim"));
        claim.set("apiVersion", Value::String("v1"));
    }
    let strategy = spec.entry_or_object("updateStrategy").make_object(arena);
    if !strategy.contains("type") {
        set_absent(strategy, "type", Str("RollingUpdate"));
        set_absent(strategy, "rollingUpdate", Empty);
    }
    if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate")
        && let Some(rolling) = strategy
            .get_mut("rollingUpdate")
            .and_then(Value::as_object_mut)
    {
        set_absent(rolling, "partition", Int(0));
        set_absent(rolling, "maxUnavailable", Int(1));
    }
}

fn default_job<'a>(job: &mut Object<'a>, arena: &'a Bump) {
    let labels = job
        .get("spec")
        .and_then(|s| s.at(&["template", "metadata", "labels"]))
        .filter(|l| l.as_object().is_some_and(|o| !o.is_empty()))
        .cloned();
    if let Some(labels) = labels {
        let metadata = job.entry_or_object("metadata").make_object(arena);
        if !metadata.contains("labels") {
            metadata.set("labels", labels);
        }
    }
    let spec = job.entry_or_object("spec").make_object(arena);
    if !spec.contains("completions") && !spec.contains("parallelism") {
        set_absent(spec, "completions", Int(1));
    }
    set_absent(spec, "parallelism", Int(1));
    let per_index = spec.contains("backoffLimitPerIndex");
    set_absent(
        spec,
        "backoffLimit",
        Int(if per_index { i64::from(i32::MAX) } else { 6 }),
    );
    set_absent(spec, "completionMode", Str("NonIndexed"));
    set_absent(spec, "suspend", Bool(false));
    let policy = spec.contains("podFailurePolicy");
    let replacement = if policy {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set_absent(spec, "podReplacementPolicy", Str(replacement));
    set_absent(spec, "manualSelector", Bool(false));
}

fn default_network_policy_spec<'a>(spec: &mut Object<'a>, arena: &'a Bump) {
    let listed = |name: &str| {
        spec.get(name)
            .and_then(Value::as_list)
            .is_some_and(|list| !list.is_empty())
    };
    if listed("policyTypes") {
        return;
    }
    let mut types = List::new_in(arena);
    types.push(Value::String("Ingress"));
    if listed("egress") {
        types.push(Value::String("Egress"));
    }
    spec.set("policyTypes", Value::List(types));
}

fn default_subject<'a>(subject: &mut Object<'a>, _: &'a Bump) {
    if matches!(
        subject.get("kind").and_then(Value::as_str),
        Some("User" | "Group")
    ) {
        set_absent(subject, "apiGroup", Str("rbac.authorization.k8s.io"));
    }
}

fn default_csi_driver_spec<'a>(spec: &mut Object<'a>, arena: &'a Bump) {
    let empty = spec
        .get("volumeLifecycleModes")
        .and_then(Value::as_list)
        .is_none_or(<[_]>::is_empty);
    if empty {
        let modes = List::from_iter_in([Value::String("Persistent")], arena);
        spec.set("volumeLifecycleModes", Value::List(modes));
    }
}

/// Limits of containers: the default is the maximum, the default request the default or the minimum.
fn default_limit_range_item<'a>(item: &mut Object<'a>, arena: &'a Bump) {
    if item.get("type").and_then(Value::as_str) != Some("Container") {
        return;
    }
    for (from, to) in [
        ("max", "default"),
        ("default", "defaultRequest"),
        ("min", "defaultRequest"),
    ] {
        let Some(Value::Object(source)) = item.get(from).cloned() else {
            continue;
        };
        let target = item.entry_or_object(to).make_object(arena);
        for (name, quantity) in source.into_entries() {
            if !target.contains(name) {
                target.push(name, quantity);
            }
        }
    }
}

/// Scaling without metrics is by cpu.
fn default_metrics<'a>(spec: &mut Object<'a>, arena: &'a Bump) {
    const METRICS: &[u8] = br#"[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":80}}}]"#;
    let empty = spec
        .get("metrics")
        .and_then(Value::as_list)
        .is_none_or(<[_]>::is_empty);
    if empty && let Ok(metrics) = codec::parse(Format::Json, METRICS, arena) {
        spec.set("metrics", metrics);
    }
}
