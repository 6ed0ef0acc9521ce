//! The sockets: UDP with one socket per worker (`SO_REUSEPORT`, the kernel spreads clients), TCP,
//! and the questions to upstream servers. Every decision is made by the other modules.

mod upstream;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, sockopt};
use nix::sys::socket::{bind, listen, setsockopt, socket};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{self, Outcome};
use crate::zone::Zone;
use upstream::Resolver;

/// UDP sockets, and tasks that read them, at each address.
const WORKERS: usize = 4;
/// Largest query; longer ones are no questions.
const QUERY_LIMIT: usize = 4096;
/// Largest answer over TCP.
const TCP_LIMIT: usize = 65535;
/// Questions waiting for upstream servers; more are answered SERVFAIL at once.
const FORWARD_LIMIT: usize = 1000;
/// TCP clients at the same time.
const CONNECTION_LIMIT: usize = 256;
/// TCP clients the kernel keeps before they are accepted.
const BACKLOG: i32 = 128;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A TCP client that says nothing for this long is let go (RFC 7766).
const IDLE: Duration = Duration::from_secs(10);

/// Why the server cannot run.
#[derive(Debug, Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    queries: AtomicU64,
    forwarded: AtomicU64,
    cache_hits: AtomicU64,
    upstream_failures: AtomicU64,
    /// Questions to upstream servers, and TCP clients.
    over_limit: AtomicU64,
}

impl Metrics {
    /// Names and values.
    pub fn read(&self) -> [(&'static str, u64); 5] {
        let Metrics {
            queries,
            forwarded,
            cache_hits,
            upstream_failures,
            over_limit,
        } = self;
        [
            ("dns_queries_total", queries),
            ("dns_forwarded_total", forwarded),
            ("dns_cache_hits_total", cache_hits),
            ("dns_upstream_failures_total", upstream_failures),
            ("dns_refused_by_limit_total", over_limit),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}

/// Bound sockets; the cluster can be answered as soon as [`Server::run`] is polled.
#[derive(Debug)]
pub struct Server {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    metrics: Arc<Metrics>,
}

/// Binds and serves until `shutdown`. `zone` always holds the current names; `upstreams` in the
/// order of preference (see [`crate::forward::parse_resolv_conf`]).
pub async fn serve(
    addresses: &[SocketAddr],
    zone: watch::Receiver<Arc<Zone>>,
    upstreams: &[SocketAddr],
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    Server::bind(addresses, metrics)?
        .run(zone, upstreams, shutdown)
        .await;
    Ok(())
}

impl Server {
    /// Listens on every address, UDP and TCP. Port 0 takes a free one. Needs a tokio runtime.
    pub fn bind(addresses: &[SocketAddr], metrics: Arc<Metrics>) -> Result<Server, ServeError> {
        let (mut udp, mut tcp, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        for &wanted in addresses {
            let mut one = || -> io::Result<()> {
                let listener = tcp_socket(wanted)?;
                let address = listener.local_addr()?;
                for _ in 0..WORKERS {
                    udp.push(udp_socket(address)?);
                }
                tcp.push(listener);
                bound.push(address);
                Ok(())
            };
            one().map_err(|source| ServeError::Bind {
                address: wanted,
                source,
            })?;
        }
        Ok(Server {
            udp,
            tcp,
            addresses: bound,
            metrics,
        })
    }

    /// The addresses listened on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown`.
    pub async fn run(
        self,
        zone: watch::Receiver<Arc<Zone>>,
        upstreams: &[SocketAddr],
        shutdown: CancellationToken,
    ) {
        let Server {
            udp,
            tcp,
            addresses,
            metrics,
        } = self;
        let shared = Arc::new(Shared {
            zone,
            resolver: Resolver::new(upstreams, &addresses, metrics.clone()),
            metrics,
            turn: AtomicUsize::new(0),
            forwards: Semaphore::new(FORWARD_LIMIT),
            connections: Arc::new(Semaphore::new(CONNECTION_LIMIT)),
        });
        let tasks = TaskTracker::new();
        for socket in udp {
            let task = udp_worker(Arc::new(socket), shared.clone(), tasks.clone());
            tasks.spawn(until(shutdown.clone(), task));
        }
        for listener in tcp {
            let task = tcp_worker(listener, shared.clone(), tasks.clone(), shutdown.clone());
            tasks.spawn(until(shutdown.clone(), task));
        }
        tasks.close();
        // questions on their way end by their own time limits; nobody waits for them
        shutdown.cancelled().await;
    }
}

async fn until(shutdown: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = task => {}
    }
}

struct Shared {
    zone: watch::Receiver<Arc<Zone>>,
    resolver: Resolver,
    metrics: Arc<Metrics>,
    turn: AtomicUsize,
    forwards: Semaphore,
    connections: Arc<Semaphore>,
}

/// What a query leads to without waiting.
enum Step {
    Nothing,
    Reply {
        reply: Message,
        /// Most bytes over UDP that the client takes.
        udp_limit: usize,
    },
    Wait(Message, Box<Outcome>),
}

impl Shared {
    fn step(&self, bytes: &[u8]) -> Step {
        self.metrics.queries.fetch_add(1, Ordering::Relaxed);
        let Some(query) = answer::parse(bytes) else {
            return answer::malformed(bytes).map_or(Step::Nothing, |reply| Step::Reply {
                reply,
                udp_limit: usize::from(answer::PLAIN_LIMIT),
            });
        };
        let udp_limit = answer::udp_limit(&query);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let outcome = answer::answer(&self.zone.borrow(), &query, turn);
        match outcome {
            Outcome::Reply(reply) => Step::Reply { reply, udp_limit },
            Outcome::Forward => match self.resolver.cached(&query) {
                Some(known) => {
                    let mut reply = answer::response(&query);
                    known.fill(&mut reply);
                    Step::Reply { reply, udp_limit }
                }
                None => Step::Wait(query, Box::new(Outcome::Forward)),
            },
            Outcome::Follow { .. } => Step::Wait(query, Box::new(outcome)),
        }
    }

    /// The part of an answer that upstream servers give.
    async fn ask(&self, query: &Message, outcome: Outcome) -> Message {
        let Ok(_permit) = self.forwards.try_acquire() else {
            self.metrics.over_limit.fetch_add(1, Ordering::Relaxed);
            return answer::failure(query, ResponseCode::ServFail);
        };
        match outcome {
            Outcome::Reply(reply) => reply,
            Outcome::Forward => match self.resolver.resolve(query).await {
                Some(known) => {
                    let mut reply = answer::response(query);
                    known.fill(&mut reply);
                    reply
                }
                None => answer::failure(query, ResponseCode::ServFail),
            },
            Outcome::Follow { mut reply, target } => {
                let mut question = query.clone();
                for own in &mut question.queries {
                    own.set_name(target.clone());
                }
                match self.resolver.resolve(&question).await {
                    Some(known) => {
                        known.fill(&mut reply);
                        reply
                    }
                    None => answer::failure(query, ResponseCode::ServFail),
                }
            }
        }
    }
}

async fn udp_worker(socket: Arc<UdpSocket>, shared: Arc<Shared>, tasks: TaskTracker) {
    let mut buffer = vec![0; QUERY_LIMIT];
    loop {
        // an error here is a client's ICMP message, not a state of this socket
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        match shared.step(&buffer[..length]) {
            Step::Nothing => {}
            Step::Reply { reply, udp_limit } => send(&socket, client, reply, udp_limit).await,
            Step::Wait(query, outcome) => {
                let (socket, shared) = (socket.clone(), shared.clone());
                tasks.spawn(async move {
                    let reply = shared.ask(&query, *outcome).await;
                    send(&socket, client, reply, answer::udp_limit(&query)).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, client: SocketAddr, reply: Message, limit: usize) {
    if let Some(bytes) = answer::encode(reply, limit) {
        // the client asks again if this is lost
        let _ = socket.send_to(&bytes, client).await;
    }
}

async fn tcp_worker(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // out of file descriptors: give others time to close some
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
            shared.metrics.over_limit.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let shared = shared.clone();
        let task = async move {
            let _permit = permit;
            // an error means that the client has gone
            let _ = connection(stream, &shared).await;
        };
        tasks.spawn(until(shutdown.clone(), task));
    }
}

/// One TCP client: queries with their length in front, answered in their order.
async fn connection(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut query = vec![0; QUERY_LIMIT];
    loop {
        let length = usize::from(timeout(IDLE, stream.read_u16()).await??);
        let Some(bytes) = query.get_mut(..length) else {
            return Ok(());
        };
        timeout(IDLE, stream.read_exact(bytes)).await??;
        let reply = match shared.step(bytes) {
            Step::Nothing => return Ok(()),
            Step::Reply { reply, .. } => reply,
            Step::Wait(query, outcome) => shared.ask(&query, *outcome).await,
        };
        let Some(answer) = answer::encode(reply, TCP_LIMIT) else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).expect("encode keeps the limit");
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

// === sockets ===

fn raw(address: SocketAddr, kind: SockType) -> io::Result<std::os::fd::OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(
        family,
        kind,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&fd),
        &SockaddrStorage::from(address),
    )?;
    Ok(fd)
}

fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::from_std(std::net::UdpSocket::from(raw(address, SockType::Datagram)?))
}

fn tcp_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let fd = raw(address, SockType::Stream)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    TcpListener::from_std(std::net::TcpListener::from(fd))
}
