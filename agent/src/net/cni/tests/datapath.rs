//! The same node with the real programs: two pods, a Service, a policy, and an agent that is replaced
//! while a connection is open. Pins and cgroups are the test's own and removed at its end.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use super::*;
use crate::net::load::Datapath;
use crate::net::{flows, hooks};

/// Pins and cgroup of a test, removed at its end.
pub(in crate::net) struct Pins(pub Config);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = Datapath::remove_all(&self.0.bpf_dir);
        let _ = nix::mount::umount2(&self.0.bpf_dir, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.0.cgroup2_dir);
    }
}

/// A service `web` at 10.96.0.20:80 with the pod's port 8080 behind it.
fn with_service(mut state: State, backend: IpAddr) -> State {
    use crate::state::*;
    let key = ObjectKey::new("default", "web");
    let port = ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: Some(30080),
    };
    let service = Service {
        key: key.clone(),
        kind: ServiceKind::NodePort,
        cluster_ips: vec!["10.96.0.20".parse().unwrap()],
        headless: false,
        external_name: None,
        external_ips: vec![],
        load_balancer_ips: vec![],
        load_balancer_source_ranges: vec![],
        ports: vec![port],
        internal_local: false,
        external_local: false,
        health_check_node_port: None,
        affinity_seconds: None,
        publish_not_ready: false,
        foreign_proxy: false,
    };
    let slice_key = SliceKey {
        service: key.clone(),
        name: "web-1".into(),
    };
    let endpoint = Endpoint {
        addresses: vec![backend],
        ready: true,
        serving: true,
        terminating: false,
        node: Some(NODE.into()),
        hostname: None,
        zone_hints: vec![],
        node_hints: vec![],
    };
    let slice = EndpointSlice {
        key: slice_key.clone(),
        ports: vec![SlicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: Some(8080),
        }],
        endpoints: vec![endpoint],
    };
    state.services.insert(key, Arc::new(service));
    state.slices.insert(slice_key, Arc::new(slice));
    state
}

/// The state with the pods' addresses in their status.
fn published(mut state: State, addresses: &[(&str, IpAddr)]) -> State {
    for (name, address) in addresses {
        let pod = Pod {
            ips: vec![*address],
            ..pod(name)
        };
        state.pods.insert(pod.key.clone(), Arc::new(pod));
    }
    state
}

/// A node whose pods `web` (listening at 8080) and `client` are there.
struct Pair {
    node: TestNode,
    cfg: Config,
    web: OwnedFd,
    client: OwnedFd,
    web_ip: IpAddr,
    base: State,
    listener: TcpListener,
}

fn load(cfg: &Config, uplinks: &Uplinks) -> (Hooks, MapSet) {
    hooks::load(cfg, uplinks, Some(7)).unwrap()
}

impl Pair {
    async fn start(cfg: Config) -> Self {
        let base = State::clone(&state(&["web", "client"]));
        let node = TestNode::start_with(cfg.clone(), Arc::new(base.clone()), load).await;
        let (web, client) = (namespace(), namespace());
        let web_ip = node.add("web", &web).await[0];
        let client_ip = node.add("client", &client).await[0];
        let base = published(
            with_service(base, web_ip),
            &[("web", web_ip), ("client", client_ip)],
        );
        node.states.send_replace(Arc::new(base.clone()));
        let inside = web.try_clone().unwrap();
        let listening = netns::run(inside, || async {
            TcpListener::bind("0.0.0.0:8080").unwrap()
        });
        let listener = listening.await.unwrap();
        let pair = Self {
            node,
            cfg,
            web,
            client,
            web_ip,
            base,
            listener,
        };
        pair.settle().await;
        pair
    }

    /// The engine has carried out what it was told before.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(
            self.node
                .call(Command::Check, "web", Some(self.web.try_clone().unwrap()))
                .await,
        );
    }

    async fn set_state(&self, state: State) {
        self.node.states.send_replace(Arc::new(state));
        self.settle().await;
    }

    /// Connects from the client pod.
    async fn connect(&self, to: &str) -> Result<TcpStream, String> {
        let to: SocketAddr = to.parse().unwrap();
        let client = self.client.try_clone().unwrap();
        let work = move || async move { TcpStream::connect_timeout(&to, Duration::from_secs(2)) };
        netns::run(client, work)
            .await
            .unwrap()
            .map_err(|e| e.to_string())
    }
}

/// Runs a test with the real programs in a namespace that plays the node.
fn with_programs<F: Future<Output = ()>>(
    name: &'static str,
    test: impl FnOnce(Config) -> F + Send + 'static,
) {
    on_a_node(move || async move {
        let dir = tempfile::tempdir().unwrap();
        let mut cfg = config(dir.path());
        cfg.cgroup2_dir = Path::new("/sys/fs/cgroup/unified")
            .join(format!("wl-net-{name}-{}", std::process::id()));
        let _pins = Pins(cfg.clone());
        test(cfg).await;
    });
}

#[test]
fn a_pod_reaches_another_through_a_service() {
    with_programs("service", |cfg| async {
        let pair = Pair::start(cfg).await;
        for (to, what) in [
            ("10.244.0.1:8080", "direct"),
            ("10.96.0.20:80", "ClusterIP"),
            ("192.168.99.1:30080", "NodePort of the own node"),
        ] {
            let stream = pair
                .connect(to)
                .await
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(stream.peer_addr().unwrap().to_string(), to);
        }
        let refused = pair.connect("10.96.0.20:81").await;
        assert!(
            refused.as_ref().is_err_and(|e| e.contains("refused")),
            "{refused:?}"
        );
        pair.node.stop().await;
    });
}

fn deny_all(namespace: &str) -> State {
    use crate::state::NetworkPolicy;
    let mut state = State::default();
    let key = ObjectKey::new(namespace, "deny");
    let spec = Default::default();
    state
        .policies
        .insert(key.clone(), Arc::new(NetworkPolicy { key, spec }));
    state
}

#[test]
fn a_policy_closes_a_pod_and_its_removal_opens_it() {
    with_programs("policy", |cfg| async {
        let pair = Pair::start(cfg).await;
        let denied = State {
            policies: deny_all("default").policies,
            ..pair.base.clone()
        };
        pair.set_state(denied).await;
        let refused = pair.connect("10.96.0.20:80").await;
        assert!(
            refused.as_ref().is_err_and(|e| e.contains("timed out")),
            "{refused:?}"
        );
        // The node itself always reaches its pods: probes.
        TcpStream::connect((pair.web_ip, 8080)).unwrap();
        pair.set_state(pair.base.clone()).await;
        pair.connect("10.96.0.20:80").await.unwrap();
        pair.node.stop().await;
    });
}

#[test]
fn a_new_agent_takes_over_without_cutting_a_connection() {
    with_programs("restart", |cfg| async {
        let pair = Pair::start(cfg).await;
        let mut client = pair.connect("10.96.0.20:80").await.unwrap();
        let (mut server, _) = pair.listener.accept().unwrap();
        let mut exchange = |text: &str| {
            client.write_all(text.as_bytes()).unwrap();
            let mut got = vec![0; text.len()];
            server
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            server.read_exact(&mut got).unwrap();
            assert_eq!(got, text.as_bytes());
        };
        exchange("before");
        let Pair {
            node,
            cfg,
            client: client_ns,
            base,
            ..
        } = pair;
        node.stop().await;
        exchange("without an agent");
        let node = TestNode::start_with(cfg, Arc::new(base), load).await;
        exchange("after");
        let work = || async { TcpStream::connect("10.96.0.20:80").map(drop) };
        netns::run(client_ns, work).await.unwrap().unwrap();
        node.stop().await;
    });
}

#[test]
fn flows_and_drops_are_told_with_the_names_of_their_pods() {
    with_programs("flows", |cfg| async {
        let pair = Pair::start(cfg).await;
        let server = flows::Server {
            run_dir: pair.cfg.run_dir.clone(),
            bpf_dir: pair.cfg.bpf_dir.clone(),
            engine: pair.node.handle.clone(),
            states: pair.node.states.subscribe(),
        };
        let socket = flows::socket_path(&server.run_dir);
        let serving = tokio::spawn(flows::serve(server, pair.node.shutdown.clone()));
        while !socket.exists() {
            tokio::task::yield_now().await;
        }
        let mut reader = tokio::net::UnixStream::connect(&socket).await.unwrap();
        reader.write_all(b"flows\n").await.unwrap();
        pair.settle().await;
        pair.connect("10.96.0.20:80").await.unwrap();
        pair.connect("10.96.0.20:81").await.unwrap_err();
        let mut lines = tokio::io::BufReader::new(reader).lines();
        let mut next = async || -> flows::Flow {
            let line = lines.next_line().await.unwrap().unwrap();
            serde_json::from_str(&line).unwrap()
        };
        let (passed, dropped) = (next().await, next().await);
        assert_eq!(
            (&*passed.verdict, &*passed.reason),
            ("forwarded", "new_flow")
        );
        assert_eq!(
            passed.destination.name.as_deref(),
            Some("service/default/web")
        );
        assert_eq!(passed.backend.unwrap().name.as_deref(), Some("default/web"));
        assert_eq!(passed.source.name.as_deref(), Some("default/client"));
        assert_eq!(
            (&*dropped.verdict, &*dropped.reason),
            ("dropped", "service_without_port")
        );
        pair.node.stop().await;
        serving.await.unwrap().unwrap();
    });
}
