//! Fields that exist, but whose features are off at the default gates of v1.37: new objects lose them, old
//! ones that use a feature keep it.
//!
//! Port of `dropDisabledFields` and `dropDisabledPodStatusFields` in `pkg/api/pod/util.go`.

use super::options::{CONTAINER_LISTS, containers};
use crate::doc::{Doc, Object, Value};

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const HOOKS: [&str; 2] = ["postStart", "preStop"];
const STATUS_LISTS: [&str; 3] = [
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
];
/// Older than init containers themselves.
const INIT_ANNOTATIONS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// Drops what a pod (`at` is empty then) or a template at a path may not have yet.
pub(crate) fn drop_disabled(new: &mut Doc<'_>, old: Option<&Doc<'_>>, at: &[&str]) {
    let before = old.and_then(|old| old.get(at)).and_then(|o| o.get("spec"));
    let before = before.unwrap_or(&Value::Null);
    let Some(object) = new.get_mut(at).and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.retain(|key, _| !INIT_ANNOTATIONS.contains(&key));
        if annotations.is_empty() {
            meta.remove("annotations");
        }
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    for field in ["schedulingGroup", "evictionResponders"] {
        if before.get(field).is_none() {
            spec.remove(field);
        }
    }
    if !uses_file_owners(before) {
        each(spec, "volumes", drop_file_owners);
    }
    let empty_dir_modes = before
        .list_of("volumes")
        .iter()
        .any(|v| v.at(&["emptyDir", "mode"]).is_some());
    if !empty_dir_modes {
        each(spec, "volumes", |volume| {
            drop_below(volume, &["emptyDir"], "mode")
        });
    }
    drop_in_containers(spec, before);
}

fn drop_in_containers(spec: &mut Object<'_>, before: &Value<'_>) {
    let used = |uses: &dyn Fn(&Value<'_>) -> bool| containers(before).any(|(_, _, c)| uses(c));
    let bind_options = used(&|c| {
        c.list_of("volumeMounts")
            .iter()
            .any(|m| !m.list_of("bindMountOptions").is_empty())
    });
    let stop_signals = used(&|c| c.at(&["lifecycle", "stopSignal"]).is_some());
    let protocols = used(&|c| {
        PROBES
            .iter()
            .any(|p| c.at(&[p, "httpGet", "protocol"]).is_some())
            || HOOKS
                .iter()
                .any(|h| c.at(&["lifecycle", h, "httpGet", "protocol"]).is_some())
    });
    let grpc_modes = used(&|c| PROBES.iter().any(|p| c.at(&[p, "grpc", "mode"]).is_some()));
    for list in CONTAINER_LISTS {
        each(spec, list, |container| {
            if !bind_options {
                each(container, "volumeMounts", |mount| {
                    drop(mount.remove("bindMountOptions"))
                });
            }
            if !stop_signals {
                drop_stop_signal(container);
            }
            for probe in PROBES {
                if !protocols {
                    drop_below(container, &[probe, "httpGet"], "protocol");
                }
                if !grpc_modes {
                    drop_below(container, &[probe, "grpc"], "mode");
                }
            }
            for hook in HOOKS.iter().filter(|_| !protocols) {
                drop_below(container, &["lifecycle", hook, "httpGet"], "protocol");
            }
        });
    }
}

/// A lifecycle that was nothing but a signal goes with it.
fn drop_stop_signal(container: &mut Object<'_>) {
    let Some(lifecycle) = container
        .get_mut("lifecycle")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    if lifecycle.remove("stopSignal").is_some() && lifecycle.is_empty() {
        container.remove("lifecycle");
    }
}

/// Drops fields of the status.
pub(crate) fn drop_disabled_status(new: &mut Doc<'_>, old: &Doc<'_>) {
    let before = old.get(&["status"]).unwrap_or(&Value::Null);
    let images = STATUS_LISTS
        .iter()
        .flat_map(|list| before.list_of(list))
        .any(|status| {
            status
                .list_of("volumeMounts")
                .iter()
                .any(|m| m.get("volumeStatus").is_some())
        });
    let Some(status) = new.get_mut(&["status"]).and_then(Value::as_object_mut) else {
        return;
    };
    for field in ["nodeAllocatableResourceClaimStatuses", "volumeHealth"] {
        if before.list_of(field).is_empty() {
            status.remove(field);
        }
    }
    if !images {
        for list in STATUS_LISTS {
            each(status, list, |container| {
                each(container, "volumeMounts", |mount| {
                    drop(mount.remove("volumeStatus"))
                });
            });
        }
    }
}

fn each<'a>(object: &mut Object<'a>, list: &str, mut visit: impl FnMut(&mut Object<'a>)) {
    let items = object.get_mut(list).and_then(Value::as_list_mut);
    for item in items.into_iter().flatten().filter_map(Value::as_object_mut) {
        visit(item);
    }
}

fn drop_below(object: &mut Object<'_>, path: &[&str], field: &str) {
    let Some((first, rest)) = path.split_first() else {
        object.remove(field);
        return;
    };
    if let Some(inner) = object.get_mut(first).and_then(Value::as_object_mut) {
        drop_below(inner, rest, field);
    }
}

/// The sources of a volume that say whose their files are, in the order upstream looks at them: only the
/// first one counts.
const OWNED: [&str; 4] = ["secret", "configMap", "downwardAPI", "projected"];
const OWNED_PROJECTIONS: [&str; 6] = [
    "secret",
    "downwardAPI",
    "configMap",
    "serviceAccountToken",
    "clusterTrustBundle",
    "podCertificate",
];

fn drop_file_owners(volume: &mut Object<'_>) {
    let Some(kind) = OWNED.iter().find(|kind| volume.contains(kind)) else {
        return;
    };
    let Some(source) = volume.get_mut(kind).and_then(Value::as_object_mut) else {
        return;
    };
    source.remove("defaultUser");
    each(source, "items", |item| drop(item.remove("user")));
    each(source, "sources", |source| {
        let Some(kind) = OWNED_PROJECTIONS.iter().find(|kind| source.contains(kind)) else {
            return;
        };
        if let Some(inner) = source.get_mut(kind).and_then(Value::as_object_mut) {
            inner.remove("user");
            each(inner, "items", |item| drop(item.remove("user")));
        }
    });
}

fn uses_file_owners(spec: &Value<'_>) -> bool {
    let items = |v: &Value<'_>| v.list_of("items").iter().any(|i| i.get("user").is_some());
    spec.list_of("volumes").iter().any(|volume| {
        let source = OWNED.iter().find_map(|kind| volume.get(kind));
        source.is_some_and(|source| {
            source.get("defaultUser").is_some()
                || items(source)
                || source.list_of("sources").iter().any(|projection| {
                    let inner = OWNED_PROJECTIONS
                        .iter()
                        .find_map(|kind| projection.get(kind));
                    inner.is_some_and(|inner| inner.get("user").is_some() || items(inner))
                })
        })
    })
}
