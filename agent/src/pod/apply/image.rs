//! The images a container needs, its own and those of its volumes: present, pulled, or the reason why not
//! (upstream: `images/image_manager.go`, and `getImageVolumes` of `kuberuntime_manager.go`).

use std::collections::BTreeMap;
use std::time::Instant;

use base64::Engine;
use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod};

use super::{Job, Progress};
use crate::cri::messages as m;
use crate::pod::events::Subject;
use crate::pod::objects::Key;
use crate::pod::plan::Waiting;
use crate::pod::security::ImageUser;
use crate::pod::spec;

/// An image the runtime has.
pub struct Image {
    pub id: String,
    pub user: ImageUser,
}

/// Per name of a volume, the image that is mounted for it.
pub type Volumes = BTreeMap<String, m::ImageSpec>;

/// An image and what for.
struct Wanted<'a> {
    name: &'a str,
    policy: Option<&'a str>,
    /// The container that waits for it.
    container: &'a str,
    /// What events are about.
    subject: Subject,
}

impl Job {
    /// The image by the container's pull policy, or why the container has to wait.
    pub(super) async fn image(&self, container: &Container) -> Result<Image, Waiting> {
        self.ensure_image(Wanted {
            name: container.image.as_deref().unwrap_or_default(),
            policy: container.image_pull_policy.as_deref(),
            container: &container.name,
            subject: Subject::container(&self.pod, &container.name),
        })
        .await
    }

    /// The images of the volumes that the container mounts, or why it has to wait.
    pub(super) async fn volume_images(&self, container: &Container) -> Result<Volumes, Waiting> {
        let mut images = Volumes::new();
        for (volume, source) in image_volumes(&self.pod) {
            let mut mounts = container.volume_mounts.iter().flatten();
            if !mounts.any(|mount| mount.name == volume) {
                continue;
            }
            let reference = source.reference.clone().unwrap_or_default();
            let wanted = Wanted {
                name: &reference,
                policy: source.pull_policy.as_deref(),
                container: &container.name,
                subject: Subject::pod(&self.pod),
            };
            let image = self.ensure_image(wanted).await?;
            let annotations = self.pod.metadata.annotations.clone().unwrap_or_default();
            let spec = m::ImageSpec {
                image: image.id,
                annotations: annotations.into_iter().collect(),
                user_specified_image: reference,
            };
            images.insert(volume.to_owned(), spec);
        }
        Ok(images)
    }

    async fn ensure_image(&self, wanted: Wanted<'_>) -> Result<Image, Waiting> {
        let name = wanted.name;
        let policy = wanted.policy.unwrap_or_else(|| default_policy(name));
        let subject = &wanted.subject;
        let recorder = &self.node.recorder;
        if name.is_empty() {
            let message = "Failed to apply default image tag: the image has no name".to_owned();
            recorder.warning(subject, "InspectFailed", message.clone());
            return Err(Waiting {
                reason: "InvalidImageName".to_owned(),
                message,
            });
        }
        let present = match self.node.runtime.image_status(name).await {
            Ok(present) => present,
            Err(error) => {
                let message = format!("Failed to inspect image {name:?}: {}", error.detail());
                recorder.warning(subject, "InspectFailed", message.clone());
                let reason = if error.detail().contains("invalid reference") {
                    "InvalidImageName"
                } else {
                    "ImageInspectError"
                };
                return Err(Waiting {
                    reason: reason.to_owned(),
                    message,
                });
            }
        };
        match (present, policy) {
            (Some(image), "Never" | "IfNotPresent") => {
                let message = format!(
                    "Container image {name:?} already present on machine and can be accessed by the pod"
                );
                recorder.normal(subject, "Pulled", message);
                Ok(found(image))
            }
            (None, "Never") => {
                let message =
                    format!("Container image {name:?} is not present with pull policy of Never");
                recorder.warning(subject, "ErrImageNeverPull", message.clone());
                Err(Waiting {
                    reason: "ErrImageNeverPull".to_owned(),
                    message,
                })
            }
            (Some(_) | None, _) => self.pull(&wanted).await,
        }
    }

    async fn pull(&self, wanted: &Wanted<'_>) -> Result<Image, Waiting> {
        let Wanted { name, subject, .. } = wanted;
        let recorder = &self.node.recorder;
        recorder.normal(subject, "Pulling", format!("Pulling image {name:?}"));
        let began = Instant::now();
        let config = self.node.sandbox_config(&self.pod, 0);
        let work = self
            .node
            .runtime
            .pull_image(name, self.credentials(name), Some(config));
        let pulled = tokio::select! {
            pulled = work => pulled,
            () = self.cancel.cancelled() => {
                return Err(Waiting { reason: "ContainerCreating".to_owned(), message: String::new() });
            }
        };
        let reference = match pulled {
            Ok(reference) => reference,
            Err(error) => {
                let detail = error.detail();
                recorder.warning(
                    subject,
                    "Failed",
                    format!("Failed to pull image {name:?}: {detail}"),
                );
                self.tell(Progress::PullFailed {
                    container: wanted.container.to_owned(),
                })
                .await;
                return Err(Waiting {
                    reason: "ErrImagePull".to_owned(),
                    message: detail,
                });
            }
        };
        let image = self
            .node
            .runtime
            .image_status(&reference)
            .await
            .ok()
            .flatten();
        let took = began.elapsed();
        let size = image.as_ref().map_or(0, |image| image.size);
        let message = format!(
            "Successfully pulled image {name:?} in {took:.3?} ({took:.3?} including waiting). Image \
             size: {size} bytes."
        );
        recorder.normal(subject, "Pulled", message);
        Ok(image.map_or_else(
            || Image {
                id: reference,
                user: ImageUser::default(),
            },
            found,
        ))
    }

    /// The pull secret for the image's registry, if the pod has one.
    fn credentials(&self, image: &str) -> Option<m::AuthConfig> {
        let registry = image
            .split('/')
            .next()
            .filter(|host| host.contains(['.', ':']));
        let registry = registry.unwrap_or("docker.io");
        let secrets = spec::spec(&self.pod).image_pull_secrets.iter().flatten();
        for secret in secrets {
            let key = Key::secret(spec::namespace(&self.pod), &secret.name);
            let data = self.objects.get(&key)?.data.get(".dockerconfigjson")?;
            let config: serde_json::Value = serde_json::from_slice(data).ok()?;
            let auths = config.get("auths")?.as_object()?;
            let entry = auths.iter().find(|(host, _)| {
                let host = host
                    .trim_start_matches("https://")
                    .trim_start_matches("http://");
                host.split('/').next() == Some(registry)
            });
            if let Some((_, entry)) = entry {
                return Some(auth(entry));
            }
        }
        None
    }
}

fn image_volumes(pod: &Pod) -> impl Iterator<Item = (&str, &ImageVolumeSource)> {
    let volumes = spec::spec(pod).volumes.iter().flatten();
    volumes.filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
}

fn auth(entry: &serde_json::Value) -> m::AuthConfig {
    let text = |field: &str| {
        entry
            .get(field)
            .and_then(|v| v.as_str())
            .map(ToOwned::to_owned)
    };
    let decoded = text("auth")
        .and_then(|auth| base64::engine::general_purpose::STANDARD.decode(auth).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|pair| {
            pair.split_once(':')
                .map(|(u, p)| (u.to_owned(), p.to_owned()))
        });
    let (user, password) = decoded.unwrap_or_default();
    m::AuthConfig {
        username: text("username").unwrap_or(user),
        password: text("password").unwrap_or(password),
        ..m::AuthConfig::default()
    }
}

fn default_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let tagged = image.contains('@') || last.contains(':');
    if !tagged || last.ends_with(":latest") {
        "Always"
    } else {
        "IfNotPresent"
    }
}

fn found(image: m::Image) -> Image {
    Image {
        user: ImageUser {
            uid: image.uid.map(|uid| uid.value),
            name: image.username,
        },
        id: image.id,
    }
}
