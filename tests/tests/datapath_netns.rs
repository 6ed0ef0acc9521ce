//! The programs in real network namespaces: pods, their node and the outside, with real sockets. What is
//! particular to single packets is tested by `datapath_run.rs`.

#[path = "datapath/cgroup.rs"]
mod cgroup;
#[path = "datapath/lab.rs"]
#[allow(dead_code, reason = "shared by several tests")]
mod lab;
#[path = "datapath/net.rs"]
#[allow(dead_code, reason = "shared by several tests")]
mod net;

use std::net::Ipv4Addr;

use abi::{NetKind, PolKey, PolValue, Port, V4};
use agent::net::load::{Datapath, Families, Sizes};
use agent::net::maps::{CtTcpTable, EpTable, EpochTable, PolTable};
use lab::{Lab, NODE_IP, OUTSIDE_IP, cluster_ip, inside, run};
use net::{ask, ask_again, ask_udp, connect, serve, serve_udp};

const P2: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
const P3: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 3);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 9);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const TCP: u8 = abi::PROTO_TCP;
const UDP: u8 = abi::PROTO_UDP;

fn ok(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn node_port(port: u16, scope: u8) -> abi::FeKey<V4> {
    abi::FeKey {
        addr: V4(0),
        port: Port::new(port),
        proto: TCP,
        scope,
    }
}

#[test]
fn pods_reach_pods_services_their_node_and_the_outside() {
    let mut lab = Lab::new("paths");
    let (p2, p3) = (lab.pod(2), lab.pod(3));
    let (node, outside) = (lab.node_ns().to_owned(), lab.outside_ns().to_owned());
    serve(&p3, 8080, "p3");
    serve_udp(&p3, 5353, "u3");
    serve(&node, 9000, "node");
    serve(&outside, 9000, "outside");
    let p3_backend = &[(P3, 8080, 1, 0)];
    lab.service(
        1,
        &[(cluster_ip(VIP, 80, TCP), 0), (node_port(30080, 1), 8)],
        p3_backend,
    );
    lab.service(2, &[(cluster_ip(VIP, 53, UDP), 0)], &[(P3, 5353, 1, 0)]);
    lab.service(3, &[(cluster_ip(VIP, 81, TCP), 0)], &[]);
    lab.service(
        4,
        &[(cluster_ip(VIP, 443, TCP), 0)],
        &[(NODE_IP, 9000, 1, abi::BE_HOST)],
    );

    assert_eq!(ask(&p2, P3, 8080), ok("p3 10.244.1.2"), "pod to pod");
    assert_eq!(ask(&p2, VIP, 80), ok("p3 10.244.1.2"), "ClusterIP");
    assert_eq!(
        ask_udp(&p2, VIP, 53),
        ok("u3 10.244.1.2"),
        "ClusterIP by UDP"
    );
    assert_eq!(ask(&p3, VIP, 80), ok("p3 169.254.1.2"), "hairpin");
    assert_eq!(
        ask(&p2, NODE_IP, 9000),
        ok("node 10.244.1.2"),
        "pod to its node"
    );
    assert_eq!(
        ask(&p2, VIP, 443),
        ok("node 10.244.1.2"),
        "host-network backend on the own node"
    );
    assert_eq!(
        ask(&p2, OUTSIDE_IP, 9000),
        ok("outside 192.168.77.1"),
        "outside, by SNAT"
    );
    assert_eq!(ask(&node, P3, 8080), ok("p3 192.168.77.1"), "node to pod");
    assert_eq!(
        ask(&outside, NODE_IP, 9000),
        ok("node 192.168.77.100"),
        "outside to the node"
    );
    assert_eq!(
        ask(&outside, NODE_IP, 30080),
        ok("p3 192.168.77.100"),
        "NodePort, source kept"
    );
    assert_eq!(
        ask(&p2, VIP, 81),
        Err("connection refused".into()),
        "service without endpoints"
    );
    let ping = inside(&p2, &format!("busybox ping -c1 -W1 {OUTSIDE_IP}"));
    assert!(ping.status.success(), "ICMP echo by SNAT");
    let ping = inside(&p2, &format!("busybox ping -c1 -W1 {P3}"));
    assert!(ping.status.success(), "ICMP echo to a pod");
}

#[test]
fn traffic_crosses_to_another_node_with_the_pods_address() {
    let mut lab = Lab::new("nodes");
    let p2 = lab.pod(2);
    let outside = lab.outside_ns().to_owned();
    // The outside namespace plays the other node: one pod address on it, routes to our pods.
    run(&format!("ip -n {outside} addr add {REMOTE}/32 dev lo"));
    run(&format!(
        "ip -n {outside} route add 10.244.1.0/24 via {NODE_IP}"
    ));
    lab.node(2, OUTSIDE_IP);
    lab.net("10.244.2.0", 24, NetKind::Pods, 2);
    lab.net("192.168.77.100", 32, NetKind::Node, 2);
    serve(&outside, 8080, "remote");
    serve(&p2, 8080, "p2");
    lab.service(
        1,
        &[(cluster_ip(VIP, 80, TCP), 0), (node_port(30081, 1), 8)],
        &[(REMOTE, 8080, 2, 0)],
    );
    lab.service(
        2,
        &[(cluster_ip(VIP, 443, TCP), 0)],
        &[(OUTSIDE_IP, 8080, 2, abi::BE_HOST)],
    );

    assert_eq!(
        ask(&p2, REMOTE, 8080),
        ok("remote 10.244.1.2"),
        "pod to remote pod"
    );
    assert_eq!(
        ask(&p2, VIP, 80),
        ok("remote 10.244.1.2"),
        "ClusterIP with a remote backend"
    );
    assert_eq!(
        ask(&p2, VIP, 443),
        ok("remote 10.244.1.2"),
        "remote host-network backend"
    );
    assert_eq!(
        ask(&p2, OUTSIDE_IP, 8080),
        ok("remote 10.244.1.2"),
        "another node's address"
    );
    assert_eq!(
        ask(&outside, P2, 8080),
        ok("p2 192.168.77.100"),
        "remote node to pod"
    );
    assert_eq!(
        ask(&outside, NODE_IP, 30081),
        ok("remote 192.168.77.1"),
        "NodePort by SNAT"
    );
}

#[test]
fn policy_decides_new_flows_and_ends_living_ones() {
    let mut lab = Lab::new("policy");
    let (p2, p3) = (lab.pod(2), lab.pod(3));
    let node = lab.node_ns().to_owned();
    serve(&p3, 8080, "p3");
    let mut living = connect(&p2, P3, 8080).expect("open at first");
    assert_eq!(ask_again(&mut living), ok("p3 10.244.1.2"));

    let mut endpoint = lab.maps.get::<EpTable>(&3).unwrap().unwrap();
    endpoint.set_id = 7;
    endpoint.isolation = abi::ISOLATED_INGRESS;
    lab.maps.put::<EpTable>(&3, &endpoint).unwrap();
    lab.maps.put::<EpochTable>(&3, &1).unwrap();
    assert_eq!(
        ask(&p2, P3, 8080),
        Err("timed out".into()),
        "no row: denied"
    );
    assert!(
        ask_again(&mut living).is_err(),
        "a living flow is judged again"
    );
    assert_eq!(
        ask(&node, P3, 8080),
        ok("p3 192.168.77.1"),
        "the own node is always allowed"
    );

    let key = PolKey {
        set_id: 7,
        class: 0,
        direction: abi::DIR_INGRESS as u32,
    };
    let mut row = PolValue {
        flags: 0,
        n: 1,
        ..PolValue::ALL
    };
    row.ranges[0] = abi::PortRange {
        proto: TCP,
        reserved: 0,
        lo: 8000,
        hi: 8100,
    };
    lab.maps.put::<PolTable>(&key, &row).unwrap();
    assert_eq!(
        ask(&p2, P3, 8080),
        ok("p3 10.244.1.2"),
        "allowed by a range"
    );
    row.ranges[0].hi = 8079;
    lab.maps.put::<PolTable>(&key, &row).unwrap();
    assert_eq!(
        ask(&p2, P3, 8080),
        Err("timed out".into()),
        "outside of the range"
    );
}

#[test]
fn connections_survive_a_new_agent_and_the_loss_of_all_conntrack_entries() {
    let mut lab = Lab::new("restart");
    let (p2, p3) = (lab.pod(2), lab.pod(3));
    serve(&p3, 8080, "p3");
    lab.service(
        1,
        &[(cluster_ip(VIP, 80, TCP), 0)],
        &[(P3, 8080, 1, 0), (P3, 8080, 1, 0)],
    );
    let mut stream = connect(&p2, VIP, 80).expect("connects");
    assert_eq!(ask_again(&mut stream), ok("p3 10.244.1.2"));

    for (key, _) in lab.maps.entries::<CtTcpTable<V4>>().unwrap() {
        lab.maps.remove::<CtTcpTable<V4>>(&key).unwrap();
    }
    assert_eq!(ask_again(&mut stream), ok("p3 10.244.1.2"), "picked up");

    let dir = lab.datapath.dir().to_path_buf();
    let next = Datapath::load_object(lab::object(), &dir, &lab::small(), Families::Both)
        .expect("loads again");
    let adopted = lab
        .in_node(|| next.adopt_links())
        .expect("links are adopted");
    assert_eq!(
        adopted.len(),
        6,
        "two pods and an uplink, two programs each: {adopted:?}"
    );
    assert_eq!(
        ask_again(&mut stream),
        ok("p3 10.244.1.2"),
        "after the swap"
    );
    assert_eq!(
        ask(&p2, VIP, 80),
        ok("p3 10.244.1.2"),
        "new flows by the new programs"
    );
    assert!(Sizes::default().entries.is_empty());
}

#[test]
fn a_pod_cannot_use_a_foreign_source_and_nothing_leaves_before_it_is_ready() {
    let mut lab = Lab::new("spoof");
    let (p2, p3) = (lab.pod(2), lab.pod(3));
    serve(&p3, 8080, "p3");
    run(&format!("ip -n {p2} addr add 10.244.1.77/32 dev eth0"));
    run(&format!(
        "ip -n {p2} route add 10.244.1.3/32 via 169.254.1.1 src 10.244.1.77"
    ));
    assert_eq!(
        ask(&p2, P3, 8080),
        Err("timed out".into()),
        "foreign source"
    );
    run(&format!("ip -n {p2} route del 10.244.1.3/32"));
    assert_eq!(ask(&p2, P3, 8080), ok("p3 10.244.1.2"));
    let mut endpoint = lab.maps.get::<EpTable>(&2).unwrap().unwrap();
    endpoint.flags = 0;
    lab.maps.put::<EpTable>(&2, &endpoint).unwrap();
    assert_eq!(ask(&p2, P3, 8080), Err("timed out".into()), "not ready");
    let spoofed = lab
        .maps
        .counts()
        .unwrap()
        .into_iter()
        .any(|(hook, outcome, count)| {
            hook == abi::Hook::PodOut && outcome == abi::Outcome::Spoofed && count.packets > 0
        });
    assert!(spoofed, "the drop is counted by its reason");
}

#[test]
fn host_sockets_reach_services_without_a_translated_packet() {
    let mut lab = Lab::new("sock");
    let p3 = lab.pod(3);
    let node = lab.node_ns().to_owned();
    serve(&p3, 8080, "p3");
    serve_udp(&p3, 5353, "u3");
    let frontends = [(cluster_ip(VIP, 80, TCP), 0), (node_port(30080, 0), 8)];
    lab.service(1, &frontends, &[(P3, 8080, 1, 0)]);
    lab.service(2, &[(cluster_ip(VIP, 53, UDP), 0)], &[(P3, 5353, 1, 0)]);
    lab.service(3, &[(cluster_ip(VIP, 81, TCP), 0)], &[]);
    let cgroup = cgroup::Cgroup::join("wl-bpf-sock");
    lab.datapath.attach_sockets(&cgroup.dir).expect("sockets");

    assert_eq!(ask(&node, VIP, 80), ok("p3 192.168.77.1"), "ClusterIP");
    assert_eq!(
        ask(&node, NODE_IP, 30080),
        ok("p3 192.168.77.1"),
        "own NodePort"
    );
    let loopback = Ipv4Addr::LOCALHOST;
    assert_eq!(
        ask(&node, loopback, 30080),
        ok("p3 192.168.77.1"),
        "NodePort on the loopback"
    );
    assert_eq!(
        ask_udp(&node, VIP, 53),
        ok("u3 192.168.77.1"),
        "UDP, connected"
    );
    assert_eq!(
        net::ask_udp_unconnected(&node, VIP, 53),
        ok("u3 192.168.77.1"),
        "UDP, the VIP answers"
    );
    let stream = connect(&node, VIP, 80).expect("connects");
    assert_eq!(
        stream.peer_addr().unwrap().to_string(),
        "10.96.0.10:80",
        "getpeername"
    );
    assert_eq!(
        ask(&node, VIP, 81),
        Err("connection refused".into()),
        "no endpoints"
    );
    assert_eq!(
        net::ask_mapped(&node, VIP, 80),
        ok("p3 192.168.77.1"),
        "IPv4 on an IPv6 socket"
    );
    assert!(
        ask(lab.outside_ns(), VIP, 80).is_err(),
        "other namespaces are left alone"
    );
    lab.datapath.detach_sockets().expect("detached");
    assert!(ask(&node, VIP, 80).is_err(), "nothing translates any more");
}

#[test]
fn a_host_network_backend_answers_outside_clients_through_its_frontend() {
    let mut lab = Lab::new("hostnet");
    let p2 = lab.pod(2);
    let (node, outside) = (lab.node_ns().to_owned(), lab.outside_ns().to_owned());
    serve(&node, 9000, "node");
    serve(&p2, 8080, "p2");
    lab.service(
        1,
        &[(node_port(30090, 1), 8)],
        &[(NODE_IP, 9000, 1, abi::BE_HOST)],
    );
    // The same backend behind two frontends, asked from the same port: the second flow is told apart.
    lab.service(
        2,
        &[(node_port(30091, 1), 8), (node_port(30092, 1), 8)],
        &[(P2, 8080, 1, 0)],
    );
    let mut cfg = lab
        .maps
        .get::<agent::net::maps::CfgTable>(&0)
        .unwrap()
        .unwrap();
    cfg.flags |= abi::CFG_UPLINK_OUT;
    lab.maps
        .put::<agent::net::maps::CfgTable>(&0, &cfg)
        .unwrap();
    assert_eq!(
        ask(&outside, NODE_IP, 30090),
        ok("node 192.168.77.100"),
        "host-network backend"
    );

    let mut first = net::connect_from(&outside, 40_000, NODE_IP, 30091).expect("first");
    let mut second = net::connect_from(&outside, 40_000, NODE_IP, 30092).expect("second");
    assert_eq!(ask_again(&mut first), ok("p2 192.168.77.100"));
    assert_eq!(ask_again(&mut second), ok("p2 192.168.77.100"));
    assert_eq!(ask_again(&mut first), ok("p2 192.168.77.100"));
}

#[test]
fn a_local_traffic_policy_uses_only_this_nodes_backends() {
    let mut lab = Lab::new("local");
    let p2 = lab.pod(2);
    let outside = lab.outside_ns().to_owned();
    serve(&p2, 8080, "p2");
    let local = abi::FE_NODE_PORT | abi::FE_LOCAL;
    lab.service(1, &[(node_port(30070, 1), local)], &[(P2, 8080, 1, 0)]);
    lab.node(2, OUTSIDE_IP);
    assert_eq!(
        ask(&outside, NODE_IP, 30070),
        Err("timed out".into()),
        "none here: dropped"
    );
    let mut service = lab
        .maps
        .get::<agent::net::maps::SvcTable>(&1)
        .unwrap()
        .unwrap();
    service.local = service.cluster;
    lab.maps
        .put::<agent::net::maps::SvcTable>(&1, &service)
        .unwrap();
    assert_eq!(ask(&outside, NODE_IP, 30070), ok("p2 192.168.77.100"));
}

#[test]
fn flows_and_drops_are_told_while_a_reader_is_attached() {
    let mut lab = Lab::new("events");
    let (p2, p3) = (lab.pod(2), lab.pod(3));
    serve(&p3, 8080, "p3");
    lab.service(1, &[(cluster_ip(VIP, 80, TCP), 0)], &[(P3, 8080, 1, 0)]);
    let mut reader = agent::net::maps::MapSet::events(lab.datapath.dir()).expect("reader");
    assert_eq!(ask(&p2, VIP, 80), ok("p3 10.244.1.2"));
    assert!(reader.poll(100).is_empty(), "nothing is told to nobody");
    let mut cfg = lab
        .maps
        .get::<agent::net::maps::CfgTable>(&0)
        .unwrap()
        .unwrap();
    cfg.flags |= abi::CFG_EVENTS_FLOWS | abi::CFG_EVENTS_DROPS;
    lab.maps
        .put::<agent::net::maps::CfgTable>(&0, &cfg)
        .unwrap();
    assert_eq!(ask(&p2, VIP, 80), ok("p3 10.244.1.2"));
    let stray = Ipv4Addr::new(10, 96, 0, 99);
    assert!(ask(&p2, stray, 80).is_err());
    let events = reader.poll(100);
    let told = |outcome: abi::Outcome| events.iter().find(|event| event.outcome == outcome as u8);
    let flow = told(abi::Outcome::NewFlow).expect("the new flow");
    assert_eq!(
        (flow.src_ep, flow.dst_ep, flow.nat_dst_port.get()),
        (2, 3, 8080)
    );
    assert_eq!(flow.nat_dst, abi::Addr::to_v6(V4::from(P3)));
    assert_eq!(flow.dst, abi::Addr::to_v6(V4::from(VIP)));
    let drop = told(abi::Outcome::NoSuchService).expect("the drop");
    assert_eq!(
        (drop.src_ep, drop.dst_port.get(), drop.hook),
        (2, 80, abi::Hook::PodOut as u8)
    );
}
