//! A node, its pods and an outside world as network namespaces of this test alone, with the real
//! programs attached. What the agent would write to the maps is written here by hand.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use abi::{
    BeKey, BeValue, Cfg, Endpoint, FeKey, FeValue, LocalAddr, Mac, NetKey, NetKind, NetValue, Node,
    Port, Service, V4,
};
use agent::net::load::{Datapath, Families, Sizes, netns_cookie};
use agent::net::maps::{
    BeTable, CfgTable, EpMacTable, EpTable, FeTable, IpTable, LiveTable, MapSet, NetTable,
    NodeTable, SvcTable,
};

/// Everything one test built; gone when dropped.
pub struct Lab {
    name: String,
    namespaces: Vec<String>,
    dir: PathBuf,
    pub datapath: Datapath,
    pub maps: MapSet,
}

/// One node of the lab.
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const OUTSIDE_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
pub const NODE_IX: u32 = 1;

impl Lab {
    /// A node with an uplink to an outside namespace, programs loaded and attached to the uplink.
    pub fn new(name: &str) -> Self {
        Self::with_sizes(name, &small())
    }

    /// As [`Self::new`], with other sizes of maps.
    pub fn with_sizes(name: &str, sizes: &Sizes) -> Self {
        let name = format!("wl-bpf-{name}");
        let dir = std::env::temp_dir().join(format!("{name}-bpffs"));
        let node = format!("{name}-n");
        let outside = format!("{name}-x");
        for ns in [&node, &outside] {
            let _ = Command::new("ip").args(["netns", "del", ns]).output();
            run(&format!("ip netns add {ns}"));
            run(&format!("ip -n {ns} link set lo up"));
        }
        run(&format!(
            "ip link add name uplink netns {node} type veth peer name eth0 netns {outside}"
        ));
        run(&format!("ip -n {node} addr add {NODE_IP}/24 dev uplink"));
        run(&format!(
            "ip -n {outside} addr add {OUTSIDE_IP}/24 dev eth0"
        ));
        run(&format!("ip -n {node} link set uplink up"));
        run(&format!("ip -n {outside} link set eth0 up"));
        run(&format!("ip -n {node} route add default via {OUTSIDE_IP}"));
        sysctl(&node, "net.ipv4.ip_forward=1");
        sysctl(&node, "net.ipv4.conf.all.rp_filter=0");
        sysctl(&node, "net.ipv4.conf.default.rp_filter=0");
        sysctl(&node, "net.ipv4.conf.uplink.rp_filter=0");
        let _ = Datapath::remove_all(&dir);
        let datapath =
            Datapath::load_object(object(), &dir, sizes, Families::Both).expect("programs load");
        let maps = datapath.maps().expect("maps");
        let mut lab = Self {
            name,
            namespaces: vec![node, outside],
            dir,
            datapath,
            maps,
        };
        lab.configure();
        lab
    }

    fn configure(&mut self) {
        let uplink = self.ifindex("uplink");
        let tick_mult = self.datapath.tick_mult();
        let netns_cookie = self.in_node(netns_cookie).expect("cookie");
        let cfg = Cfg {
            secret: 0x1234_5678_9abc_def0,
            netns_cookie,
            flags: 0,
            tick_mult,
            node_ip4: V4::from(NODE_IP),
            node_ip6: abi::V6([0; 4]),
            uplink,
            node_ix: NODE_IX,
            snat_lo: abi::SNAT_LO,
            snat_hi: abi::SNAT_HI,
            node_port_lo: 30000,
            node_port_hi: 32767,
            reserved: [0; 9],
        };
        self.maps.put::<CfgTable>(&0, &cfg).expect("cfg");
        self.maps
            .put::<IpTable<V4>>(&V4::from(NODE_IP), &LocalAddr::HOST)
            .expect("ip");
        self.net("10.244.1.0", 24, NetKind::Pods, NODE_IX as u16);
        self.net("10.96.0.0", 16, NetKind::Services, 0);
        self.net("192.168.77.1", 32, NetKind::Node, NODE_IX as u16);
        self.in_node(|| self.datapath.attach_uplink(uplink))
            .expect("uplink");
    }

    pub fn net(&mut self, addr: &str, prefix_len: u32, kind: NetKind, node: u16) {
        let addr: Ipv4Addr = addr.parse().expect("address");
        let key = NetKey {
            prefix_len,
            addr: V4::from(addr),
        };
        let value = NetValue {
            class: 0,
            node,
            kind: kind as u8,
            reserved: 0,
        };
        self.maps.put::<NetTable<V4>>(&key, &value).expect("net");
    }

    /// Another node, reached through `next_hop` on the uplink.
    pub fn node(&mut self, ix: u32, next_hop: Ipv4Addr) {
        let node = Node {
            ifindex: self.ifindex("uplink"),
            flags: 0,
            next_hop4: V4::from(next_hop),
            addr4: V4::from(next_hop),
            next_hop6: abi::V6([0; 4]),
            addr6: abi::V6([0; 4]),
            reserved: [0; 4],
        };
        self.maps.put::<NodeTable>(&ix, &node).expect("node");
    }

    /// A pod with the address 10.244.1.`ix`, ready, in a namespace of its own.
    pub fn pod(&mut self, ix: u8) -> String {
        let ns = format!("{}-p{ix}", self.name);
        let node = self.namespaces[0].clone();
        let veth = format!("pod{ix}");
        let addr = format!("10.244.1.{ix}");
        let mac = format!("0a:57:4d:00:00:{ix:02x}");
        let host_mac = "0a:57:4c:00:00:01";
        let _ = Command::new("ip").args(["netns", "del", &ns]).output();
        run(&format!("ip netns add {ns}"));
        run(&format!(
            "ip link add name {veth} netns {node} type veth peer name eth0 netns {ns}"
        ));
        run(&format!(
            "ip -n {node} link set {veth} address {host_mac} up"
        ));
        run(&format!("ip -n {ns} link set lo up"));
        run(&format!("ip -n {ns} link set eth0 address {mac} up"));
        run(&format!("ip -n {ns} addr add {addr}/32 dev eth0"));
        run(&format!(
            "ip -n {ns} neigh add 169.254.1.1 lladdr {host_mac} dev eth0 nud permanent"
        ));
        run(&format!(
            "ip -n {ns} route add 169.254.1.1 dev eth0 scope link"
        ));
        run(&format!("ip -n {ns} route add default via 169.254.1.1"));
        run(&format!(
            "ip -n {node} neigh add {addr} lladdr {mac} dev {veth} nud permanent"
        ));
        run(&format!(
            "ip -n {node} route add {addr}/32 dev {veth} src {NODE_IP}"
        ));
        let ifindex = self.ifindex(&veth);
        let ep_ix = u32::from(ix);
        let mut endpoint = Endpoint::closed(ifindex);
        endpoint.flags = abi::EP_READY;
        endpoint.isolation = 0;
        let mac = Mac::new([0x0a, 0x57, 0x4d, 0, 0, ix]);
        self.maps.put::<EpMacTable>(&ep_ix, &mac).expect("mac");
        self.maps.put::<EpTable>(&ep_ix, &endpoint).expect("ep");
        let addr = V4::from(Ipv4Addr::new(10, 244, 1, ix));
        self.maps
            .put::<IpTable<V4>>(&addr, &LocalAddr::pod(ep_ix))
            .expect("ip");
        self.in_node(|| self.datapath.attach_pod(ifindex))
            .expect("attach");
        self.namespaces.push(ns.clone());
        ns
    }

    /// A service port with these backends: (address, port, node, flags).
    pub fn service(
        &mut self,
        id: u32,
        frontends: &[(FeKey<V4>, u16)],
        backends: &[(Ipv4Addr, u16, u16, u16)],
    ) {
        for (slot, (addr, port, node, flags)) in backends.iter().enumerate() {
            let be_ix = id * 16 + slot as u32;
            let value = BeValue {
                addr: V4::from(*addr),
                port: Port::new(*port),
                node: *node,
                be_ix,
                list: id,
                flags: *flags,
                reserved: 0,
            };
            self.maps.put::<LiveTable>(&be_ix, &1).expect("live");
            let key = BeKey {
                list: id,
                slot: slot as u32,
            };
            self.maps.put::<BeTable<V4>>(&key, &value).expect("be");
        }
        let list = abi::List {
            list: id,
            n: backends.len() as u32,
        };
        let service = Service {
            cluster: list,
            local: abi::List::default(),
            affinity: 0,
            algorithm: 0,
            flags: 0,
            reserved: [0; 2],
        };
        self.maps.put::<SvcTable>(&id, &service).expect("svc");
        for (key, flags) in frontends {
            let value = FeValue {
                svc_id: id,
                flags: *flags,
                reserved: 0,
            };
            self.maps.put::<FeTable<V4>>(key, &value).expect("fe");
        }
    }

    pub fn node_ns(&self) -> &str {
        &self.namespaces[0]
    }

    pub fn outside_ns(&self) -> &str {
        &self.namespaces[1]
    }

    /// Runs a function in the node's network namespace.
    pub fn in_node<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.namespaces[0]);
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let ns = std::fs::File::open(path).expect("namespace");
                nix::sched::setns(ns, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
                f()
            });
            inside.join().expect("no panic inside")
        })
    }

    fn ifindex(&self, name: &str) -> u32 {
        let name = name.to_owned();
        self.in_node(move || nix::net::if_::if_nametoindex(name.as_str()).expect("interface"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for ns in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", ns]).output();
        }
        let _ = Datapath::remove_all(&self.dir);
        let _ = nix::mount::umount2(&self.dir, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// The BPF object of the sources as they are, built once per test process.
pub fn object() -> &'static [u8] {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let path = xtask::bpf::build().expect("the BPF programs compile");
        std::fs::read(path).expect("the object can be read")
    })
}

/// Frontend of a ClusterIP.
pub fn cluster_ip(addr: Ipv4Addr, port: u16, proto: u8) -> FeKey<V4> {
    FeKey {
        addr: V4::from(addr),
        port: Port::new(port),
        proto,
        scope: abi::SCOPE_INTERNAL,
    }
}

/// Map sizes for tests: creation of full-size LRUs costs memory.
pub fn small() -> Sizes {
    let mut sizes = Sizes::default();
    for name in [
        abi::map::CT4_TCP,
        abi::map::CT4_ANY,
        abi::map::CT6_TCP,
        abi::map::CT6_ANY,
    ] {
        sizes.entries.insert(name, 16_384);
    }
    sizes
}

/// Runs a command line (no quoting), which must succeed.
pub fn run(line: &str) -> String {
    let output = output(line);
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command line, however it ends.
pub fn output(line: &str) -> Output {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    Command::new(program)
        .args(words)
        .output()
        .expect("command starts")
}

/// Starts a command line in a namespace.
pub fn start(ns: &str, line: &str) -> Child {
    Command::new("nsenter")
        .arg(format!("--net=/run/netns/{ns}"))
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("command starts")
}

/// Runs a command line in a namespace.
pub fn inside(ns: &str, line: &str) -> Output {
    output(&format!("nsenter --net=/run/netns/{ns} {line}"))
}

fn sysctl(ns: &str, setting: &str) {
    let output = inside(ns, &format!("sysctl -q -w {setting}"));
    assert!(output.status.success(), "sysctl {setting}");
}

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).exists())
    })
}
