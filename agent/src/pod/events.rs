//! What the pod half records Events about: a pod, or one of its containers.

use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use super::spec;

pub use crate::events::{Kind, Recorder, Source, Subject, recorder};

/// Source of the pod half's events, as upstream's.
pub const COMPONENT: &str = "kubelet";

impl Subject {
    pub fn pod(pod: &Pod) -> Self {
        Self::new(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: None,
        })
    }

    pub fn container(pod: &Pod, name: &str) -> Self {
        let list = match spec::find(pod, name).map(|(role, _)| role) {
            Some(spec::Role::Init | spec::Role::Sidecar) => "spec.initContainers",
            Some(spec::Role::Ephemeral) => "spec.ephemeralContainers",
            Some(spec::Role::Main) | None => "spec.containers",
        };
        Self::pod(pod).field(format!("{list}{{{name}}}"))
    }
}
