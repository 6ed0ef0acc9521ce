//! Asks upstream servers: each question from a socket and an id of its own (RFC 5452), over TCP
//! where the answer does not fit, the next server when one is silent or failing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::Metrics;
use crate::cache::{Answer, Cache, Key};
use crate::forward::{self, TIMEOUT, Upstreams};

/// Largest UDP response taken.
const RESPONSE_LIMIT: usize = 4096;

/// Upstream servers and what they said.
pub struct Resolver {
    upstreams: Mutex<Upstreams>,
    cache: Mutex<Cache>,
    metrics: Arc<Metrics>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

impl Resolver {
    pub fn new(servers: &[SocketAddr], own: &[SocketAddr], metrics: Arc<Metrics>) -> Resolver {
        Resolver {
            upstreams: Mutex::new(Upstreams::new(servers, own)),
            cache: Mutex::default(),
            metrics,
        }
    }

    /// An answer known already.
    pub fn cached(&self, query: &Message) -> Option<Answer> {
        let known = lock(&self.cache).get(&Key::of(query)?, Instant::now())?;
        self.metrics.cache_hits.fetch_add(1, Ordering::Relaxed);
        Some(known)
    }

    /// An answer from the cache or from the first server that has one; an old one if none has.
    pub async fn resolve(&self, query: &Message) -> Option<Answer> {
        if let Some(known) = self.cached(query) {
            return Some(known);
        }
        self.metrics.forwarded.fetch_add(1, Ordering::Relaxed);
        let key = Key::of(query)?;
        let order = lock(&self.upstreams).order(Instant::now());
        let mut failed = None;
        for server in order {
            let response = exchange(server, query).await;
            let usable = response.as_ref().is_ok_and(|response| !failing(response));
            let now = Instant::now();
            lock(&self.upstreams).report(server, usable, now);
            match response {
                Ok(response) if usable => {
                    let answer = Answer::of(response);
                    lock(&self.cache).put(key, answer.clone(), now);
                    return Some(answer);
                }
                Ok(response) => failed = Some(Answer::of(response)),
                Err(error) => tracing::debug!(%server, %error, "upstream server"),
            }
            self.metrics
                .upstream_failures
                .fetch_add(1, Ordering::Relaxed);
        }
        let now = Instant::now();
        if let Some(stale) = lock(&self.cache).get_stale(&key, now) {
            return Some(stale);
        }
        let failed = failed?;
        lock(&self.cache).put(key, failed.clone(), now);
        Some(failed)
    }
}

/// Another server may know better.
fn failing(response: &Message) -> bool {
    matches!(
        response.metadata.response_code,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
    )
}

async fn exchange(server: SocketAddr, client: &Message) -> io::Result<Message> {
    let query = forward::query(client, rand::random());
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let response = timeout(TIMEOUT, over_udp(server, &query, &bytes)).await??;
    if response.metadata.truncation {
        return timeout(TIMEOUT, over_tcp(server, &query, &bytes)).await?;
    }
    Ok(response)
}

async fn over_udp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // connected: the kernel takes datagrams from this server only, and reports refusals
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; RESPONSE_LIMIT];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // anything else is forged or late; the time limit ends the wait
        if let Some(response) = forward::accept(&buffer[..length], query) {
            return Ok(response);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), bytes].concat())
        .await?;
    let length = usize::from(stream.read_u16().await?);
    let mut response = vec![0; length];
    stream.read_exact(&mut response).await?;
    forward::accept(&response, query)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not the answer to the question"))
}
