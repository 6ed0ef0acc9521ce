//! Flows and drops as JSON lines on a Unix socket, with the names of the pods. The programs report
//! events only while somebody reads; the ring buffer is polled, nothing is woken. A reader that is too
//! slow misses events, and is told how many.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use abi::{Event, Hook, Outcome};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::cni::chain;
use super::dump;
use super::engine::Handle;
use super::maps::{EventReader, MapError, MapSet};
use super::rows::Tables;
use crate::ACCEPT_PAUSE;
use crate::state::State;

pub mod client;

/// Pause between two looks at the ring buffer.
const POLL: Duration = Duration::from_millis(20);
/// Events taken at one look.
const TAKE: usize = 4096;
/// Connections at the same time.
const READERS: usize = 64;
/// Events a reader may lag behind.
const LAG: usize = 16_384;
/// Longest request line.
const REQUEST_LIMIT: u64 = 64;
/// First word of a connection: a stream of events.
const FLOWS: &str = "flows";
/// First word of a connection: the counters, once.
const COUNTERS: &str = "counters";
/// First word of a connection: what the maps hold, once.
const DUMP: &str = "dump";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Seconds since the node booted.
    pub time: String,
    /// `forwarded` or `dropped`.
    pub verdict: String,
    /// Outcome as in the metrics: `new_flow`, `policy_denied_ingress`.
    pub reason: String,
    pub hook: String,
    pub protocol: String,
    pub source: End,
    pub destination: End,
    /// Destination after DNAT, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<End>,
    pub bytes: u32,
}

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub address: IpAddr,
    pub port: u16,
    /// `namespace/name` of the pod, Service or Node that has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A counter that is not zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    pub hook: String,
    pub reason: String,
    pub dropped: bool,
    pub packets: u64,
    pub bytes: u64,
}

/// Why there is no answer, in the place of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Failed {
    error: String,
}

/// Path of the socket.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("flows.sock")
}

// === server ===

/// What the server needs.
pub struct Server {
    pub run_dir: PathBuf,
    /// Directory of the pins.
    pub bpf_dir: PathBuf,
    pub engine: Handle,
    pub states: watch::Receiver<Arc<State>>,
}

/// Serves readers until `shutdown`.
pub async fn serve(server: Server, shutdown: CancellationToken) -> std::io::Result<()> {
    withdraw(&server.run_dir)?;
    let path = socket_path(&server.run_dir);
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let (events, _) = broadcast::channel::<Arc<str>>(LAG);
    let arrived = Arc::new(Notify::new());
    let readers = Arc::new(Semaphore::new(READERS));
    let poller = Poller {
        states: server.states,
        engine: server.engine,
        bpf_dir: server.bpf_dir.clone(),
        events: events.clone(),
        arrived: arrived.clone(),
    };
    let _polling = AbortOnDropHandle::new(tokio::spawn(poller.run()));
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "accept a reader of flows");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let Ok(slot) = readers.clone().try_acquire_owned() else {
                    tracing::warn!("too many readers of flows, one refused");
                    continue;
                };
                let (events, arrived) = (events.clone(), arrived.clone());
                let bpf_dir = server.bpf_dir.clone();
                tokio::spawn(async move {
                    if let Err(error) = reader(stream, &events, &arrived, &bpf_dir).await {
                        tracing::debug!(%error, "reader of flows is gone");
                    }
                    drop(slot);
                });
            }
            () = shutdown.cancelled() => return withdraw(&server.run_dir),
        }
    }
}

/// Removes the socket: there is nobody to ask.
pub fn withdraw(run_dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(socket_path(run_dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn reader(
    mut stream: UnixStream,
    events: &broadcast::Sender<Arc<str>>,
    arrived: &Notify,
    bpf_dir: &Path,
) -> std::io::Result<()> {
    let mut request = String::new();
    BufReader::new((&mut stream).take(REQUEST_LIMIT))
        .read_line(&mut request)
        .await?;
    match request.trim() {
        FLOWS => {
            let events = events.subscribe();
            arrived.notify_one();
            stream_events(stream, events).await
        }
        COUNTERS => once(stream, counters_in(bpf_dir)).await,
        DUMP => once(stream, rows_in(bpf_dir)).await,
        other => {
            let error =
                format!("it does not know the request {other:?}: is it of another version?");
            send_failure(stream, error).await
        }
    }
}

/// An answer of so many lines, or why there is none.
async fn once(mut stream: UnixStream, lines: Result<Vec<String>, MapError>) -> std::io::Result<()> {
    match lines {
        Ok(lines) => {
            let text = lines.join("\n") + "\n";
            stream.write_all(text.as_bytes()).await
        }
        Err(error) => send_failure(stream, chain(&error)).await,
    }
}

async fn send_failure(mut stream: UnixStream, error: String) -> std::io::Result<()> {
    let line = serde_json::to_string(&Failed { error })? + "\n";
    stream.write_all(line.as_bytes()).await
}

async fn stream_events(
    mut stream: UnixStream,
    mut events: broadcast::Receiver<Arc<str>>,
) -> std::io::Result<()> {
    let (mut from_reader, mut stream) = stream.split();
    let mut ignored = [0; 64];
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            // The reader says nothing more: all it can do is go.
            read = from_reader.read(&mut ignored) => match read {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => continue,
            },
        };
        match event {
            Ok(line) => stream.write_all(line.as_bytes()).await?,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                let line = format!("{{\"missed\":{missed}}}\n");
                stream.write_all(line.as_bytes()).await?;
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

fn counters_in(bpf_dir: &Path) -> Result<Vec<String>, MapError> {
    let counts = MapSet::open(bpf_dir)?.counts()?;
    let counter = |(hook, outcome, count): (Hook, Outcome, abi::event::Count)| Counter {
        hook: hook.name().into(),
        reason: outcome.name().into(),
        dropped: outcome.is_drop(),
        packets: count.packets,
        bytes: count.bytes,
    };
    let line = |counter| serde_json::to_string(&counter).expect("a counter has string keys only");
    Ok(counts.into_iter().map(counter).map(line).collect())
}

fn rows_in(bpf_dir: &Path) -> Result<Vec<String>, MapError> {
    Ok(dump::lines(&Tables::dump(&MapSet::open(bpf_dir)?)?))
}

/// Polls while there are readers, and has the programs report only then.
struct Poller {
    states: watch::Receiver<Arc<State>>,
    engine: Handle,
    bpf_dir: PathBuf,
    events: broadcast::Sender<Arc<str>>,
    arrived: Arc<Notify>,
}

impl Poller {
    async fn run(self) {
        loop {
            self.arrived.notified().await;
            self.engine.report_events(true).await;
            match MapSet::events(&self.bpf_dir) {
                Ok(ring) => self.drain(ring).await,
                Err(error) => tracing::warn!(error = chain(&error), "open events"),
            }
            self.engine.report_events(false).await;
        }
    }

    /// Until the last reader has gone.
    async fn drain(&self, mut ring: EventReader) {
        let mut names = Names::default();
        let mut pause = tokio::time::interval(POLL);
        pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.events.receiver_count() > 0 {
            pause.tick().await;
            names.follow(&self.states.borrow());
            for event in ring.poll(TAKE) {
                let Some(flow) = flow(&event, &names) else {
                    continue;
                };
                let line = serde_json::to_string(&flow).expect("a flow has string keys only");
                // Without receivers the event is of no use.
                let _ = self.events.send((line + "\n").into());
            }
        }
    }
}

/// Addresses with names, made anew when the state changed.
#[derive(Default)]
struct Names {
    of: Arc<State>,
    names: HashMap<IpAddr, String>,
}

impl Names {
    fn follow(&mut self, state: &Arc<State>) {
        if Arc::ptr_eq(state, &self.of) {
            return;
        }
        self.of = state.clone();
        self.names.clear();
        for node in state.nodes.values() {
            self.names.extend(
                node.addresses
                    .iter()
                    .map(|ip| (*ip, format!("node/{}", node.name))),
            );
        }
        for service in state.services.values() {
            let name = format!("service/{}", service.key);
            self.names
                .extend(service.cluster_ips.iter().map(|ip| (*ip, name.clone())));
        }
        for pod in state.pods.values().filter(|p| p.owns_its_addresses()) {
            self.names
                .extend(pod.ips.iter().map(|ip| (*ip, pod.key.to_string())));
        }
    }

    fn end(&self, address: abi::V6, port: abi::Port) -> End {
        let address = Ipv6Addr::from(address).to_canonical();
        End {
            address,
            port: port.get(),
            name: self.names.get(&address).cloned(),
        }
    }
}

fn flow(event: &Event, names: &Names) -> Option<Flow> {
    let outcome = Outcome::from_u8(event.outcome)?;
    let hook = Hook::from_u8(event.hook)?;
    let translated = (event.nat_dst, event.nat_dst_port) != (event.dst, event.dst_port);
    let seconds = event.time / 1_000_000_000;
    let micros = event.time % 1_000_000_000 / 1_000;
    Some(Flow {
        time: format!("{seconds}.{micros:06}"),
        verdict: if outcome.is_drop() {
            "dropped"
        } else {
            "forwarded"
        }
        .into(),
        reason: outcome.name().into(),
        hook: hook.name().into(),
        protocol: protocol_name(event.proto),
        source: names.end(event.src, event.src_port),
        destination: names.end(event.dst, event.dst_port),
        backend: translated.then(|| names.end(event.nat_dst, event.nat_dst_port)),
        bytes: event.len,
    })
}

fn protocol_name(number: u8) -> String {
    match number {
        abi::PROTO_TCP => "TCP".into(),
        abi::PROTO_UDP => "UDP".into(),
        abi::PROTO_SCTP => "SCTP".into(),
        abi::PROTO_ICMP => "ICMP".into(),
        abi::PROTO_ICMPV6 => "ICMPv6".into(),
        other => other.to_string(),
    }
}

// === readable ===

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = match self.address {
            IpAddr::V4(a) => a.to_string(),
            IpAddr::V6(a) => format!("[{a}]"),
        };
        match &self.name {
            Some(name) => write!(f, "{name} ({address}:{})", self.port),
            None => write!(f, "{address}:{}", self.port),
        }
    }
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            time,
            verdict,
            reason,
            hook,
            protocol,
            source,
            destination,
            backend,
            bytes,
        } = self;
        write!(f, "{time} {verdict} {protocol} {source} → {destination}")?;
        if let Some(backend) = backend {
            write!(f, " → {backend}")?;
        }
        write!(f, " {reason} ({hook}, {bytes} bytes)")
    }
}

impl std::fmt::Display for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            hook,
            reason,
            dropped,
            packets,
            bytes,
        } = self;
        let verdict = if *dropped { "dropped" } else { "passed" };
        write!(
            f,
            "{hook:<12}{verdict:<9}{reason:<34}{packets:>14} packets{bytes:>18} bytes"
        )
    }
}
