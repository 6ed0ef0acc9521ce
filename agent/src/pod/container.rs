//! The runtime's configuration of one container (upstream: `kuberuntime_container.go`
//! generateContainerConfig). Pure; mounts of volumes and the environment are handed in.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::expand::expand;
use super::observed as o;
use super::resources;
use super::sandbox;
use super::security::{self, ImageUser};
use super::spec;
use crate::cri::messages as m;

pub const DEFAULT_TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

/// What the configuration needs beyond the pod.
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub attempt: u32,
    /// The image by the id the runtime knows it under.
    pub image_ref: &'a str,
    pub image_user: &'a ImageUser,
    pub env: &'a BTreeMap<String, String>,
    pub mounts: Vec<m::Mount>,
    pub devices: Vec<m::Device>,
    pub memory_capacity: i64,
    /// Id of the container whose processes an ephemeral one joins.
    pub target: Option<&'a str>,
}

pub fn config(input: Input<'_>) -> Result<m::ContainerConfig, security::Error> {
    let Input {
        pod,
        container,
        attempt,
        env,
        ..
    } = input;
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        let list = list.iter().flatten();
        list.map(|text| expand(text, |name| env.get(name).map(String::as_str)))
            .collect()
    };
    let user_image = container.image.clone().unwrap_or_default();
    Ok(m::ContainerConfig {
        metadata: Some(m::ContainerMetadata {
            name: container.name.clone(),
            attempt,
        }),
        image: Some(m::ImageSpec {
            image: input.image_ref.to_owned(),
            user_specified_image: user_image,
            ..m::ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env
            .iter()
            .map(|(key, value)| m::KeyValue {
                key: key.clone(),
                value: value.clone().into_bytes(),
            })
            .collect(),
        mounts: input.mounts,
        devices: input.devices,
        labels: labels(pod, container),
        annotations: annotations(pod, container, attempt),
        log_path: log_path(&container.name, attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(m::LinuxContainerConfig {
            resources: Some(resources::of_container(
                pod,
                container,
                input.memory_capacity,
            )),
            security_context: Some(security::of_container(
                pod,
                container,
                input.image_user,
                input.target,
            )?),
        }),
    })
}

/// The container's log below the pod's log directory.
pub fn log_path(name: &str, attempt: u32) -> String {
    format!("{name}/{attempt}.log")
}

fn labels(pod: &Pod, container: &Container) -> std::collections::HashMap<String, String> {
    let mut labels = sandbox::labels(pod);
    labels.retain(|key, _| key.starts_with("io.kubernetes."));
    labels.insert(o::CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

fn annotations(
    pod: &Pod,
    container: &Container,
    attempt: u32,
) -> std::collections::HashMap<String, String> {
    let policy = container
        .termination_message_policy
        .as_deref()
        .unwrap_or("File");
    let resources = container.resources.clone().unwrap_or_default();
    let resources = serde_json::to_string(&resources).unwrap_or_default();
    let pairs = [
        (o::CONTAINER_HASH, spec::hash(container)),
        (o::RESTART_COUNT, attempt.to_string()),
        (
            o::TERMINATION_MESSAGE_PATH,
            termination_message_path(container).to_owned(),
        ),
        (o::TERMINATION_MESSAGE_POLICY, policy.to_owned()),
        (o::POD_GRACE_PERIOD, spec::grace(pod).as_secs().to_string()),
        (o::RESOURCES, resources),
    ];
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

pub fn termination_message_path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or(DEFAULT_TERMINATION_MESSAGE_PATH)
}
