//! The server as a tower `Service`, and the sockets it can listen on.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::webhook::Webhooks,
    auth::{Auth, AuthError},
    body::{self, Body, BoxError},
    bootstrap,
    cache::Cache,
    chain,
    health::Hooks,
    identity::{PeerAddr, PeerCertificates},
    options::Options,
    storage::{self, Storage},
    stream::Kubelets,
};

/// Time between pings to a quiet h2 client, to notice that it is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Time an HTTP/1.1 connection may be without a request.
const IDLE: Duration = Duration::from_secs(180);
/// Time a client has for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time open connections have to end at shutdown.
const DRAIN: Duration = Duration::from_secs(3);
/// Open connections; further ones are closed at once.
const MAX_CONNECTIONS: usize = 8192;
/// Streams a client may have open on one h2 connection (upstream: 250; ours serves informers).
const MAX_STREAMS: u32 = 1000;
/// Bytes of a request's body a client may send ahead on an h2 stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("open the storage")]
    Storage(#[from] storage::OpenError),
    #[error("set up authentication")]
    Auth(#[from] AuthError),
    #[error("create what every cluster has")]
    Bootstrap(#[from] bootstrap::BootstrapError),
    #[error("set up the client side of the kubelets")]
    Kubelets(#[from] crate::stream::KubeletError),
}

/// The API server; cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    storage: Storage,
    auth: Auth,
    kubelets: Kubelets,
    webhooks: Webhooks,
    in_flight: Arc<Semaphore>,
    hooks: Hooks,
}

// === impl ApiServer ===

impl ApiServer {
    /// [`ApiServer::open`] and [`ApiServer::bootstrap`].
    pub async fn new(options: Options) -> Result<Self, StartError> {
        let server = Self::open(options)?;
        server.bootstrap().await?;
        Ok(server)
    }

    /// Recovers the store; requests are answered from now on. Needs a tokio runtime.
    pub fn open(options: Options) -> Result<Self, StartError> {
        let storage = Storage::open(&options.data_dir, options.history)?;
        let auth = Auth::new(options.auth.clone(), storage.cache())?;
        let kubelets = Kubelets::new(&options.kubelet)?;
        let webhooks = Webhooks::new(storage.cache());
        let in_flight = Arc::new(Semaphore::new(chain::limit::MAX_IN_FLIGHT));
        let inner = Inner {
            options,
            storage,
            auth,
            kubelets,
            webhooks,
            in_flight,
            hooks: Hooks::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Creates what every cluster has; the server is not ready before.
    pub async fn bootstrap(&self) -> Result<(), StartError> {
        let hook = self.hooks().begin("bootstrap");
        bootstrap::run(self).await?;
        hook.finished();
        Ok(())
    }

    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub fn cache(&self) -> &Cache {
        self.inner.storage.cache()
    }

    pub fn storage(&self) -> &Storage {
        &self.inner.storage
    }

    pub fn auth(&self) -> &Auth {
        &self.inner.auth
    }

    /// What the server's readiness waits for.
    pub fn hooks(&self) -> &Hooks {
        &self.inner.hooks
    }

    pub(crate) fn in_flight(&self) -> &Arc<Semaphore> {
        &self.inner.in_flight
    }

    pub(crate) fn kubelets(&self) -> &Kubelets {
        &self.inner.kubelets
    }

    pub(crate) fn webhooks(&self) -> &Webhooks {
        &self.inner.webhooks
    }

    /// Writes what is pending and closes the store.
    pub async fn close(&self) {
        self.inner.storage.log().close().await;
    }
}

impl<B> tower::Service<Request<B>> for ApiServer
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            Ok(chain::run(server, parts, body::lazy(body)).await)
        })
    }
}

/// Serves HTTP/1.1 and h2 over TLS until `shutdown`; open requests then get a moment to end.
pub async fn serve(
    server: ApiServer,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((_, peer)) if connections.len() >= MAX_CONNECTIONS => {
                tracing::warn!(%peer, "too many connections");
            }
            Ok((socket, peer)) => {
                let (server, acceptor) = (server.clone(), acceptor.clone());
                connections.spawn(connection(server, acceptor, socket, peer, shutdown.clone()));
            }
            Err(error) => {
                // Out of file descriptors, mostly: the others must finish first.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    // Watches never end by themselves; what is left after the moment is cut.
    let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
}

async fn connection(
    server: ApiServer,
    acceptor: TlsAcceptor,
    socket: TcpStream,
    peer: SocketAddr,
    shutdown: CancellationToken,
) {
    // Without it small answers wait for acknowledgements.
    let _ = socket.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let certificates = tls.get_ref().1.peer_certificates().map(<[_]>::to_vec);
    let certificates = certificates.map(|chain| PeerCertificates(Arc::new(chain)));
    let service = tower::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        if let Some(certificates) = &certificates {
            request.extensions_mut().insert(certificates.clone());
        }
        request.extensions_mut().insert(PeerAddr(peer));
        tower::Service::call(&mut server.clone(), request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .enable_connect_protocol();
    let io = TokioIo::new(tls);
    let serving = builder.serve_connection_with_upgrades(io, TowerToHyperService::new(service));
    tokio::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection");
    }
}
