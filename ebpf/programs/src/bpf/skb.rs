//! A socket buffer of the kernel as the [`Kernel`] of the packet logic, and the end of every tc program.

use core::marker::PhantomData;

use abi::event::{Count, Tail, counter};
use abi::*;
use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST, BPF_RB_NO_WAKEUP, bpf_redir_neigh};
use aya_ebpf::helpers::generated as helper;
use programs::hooks;
use programs::packet::{self, Family, Packet};
use programs::{Kernel, Next, Report, Scratch, Step, Then};

use super::maps::{self, FamilyMaps, PolxData};

const TC_ACT_OK: i32 = 0;
const TC_ACT_SHOT: i32 = 2;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// A packet of family `A` in the kernel.
pub struct Skb<A> {
    skb: *mut __sk_buff,
    family: PhantomData<A>,
}

impl<A> Skb<A> {
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self {
            skb,
            family: PhantomData,
        }
    }
}

/// EtherType of a packet, in network byte order.
#[inline(always)]
pub fn protocol(skb: *mut __sk_buff) -> u16 {
    // SAFETY: the kernel passes a valid context.
    unsafe { (*skb).protocol as u16 }
}

/// What a tc program does with a packet that is neither IPv4 nor IPv6.
#[inline(always)]
pub fn other(skb: *mut __sk_buff, hook: Hook, stranger: Outcome) -> i32 {
    let outcome = if protocol(skb) == packet::ETH_ARP {
        Outcome::Neighbour
    } else {
        stranger
    };
    finish(skb, hook, outcome)
}

/// Goes on in another program; drops if it is not there.
#[inline(always)]
pub fn tail(skb: *mut __sk_buff, hook: Hook, tail: Tail) -> i32 {
    tail_or(skb, hook, tail, Outcome::Internal)
}

/// Goes on in a hook's program of IPv6. Where the cluster has none it is not loaded: pods have no such
/// packets to send or to get, and those of an uplink are the host's.
#[inline(always)]
pub fn ipv6(skb: *mut __sk_buff, hook: Hook, tail: Tail) -> i32 {
    let absent = match hook {
        Hook::UplinkIn | Hook::UplinkOut => Outcome::NotOurs,
        Hook::PodOut | Hook::PodIn | Hook::Overlay | Hook::Socket => Outcome::OtherFamily,
    };
    tail_or(skb, hook, tail, absent)
}

#[inline(always)]
fn tail_or(skb: *mut __sk_buff, hook: Hook, tail: Tail, absent: Outcome) -> i32 {
    let ctx = aya_ebpf::programs::TcContext::new(skb);
    // SAFETY: the program array outlives the call; nothing needs to be dropped here.
    unsafe { maps::TAIL.tail_call(&ctx, tail as u32) };
    finish(skb, hook, absent)
}

#[inline(always)]
fn finish(skb: *mut __sk_buff, hook: Hook, outcome: Outcome) -> i32 {
    Skb::<V4>::new(skb).count(hook, outcome);
    if outcome.is_drop() {
        TC_ACT_SHOT
    } else {
        TC_ACT_OK
    }
}

/// The slow half of a hook.
#[inline(always)]
pub fn slow_4(hook: Hook) -> Tail {
    match hook {
        Hook::PodOut => Tail::PodOutNew4,
        Hook::PodIn => Tail::PodInNew4,
        Hook::UplinkOut => Tail::UplinkOutNew4,
        Hook::UplinkIn | Hook::Overlay | Hook::Socket => Tail::UplinkInNew4,
    }
}

/// The slow half of a hook.
#[inline(always)]
pub fn slow_6(hook: Hook) -> Tail {
    match hook {
        Hook::PodOut => Tail::PodOutNew6,
        Hook::PodIn => Tail::PodInNew6,
        Hook::UplinkOut => Tail::UplinkOutNew6,
        Hook::UplinkIn | Hook::Overlay | Hook::Socket => Tail::UplinkInNew6,
    }
}

impl<A: Family + FamilyMaps> Skb<A> {
    /// Ends the program as the logic decided.
    #[inline(always)]
    pub fn end(mut self, hook: Hook, next: Next<A>, slow: Tail) -> i32 {
        let v4 = A::FAMILY == FAMILY_V4;
        let skb = self.skb;
        let then = |four, six| tail(skb, hook, if v4 { four } else { six });
        match next.then {
            Then::Pass => TC_ACT_OK,
            Then::Drop => TC_ACT_SHOT,
            // SAFETY: the helper checks the interface.
            Then::Peer => unsafe { helper::bpf_redirect_peer(next.ifindex, 0) as i32 },
            Then::Neighbour => {
                self.set_mark(MARK_REDIRECTED);
                self.neighbour(next.ifindex, next.next_hop)
            }
            Then::Slow => tail(self.skb, hook, slow),
            Then::Part => then(Tail::Part4, Tail::Part6),
            Then::Reject => then(Tail::Reject4, Tail::Reject6),
            Then::Begin => then(Tail::Begin4, Tail::Begin6),
            Then::Resume => then(Tail::Resume4, Tail::Resume6),
            Then::Judge => then(Tail::Judge4, Tail::Judge6),
            Then::Probe => then(Tail::Probe4, Tail::Probe6),
        }
    }

    /// Sends an answer out of the interface the packet came in by, or drops it.
    #[inline(always)]
    pub fn send_back(mut self, answered: bool) -> i32 {
        if !answered {
            return TC_ACT_SHOT;
        }
        self.set_mark(MARK_REDIRECTED);
        // SAFETY: the helper checks the interface.
        unsafe { helper::bpf_redirect(Kernel::<A>::ifindex(&self), 0) as i32 }
    }

    #[inline(always)]
    fn neighbour(&self, ifindex: u32, next_hop: A) -> i32 {
        if next_hop == A::UNSPECIFIED {
            // SAFETY: no parameters are passed.
            return unsafe {
                helper::bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32
            };
        }
        // SAFETY: all zeroes is a valid value of this plain struct.
        let mut params: bpf_redir_neigh = unsafe { core::mem::zeroed() };
        let words = next_hop.to_v6().0;
        if A::FAMILY == FAMILY_V4 {
            params.nh_family = AF_INET;
            params.__bindgen_anon_1.ipv4_nh = words[3];
        } else {
            params.nh_family = AF_INET6;
            params.__bindgen_anon_1.ipv6_nh = words;
        }
        // SAFETY: the parameters live on the stack during the call and have the size given.
        unsafe {
            helper::bpf_redirect_neigh(ifindex, &mut params, size_of::<bpf_redir_neigh>() as i32, 0)
                as i32
        }
    }

    /// Counts a socket call.
    #[inline(always)]
    pub fn tally(&mut self, outcome: Outcome) {
        add(counter(Hook::Socket, outcome), 0);
    }

    #[inline(always)]
    fn ct(key: &CtKey<A>) -> &'static aya_ebpf::maps::LruHashMap<CtKey<A>, CtValue<A>> {
        if key.proto == PROTO_TCP {
            A::ct_tcp()
        } else {
            A::ct_any()
        }
    }
}

#[inline(always)]
fn add(index: u32, more: u64) {
    let Some(at) = maps::METRICS.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: per-CPU memory, not preempted by another program of the same CPU's softirq.
    unsafe {
        let Count { packets, bytes } = &mut *at;
        *packets += 1;
        *bytes += more;
    }
}

/// What a round of `bpf_loop` gets.
struct Round<'a, K, S> {
    kernel: &'a mut K,
    step: &'a mut S,
}

extern "C" fn round<K, S: Step<K>>(i: u32, at: *mut Round<'_, K, S>) -> i64 {
    // SAFETY: the helper passes on the pointer `repeat` gave it, during that call.
    let Round { kernel, step } = unsafe { &mut *at };
    i64::from(step.step(kernel, i))
}

/// A found entry: where it lies in the map.
#[derive(Clone, Copy)]
pub struct Entry<A: Addr>(*mut CtValue<A>);

impl<A: Family + FamilyMaps> Kernel<A> for Skb<A> {
    type Entry = Entry<A>;

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: valid context.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: valid context.
        unsafe { (*self.skb).ingress_ifindex }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: valid context.
        unsafe { (*self.skb).mark }
    }

    #[inline(always)]
    fn set_mark(&mut self, mark: u32) {
        // SAFETY: valid context.
        unsafe { (*self.skb).mark = mark }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: valid context.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn load<T: bytemuck::Pod>(&self, offset: u32) -> Option<T> {
        // SAFETY: the verifier proves the access to lie between data and data_end; `T` is plain data, and
        // BPF loads need no alignment where the verifier does not ask for it.
        unsafe {
            let at = (*self.skb).data as usize + offset as usize;
            if at + size_of::<T>() <= (*self.skb).data_end as usize {
                return Some(core::ptr::read(at as *const T));
            }
        }
        // The headers may lie outside of the linear part.
        self.load_at(offset)
    }

    #[inline(always)]
    fn load_at<T: bytemuck::Pod>(&self, offset: u32) -> Option<T> {
        let mut value = T::zeroed();
        let to = core::ptr::from_mut(&mut value).cast();
        // SAFETY: `to` points to as many writable bytes as are asked for.
        let ret = unsafe {
            helper::bpf_skb_load_bytes(self.skb.cast(), offset, to, size_of::<T>() as u32)
        };
        (ret == 0).then_some(value)
    }

    #[inline(always)]
    fn store<T: bytemuck::Pod>(&mut self, offset: u32, value: &T) -> bool {
        let from = core::ptr::from_ref(value).cast();
        // SAFETY: `from` points to as many readable bytes as are written.
        let ret = unsafe {
            helper::bpf_skb_store_bytes(self.skb.cast(), offset, from, size_of::<T>() as u32, 0)
        };
        ret == 0
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> bool {
        // SAFETY: valid context.
        unsafe { helper::bpf_skb_change_tail(self.skb, len, 0) == 0 }
    }

    #[inline(always)]
    fn l3_csum(&mut self, offset: u32, from: u32, to: u32, size: u32) -> bool {
        // SAFETY: valid context; the helper checks the offset.
        let ret = unsafe {
            helper::bpf_l3_csum_replace(
                self.skb.cast(),
                offset,
                from as u64,
                to as u64,
                size as u64,
            )
        };
        ret == 0
    }

    #[inline(always)]
    fn l4_csum(&mut self, offset: u32, from: u64, to: u64, flags: u64) -> bool {
        // SAFETY: valid context; the helper checks the offset.
        let ret = unsafe { helper::bpf_l4_csum_replace(self.skb.cast(), offset, from, to, flags) };
        ret == 0
    }

    #[inline(always)]
    fn host_socket(&self, packet: &Packet<A>) -> bool {
        const CURRENT_NETNS: u64 = -1_i64 as u64;
        #[repr(C)]
        struct Tuple<A> {
            src: A,
            dst: A,
            src_port: Port,
            dst_port: Port,
        }
        let key = &packet.key;
        let mut tuple = Tuple {
            src: key.src,
            dst: key.dst,
            src_port: key.src_port,
            dst_port: key.dst_port,
        };
        // SAFETY: the tuple has the layout of `struct bpf_sock_tuple` for its family; a socket that is
        // returned is released.
        unsafe {
            let sock = helper::bpf_skc_lookup_tcp(
                self.skb.cast(),
                core::ptr::from_mut(&mut tuple).cast(),
                size_of::<Tuple<A>>() as u32,
                CURRENT_NETNS,
                0,
            );
            if sock.is_null() {
                return false;
            }
            helper::bpf_sk_release(sock.cast());
        }
        true
    }

    #[inline(always)]
    fn jiffies(&self) -> u64 {
        // SAFETY: the helper takes no argument.
        unsafe { helper::bpf_jiffies64() }
    }

    #[inline(always)]
    fn repeat<S: Step<Self>>(&mut self, n: u32, step: &mut S) {
        let mut rounds = Round { kernel: self, step };
        let callback = round::<Self, S> as *mut core::ffi::c_void;
        // SAFETY: the callback has the signature the helper calls, and its argument lives on the stack
        // during the call. Linux 5.17.
        unsafe {
            helper::bpf_loop(n, callback, core::ptr::from_mut(&mut rounds).cast(), 0);
        }
    }

    #[inline(always)]
    fn scratch(&mut self) -> Option<&'static mut Scratch<A>> {
        // SAFETY: per-CPU memory; programs at our hooks run to their end on one CPU, one at a time.
        A::scratch().get_ptr_mut(0).map(|at| unsafe { &mut *at })
    }

    #[inline(always)]
    fn cfg(&self) -> Option<&'static Cfg> {
        maps::CFG.get(0)
    }

    #[inline(always)]
    fn local(&self, addr: &A) -> Option<LocalAddr> {
        // SAFETY: copied out at once; one word.
        unsafe { A::ip().get(addr).copied() }
    }

    #[inline(always)]
    fn endpoint(&self, ep_ix: u32) -> Option<Endpoint> {
        // SAFETY: copied out at once; the map does not reuse elements (NO_PREALLOC).
        unsafe { maps::EP.get(ep_ix).copied() }
    }

    #[inline(always)]
    fn mac(&self, ep_ix: u32) -> Option<Mac> {
        maps::EP_MAC.get(ep_ix).copied()
    }

    #[inline(always)]
    fn epoch(&self, ep_ix: u32) -> u32 {
        maps::EPOCH.get(ep_ix).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn frontend(&self, key: &FeKey<A>) -> Option<FeValue> {
        // SAFETY: as for `endpoint`.
        unsafe { A::fe().get(key).copied() }
    }

    #[inline(always)]
    fn service(&self, svc_id: u32) -> Option<Service> {
        // SAFETY: as for `endpoint`.
        unsafe { maps::SVC.get(svc_id).copied() }
    }

    #[inline(always)]
    fn backend(&self, key: &BeKey) -> Option<BeValue<A>> {
        // SAFETY: as for `endpoint`.
        unsafe { A::be().get(key).copied() }
    }

    #[inline(always)]
    fn live(&self, be_ix: u32) -> u32 {
        maps::LIVE.get(be_ix).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<u32> {
        // SAFETY: copied out at once.
        unsafe { maps::SLOT.get(key).copied() }
    }

    #[inline(always)]
    fn affinity(&self, key: &AffKey<A>) -> Option<AffValue> {
        // SAFETY: copied out at once.
        unsafe { A::aff().get(key).copied() }
    }

    #[inline(always)]
    fn note_affinity(&self, key: &AffKey<A>, value: &AffValue) {
        // A full LRU evicts; who is forgotten is balanced anew.
        let _ = A::aff().insert(key, value, 0);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragKey<A>) -> Option<FragValue> {
        // SAFETY: copied out at once.
        unsafe { A::frag().get(key).copied() }
    }

    #[inline(always)]
    fn note_fragment(&self, key: &FragKey<A>, value: &FragValue) {
        // A full LRU evicts; the rest of a forgotten datagram is dropped, and counted.
        let _ = A::frag().insert(key, value, 0);
    }

    #[inline(always)]
    fn reversed(&self, backend: &FeKey<A>) -> Option<RevValue<A>> {
        // SAFETY: copied out at once.
        unsafe { A::rev().get(backend).copied() }
    }

    #[inline(always)]
    fn note_reversed(&mut self, backend: &FeKey<A>, value: &RevValue<A>) {
        // A full LRU evicts; losing an entry costs a guess.
        let _ = A::rev().insert(backend, value, 0);
    }

    #[inline(always)]
    fn net(&self, addr: &A) -> Option<NetValue> {
        A::net().get(maps::host_prefix(addr)).copied()
    }

    #[inline(always)]
    fn peer(&self, addr: &A) -> Option<u32> {
        // SAFETY: as for `endpoint`.
        unsafe { A::peer().get(addr).copied() }
    }

    #[inline(always)]
    fn policy(&self, key: &PolKey) -> Option<PolValue> {
        // SAFETY: as for `endpoint`.
        unsafe { maps::POL.get(key).copied() }
    }

    #[inline(always)]
    fn policy_overflow(&self, key: &PolxKey) -> bool {
        let data = PolxData {
            set_id: key.set_id,
            class: key.class,
            direction: key.direction,
            proto: key.proto,
            port: key.port,
        };
        maps::POLX
            .get(aya_ebpf::maps::lpm_trie::Key::new(key.prefix_len, data))
            .is_some()
    }

    #[inline(always)]
    fn node(&self, node: u32) -> Option<Node> {
        maps::NODE.get(node).copied()
    }

    #[inline(always)]
    fn ct_find(&self, key: &CtKey<A>) -> Option<Entry<A>> {
        Self::ct(key).get_ptr_mut(key).map(Entry)
    }

    #[inline(always)]
    fn ct_read(&self, entry: Entry<A>) -> CtValue<A> {
        // SAFETY: map memory stays mapped for the whole program; an element that is evicted meanwhile is
        // replaced by another value of the same type.
        unsafe { *entry.0 }
    }

    #[inline(always)]
    fn ct_note(&mut self, entry: Entry<A>, seen: u32, flags: u16, state: u8) {
        // SAFETY: as for `ct_read`; each field is one word.
        unsafe {
            (*entry.0).seen = seen;
            (*entry.0).flags = flags;
            (*entry.0).state = state;
        }
    }

    #[inline(always)]
    fn ct_judged(&mut self, entry: Entry<A>, epochs: u32) {
        // SAFETY: as for `ct_read`; one word.
        unsafe { (*entry.0).epochs = epochs }
    }

    #[inline(always)]
    fn ct_reuse(&mut self, entry: Entry<A>, value: &CtValue<A>) {
        // SAFETY: as for `ct_read`. The old value belongs to an ended flow of the same tuple.
        unsafe { *entry.0 = *value }
    }

    #[inline(always)]
    fn ct_create(&mut self, key: &CtKey<A>, value: &CtValue<A>) -> bool {
        const EXISTS: i32 = -17;
        match Self::ct(key).insert(key, value, BPF_NOEXIST as u64) {
            Ok(()) => true,
            Err(EXISTS) => false,
            // For a moment no element could be freed.
            Err(_) => Self::ct(key).insert(key, value, BPF_NOEXIST as u64).is_ok(),
        }
    }

    #[inline(always)]
    fn ct_delete(&mut self, key: &CtKey<A>) {
        // Already gone is as good.
        let _ = Self::ct(key).remove(key);
    }

    #[inline(always)]
    fn count(&mut self, hook: Hook, outcome: Outcome) {
        add(counter(hook, outcome), Kernel::<A>::len(self) as u64);
    }

    #[inline(always)]
    fn event(&mut self, hook: Hook, outcome: Outcome, packet: &Packet<A>, report: &Report<A>) {
        let Some(mut record) = maps::EVENTS.reserve::<Event>(0) else {
            return;
        };
        let event = record.write(hooks::describe(hook, outcome, packet, report));
        // SAFETY: the helper takes no argument.
        event.time = unsafe { helper::bpf_ktime_get_ns() };
        event.ifindex = Kernel::<A>::ifindex(self);
        event.len = Kernel::<A>::len(self);
        record.submit(BPF_RB_NO_WAKEUP as u64);
    }
}
