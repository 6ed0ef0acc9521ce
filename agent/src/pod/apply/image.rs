//! The container's image: present, pulled, or the reason why not (upstream: `images/image_manager.go`).

use std::time::Instant;

use base64::Engine;
use k8s_openapi::api::core::v1::Container;

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

impl Job {
    /// The image by the container's pull policy, or why the container has to wait.
    pub(super) async fn image(&self, container: &Container) -> Result<Image, Waiting> {
        let name = container.image.clone().unwrap_or_default();
        let policy = container.image_pull_policy.as_deref();
        let policy = policy.unwrap_or_else(|| default_policy(&name));
        let subject = Subject::container(&self.pod, &container.name);
        let recorder = &self.node.recorder;
        if name.is_empty() {
            let message = "Failed to apply default image tag: the image has no name".to_owned();
            recorder.warning(&subject, "InspectFailed", message.clone());
            return Err(Waiting {
                reason: "InvalidImageName".to_owned(),
                message,
            });
        }
        let present = match self.node.runtime.image_status(&name).await {
            Ok(present) => present,
            Err(error) => {
                let message = format!("Failed to inspect image {name:?}: {}", error.detail());
                recorder.warning(&subject, "InspectFailed", message.clone());
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
                recorder.normal(&subject, "Pulled", message);
                Ok(found(image))
            }
            (None, "Never") => {
                let message =
                    format!("Container image {name:?} is not present with pull policy of Never");
                recorder.warning(&subject, "ErrImageNeverPull", message.clone());
                Err(Waiting {
                    reason: "ErrImageNeverPull".to_owned(),
                    message,
                })
            }
            (Some(_) | None, _) => self.pull(container, &name, &subject).await,
        }
    }

    async fn pull(
        &self,
        container: &Container,
        name: &str,
        subject: &Subject,
    ) -> Result<Image, Waiting> {
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
                    container: container.name.clone(),
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
