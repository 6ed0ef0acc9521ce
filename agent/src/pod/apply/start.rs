//! One container from image to running: image, configuration, create, start, postStart.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::image::{self, Image};
use super::{HOSTS_FILE, Job, Progress};
use crate::cri::messages as m;
use crate::pod::container;
use crate::pod::env;
use crate::pod::events::Subject;
use crate::pod::expand::expand;
use crate::pod::observed::State;
use crate::pod::plan::Waiting;
use crate::pod::security;
use crate::pod::spec;
use crate::volume::{self, mount};

const ETC_HOSTS: &str = "/etc/hosts";

/// Where the contents of a container's mounts come from.
struct Sources<'a> {
    paths: &'a volume::Paths,
    volumes: image::Volumes,
}

/// Why a container did not start, as upstream's reasons.
struct Failure {
    reason: &'static str,
    message: String,
}

impl Failure {
    fn config(error: impl ToString) -> Self {
        Self {
            reason: "CreateContainerConfigError",
            message: error.to_string(),
        }
    }

    fn create(error: impl ToString) -> Self {
        Self {
            reason: "CreateContainerError",
            message: error.to_string(),
        }
    }
}

impl Job {
    /// Starts the container; what goes wrong becomes its waiting reason and an event.
    pub(super) async fn start(&self, container: &Container, paths: &volume::Paths) {
        let name = container.name.clone();
        let (image, volumes) = match self.images(container).await {
            Ok(images) => images,
            Err(why) => {
                let pull = why.reason == "ErrImagePull";
                if why.reason != "ContainerCreating" {
                    let subject = Subject::container(&self.pod, &name);
                    self.node.recorder.warning(
                        &subject,
                        "Failed",
                        format!("Error: {}", why.reason),
                    );
                }
                self.tell(Progress::Waiting {
                    container: name.clone(),
                    why: Some(why),
                })
                .await;
                if !pull {
                    self.tell(Progress::Retry { container: name }).await;
                }
                return;
            }
        };
        let ended = self
            .observed
            .latest(&name)
            .filter(|seen| seen.state == State::Exited)
            .and_then(|seen| seen.finished());
        if let Some(ended) = ended {
            self.tell(Progress::Restarted {
                container: name.clone(),
                ended,
            })
            .await;
        }
        let sources = Sources { paths, volumes };
        match self.create_and_start(container, &image, &sources).await {
            Ok(()) => {
                self.tell(Progress::Waiting {
                    container: name,
                    why: None,
                })
                .await
            }
            Err(Failure { reason, message }) => {
                if reason != "PostStartHookError" {
                    let subject = Subject::container(&self.pod, &name);
                    self.node
                        .recorder
                        .warning(&subject, "Failed", format!("Error: {message}"));
                }
                let why = Waiting {
                    reason: reason.to_owned(),
                    message,
                };
                self.tell(Progress::Waiting {
                    container: name.clone(),
                    why: Some(why),
                })
                .await;
                self.tell(Progress::Retry { container: name }).await;
            }
        }
    }

    async fn images(&self, container: &Container) -> Result<(Image, image::Volumes), Waiting> {
        let volumes = self.volume_images(container).await?;
        Ok((self.image(container).await?, volumes))
    }

    async fn create_and_start(
        &self,
        container: &Container,
        image: &Image,
        sources: &Sources<'_>,
    ) -> Result<(), Failure> {
        let node = &self.node;
        let sandbox = self
            .observed
            .sandboxes
            .first()
            .ok_or_else(|| Failure::create("the pod has no sandbox"))?;
        let services = node.services().await.ok_or_else(|| {
            Failure::config(
                "services have not yet been read at least once, cannot construct envvars",
            )
        })?;
        let facts = self.facts();
        let input = env::Input {
            pod: &self.pod,
            facts: &facts,
            services: &services,
            objects: &self.objects,
            allocatable: node.allocatable,
        };
        let variables = env::environment(input, container).map_err(Failure::config)?;
        let attempt = self.attempt(container);
        let mounts = self.mounts(container, sources, &variables, attempt)?;
        let config = container::config(container::Input {
            pod: &self.pod,
            container,
            attempt,
            image_ref: &image.id,
            image_user: &image.user,
            env: &variables,
            mounts,
            devices: Vec::new(),
            memory_capacity: node.memory_capacity,
            target: spec::target_of(&self.pod, &container.name)
                .and_then(|name| self.observed.latest(name))
                .map(|seen| seen.id.as_str()),
        })
        .map_err(|error: security::Error| Failure::config(error))?;
        self.make_log_directory(container)?;
        let sandbox_config = node.sandbox_config(&self.pod, sandbox.attempt);
        let id = node
            .runtime
            .create_container(&sandbox.id, config, sandbox_config)
            .await
            .map_err(|error| Failure::create(error.detail()))?;
        let subject = Subject::container(&self.pod, &container.name);
        node.recorder
            .normal(&subject, "Created", "Container created");
        node.runtime
            .start_container(&id)
            .await
            .map_err(|error| Failure {
                reason: "RunContainerError",
                message: error.detail(),
            })?;
        node.recorder
            .normal(&subject, "Started", "Container started");
        self.post_start(&id, container, &subject).await
    }

    async fn post_start(
        &self,
        id: &str,
        container: &Container,
        subject: &Subject,
    ) -> Result<(), Failure> {
        let handler = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(handler) = handler else {
            return Ok(());
        };
        let ended = tokio::select! {
            ended = self.hook(id, container, handler) => ended,
            () = self.cancel.cancelled() => return Ok(()),
        };
        if let Err(error) = ended {
            self.node
                .recorder
                .warning(subject, "FailedPostStartHook", "PostStartHook failed");
            let grace = spec::grace(&self.pod);
            let message = "FailedPostStartHook";
            self.kill_container(id, Some(container), &container.name, message, grace)
                .await;
            return Err(Failure {
                reason: "PostStartHookError",
                message: error,
            });
        }
        Ok(())
    }

    /// The next restart number: one more than that of the newest container, or of the one the API knows.
    fn attempt(&self, container: &Container) -> u32 {
        let seen = self
            .observed
            .latest(&container.name)
            .map(|seen| seen.restart_count);
        let lists = [
            &self.old.container_statuses,
            &self.old.init_container_statuses,
            &self.old.ephemeral_container_statuses,
        ];
        let known = lists
            .into_iter()
            .flatten()
            .flatten()
            .find(|status| status.name == container.name && status.container_id.is_some())
            .map(|status| status.restart_count);
        let last = seen.max(known);
        last.and_then(|last| u32::try_from(last + 1).ok())
            .unwrap_or(0)
    }

    fn make_log_directory(&self, container: &Container) -> Result<(), Failure> {
        let base = crate::pod::sandbox::log_directory(&self.node.config.pod_log_dir, &self.pod);
        let dir = PathBuf::from(base).join(&container.name);
        std::fs::create_dir_all(&dir)
            .map_err(|error| Failure::create(format!("log directory {}: {error}", dir.display())))
    }

    fn mounts(
        &self,
        container: &Container,
        sources: &Sources<'_>,
        variables: &BTreeMap<String, String>,
        attempt: u32,
    ) -> Result<Vec<m::Mount>, Failure> {
        let mut mounts = Vec::new();
        let list = container.volume_mounts.as_deref().unwrap_or_default();
        for (at, wanted) in list.iter().enumerate() {
            let mount = m::Mount {
                container_path: absolute(&wanted.mount_path),
                propagation: propagation(wanted) as i32,
                ..m::Mount::default()
            };
            mounts.push(if let Some(image) = sources.volumes.get(&wanted.name) {
                m::Mount {
                    image: Some(image.clone()),
                    image_sub_path: sub_path_of(wanted, variables).map_err(Failure::config)?,
                    readonly: true,
                    ..mount
                }
            } else {
                let path = sources.paths.get(&wanted.name).ok_or_else(|| {
                    Failure::config(format!(
                        "volume {:?} of the mount is not there",
                        wanted.name
                    ))
                })?;
                let host = self.sub_path(container, wanted, path, variables, at)?;
                m::Mount {
                    host_path: host.display().to_string(),
                    readonly: wanted.read_only.unwrap_or(false),
                    ..mount
                }
            });
        }
        let pod_dir = volume::pod_dir(&self.node.config.root_dir, spec::uid(&self.pod));
        let hosts = pod_dir.join(HOSTS_FILE);
        if !mounts.iter().any(|mount| mount.container_path == ETC_HOSTS) {
            if !hosts.exists() {
                let sandbox = self.observed.sandboxes.first();
                let ips = sandbox.map(|s| s.ips.clone()).unwrap_or_default();
                self.write_hosts(&ips)
                    .map_err(|error| Failure::config(format!("hosts file: {error}")))?;
            }
            mounts.push(plain(ETC_HOSTS, &hosts));
        }
        let file = pod_dir
            .join("containers")
            .join(&container.name)
            .join(format!("termination-{attempt}"));
        make_file(&file).map_err(|error| Failure::create(format!("termination log: {error}")))?;
        mounts.push(plain(container::termination_message_path(container), &file));
        Ok(mounts)
    }

    /// The volume's path, or that of the sub-path bound beside the volumes.
    fn sub_path(
        &self,
        container: &Container,
        wanted: &VolumeMount,
        path: &std::path::Path,
        variables: &BTreeMap<String, String>,
        index: usize,
    ) -> Result<PathBuf, Failure> {
        let sub = sub_path_of(wanted, variables).map_err(Failure::config)?;
        if sub.is_empty() {
            return Ok(path.to_owned());
        }
        let target = volume::pod_dir(&self.node.config.root_dir, spec::uid(&self.pod))
            .join("volume-subpaths")
            .join(&wanted.name)
            .join(&container.name)
            .join(index.to_string());
        mount::bind_sub_path(path, &sub, &target).map_err(|error| {
            Failure::config(format!(
                "failed to prepare subPath for volumeMount {:?}: {error}",
                wanted.name
            ))
        })?;
        Ok(target)
    }
}

/// The mount's sub-path with its variables, which must all have values (upstream: `kubelet_pods.go`
/// makeMounts, `kubecontainer.ExpandContainerVolumeMounts`).
fn sub_path_of(
    wanted: &VolumeMount,
    variables: &BTreeMap<String, String>,
) -> Result<String, String> {
    let expression = wanted.sub_path_expr.as_deref().filter(|e| !e.is_empty());
    let sub = match (expression, &wanted.sub_path) {
        (Some(expression), _) => {
            let missing = RefCell::new(BTreeSet::new());
            let sub = expand(expression, |name| {
                let value = variables.get(name).filter(|value| !value.is_empty());
                if value.is_none() {
                    missing.borrow_mut().insert(name.to_owned());
                }
                value.map(String::as_str)
            });
            let missing: Vec<String> = missing.into_inner().into_iter().collect();
            if !missing.is_empty() {
                return Err(format!("missing value for {}", missing.join(", ")));
            }
            sub
        }
        (None, Some(sub)) => sub.clone(),
        (None, None) => String::new(),
    };
    if sub.starts_with('/') {
        return Err(format!(
            "error SubPath `{sub}` must not be an absolute path"
        ));
    }
    if sub.split('/').any(|part| part == "..") {
        return Err(format!(
            "unable to provision SubPath `{sub}`: must not contain '..'"
        ));
    }
    Ok(sub)
}

fn plain(container_path: &str, host: &std::path::Path) -> m::Mount {
    m::Mount {
        container_path: container_path.to_owned(),
        host_path: host.display().to_string(),
        ..m::Mount::default()
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

fn propagation(mount: &VolumeMount) -> m::MountPropagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => m::MountPropagation::HostToContainer,
        Some("Bidirectional") => m::MountPropagation::Bidirectional,
        Some(_) | None => m::MountPropagation::Private,
    }
}

/// An empty file anyone may write: a container's termination message.
fn make_file(path: &std::path::Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::File::create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_needs_its_variables_and_stays_in_its_volume() {
        let variables = [("A", "x"), ("UP", ".."), ("ROOT", "/tmp"), ("NONE", "")];
        let variables = variables.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let of = |expression: &str| {
            let mount = VolumeMount {
                sub_path_expr: Some(expression.to_owned()),
                ..VolumeMount::default()
            };
            sub_path_of(&mount, &variables)
        };
        assert_eq!(of("$(A)/b"), Ok("x/b".to_owned()));
        for (wrong, why) in [
            ("$(NO)/$(NONE)", "missing value for NO, NONE"),
            ("$(ROOT)", "must not be an absolute path"),
            ("$(UP)", "must not contain '..'"),
            ("a/$(UP)", "must not contain '..'"),
        ] {
            let error = of(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
        let plain = VolumeMount {
            sub_path: Some("$(A)".to_owned()),
            ..VolumeMount::default()
        };
        assert_eq!(sub_path_of(&plain, &variables), Ok("$(A)".to_owned()));
    }
}
