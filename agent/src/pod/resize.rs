//! In-place resize of running containers: what differs, whether the node has room for it, and what was
//! carried out (upstream: `pkg/kubelet/allocation`, `kuberuntime_manager.go` computePodResizeAction).
//! Pure but for [`Done`], which keeps what was carried out beside the pod's volumes, so that a restarted
//! agent knows it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::observed::{self, Observed, State};
use super::plan::Waiting;
use super::resources;
use super::spec::{self, Role};

const FILE: &str = "resources.json";

/// Where a resize of the pod stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Resize {
    /// Containers run with what the specification says.
    #[default]
    None,
    /// The node has no room: `Infeasible`, or `Deferred` until other pods go.
    Pending(Waiting),
    /// Being carried out; with what went wrong the last time.
    InProgress(Option<Waiting>),
}

/// A container to be given other resources.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub id: String,
    pub name: String,
    pub resources: ResourceRequirements,
}

/// What the node has for pods, and what the others were promised: milli-CPUs and bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Room {
    pub allocatable: (i64, i64),
    pub others: (i64, i64),
}

/// Containers that run with other resources than the specification says.
pub fn changes(pod: &Pod, observed: &Observed) -> Vec<Change> {
    let containers = spec::containers(pod).into_iter();
    let resizable = containers.filter(|(role, _)| matches!(role, Role::Main | Role::Sidecar));
    let changed = resizable.filter_map(|(_, container)| {
        let seen = observed.active(&container.name)?;
        let running = seen.state == State::Running;
        (running && differs(&container, seen)).then(|| Change {
            id: seen.id.clone(),
            name: container.name.clone(),
            resources: container.resources.clone().unwrap_or_default(),
        })
    });
    changed.collect()
}

/// Whether the container runs with other CPU or memory than it should. `2m` and `0.002` are the same.
pub fn differs(container: &Container, seen: &observed::Container) -> bool {
    let Some(have) = &seen.resources else {
        return false;
    };
    let wanted = container.resources.clone().unwrap_or_default();
    ["cpu", "memory"]
        .into_iter()
        .any(|name| resources::pair(have, name) != resources::pair(&wanted, name))
}

/// Whether the container has to be restarted for the change, by its resize policy.
pub fn needs_restart(container: &Container, seen: &observed::Container) -> bool {
    let Some(have) = &seen.resources else {
        return false;
    };
    let wanted = container.resources.clone().unwrap_or_default();
    let mut policies = container.resize_policy.iter().flatten();
    policies.any(|policy| {
        let name = policy.resource_name.as_str();
        policy.restart_policy == "RestartContainer"
            && resources::pair(have, name) != resources::pair(&wanted, name)
    })
}

/// Where the resize stands; `before`: where it stood.
pub fn stand(pod: &Pod, observed: &Observed, room: Room, before: &Resize) -> Resize {
    if changes(pod, observed).is_empty() {
        return Resize::None;
    }
    let wanted = resources::requests_of_pod(pod);
    let names = ["cpu", "memory"];
    let each = |pair: (i64, i64)| [pair.0, pair.1];
    let amounts = || {
        let wanted = each(wanted).into_iter().zip(each(room.others));
        names.into_iter().zip(wanted.zip(each(room.allocatable)))
    };
    let pending = |reason: &str, message: String| {
        Resize::Pending(Waiting {
            reason: reason.to_owned(),
            message,
        })
    };
    for (name, ((wanted, _), has)) in amounts() {
        if wanted > has {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {has}"
            );
            return pending("Infeasible", message);
        }
    }
    for (name, ((wanted, others), has)) in amounts() {
        if wanted.saturating_add(others) > has {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {others}, capacity: {has}"
            );
            return pending("Deferred", message);
        }
    }
    match before {
        Resize::InProgress(problem) => Resize::InProgress(problem.clone()),
        Resize::None | Resize::Pending(_) => Resize::InProgress(None),
    }
}

/// Resizes that were carried out, by container id.
#[derive(Debug, Default)]
pub struct Done {
    path: PathBuf,
    resources: BTreeMap<String, ResourceRequirements>,
}

impl Done {
    /// Of the pod with this directory.
    pub fn load(pod_dir: &Path) -> Self {
        let path = pod_dir.join(FILE);
        let text = std::fs::read(&path).unwrap_or_default();
        Self {
            resources: serde_json::from_slice(&text).unwrap_or_default(),
            path,
        }
    }

    /// Notes a resize; those of containers that are gone are forgotten.
    pub fn note(&mut self, observed: &Observed, id: &str, resources: ResourceRequirements) {
        self.resources
            .retain(|id, _| observed.containers.iter().any(|c| &c.id == id));
        self.resources.insert(id.to_owned(), resources);
        let text = serde_json::to_vec(&self.resources).unwrap_or_default();
        let new = self.path.with_extension("new");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.path));
        if let Err(error) = written {
            // Without the note a restarted agent resizes once more, to the same.
            tracing::warn!(%error, "resize not noted");
        }
    }

    /// Puts what was carried out over what the containers were made with.
    pub fn apply(&self, observed: &mut Observed) {
        for container in &mut observed.containers {
            if let Some(resources) = self.resources.get(&container.id) {
                container.resources = Some(resources.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str, memory: &str, policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u" },
            "spec": { "containers": [{ "name": "c", "image": "i",
                "resources": { "requests": { "cpu": cpu, "memory": memory } },
                "resizePolicy": [{ "resourceName": "cpu", "restartPolicy": policy }] }] }
        }))
        .unwrap()
    }

    fn running_with(pod: &Pod) -> Observed {
        let mut observed = crate::pod::plan::tests::running_one();
        observed.containers[0].resources = spec::spec(pod).containers[0].resources.clone();
        observed
    }

    const ROOM: Room = Room {
        allocatable: (2000, 1 << 30),
        others: (1000, 0),
    };

    #[test]
    fn only_a_real_difference_is_a_change() {
        let observed = running_with(&pod("100m", "10Mi", "NotRequired"));
        assert!(changes(&pod("0.1", "10485760", "NotRequired"), &observed).is_empty());
        let wanted = pod("200m", "10Mi", "NotRequired");
        let [change] = &changes(&wanted, &observed)[..] else {
            panic!("one change")
        };
        assert_eq!(change.id, observed.containers[0].id);
        // Containers of an agent that did not note what they were made with are left alone.
        let mut unknown = observed;
        unknown.containers[0].resources = None;
        assert!(changes(&wanted, &unknown).is_empty());
    }

    #[test]
    fn the_policy_of_the_changed_resource_decides_about_a_restart() {
        let observed = running_with(&pod("100m", "10Mi", "RestartContainer"));
        let restarts = |wanted: &Pod| {
            needs_restart(&spec::spec(wanted).containers[0], &observed.containers[0])
        };
        assert!(restarts(&pod("200m", "10Mi", "RestartContainer")));
        assert!(!restarts(&pod("100m", "20Mi", "RestartContainer")));
        assert!(!restarts(&pod("200m", "10Mi", "NotRequired")));
    }

    #[test]
    fn a_resize_waits_for_room_or_never_fits() {
        let observed = running_with(&pod("100m", "10Mi", "NotRequired"));
        let stand_of = |cpu| {
            let pod = pod(cpu, "10Mi", "NotRequired");
            stand(&pod, &observed, ROOM, &Resize::None)
        };
        assert_eq!(stand_of("100m"), Resize::None);
        assert_eq!(stand_of("1000m"), Resize::InProgress(None));
        let reason = |resize: Resize| match resize {
            Resize::Pending(why) => why.reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(stand_of("1001m")), "Deferred");
        assert_eq!(reason(stand_of("3")), "Infeasible");
    }

    #[test]
    fn what_was_carried_out_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let small = pod("100m", "10Mi", "NotRequired");
        let big = pod("200m", "10Mi", "NotRequired");
        let mut observed = running_with(&small);
        let change = changes(&big, &observed).remove(0);
        Done::load(dir.path()).note(&observed, &change.id, change.resources);
        Done::load(dir.path()).apply(&mut observed);
        assert!(changes(&big, &observed).is_empty());
        assert_eq!(changes(&small, &observed).len(), 1);
    }
}
