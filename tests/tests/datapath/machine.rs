//! Two machines that run the same packets through the same logic: the kernel (`BPF_PROG_TEST_RUN` of the
//! loaded programs) and memory (the logic compiled for the host). Both keep their rows in a [`MapSet`].

use std::cell::RefCell;
use std::path::PathBuf;

use abi::event::Count;
use abi::*;
use agent::net::load::{Datapath, Families};
use agent::net::maps::*;
use bytemuck::Pod;
use programs::hooks;
use programs::packet::Family;
use programs::{Kernel, Report, Scratch, Step, Then, reject};

/// How a packet left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Pass,
    Drop,
    /// Sent on: to a peer, a neighbour, or back.
    Redirect,
}

/// A packet as it comes in.
#[derive(Clone, Debug)]
pub struct Arrival<'a> {
    pub hook: Hook,
    /// Must exist in the kernel: 1 is the loopback interface.
    pub ifindex: u32,
    pub ingress_ifindex: u32,
    pub mark: u32,
    pub bytes: &'a [u8],
}

/// Either machine.
pub enum Machine {
    Kernel(Box<InKernel>),
    Memory(Box<InMemory>),
}

/// The loaded programs.
pub struct InKernel {
    dir: PathBuf,
    pub datapath: Datapath,
    pub maps: MapSet,
    /// Nanoseconds of the last run.
    pub nanos: u32,
    /// Counters as they were when the case began.
    before: Vec<(Hook, Outcome, Count)>,
}

/// The logic on the host.
pub struct InMemory {
    pub maps: MapSet,
    counts: Vec<(Hook, Outcome)>,
    pub seconds: u64,
}

impl Machine {
    pub fn memory() -> Self {
        Self::Memory(Box::new(InMemory {
            maps: MapSet::memory(),
            counts: Vec::new(),
            seconds: 1000,
        }))
    }

    pub fn kernel(name: &str) -> Self {
        Self::kernel_with(name, Families::Both)
    }

    pub fn kernel_with(name: &str, families: Families) -> Self {
        own_network();
        let dir = std::env::temp_dir().join(format!("wl-bpf-run-{name}"));
        let _ = Datapath::remove_all(&dir);
        let object = super::lab::object();
        let datapath = Datapath::load_object(object, &dir, &super::lab::small(), families)
            .expect("programs load");
        let maps = datapath.maps().expect("maps");
        Self::Kernel(Box::new(InKernel {
            dir,
            datapath,
            maps,
            nanos: 0,
            before: Vec::new(),
        }))
    }

    pub fn maps(&mut self) -> &mut MapSet {
        match self {
            Self::Kernel(machine) => &mut machine.maps,
            Self::Memory(machine) => &mut machine.maps,
        }
    }

    /// Conversion factor for `Cfg`: the machine in memory counts one jiffy per second.
    pub fn tick_mult(&self) -> u32 {
        match self {
            Self::Kernel(machine) => machine.datapath.tick_mult(),
            // 2³² does not fit: half of it, with jiffies counted twice.
            Self::Memory(_) => 1 << 31,
        }
    }

    pub fn seconds(&self) -> u32 {
        match self {
            Self::Kernel(machine) => machine.datapath.seconds().expect("seconds"),
            Self::Memory(machine) => machine.seconds as u32,
        }
    }

    /// Packets counted under an outcome since the case began.
    pub fn counted(&self, hook: Hook, outcome: Outcome) -> u64 {
        match self {
            Self::Kernel(machine) => {
                let now = machine.maps.counts().expect("counts");
                packets(&now, hook, outcome) - packets(&machine.before, hook, outcome)
            }
            Self::Memory(machine) => machine
                .counts
                .iter()
                .filter(|count| **count == (hook, outcome))
                .count() as u64,
        }
    }

    /// Empties the kernel's maps for the next case.
    pub fn clear(&mut self) {
        let Self::Kernel(machine) = self else { return };
        let maps = &mut machine.maps;
        super::world::empty(maps);
        machine.before = maps.counts().expect("counts");
    }

    /// Runs a packet and returns how and as what it left.
    pub fn run(&mut self, arrival: &Arrival<'_>) -> (Way, Vec<u8>) {
        match self {
            Self::Kernel(machine) => machine.run(arrival, 1),
            Self::Memory(machine) => machine.run(arrival),
        }
    }
}

fn packets(counts: &[(Hook, Outcome, Count)], hook: Hook, outcome: Outcome) -> u64 {
    let found = counts
        .iter()
        .find(|(at, what, _)| (*at, *what) == (hook, outcome));
    found.map_or(0, |(_, _, count)| count.packets)
}

impl InKernel {
    pub fn run(&mut self, arrival: &Arrival<'_>, repeat: u32) -> (Way, Vec<u8>) {
        let program = match arrival.hook {
            Hook::PodOut => "pod_out",
            Hook::PodIn => "pod_in",
            Hook::UplinkIn => "uplink_in",
            Hook::UplinkOut => "uplink_out",
            Hook::Overlay | Hook::Socket => panic!("not a tc program"),
        };
        // struct __sk_buff: mark is word 2, ingress_ifindex 9, ifindex 10.
        let mut ctx = [0_u32; 48];
        ctx[2] = arrival.mark;
        ctx[9] = arrival.ingress_ifindex;
        ctx[10] = arrival.ifindex;
        let mut out = vec![0; arrival.bytes.len() + 256];
        let program = self.datapath.program(program).expect("program");
        let ctx = bytemuck::cast_slice_mut(&mut ctx);
        let run = sys::test_run(program, arrival.bytes, &mut out, ctx, repeat).expect("test run");
        out.truncate(run.len);
        self.nanos = run.nanos;
        let way = match run.retval {
            0 => Way::Pass,
            2 => Way::Drop,
            7 => Way::Redirect,
            other => panic!("unexpected verdict {other}"),
        };
        (way, out)
    }
}

impl Drop for InKernel {
    fn drop(&mut self) {
        let _ = Datapath::remove_all(&self.dir);
        let _ = nix::mount::umount2(&self.dir, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.dir);
    }
}

impl InMemory {
    fn run(&mut self, arrival: &Arrival<'_>) -> (Way, Vec<u8>) {
        let is_v4 = arrival.bytes[12..14] == [8, 0];
        if is_v4 {
            self.run_family::<V4>(arrival)
        } else {
            self.run_family::<V6>(arrival)
        }
    }

    fn run_family<A: reject::Answer>(&mut self, arrival: &Arrival<'_>) -> (Way, Vec<u8>) {
        let cfg = self
            .maps
            .get::<CfgTable>(&0)
            .expect("cfg")
            .map(|cfg| &*Box::leak(Box::new(cfg)));
        let jiffies = self.seconds * 2;
        let mut k = Skb {
            bytes: arrival.bytes.to_vec(),
            arrival,
            cfg,
            maps: RefCell::new(&mut self.maps),
            counts: &mut self.counts,
            jiffies,
            mark: arrival.mark,
            room: std::ptr::null_mut(),
        };
        let mut next = match arrival.hook {
            Hook::PodOut => hooks::pod_out::fast::<A, _>(&mut k),
            Hook::PodIn => hooks::pod_in::fast(&mut k),
            Hook::UplinkIn => hooks::uplink_in::fast(&mut k),
            Hook::UplinkOut => hooks::uplink_out::fast(&mut k),
            Hook::Overlay | Hook::Socket => panic!("not a tc program"),
        };
        // As the tail calls go; the kernel ends them after 33.
        for _ in 0..33 {
            next = match next.then {
                Then::Slow => match arrival.hook {
                    Hook::PodOut => hooks::pod_out::slow::<A, _>(&mut k),
                    Hook::PodIn => hooks::pod_in::slow(&mut k),
                    Hook::UplinkIn => hooks::uplink_in::slow(&mut k),
                    Hook::UplinkOut => hooks::uplink_out::slow(&mut k),
                    Hook::Overlay | Hook::Socket => panic!("not a tc program"),
                },
                Then::Begin => hooks::begin::slow(&mut k),
                Then::Resume => hooks::resume::slow(&mut k),
                Then::Judge => hooks::judge::slow(&mut k).1,
                Then::Part => hooks::part::slow(&mut k).1,
                Then::Probe => hooks::probe::slow(&mut k),
                Then::Pass | Then::Drop | Then::Peer | Then::Neighbour | Then::Reject => break,
            };
        }
        let way = match next.then {
            Then::Pass => Way::Pass,
            Then::Drop => Way::Drop,
            Then::Peer | Then::Neighbour => Way::Redirect,
            Then::Reject if reject::answer::<A, _>(&mut k) => Way::Redirect,
            Then::Reject => Way::Drop,
            Then::Slow | Then::Begin | Then::Resume | Then::Judge | Then::Part | Then::Probe => {
                panic!("the slow half must decide")
            }
        };
        (way, k.bytes)
    }
}

/// Gives the calling test's thread a network namespace with the interfaces packets come in by.
fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
    for index in [
        super::world::POD2_IF,
        super::world::POD3_IF,
        super::world::OUT_IF,
    ] {
        let peer = index + 100;
        super::lab::run(&format!(
            "ip link add if{index} index {index} type veth peer name if{peer} index {peer}"
        ));
    }
}

/// A packet in memory.
struct Skb<'a> {
    bytes: Vec<u8>,
    arrival: &'a Arrival<'a>,
    cfg: Option<&'static Cfg>,
    maps: RefCell<&'a mut MapSet>,
    counts: &'a mut Vec<(Hook, Outcome)>,
    jiffies: u64,
    mark: u32,
    room: *mut (),
}

impl Skb<'_> {
    fn row<T: Table>(&self, key: &T::Key) -> Option<T::Value> {
        self.maps.borrow().get::<T>(key).expect("in memory")
    }

    fn note<T: Table>(&self, key: &T::Key, value: &T::Value) {
        self.maps
            .borrow_mut()
            .put::<T>(key, value)
            .expect("in memory");
    }

    fn ct<A: Family>(&self, key: &CtKey<A>) -> Option<CtValue<A>> {
        if key.proto == PROTO_TCP {
            self.row::<CtTcpTable<A>>(key)
        } else {
            self.row::<CtAnyTable<A>>(key)
        }
    }

    fn put<A: Family>(&self, key: &CtKey<A>, value: &CtValue<A>) {
        let mut maps = self.maps.borrow_mut();
        if key.proto == PROTO_TCP {
            maps.put::<CtTcpTable<A>>(key, value).expect("in memory");
        } else {
            maps.put::<CtAnyTable<A>>(key, value).expect("in memory");
        }
    }

    /// `csum_fold(csum_add(~sum, ~from + to))`, on a checksum in memory.
    fn replace(&mut self, offset: u32, from: u64, to: u64) -> bool {
        let at = offset as usize;
        let Some(field) = self.bytes.get_mut(at..at + 2) else {
            return false;
        };
        let old = u16::from_ne_bytes([field[0], field[1]]);
        let halves = |word: u64| (word & 0xffff) + ((word >> 16) & 0xffff);
        let mut sum = u64::from(!old) + halves(!from & 0xffff_ffff) + halves(to);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        field.copy_from_slice(&(!(sum as u16)).to_ne_bytes());
        true
    }
}

impl<A: Family> Kernel<A> for Skb<'_> {
    type Entry = CtKey<A>;

    fn ifindex(&self) -> u32 {
        self.arrival.ifindex
    }

    fn ingress_ifindex(&self) -> u32 {
        self.arrival.ingress_ifindex
    }

    fn mark(&self) -> u32 {
        self.mark
    }

    fn set_mark(&mut self, mark: u32) {
        self.mark = mark;
    }

    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn load<T: Pod>(&self, offset: u32) -> Option<T> {
        let at = offset as usize;
        self.bytes
            .get(at..at + size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
    }

    fn load_at<T: Pod>(&self, offset: u32) -> Option<T> {
        Kernel::<A>::load(self, offset)
    }

    fn store<T: Pod>(&mut self, offset: u32, value: &T) -> bool {
        let at = offset as usize;
        let Some(to) = self.bytes.get_mut(at..at + size_of::<T>()) else {
            return false;
        };
        to.copy_from_slice(bytemuck::bytes_of(value));
        true
    }

    fn resize(&mut self, len: u32) -> bool {
        self.bytes.resize(len as usize, 0);
        true
    }

    fn l3_csum(&mut self, offset: u32, from: u32, to: u32, size: u32) -> bool {
        assert!(size == 2 || size == 4, "as the helper asks");
        self.replace(offset, u64::from(from), u64::from(to))
    }

    fn l4_csum(&mut self, offset: u32, from: u64, to: u64, flags: u64) -> bool {
        const MANGLED_0: u64 = 0x20;
        let at = offset as usize;
        if flags & MANGLED_0 != 0 && self.bytes.get(at..at + 2) == Some(&[0, 0]) {
            return true;
        }
        match flags & 0xf {
            // A ready difference.
            0 => self.replace(offset, 0xffff_ffff, to),
            _ => self.replace(offset, from, to),
        }
    }

    fn host_socket(&self, _packet: &programs::packet::Packet<A>) -> bool {
        false
    }

    fn jiffies(&self) -> u64 {
        self.jiffies
    }

    fn scratch(&mut self) -> Option<&'static mut Scratch<A>> {
        if self.room.is_null() {
            self.room = Box::into_raw(Box::new(Scratch::<A>::empty())).cast();
        }
        // SAFETY: made above for this packet and so for this family, and never freed; like the kernel's
        // per-CPU memory it is used by one program at a time.
        Some(unsafe { &mut *self.room.cast() })
    }

    fn repeat<S: Step<Self>>(&mut self, n: u32, step: &mut S) {
        let _ = (0..n).any(|i| step.step(self, i));
    }

    fn cfg(&self) -> Option<&'static Cfg> {
        self.cfg
    }

    fn local(&self, addr: &A) -> Option<LocalAddr> {
        self.row::<IpTable<A>>(addr)
    }

    fn endpoint(&self, ep_ix: u32) -> Option<Endpoint> {
        self.row::<EpTable>(&ep_ix)
    }

    fn mac(&self, ep_ix: u32) -> Option<Mac> {
        self.row::<EpMacTable>(&ep_ix)
    }

    fn epoch(&self, ep_ix: u32) -> u32 {
        self.row::<EpochTable>(&ep_ix).unwrap_or(0)
    }

    fn frontend(&self, key: &FeKey<A>) -> Option<FeValue> {
        self.row::<FeTable<A>>(key)
    }

    fn service(&self, svc_id: u32) -> Option<Service> {
        self.row::<SvcTable>(&svc_id)
    }

    fn backend(&self, key: &BeKey) -> Option<BeValue<A>> {
        self.row::<BeTable<A>>(key)
    }

    fn live(&self, be_ix: u32) -> u32 {
        self.row::<LiveTable>(&be_ix).unwrap_or(0)
    }

    fn slot(&self, key: &SlotKey) -> Option<u32> {
        self.row::<SlotTable>(key)
    }

    fn affinity(&self, key: &AffKey<A>) -> Option<AffValue> {
        self.row::<AffTable<A>>(key)
    }

    fn note_affinity(&self, key: &AffKey<A>, value: &AffValue) {
        self.note::<AffTable<A>>(key, value);
    }

    fn fragment(&self, key: &FragKey<A>) -> Option<FragValue> {
        self.row::<FragTable<A>>(key)
    }

    fn note_fragment(&self, key: &FragKey<A>, value: &FragValue) {
        self.note::<FragTable<A>>(key, value);
    }

    fn reversed(&self, backend: &FeKey<A>) -> Option<RevValue<A>> {
        self.row::<RevTable<A>>(backend)
    }

    fn note_reversed(&mut self, backend: &FeKey<A>, value: &RevValue<A>) {
        self.note::<RevTable<A>>(backend, value);
    }

    fn net(&self, addr: &A) -> Option<NetValue> {
        (0..=A::BITS).rev().find_map(|prefix_len| {
            self.row::<NetTable<A>>(&NetKey {
                prefix_len,
                addr: masked(addr, prefix_len),
            })
        })
    }

    fn peer(&self, addr: &A) -> Option<u32> {
        self.row::<PeerTable<A>>(addr)
    }

    fn policy(&self, key: &PolKey) -> Option<PolValue> {
        self.row::<PolTable>(key)
    }

    fn policy_overflow(&self, key: &PolxKey) -> bool {
        (0..=16).any(|bits| {
            let mask = u16::MAX.checked_shl(16 - bits).unwrap_or(0);
            let port = Port::new(key.port.get() & mask);
            let prefix_len = PolxKey::FIXED_BITS + bits;
            self.row::<PolxTable>(&PolxKey {
                prefix_len,
                port,
                ..*key
            })
            .is_some()
        })
    }

    fn node(&self, node: u32) -> Option<Node> {
        self.row::<NodeTable>(&node)
    }

    fn ct_find(&self, key: &CtKey<A>) -> Option<CtKey<A>> {
        self.ct(key).map(|_| *key)
    }

    fn ct_read(&self, entry: CtKey<A>) -> CtValue<A> {
        self.ct(&entry).expect("found before")
    }

    fn ct_note(&mut self, entry: CtKey<A>, seen: u32, flags: u16, state: u8) {
        let value = self.ct(&entry).expect("found before");
        self.put(
            &entry,
            &CtValue {
                seen,
                flags,
                state,
                ..value
            },
        );
    }

    fn ct_judged(&mut self, entry: CtKey<A>, epochs: u32) {
        let value = self.ct(&entry).expect("found before");
        self.put(&entry, &CtValue { epochs, ..value });
    }

    fn ct_reuse(&mut self, entry: CtKey<A>, value: &CtValue<A>) {
        self.put(&entry, value);
    }

    fn ct_create(&mut self, key: &CtKey<A>, value: &CtValue<A>) -> bool {
        let free = self.ct(key).is_none();
        if free {
            self.put(key, value);
        }
        free
    }

    fn ct_delete(&mut self, key: &CtKey<A>) {
        let mut maps = self.maps.borrow_mut();
        if key.proto == PROTO_TCP {
            maps.remove::<CtTcpTable<A>>(key).expect("in memory");
        } else {
            maps.remove::<CtAnyTable<A>>(key).expect("in memory");
        }
    }

    fn count(&mut self, hook: Hook, outcome: Outcome) {
        self.counts.push((hook, outcome));
    }

    fn event(
        &mut self,
        _hook: Hook,
        _outcome: Outcome,
        _packet: &programs::packet::Packet<A>,
        _report: &Report<A>,
    ) {
    }
}

fn masked<A: Family>(addr: &A, prefix_len: u32) -> A {
    let mut masked = *addr;
    for (i, byte) in bytemuck::bytes_of_mut(&mut masked).iter_mut().enumerate() {
        let bits = prefix_len.saturating_sub(i as u32 * 8).min(8);
        *byte &= 0xff_u8.checked_shl(8 - bits).unwrap_or(0);
    }
    masked
}
