//! The kubelet API on port 10250: logs, exec, attach, port-forward, pods, stats, metrics, for the API
//! server alone. Input: requests over TLS; it reads what the pod half knows and asks the runtime.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::ACCEPT_PAUSE;
use crate::config::KeyPair;
use crate::cri;
use crate::metrics::Metrics;
use crate::pod::Node;
use crate::pod::observed::{CONTAINER_NAME, POD_UID};
use crate::pod::spec;

pub mod logs;
mod metrics;
mod query;
mod stream;
mod tls;

use query::Query;

/// Connections served at a time; each exec or follow holds one.
const MAX_CONNECTIONS: usize = 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time an HTTP/1.1 connection may be without a request.
const IDLE: Duration = Duration::from_secs(180);
/// Chunks of a log on their way.
const LOG_QUEUE: usize = 64;

pub type Body = BoxBody<Bytes, Infallible>;
type Pods = watch::Receiver<Arc<HashMap<String, Arc<Pod>>>>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

/// A refusal: status and a line of text, as upstream's kubelet answers.
pub struct Refusal(StatusCode, String);

impl Refusal {
    fn not_found(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, text.into())
    }

    fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    fn internal(text: impl Into<String>) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, text.into())
    }
}

pub struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    api: Arc<Api>,
}

/// What the handlers know.
struct Api {
    node: Arc<Node>,
    pods: Pods,
    metrics: Metrics,
}

impl Server {
    /// `serving` may change: connections get the certificate that is the newest when they begin.
    pub async fn bind(
        node: Arc<Node>,
        pods: Pods,
        serving: watch::Receiver<KeyPair>,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let address = node.config.kubelet_address;
        let acceptor = TlsAcceptor::from(Arc::new(tls::config(&node.config.ca_pem, serving)?));
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen { address, source })?;
        Ok(Self {
            listener,
            acceptor,
            api: Arc::new(Api {
                node,
                pods,
                metrics,
            }),
        })
    }

    pub async fn run(self, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "kubelet API: accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                tracing::warn!("kubelet API: too many connections, one refused");
                continue;
            };
            let (acceptor, api, shutdown) =
                (self.acceptor.clone(), self.api.clone(), shutdown.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = serve(stream, acceptor, api) => {}
                    () = shutdown.cancelled() => {}
                }
                drop(slot);
            });
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, api: Arc<Api>) {
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "kubelet API: handshake failed");
            return;
        }
        Err(_) => return,
    };
    let allowed = tls::allowed(stream.get_ref().1.peer_certificates());
    let service = hyper::service::service_fn(move |request| {
        let api = api.clone();
        async move {
            let answer = if allowed {
                api.answer(request).await
            } else {
                Err(Refusal(
                    StatusCode::FORBIDDEN,
                    "this certificate may not use the kubelet API".to_owned(),
                ))
            };
            Ok::<_, Infallible>(answer.unwrap_or_else(|Refusal(status, text)| {
                respond(status, "text/plain; charset=utf-8", text)
            }))
        }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let timer = TokioTimer::new();
    builder.http1().timer(timer).header_read_timeout(IDLE);
    let connection = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .into_owned();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "kubelet API: connection ended");
    }
}

fn respond(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static(kind));
    response
}

impl Api {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().trim_end_matches('/').to_owned();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let get = request.method() == Method::GET;
        match parts.as_slice() {
            ["healthz"] if get => Ok(respond(StatusCode::OK, "text/plain; charset=utf-8", "ok")),
            ["pods"] if get => self.pods(),
            ["stats", "summary"] if get => self.summary().await,
            ["metrics"] | ["metrics", "cadvisor" | "probes"] if get => self.metrics(),
            ["metrics", "resource"] if get => self.resource_metrics().await,
            ["containerLogs", namespace, pod, container] if get => {
                self.logs(namespace, pod, container, &query).await
            }
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                let id = self.container(namespace, pod, container, true).await?.id;
                self.exec(request, &query, id).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                let tty = self.tty(namespace, pod, container)?;
                let id = self.container(namespace, pod, container, true).await?.id;
                self.attach(request, &query, id, tty).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                let sandbox = self.sandbox(namespace, pod).await?;
                self.port_forward(request, &query, sandbox).await
            }
            _ => Err(Refusal::not_found("404 page not found")),
        }
    }

    fn find(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
        let pods = self.pods.borrow().clone();
        let named = pods
            .values()
            .filter(|pod| spec::namespace(pod) == namespace && spec::name(pod) == name);
        // A pod and its successor of the same name overlap for a moment: the younger is meant.
        named
            .max_by_key(|pod| pod.metadata.creation_timestamp.clone())
            .cloned()
            .ok_or_else(|| Refusal::not_found(format!("pod \"{namespace}/{name}\" does not exist")))
    }

    fn tty(&self, namespace: &str, pod: &str, container: &str) -> Result<bool, Refusal> {
        let pod = self.find(namespace, pod)?;
        Ok(spec::find(&pod, container).is_some_and(|(_, c)| c.tty.unwrap_or(false)))
    }

    /// Why the container does not run yet, as the API shows it.
    fn waiting_reason(&self, namespace: &str, pod: &str, container: &str) -> Option<String> {
        let pod = self.find(namespace, pod).ok()?;
        let status = pod.status.as_ref()?;
        let lists = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        let mut all = lists.into_iter().flatten().flatten();
        let state = all
            .find(|status| status.name == container)?
            .state
            .as_ref()?;
        state.waiting.as_ref()?.reason.clone()
    }

    /// The newest container of that name; the newest running one if `running`.
    async fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        running: bool,
    ) -> Result<cri::messages::Container, Refusal> {
        let mut list = self.containers(namespace, pod, container).await?;
        if running {
            list.retain(|c| c.state == cri::messages::ContainerState::Running as i32);
        }
        list.into_iter().next().ok_or_else(|| {
            Refusal::not_found(format!(
                "container {container:?} of pod \"{namespace}/{pod}\" not found"
            ))
        })
    }

    /// All containers of that name, newest first.
    async fn containers(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Vec<cri::messages::Container>, Refusal> {
        let pod = self.find(namespace, pod)?;
        if spec::find(&pod, container).is_none() {
            let text = format!(
                "container {container} is not valid for pod {}",
                spec::name(&pod)
            );
            return Err(Refusal::bad(text));
        }
        let labels: HashMap<String, String> = [
            (POD_UID.to_owned(), spec::uid(&pod).to_owned()),
            (CONTAINER_NAME.to_owned(), container.to_owned()),
        ]
        .into();
        let list = self.node.runtime.list_containers(labels).await;
        let mut list = list.map_err(|error| Refusal::internal(error.to_string()))?;
        list.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        Ok(list)
    }

    async fn sandbox(&self, namespace: &str, pod: &str) -> Result<String, Refusal> {
        let pod = self.find(namespace, pod)?;
        let labels = [(POD_UID.to_owned(), spec::uid(&pod).to_owned())].into();
        let list = self.node.runtime.list_pod_sandbox(labels).await;
        let list = list.map_err(|error| Refusal::internal(error.to_string()))?;
        let ready = cri::messages::PodSandboxState::Ready as i32;
        let found = list
            .into_iter()
            .filter(|s| s.state == ready)
            .max_by_key(|s| s.created_at);
        found.map(|sandbox| sandbox.id).ok_or_else(|| {
            Refusal::not_found(format!("pod \"{}\" has no sandbox", spec::name(&pod)))
        })
    }

    fn pods(&self) -> Result<Response<Body>, Refusal> {
        let pods = self.pods.borrow().clone();
        let items: Vec<&Pod> = pods.values().map(Arc::as_ref).collect();
        let list = serde_json::json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items });
        Ok(respond(
            StatusCode::OK,
            "application/json",
            list.to_string(),
        ))
    }

    async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let options = log_options(query)?;
        let list = self.containers(namespace, pod, container).await?;
        let previous = query.flag("previous");
        let found = if previous { list.get(1) } else { list.first() };
        let Some(found) = found else {
            let text = match self.waiting_reason(namespace, pod, container) {
                _ if previous => {
                    format!("previous terminated container {container:?} in pod {pod:?} not found")
                }
                Some(reason) => {
                    format!("container {container:?} in pod {pod:?} is waiting to start: {reason}")
                }
                None => format!("container {container:?} in pod {pod:?} is not available"),
            };
            return Err(Refusal::bad(text));
        };
        let status = self.node.runtime.container_status(&found.id).await;
        let status = status.map_err(|error| Refusal::internal(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(LOG_QUEUE);
        let (runtime, id) = (self.node.runtime.clone(), found.id.clone());
        let running = move || {
            let (runtime, id) = (runtime.clone(), id.clone());
            async move {
                let status = runtime.container_status(&id).await;
                status.is_ok_and(|s| s.state == cri::messages::ContainerState::Running as i32)
            }
        };
        tokio::spawn(async move {
            let path = std::path::PathBuf::from(&status.log_path);
            if let Err(error) = logs::stream(path, options, sender.clone(), running).await {
                let text = format!("failed to read log {}: {error}\n", status.log_path);
                // The client may have gone.
                let _ = sender.send(Bytes::from(text)).await;
            }
        });
        let frames = ReceiverStream::new(receiver).map(|chunk| Ok(Frame::data(chunk)));
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
        let kind = http::HeaderValue::from_static("text/plain");
        response.headers_mut().insert("content-type", kind);
        Ok(response)
    }
}

fn log_options(query: &Query) -> Result<logs::Options, Refusal> {
    let since_seconds: Option<i64> = query.number("sinceSeconds")?;
    let since = match (query.get("sinceTime"), since_seconds) {
        (Some(time), _) => Some(
            time.parse()
                .map_err(|_| Refusal::bad(format!("sinceTime {time:?} is no time")))?,
        ),
        (None, Some(seconds)) => {
            let ago = Timestamp::now().as_second().saturating_sub(seconds);
            Timestamp::from_second(ago).ok()
        }
        (None, None) => None,
    };
    Ok(logs::Options {
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        tail_lines: query.number("tailLines")?,
        limit_bytes: query.number("limitBytes")?,
        since,
        stream: match query.get("stream") {
            Some("Stdout") => Some("stdout".to_owned()),
            Some("Stderr") => Some("stderr".to_owned()),
            Some(_) | None => None,
        },
    })
}
