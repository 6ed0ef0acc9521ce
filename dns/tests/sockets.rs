//! The server over real loopback sockets, with an upstream server of a few lines.
#![expect(clippy::unwrap_used, reason = "a failing test says where")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dns::server::Server;
use dns::zone::{Kind, Service, ServiceKey, Zone};
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers `n.` names with one address; `big.` is truncated over UDP; `silent` ones never answer.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

fn respond(bytes: &[u8], tcp: bool) -> Vec<u8> {
    let query = Message::from_vec(bytes).unwrap();
    let question = query.queries[0].clone();
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    let big = question.name.to_ascii().starts_with("big.");
    reply.add_query(question.clone());
    if big && !tcp {
        reply.metadata.truncation = true;
    } else if question.name.to_ascii().starts_with("missing.") {
        reply.metadata.response_code = ResponseCode::NXDomain;
    } else {
        let data = RData::A(A::new(192, 0, 2, if tcp { 2 } else { 1 }));
        reply.add_answer(Record::from_rdata(question.name, 60, data));
    }
    reply.to_vec().unwrap()
}

async fn upstream(answers: bool) -> Upstream {
    let tcp = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((n, from)) = udp.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::Relaxed);
            if answers {
                udp.send_to(&respond(&buffer[..n], false), from)
                    .await
                    .unwrap();
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let answer = respond(&query, true);
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    Upstream { address, asked }
}

fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local", &[LOOPBACK]);
    let kind = Kind::ClusterIp(vec!["10.96.0.1".parse().unwrap()]);
    zone.set_service(
        &ServiceKey::new("default", "kubernetes"),
        Service {
            kind,
            ports: vec![],
        },
    );
    let kind = Kind::ExternalName("www.example.".to_owned());
    zone.set_service(
        &ServiceKey::new("default", "out"),
        Service {
            kind,
            ports: vec![],
        },
    );
    zone
}

struct Running {
    address: SocketAddr,
    zone: watch::Sender<Arc<Zone>>,
    shutdown: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn start(upstreams: Vec<SocketAddr>) -> Running {
    let server = Server::bind(&[SocketAddr::new(LOOPBACK, 0)], Arc::default()).unwrap();
    let address = server.addresses()[0];
    let (zone, reader) = watch::channel(Arc::new(zone()));
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move { server.run(reader, &upstreams, stop).await });
    Running {
        address,
        zone,
        shutdown,
    }
}

fn question(name: &str) -> Message {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    query.metadata.recursion_desired = true;
    query
}

async fn ask(server: SocketAddr, name: &str) -> Message {
    let query = question(name);
    let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    socket
        .send_to(&query.to_vec().unwrap(), server)
        .await
        .unwrap();
    let mut buffer = [0; 4096];
    let read = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer)).await;
    let (n, from) = read.unwrap().unwrap();
    assert_eq!(from, server);
    let reply = Message::from_vec(&buffer[..n]).unwrap();
    assert_eq!(reply.metadata.id, query.metadata.id);
    reply
}

fn first(reply: &Message) -> String {
    reply
        .answers
        .last()
        .map(|record| record.data.to_string())
        .unwrap_or_default()
}

#[tokio::test]
async fn cluster_names_are_answered_and_follow_the_zone() {
    let server = start(vec![]);
    let reply = ask(server.address, "kubernetes.default.svc.cluster.local.").await;
    assert_eq!(first(&reply), "10.96.0.1");
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    server.zone.send_modify(|zone| {
        Arc::make_mut(zone).remove_service(&ServiceKey::new("default", "kubernetes"));
    });
    let reply = ask(server.address, "kubernetes.default.svc.cluster.local.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn other_names_are_forwarded_once_and_then_cached() {
    let upstream = upstream(true).await;
    let server = start(vec![upstream.address]);
    for _ in 0..3 {
        assert_eq!(first(&ask(server.address, "a.example.").await), "192.0.2.1");
    }
    assert_eq!(upstream.asked.load(Ordering::Relaxed), 1);
    let reply = ask(server.address, "out.default.svc.cluster.local.").await;
    assert_eq!(reply.answers.len(), 2);
    assert_eq!(first(&reply), "192.0.2.1");
    let reply = ask(server.address, "missing.example.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let upstream = upstream(true).await;
    let server = start(vec![upstream.address]);
    assert_eq!(
        first(&ask(server.address, "big.example.").await),
        "192.0.2.2"
    );
}

#[tokio::test]
async fn a_silent_server_is_passed_over_and_then_asked_last() {
    let (silent, working) = (upstream(false).await, upstream(true).await);
    let server = start(vec![silent.address, working.address]);
    assert_eq!(first(&ask(server.address, "a.example.").await), "192.0.2.1");
    assert_eq!(first(&ask(server.address, "b.example.").await), "192.0.2.1");
    assert_eq!(silent.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn nobody_to_ask_is_a_failure_not_silence() {
    let server = start(vec![]);
    let reply = ask(server.address, "a.example.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn several_queries_go_over_one_tcp_connection() {
    let server = start(vec![]);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        let query = question("kubernetes.default.svc.cluster.local.")
            .to_vec()
            .unwrap();
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(first(&Message::from_vec(&answer).unwrap()), "10.96.0.1");
    }
}
