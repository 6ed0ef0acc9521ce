//! The whole way of a pod's interface in real network namespaces: plugin's end of the socket → server
//! → engine → veth → rows in memory. Needs root. The namespaces are nameless and end with the test.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use tokio::sync::watch;
use tokio::task::JoinSet;

pub(in crate::net) mod datapath;

use super::*;
use crate::cni::{Args, exchange};
use crate::net::core::Core;
use crate::net::engine::Parts;
use crate::net::hooks::Hooks;
use crate::net::host::Uplinks;
use crate::net::maps::MapSet;
use crate::net::netlink::Address;
use crate::net::netns;
use crate::net::sandbox::Store;
use crate::state::{Node, ObjectKey, Pod, State, Synced};

const NODE: &str = "node-a";
const NODE_IP: &str = "192.168.99.1";

/// A new network namespace.
pub(in crate::net) fn namespace() -> OwnedFd {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests run as root");
        sender
            .send(
                std::fs::File::open("/proc/thread-self/ns/net")
                    .unwrap()
                    .into(),
            )
            .unwrap();
    });
    thread.join().unwrap();
    receiver.recv().unwrap()
}

pub(in crate::net) fn config(dir: &Path) -> Config {
    let text = |s: &str| dir.join(s);
    Config {
        node_name: NODE.into(),
        node_ips: vec![NODE_IP.parse().unwrap()],
        server: String::new(),
        ca_pem: vec![],
        kubelet_address: "127.0.0.1:10250".parse().unwrap(),
        runtime_endpoint: text("cri.sock"),
        root_dir: text("root"),
        run_dir: text("run"),
        pod_log_dir: text("log"),
        cni_conf_dir: text("net.d"),
        cni_bin_dir: text("bin"),
        bpf_dir: text("bpf"),
        cgroup2_dir: text("cgroup"),
        cgroup_parent: "/kubepods".into(),
        cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        cluster_cidrs: vec![
            "10.244.0.0/16".parse().unwrap(),
            "fd00:244::/48".parse().unwrap(),
        ],
        node_ports: (30000, 32767),
        resolv_conf: "/etc/resolv.conf".into(),
        uplinks: vec![],
        max_pods: 110,
    }
}

fn pod(name: &str) -> Pod {
    Pod {
        key: ObjectKey::new("default", name),
        uid: format!("uid-{name}").as_str().into(),
        static_uid: None,
        labels: Arc::default(),
        node: Some(NODE.into()),
        host_network: false,
        ips: vec![],
        ports: vec![],
        terminal: false,
        deleting: false,
        started: 0,
    }
}

pub(in crate::net) fn state(pods: &[&str]) -> Arc<State> {
    let mut state = State::default();
    let node = Node {
        name: NODE.into(),
        labels: BTreeMap::new(),
        addresses: vec![NODE_IP.parse().unwrap()],
        pod_cidrs: vec![
            "10.244.0.0/24".parse().unwrap(),
            "fd00:244::/64".parse().unwrap(),
        ],
    };
    state.nodes.insert(NODE.into(), Arc::new(node));
    for name in pods {
        state
            .pods
            .insert(ObjectKey::new("default", name), Arc::new(pod(name)));
    }
    state.synced = Synced {
        nodes: true,
        services: true,
        slices: true,
        policies: true,
        namespaces: true,
        pods: true,
    };
    Arc::new(state)
}

/// A node: engine and server in the calling thread's namespace.
struct TestNode {
    cfg: Config,
    netlink: Netlink,
    states: watch::Sender<Arc<State>>,
    shutdown: CancellationToken,
    engine: tokio::task::JoinHandle<()>,
    handle: Handle,
}

impl TestNode {
    async fn start(dir: &Path, first: Arc<State>) -> Self {
        Self::start_with(config(dir), first, |_, _| (Hooks::None, MapSet::memory())).await
    }

    async fn start_with(
        cfg: Config,
        first: Arc<State>,
        load: impl FnOnce(&Config, &Uplinks) -> (Hooks, MapSet),
    ) -> Self {
        let netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").await.unwrap().unwrap();
        netlink.set_up(lo.index).await.unwrap();
        let node_ip = Address {
            index: lo.index,
            address: NODE_IP.parse().unwrap(),
            prefix_len: 32,
        };
        netlink.add_address(node_ip).await.unwrap();
        let (states, receiver) = watch::channel(Arc::new(State::default()));
        let uplinks = crate::net::host::uplinks(&netlink, &cfg).await.unwrap();
        let (hooks, maps) = load(&cfg, &uplinks);
        let datapath = hooks.datapath();
        let parts = Parts {
            cfg: Arc::new(cfg.clone()),
            core: Core::new(maps, NODE, &cfg.cluster_dns).unwrap(),
            hooks,
            netlink: netlink.clone(),
            store: Store::open(&cfg.root_dir.join("net")).unwrap(),
            states: receiver,
            seed: watch::channel(None).1,
        };
        let (engine, handle, mut status) = crate::net::engine::Engine::new(parts);
        let shutdown = CancellationToken::new();
        let engine = tokio::spawn(engine.run(shutdown.clone()));
        states.send_replace(first);
        status.wait_for(|s| s.complete).await.unwrap();
        let server = Server {
            engine: handle.clone(),
            netlink: netlink.clone(),
            datapath,
            mtu: 1400,
        };
        let (_, stages) = watch::channel(Stage::Up(server));
        serve(&cfg, stages, shutdown.clone()).unwrap();
        Self {
            cfg,
            netlink,
            states,
            shutdown,
            engine,
            handle,
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.engine.await.unwrap();
    }

    async fn call(&self, command: Command, name: &str, netns: Option<OwnedFd>) -> Answer {
        let request = Request {
            command,
            cni_version: "1.0.0".into(),
            container_id: format!("container-{name}"),
            ifname: "eth0".into(),
            netns: format!("/run/netns/{name}"),
            args: Args {
                namespace: "default".into(),
                name: name.into(),
                uid: format!("uid-{name}"),
            },
        };
        let socket = socket_path(&self.cfg);
        let exchanged = tokio::task::spawn_blocking(move || exchange(&socket, &request, netns));
        exchanged.await.unwrap().unwrap()
    }

    async fn add(&self, name: &str, netns: &OwnedFd) -> Vec<IpAddr> {
        match self
            .call(Command::Add, name, Some(netns.try_clone().unwrap()))
            .await
        {
            Answer::Result(result) => {
                let address = |ip: &Ip| ip.address.split('/').next().unwrap().parse().unwrap();
                result.ips.iter().map(address).collect()
            }
            other => panic!("ADD failed: {other:?}"),
        }
    }

    async fn links(&self) -> Vec<String> {
        let links = self.netlink.links().await.unwrap();
        let pods = links
            .into_iter()
            .filter(|l| l.name.starts_with(veth::NAME_PREFIX));
        pods.map(|l| l.name).collect()
    }
}

/// Runs the test in a namespace that plays the node.
pub(in crate::net) fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(netns::run(namespace(), test)).unwrap();
}

#[test]
fn a_pod_gets_an_interface_that_reaches_the_node_and_loses_it() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().unwrap();
        let node = TestNode::start(dir.path(), state(&["web"])).await;
        let netns = namespace();
        let ips = node.add("web", &netns).await;
        assert_eq!(
            ips,
            [
                "10.244.0.1".parse::<IpAddr>().unwrap(),
                "fd00:244::1".parse().unwrap()
            ]
        );
        assert_eq!(node.add("web", &netns).await, ips, "ADD is idempotent");
        assert_eq!(
            node.call(Command::Check, "web", Some(netns.try_clone().unwrap()))
                .await,
            Answer::Done
        );

        // From the pod to the node's address and back, both families of it through the kernel.
        let listener = TcpListener::bind((NODE_IP, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let inside = netns.try_clone().unwrap();
        let peer = netns::run(inside, move || async move {
            let stream = TcpStream::connect((NODE_IP, port)).unwrap();
            stream.local_addr().unwrap().ip()
        });
        assert_eq!(peer.await.unwrap(), ips[0]);
        // From the node to the pod, as a probe does.
        let inside = netns.try_clone().unwrap();
        let listening = netns::run(inside, || async { TcpListener::bind("[::]:80").unwrap() });
        let _listening = listening.await.unwrap();
        TcpStream::connect((ips[0], 80)).unwrap();

        assert_eq!(
            node.call(Command::Del, "web", Some(netns)).await,
            Answer::Done
        );
        assert_eq!(
            node.call(Command::Del, "web", None).await,
            Answer::Done,
            "DEL is idempotent"
        );
        assert!(node.links().await.is_empty());
        assert!(node.netlink.own_routes().await.unwrap().is_empty());
        node.stop().await;
    });
}

#[test]
fn add_waits_until_the_pod_is_known() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().unwrap();
        let node = TestNode::start(dir.path(), state(&[])).await;
        let netns = namespace();
        let mut add = Box::pin(node.add("late", &netns));
        let early = tokio::time::timeout(Duration::from_millis(600), &mut add).await;
        assert!(early.is_err(), "the pod's policies cannot be known yet");
        node.states.send_replace(state(&["late"]));
        assert_eq!(add.as_mut().await.len(), 2);
        drop(add);
        node.stop().await;
    });
}

#[test]
fn adds_that_wait_for_their_pods_hold_up_nobody_and_end_with_their_sandbox() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().unwrap();
        let node = Arc::new(TestNode::start(dir.path(), state(&["known"])).await);
        let spaces: Vec<OwnedFd> = (0..=CALLS).map(|_| namespace()).collect();
        let mut waiting = JoinSet::new();
        for (n, space) in spaces.iter().enumerate() {
            let (node, space) = (node.clone(), space.try_clone().unwrap());
            waiting.spawn(async move {
                let name = format!("gone{n}");
                node.call(Command::Add, &name, Some(space)).await
            });
        }
        while node.links().await.len() <= CALLS {
            assert!(waiting.try_join_next().is_none(), "they wait");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(node.add("known", &namespace()).await.len(), 2);
        for n in 0..=CALLS {
            let done = node.call(Command::Del, &format!("gone{n}"), None).await;
            assert_eq!(done, Answer::Done);
        }
        while let Some(answer) = waiting.join_next().await {
            let answer = answer.unwrap();
            let Answer::Error(failure) = answer else {
                panic!("{answer:?}")
            };
            assert_eq!(failure.msg, "the sandbox was deleted meanwhile");
        }
        Arc::into_inner(node).unwrap().stop().await;
    });
}

#[test]
fn a_restarted_agent_knows_its_pods_and_gives_nobody_their_addresses() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().unwrap();
        let node = TestNode::start(dir.path(), state(&["a", "b", "c"])).await;
        let (netns_a, netns_b, netns_c) = (namespace(), namespace(), namespace());
        let a = node.add("a", &netns_a).await;
        let b = node.add("b", &netns_b).await;
        assert_eq!(
            node.call(Command::Del, "b", Some(netns_b)).await,
            Answer::Done
        );
        node.stop().await;

        let node = TestNode::start(dir.path(), state(&["a", "b", "c"])).await;
        assert_eq!(node.add("a", &netns_a).await, a);
        let c = node.add("c", &netns_c).await;
        assert!(c != a && c != b);
        assert_eq!(node.links().await.len(), 2);
        assert_eq!(node.netlink.own_routes().await.unwrap().len(), 4);
        node.stop().await;
    });
}

#[test]
fn the_runtime_finds_the_plugin_by_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let cfg = config(dir.path());
    announce(&cfg).unwrap();
    announce(&cfg).unwrap();
    let text = std::fs::read_to_string(cfg.cni_conf_dir.join(CONFLIST)).unwrap();
    let conf: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(conf["plugins"][0]["type"], PLUGIN_TYPE);
    assert_eq!(
        conf["plugins"][0]["socket"],
        cfg.run_dir.join("cni.sock").to_str().unwrap()
    );
    let own = std::fs::canonicalize("/proc/self/exe").unwrap();
    assert_eq!(
        std::fs::canonicalize(cfg.cni_bin_dir.join(PLUGIN_TYPE)).unwrap(),
        own
    );
}
