//! The rows every packet test starts from, for either family: two pods, this node, another node and the
//! outside; and short ways to change them and to send packets.

use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::*;
use agent::net::maps::*;
use programs::packet::Family;
use programs::reject::Answer;

use crate::machine::{Arrival, Machine, Way};
use crate::packet::Packet;

/// Interfaces; where the kernel runs the programs they exist.
pub const POD2_IF: u32 = 12;
pub const POD3_IF: u32 = 13;
pub const OUT_IF: u32 = 20;

/// Addresses of a family.
pub trait Sample: Answer {
    const POD2: Self;
    const POD3: Self;
    const UNUSED_POD: Self;
    const VIP: Self;
    const UNUSED_VIP: Self;
    const NODE: Self;
    const OTHER_NODE: Self;
    const REMOTE: Self;
    const OUTSIDE: Self;
    const MULTICAST: Self;
    /// Bits of the pod range of a node, and of the service range.
    const RANGES: (u32, u32);
    fn ip(self) -> IpAddr;
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> V4 {
    V4(u32::from_ne_bytes([a, b, c, d]))
}

const fn v6(high: u32, low: u32) -> V6 {
    V6([high.to_be(), 0, 0, low.to_be()])
}

impl Sample for V4 {
    const POD2: Self = v4(10, 244, 1, 2);
    const POD3: Self = v4(10, 244, 1, 3);
    const UNUSED_POD: Self = v4(10, 244, 1, 99);
    const VIP: Self = v4(10, 96, 0, 10);
    const UNUSED_VIP: Self = v4(10, 96, 0, 99);
    const NODE: Self = v4(192, 168, 77, 1);
    const OTHER_NODE: Self = v4(192, 168, 77, 2);
    const REMOTE: Self = v4(10, 244, 2, 9);
    const OUTSIDE: Self = v4(203, 0, 113, 5);
    const MULTICAST: Self = v4(224, 0, 0, 251);
    const RANGES: (u32, u32) = (24, 16);

    fn ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
}

impl Sample for V6 {
    const POD2: Self = v6(0xfd00_0001, 2);
    const POD3: Self = v6(0xfd00_0001, 3);
    const UNUSED_POD: Self = v6(0xfd00_0001, 99);
    const VIP: Self = v6(0xfd00_9600, 10);
    const UNUSED_VIP: Self = v6(0xfd00_9600, 99);
    const NODE: Self = v6(0xfd77_0000, 1);
    const OTHER_NODE: Self = v6(0xfd77_0000, 2);
    const REMOTE: Self = v6(0xfd00_0002, 9);
    const OUTSIDE: Self = v6(0x2001_0db8, 5);
    const MULTICAST: Self = v6(0xff02_0000, 0xfb);
    const RANGES: (u32, u32) = (64, 64);

    fn ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
}

/// A machine with the rows of one family.
pub struct World<A> {
    pub machine: Machine,
    family: PhantomData<A>,
}

impl<A: Sample> World<A> {
    pub fn new(machine: Machine) -> Self {
        let mut world = Self {
            machine,
            family: PhantomData,
        };
        let cfg = Cfg {
            secret: 0x0123_4567_89ab_cdef,
            netns_cookie: 1,
            flags: 0,
            tick_mult: world.machine.tick_mult(),
            node_ip4: V4::NODE,
            node_ip6: V6::NODE,
            uplink: OUT_IF,
            node_ix: 1,
            snat_lo: SNAT_LO,
            snat_hi: SNAT_HI,
            node_port_lo: 30_000,
            node_port_hi: 32_767,
            reserved: [0; 9],
        };
        let maps = world.machine.maps();
        maps.put::<CfgTable>(&0, &cfg).expect("cfg");
        maps.put::<IpTable<A>>(&A::NODE, &LocalAddr::HOST)
            .expect("ip");
        for (ep_ix, addr) in [(2, A::POD2), (3, A::POD3)] {
            let mac = Mac::new([10, 0x57, 0x4d, 0, 0, ep_ix as u8]);
            maps.put::<EpMacTable>(&ep_ix, &mac).expect("mac");
            maps.put::<IpTable<A>>(&addr, &LocalAddr::pod(ep_ix))
                .expect("ip");
        }
        let node = Node {
            ifindex: OUT_IF,
            flags: 0,
            next_hop4: V4::OTHER_NODE,
            addr4: V4::OTHER_NODE,
            next_hop6: V6::OTHER_NODE,
            addr6: V6::OTHER_NODE,
            reserved: [0; 4],
        };
        maps.put::<NodeTable>(&2, &node).expect("node");
        let (pods, services) = A::RANGES;
        world.net(A::POD2, pods, NetKind::Pods, 1);
        world.net(A::REMOTE, pods, NetKind::Pods, 2);
        world.net(A::VIP, services, NetKind::Services, 0);
        world.endpoint(2, POD2_IF, 0, 0, EP_READY);
        world.endpoint(3, POD3_IF, 0, 0, EP_READY);
        world
    }

    fn net(&mut self, addr: A, prefix_len: u32, kind: NetKind, node: u16) {
        let mut masked = addr;
        let bytes = bytemuck::bytes_of_mut(&mut masked);
        bytes[prefix_len as usize / 8..].fill(0);
        let value = NetValue {
            class: 0,
            node,
            kind: kind as u8,
            reserved: 0,
        };
        let key = NetKey {
            prefix_len,
            addr: masked,
        };
        self.machine
            .maps()
            .put::<NetTable<A>>(&key, &value)
            .expect("net");
    }

    pub fn endpoint(&mut self, ep_ix: u32, ifindex: u32, set_id: u32, isolation: u8, flags: u8) {
        let endpoint = Endpoint {
            ifindex,
            set_id,
            isolation,
            flags,
            reserved: [0; 6],
        };
        self.machine
            .maps()
            .put::<EpTable>(&ep_ix, &endpoint)
            .expect("ep");
    }

    pub fn configure(&mut self, change: impl FnOnce(&mut Cfg)) {
        let mut cfg = self
            .machine
            .maps()
            .get::<CfgTable>(&0)
            .expect("cfg")
            .expect("cfg");
        change(&mut cfg);
        self.machine.maps().put::<CfgTable>(&0, &cfg).expect("cfg");
    }

    /// A service port on a ClusterIP; backends with their port and `be_ix`. The list is new each time.
    pub fn service(&mut self, id: u32, vip: A, port: u16, proto: u8, backends: &[(A, u16, u32)]) {
        let scope = SCOPE_INTERNAL;
        let key = FeKey {
            addr: vip,
            port: Port::new(port),
            proto,
            scope,
        };
        let marker = FeKey {
            addr: vip,
            port: Port(0),
            proto: 0,
            scope,
        };
        let value = FeValue {
            svc_id: 0,
            flags: FE_MARKER,
            reserved: 0,
        };
        self.machine
            .maps()
            .put::<FeTable<A>>(&marker, &value)
            .expect("fe");
        self.backends(id, backends, 0);
        self.frontend(id, key, 0);
    }

    pub fn node_port(&mut self, id: u32, port: u16, backends: &[(A, u16, u32)]) {
        let (port, proto) = (Port::new(port), PROTO_TCP);
        let key = FeKey {
            addr: A::UNSPECIFIED,
            port,
            proto,
            scope: SCOPE_EXTERNAL,
        };
        self.backends(id, backends, 0);
        self.frontend(id, key, FE_NODE_PORT);
    }

    /// A service port whose backend is this node's own process.
    pub fn host_service(&mut self, id: u32, port: u16, addr: A, target: u16) {
        let (port, proto) = (Port::new(port), PROTO_TCP);
        let key = FeKey {
            addr: A::VIP,
            port,
            proto,
            scope: SCOPE_INTERNAL,
        };
        self.backends(id, &[(addr, target, 9)], BE_HOST);
        self.frontend(id, key, 0);
    }

    fn frontend(&mut self, svc_id: u32, key: FeKey<A>, flags: u16) {
        let value = FeValue {
            svc_id,
            flags,
            reserved: 0,
        };
        self.machine
            .maps()
            .put::<FeTable<A>>(&key, &value)
            .expect("fe");
    }

    fn backends(&mut self, id: u32, backends: &[(A, u16, u32)], flags: u16) {
        let maps = self.machine.maps();
        for (slot, (addr, port, be_ix)) in backends.iter().enumerate() {
            let node = if *addr == A::REMOTE { 2 } else { 1 };
            let value = BeValue {
                addr: *addr,
                port: Port::new(*port),
                node,
                be_ix: *be_ix,
                list: id,
                flags,
                reserved: 0,
            };
            maps.put::<BeTable<A>>(
                &BeKey {
                    list: id,
                    slot: slot as u32,
                },
                &value,
            )
            .expect("be");
            if maps.get::<LiveTable>(be_ix).expect("live").is_none() {
                maps.put::<LiveTable>(be_ix, &1).expect("live");
            }
        }
        let cluster = List {
            list: id,
            n: backends.len() as u32,
        };
        let service = Service {
            cluster,
            local: List::default(),
            affinity: 0,
            algorithm: 0,
            flags: 0,
            reserved: [0; 2],
        };
        maps.put::<SvcTable>(&id, &service).expect("svc");
    }

    /// Session affinity of so many seconds for a service port, its backends where they are now.
    pub fn affinity(&mut self, id: u32, seconds: u32) {
        let maps = self.machine.maps();
        let mut service = maps.get::<SvcTable>(&id).expect("svc").expect("svc");
        (service.affinity, service.flags) = (seconds, SVC_AFFINITY);
        maps.put::<SvcTable>(&id, &service).expect("svc");
        for (key, _) in maps.entries::<SlotTable>().expect("slot") {
            maps.remove::<SlotTable>(&key).expect("slot");
        }
        for slot in 0..service.cluster.n {
            let list = service.cluster.list;
            let backend = maps.get::<BeTable<A>>(&BeKey { list, slot });
            let be_ix = backend.expect("be").expect("be").be_ix;
            let key = SlotKey { list, be_ix };
            maps.put::<SlotTable>(&key, &slot).expect("slot");
        }
    }

    /// Makes every client look unseen for so long.
    pub fn age_clients(&mut self, seconds: u32) {
        let maps = self.machine.maps();
        for (key, mut value) in maps.entries::<AffTable<A>>().expect("aff") {
            value.seen = value.seen.wrapping_sub(seconds);
            maps.put::<AffTable<A>>(&key, &value).expect("aff");
        }
    }

    pub fn live(&mut self, be_ix: u32, incarnation: u32) {
        self.machine
            .maps()
            .put::<LiveTable>(&be_ix, &incarnation)
            .expect("live");
    }

    pub fn epoch(&mut self, ep_ix: u32, epoch: u32) {
        self.machine
            .maps()
            .put::<EpochTable>(&ep_ix, &epoch)
            .expect("epoch");
    }

    pub fn peer(&mut self, addr: A, class: u32) {
        self.machine
            .maps()
            .put::<PeerTable<A>>(&addr, &class)
            .expect("peer");
    }

    pub fn allow(&mut self, set_id: u32, class: u32, direction: u8, proto: u8, lo: u16, hi: u16) {
        let mut row = PolValue {
            n: 1,
            flags: POL_OVERFLOW,
            ..PolValue::ALL
        };
        row.ranges[0] = PortRange {
            proto,
            reserved: 0,
            lo,
            hi,
        };
        let key = PolKey {
            set_id,
            class,
            direction: direction.into(),
        };
        self.machine
            .maps()
            .put::<PolTable>(&key, &row)
            .expect("pol");
    }

    pub fn overflow(&mut self, set_id: u32, class: u32, direction: u8, proto: u8, port: u16) {
        let prefix_len = PolxKey::FIXED_BITS + 16;
        let key = PolxKey {
            prefix_len,
            set_id,
            class,
            direction,
            proto,
            port: Port::new(port),
        };
        self.machine
            .maps()
            .put::<PolxTable>(&key, &1)
            .expect("polx");
    }

    /// Conntrack entries of both protocol maps.
    fn entries(&mut self) -> Vec<(CtKey<A>, CtValue<A>)> {
        let maps = self.machine.maps();
        let mut entries = maps.entries::<CtTcpTable<A>>().expect("ct");
        entries.extend(maps.entries::<CtAnyTable<A>>().expect("ct"));
        entries
    }

    pub fn flows(&mut self) -> usize {
        self.entries().len()
    }

    /// Where the entry of a packet sends it.
    pub fn out_of(&mut self, packet: &Packet) -> Option<u32> {
        let port = Port::new(packet.src_port);
        let entries = self.entries();
        let found = entries
            .iter()
            .find(|(key, _)| key.src.ip() == packet.src && key.src_port == port);
        found.map(|(_, value)| value.out)
    }

    /// Deletes every conntrack entry.
    pub fn forget(&mut self) {
        for (key, _) in self.entries() {
            let maps = self.machine.maps();
            if key.proto == PROTO_TCP {
                maps.remove::<CtTcpTable<A>>(&key).expect("ct");
            } else {
                maps.remove::<CtAnyTable<A>>(&key).expect("ct");
            }
        }
    }

    /// Makes every conntrack entry look unused for so long.
    pub fn age(&mut self, seconds: u32) {
        for (key, mut value) in self.entries() {
            value.seen = value.seen.wrapping_sub(seconds);
            let maps = self.machine.maps();
            if key.proto == PROTO_TCP {
                maps.put::<CtTcpTable<A>>(&key, &value).expect("ct");
            } else {
                maps.put::<CtAnyTable<A>>(&key, &value).expect("ct");
            }
        }
    }

    pub fn count(&self, hook: Hook, outcome: Outcome) -> u64 {
        self.machine.counted(hook, outcome)
    }

    pub fn arrive(&mut self, hook: Hook, ifindex: u32, bytes: &[u8]) -> (Way, Vec<u8>) {
        self.machine.run(&Arrival {
            hook,
            ifindex,
            ingress_ifindex: 0,
            mark: 0,
            bytes,
        })
    }

    pub fn arrive_parsed(&mut self, hook: Hook, ifindex: u32, packet: &Packet) -> (Way, Packet) {
        let (way, out) = self.arrive(hook, ifindex, &packet.bytes());
        (way, Packet::parse(&out))
    }

    pub fn pod2_sends(&mut self, packet: &Packet) -> (Way, Packet) {
        self.arrive_parsed(Hook::PodOut, POD2_IF, packet)
    }

    pub fn pod3_sends(&mut self, packet: &Packet) -> (Way, Packet) {
        self.arrive_parsed(Hook::PodOut, POD3_IF, packet)
    }

    /// A packet to a pod that the host's stack forwards instead of having made it.
    pub fn forwarded(&mut self, packet: &Packet) -> Way {
        let bytes = packet.bytes();
        let arrival = Arrival {
            hook: Hook::PodIn,
            ifindex: POD2_IF,
            ingress_ifindex: 7,
            mark: 0,
            bytes: &bytes,
        };
        self.machine.run(&arrival).0
    }

    /// Average nanoseconds of a packet the program leaves so that it can run again.
    pub fn nanos(&mut self, hook: Hook, ifindex: u32, packet: &Packet) -> u32 {
        let Machine::Kernel(machine) = &mut self.machine else {
            return 0;
        };
        let bytes = packet.bytes();
        let arrival = Arrival {
            hook,
            ifindex,
            ingress_ifindex: 0,
            mark: 0,
            bytes: &bytes,
        };
        machine.run(&arrival, 100_000);
        machine.nanos
    }
}

/// Takes every row out that a case may have left.
pub fn empty(maps: &mut MapSet) {
    empty_family::<V4>(maps);
    empty_family::<V6>(maps);
    empty_table::<EpTable>(maps);
    empty_table::<EpochTable>(maps);
    empty_table::<SvcTable>(maps);
    empty_table::<SlotTable>(maps);
    empty_table::<LiveTable>(maps);
    empty_table::<PolTable>(maps);
    empty_table::<PolxTable>(maps);
}

fn empty_family<A: Family>(maps: &mut MapSet) {
    empty_table::<IpTable<A>>(maps);
    empty_table::<FeTable<A>>(maps);
    empty_table::<BeTable<A>>(maps);
    empty_table::<NetTable<A>>(maps);
    empty_table::<PeerTable<A>>(maps);
    empty_table::<RevTable<A>>(maps);
    empty_table::<AffTable<A>>(maps);
    empty_table::<FragTable<A>>(maps);
    empty_table::<CtTcpTable<A>>(maps);
    empty_table::<CtAnyTable<A>>(maps);
}

fn empty_table<T: Table>(maps: &mut MapSet) {
    for (key, _) in maps.entries::<T>().expect("entries") {
        maps.remove::<T>(&key).expect("removed");
    }
}
