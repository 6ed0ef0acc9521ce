//! The CRI client: one gRPC channel to the runtime's unix socket, one method per call this agent makes.
//! Input: the socket path. Output: the messages of `cri/messages.rs`, errors that name the call. It
//! retries nothing and interprets nothing; every call has a deadline.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

pub mod containerd;
pub mod messages;

use messages as m;

/// Upstream's `--runtime-request-timeout`: calls that wait for nothing but the runtime itself.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Added to the grace period of a stop and to the time-out of an exec: the runtime's own overhead.
const OVERHEAD: Duration = Duration::from_secs(15);
/// Largest answer accepted; a list of a thousand containers is about 2 MiB.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// An image pull has no deadline of its own upstream; one hour bounds a hanging registry.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);

/// A failed CRI call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connect to the container runtime at {path}")]
    Connect {
        path: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("{call}: {}", status.message())]
    Call {
        call: &'static str,
        status: Box<Status>,
    },
    #[error("{call}: the runtime did not answer within {after:?}")]
    Timeout { call: &'static str, after: Duration },
    #[error("{call}: the answer lacks {field}")]
    Incomplete {
        call: &'static str,
        field: &'static str,
    },
}

impl Error {
    /// Whether the object the call named does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Call { status, .. } if status.code() == Code::NotFound)
    }

    /// The runtime's own words, for events and waiting messages.
    pub fn detail(&self) -> String {
        match self {
            Error::Call { status, .. } => status.message().to_owned(),
            Error::Connect { .. } | Error::Timeout { .. } | Error::Incomplete { .. } => {
                self.to_string()
            }
        }
    }
}

/// A handle to the runtime; cloning shares the channel.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

macro_rules! path {
    (runtime $name:literal) => {
        concat!("/runtime.v1.RuntimeService/", $name)
    };
    (image $name:literal) => {
        concat!("/runtime.v1.ImageService/", $name)
    };
}

impl Client {
    /// A client of the socket at `path`. Connects on the first call and again after a loss.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let uri = format!("unix://{}", path.display());
        let endpoint = Endpoint::from_shared(uri).map_err(|source| Error::Connect {
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self {
            channel: endpoint.connect_lazy(),
        })
    }

    pub async fn version(&self) -> Result<m::VersionResponse, Error> {
        self.call(
            path!(runtime "Version"),
            m::VersionRequest {
                version: String::new(),
            },
        )
        .await
    }

    pub async fn status(&self) -> Result<m::StatusResponse, Error> {
        self.call(path!(runtime "Status"), m::StatusRequest { verbose: false })
            .await
    }

    pub async fn run_pod_sandbox(
        &self,
        config: m::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, Error> {
        let request = m::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        };
        let answer: m::PodSandboxId = self
            .call_for(path!(runtime "RunPodSandbox"), request, REQUEST_TIMEOUT * 2)
            .await?;
        Ok(answer.pod_sandbox_id)
    }

    /// Stops what runs in the sandbox and tears its network down; a sandbox that is gone is fine.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = m::PodSandboxId {
            pod_sandbox_id: id.to_owned(),
        };
        gone_is_fine(
            self.call::<_, m::Empty>(path!(runtime "StopPodSandbox"), request)
                .await,
        )
    }

    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = m::PodSandboxId {
            pod_sandbox_id: id.to_owned(),
        };
        gone_is_fine(
            self.call::<_, m::Empty>(path!(runtime "RemovePodSandbox"), request)
                .await,
        )
    }

    pub async fn pod_sandbox_status(&self, id: &str) -> Result<m::PodSandboxStatus, Error> {
        let request = m::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let answer: m::PodSandboxStatusResponse = self
            .call(path!(runtime "PodSandboxStatus"), request)
            .await?;
        answer.status.ok_or(Error::Incomplete {
            call: path!(runtime "PodSandboxStatus"),
            field: "status",
        })
    }

    /// All sandboxes whose labels contain `labels`; all there are when it is empty.
    pub async fn list_pod_sandbox(
        &self,
        labels: HashMap<String, String>,
    ) -> Result<Vec<m::PodSandbox>, Error> {
        let filter = m::PodSandboxFilter {
            id: String::new(),
            label_selector: labels,
        };
        let request = m::ListPodSandboxRequest {
            filter: Some(filter),
        };
        let answer: m::ListPodSandboxResponse =
            self.call(path!(runtime "ListPodSandbox"), request).await?;
        Ok(answer.items)
    }

    /// All containers whose labels contain `labels`; all there are when it is empty.
    pub async fn list_containers(
        &self,
        labels: HashMap<String, String>,
    ) -> Result<Vec<m::Container>, Error> {
        let filter = m::ContainerFilter {
            label_selector: labels,
            ..Default::default()
        };
        let request = m::ListContainersRequest {
            filter: Some(filter),
        };
        let answer: m::ListContainersResponse =
            self.call(path!(runtime "ListContainers"), request).await?;
        Ok(answer.containers)
    }

    pub async fn container_status(&self, id: &str) -> Result<m::ContainerStatus, Error> {
        let request = m::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer: m::ContainerStatusResponse =
            self.call(path!(runtime "ContainerStatus"), request).await?;
        answer.status.ok_or(Error::Incomplete {
            call: path!(runtime "ContainerStatus"),
            field: "status",
        })
    }

    pub async fn create_container(
        &self,
        sandbox: &str,
        config: m::ContainerConfig,
        sandbox_config: m::PodSandboxConfig,
    ) -> Result<String, Error> {
        let request = m::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let answer: m::ContainerId = self.call(path!(runtime "CreateContainer"), request).await?;
        Ok(answer.container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let request = m::ContainerId {
            container_id: id.to_owned(),
        };
        self.call::<_, m::Empty>(path!(runtime "StartContainer"), request)
            .await
            .map(drop)
    }

    /// Makes the runtime write the log of a running container to a new file.
    pub async fn reopen_container_log(&self, id: &str) -> Result<(), Error> {
        let request = m::ContainerId {
            container_id: id.to_owned(),
        };
        self.call::<_, m::Empty>(path!(runtime "ReopenContainerLog"), request)
            .await
            .map(drop)
    }

    /// Sends the stop signal, waits up to `grace`, then kills. A container that is gone is fine.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = m::StopContainerRequest {
            container_id: id.to_owned(),
            timeout,
        };
        let deadline = REQUEST_TIMEOUT + grace;
        gone_is_fine(
            self.call_for::<_, m::Empty>(path!(runtime "StopContainer"), request, deadline)
                .await,
        )
    }

    /// Gives a running container other resources.
    pub async fn update_container(
        &self,
        id: &str,
        resources: m::LinuxContainerResources,
    ) -> Result<(), Error> {
        let request = m::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
        };
        self.call::<_, m::Empty>(path!(runtime "UpdateContainerResources"), request)
            .await
            .map(drop)
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let request = m::ContainerId {
            container_id: id.to_owned(),
        };
        gone_is_fine(
            self.call::<_, m::Empty>(path!(runtime "RemoveContainer"), request)
                .await,
        )
    }

    pub async fn exec_sync(
        &self,
        id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<m::ExecSyncResponse, Error> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let request = m::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd,
            timeout: seconds,
        };
        self.call_for(path!(runtime "ExecSync"), request, timeout + OVERHEAD)
            .await
    }

    pub async fn exec(&self, request: m::ExecRequest) -> Result<String, Error> {
        let answer: m::StreamUrl = self.call(path!(runtime "Exec"), request).await?;
        Ok(answer.url)
    }

    pub async fn attach(&self, request: m::AttachRequest) -> Result<String, Error> {
        let answer: m::StreamUrl = self.call(path!(runtime "Attach"), request).await?;
        Ok(answer.url)
    }

    pub async fn port_forward(&self, sandbox: &str, port: Vec<i32>) -> Result<String, Error> {
        let request = m::PortForwardRequest {
            pod_sandbox_id: sandbox.to_owned(),
            port,
        };
        let answer: m::StreamUrl = self.call(path!(runtime "PortForward"), request).await?;
        Ok(answer.url)
    }

    pub async fn list_container_stats(&self) -> Result<Vec<m::ContainerStats>, Error> {
        let answer: m::ListContainerStatsResponse = self
            .call(path!(runtime "ListContainerStats"), m::Empty {})
            .await?;
        Ok(answer.stats)
    }

    /// The image's record, or `None` when the runtime does not have it.
    pub async fn image_status(&self, image: &str) -> Result<Option<m::Image>, Error> {
        let spec = m::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        };
        let request = m::ImageStatusRequest { image: Some(spec) };
        let answer: m::ImageStatusResponse = self.call(path!(image "ImageStatus"), request).await?;
        Ok(answer.image)
    }

    pub async fn list_images(&self) -> Result<Vec<m::Image>, Error> {
        let answer: m::ListImagesResponse =
            self.call(path!(image "ListImages"), m::Empty {}).await?;
        Ok(answer.images)
    }

    pub async fn pull_image(
        &self,
        image: &str,
        auth: Option<m::AuthConfig>,
        sandbox_config: Option<m::PodSandboxConfig>,
    ) -> Result<String, Error> {
        let spec = m::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        };
        let request = m::PullImageRequest {
            image: Some(spec),
            auth,
            sandbox_config,
        };
        let answer: m::PullImageResponse = self
            .call_for(path!(image "PullImage"), request, PULL_TIMEOUT)
            .await?;
        Ok(answer.image_ref)
    }

    /// The stream of container events (containerd 1.7 and later, CRI-O 1.26 and later).
    pub async fn container_events(&self) -> Result<Streaming<m::ContainerEventResponse>, Error> {
        self.stream(path!(runtime "GetContainerEvents"), m::Empty {})
            .await
    }

    /// containerd's own events.
    pub async fn containerd_events(&self) -> Result<Streaming<containerd::Envelope>, Error> {
        const CALL: &str = "/containerd.services.events.v1.Events/Subscribe";
        let filters = vec![containerd::TASK_EXITS.to_owned()];
        self.stream(CALL, containerd::SubscribeRequest { filters })
            .await
    }

    async fn stream<Q, A>(&self, path: &'static str, request: Q) -> Result<Streaming<A>, Error>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let call = path.rsplit('/').next().unwrap_or(path);
        let mut grpc = self.grpc().await?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        let answer = grpc
            .server_streaming(Request::new(request), path, codec)
            .await
            .map_err(|status| Error::Call {
                call,
                status: Box::new(status),
            })?;
        Ok(answer.into_inner())
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, Error> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        grpc.ready().await.map_err(|source| Error::Connect {
            path: "its socket".to_owned(),
            source,
        })?;
        Ok(grpc)
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Error>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.call_for(path, request, REQUEST_TIMEOUT).await
    }

    async fn call_for<Q, A>(
        &self,
        path: &'static str,
        request: Q,
        deadline: Duration,
    ) -> Result<A, Error>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let call = path.rsplit('/').next().unwrap_or(path);
        let work = async {
            let mut grpc = self.grpc().await?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(
                Request::new(request),
                PathAndQuery::from_static(path),
                codec,
            )
            .await
            .map(|answer| answer.into_inner())
            .map_err(|status| Error::Call {
                call,
                status: Box::new(status),
            })
        };
        match tokio::time::timeout(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout {
                call,
                after: deadline,
            }),
        }
    }
}

fn gone_is_fine(result: Result<m::Empty, Error>) -> Result<(), Error> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}
