//! What packet logic needs of its surroundings: bytes of one packet, maps, time. Implemented by the
//! socket buffer of the kernel (`bpf/skb.rs`) and by a machine in memory (the datapath tests). No policy here.

use abi::conntrack::{CtKey, CtValue};
use abi::{
    Addr, AffKey, AffValue, BeKey, BeValue, Cfg, Endpoint, FeKey, FeValue, FragKey, FragValue,
    Hook, LocalAddr, Mac, NetValue, Node, Outcome, PolKey, PolValue, PolxKey, RevValue, Service,
    SlotKey,
};
use bytemuck::Pod;

use crate::hooks::Begin;
use crate::packet::Packet;

/// What becomes of a packet, and where the programs go on with it.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// On to where the kernel would take it (up the stack, out of the device).
    Pass,
    Drop,
    /// Into the network namespace of the peer of the veth `ifindex`.
    Peer,
    /// Out of `ifindex`, to the neighbour `next_hop` or, if unspecified, the route's.
    Neighbour,
    /// Call the hook's slow half.
    Slow,
    /// Call the program for fragments.
    Part,
    /// Call the program that answers with a RST or an ICMP error.
    Reject,
    /// Call the program that judges and begins the flow in the scratch room.
    Begin,
    /// Call the program that resumes a flow from the middle.
    Resume,
    /// Call the program that judges a living flow again.
    Judge,
    /// Call the program that searches a free source port for the flow in the scratch room.
    Probe,
}

/// A decision. A plain struct whose fields are always set: an enum with values inside leaves bytes
/// undefined that the compiler may copy, and verifiers before 6.15 refuse that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next<A> {
    pub then: Then,
    pub ifindex: u32,
    pub next_hop: A,
}

impl<A: Addr> Next<A> {
    /// A decision that needs no more.
    #[inline(always)]
    pub const fn then(then: Then) -> Self {
        Self {
            then,
            ifindex: 0,
            next_hop: A::UNSPECIFIED,
        }
    }
}

/// What an event tells beyond the packet itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<A> {
    pub nat_dst: A,
    pub nat_dst_port: abi::Port,
    pub src_ep: u16,
    pub dst_ep: u16,
}

/// Room for what does not fit the 512 bytes of a BPF stack: the two entries of a new flow.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scratch<A: Addr> {
    /// Entry of the direction the packet came from.
    pub value: CtValue<A>,
    /// Key and entry of the other direction.
    pub back_key: CtKey<A>,
    pub back: CtValue<A>,
    /// Where a new flow goes, for the program that begins it.
    pub begin: Begin<A>,
    /// Hook and outcome of the flow, for the program that goes on with it.
    pub hook: u8,
    pub outcome: u8,
    pub reserved: [u8; 6],
}

impl<A: Addr> Scratch<A> {
    /// Empty, as map memory is in the beginning.
    pub fn empty() -> Self {
        Self {
            value: bytemuck::Zeroable::zeroed(),
            back_key: bytemuck::Zeroable::zeroed(),
            back: bytemuck::Zeroable::zeroed(),
            begin: Begin::empty(),
            hook: 0,
            outcome: 0,
            reserved: [0; 6],
        }
    }
}

/// One round of a bounded search.
pub trait Step<K> {
    /// True: it is over.
    fn step(&mut self, k: &mut K, i: u32) -> bool;
}

/// The machine, as seen by the program handling one packet of family `A`.
#[expect(clippy::len_without_is_empty, reason = "a packet always has a header")]
pub trait Kernel<A: Addr> {
    /// A conntrack entry that was found.
    type Entry: Copy;

    // --- the packet ---

    /// Interface the program runs on.
    fn ifindex(&self) -> u32;
    /// Interface the packet came in by; 0 if it was made on this machine.
    fn ingress_ifindex(&self) -> u32;
    fn mark(&self) -> u32;
    fn set_mark(&mut self, mark: u32);
    /// Bytes of the packet, with its Ethernet header.
    fn len(&self) -> u32;
    /// Reads at a constant offset; `None` beyond the end.
    fn load<T: Pod>(&self, offset: u32) -> Option<T>;
    /// Reads at an offset taken from the packet.
    fn load_at<T: Pod>(&self, offset: u32) -> Option<T>;
    #[must_use]
    fn store<T: Pod>(&mut self, offset: u32, value: &T) -> bool;
    /// Changes the length of the packet (cut or zero-filled at its end).
    #[must_use]
    fn resize(&mut self, len: u32) -> bool;
    /// `bpf_l3_csum_replace`.
    #[must_use]
    fn l3_csum(&mut self, offset: u32, from: u32, to: u32, size: u32) -> bool;
    /// `bpf_l4_csum_replace`.
    #[must_use]
    fn l4_csum(&mut self, offset: u32, from: u64, to: u64, flags: u64) -> bool;
    /// Whether a socket of the node's own namespace takes this TCP packet.
    fn host_socket(&self, packet: &Packet<A>) -> bool;

    // --- time ---

    fn jiffies(&self) -> u64;

    /// Calls `step` up to `n` times, until it is over.
    fn repeat<S: Step<Self>>(&mut self, n: u32, step: &mut S)
    where
        Self: Sized;

    /// Room of this CPU, in use by one program at a time.
    fn scratch(&mut self) -> Option<&'static mut Scratch<A>>;

    // --- maps; values are copied out at once ---

    fn cfg(&self) -> Option<&'static Cfg>;
    fn local(&self, addr: &A) -> Option<LocalAddr>;
    fn endpoint(&self, ep_ix: u32) -> Option<Endpoint>;
    fn mac(&self, ep_ix: u32) -> Option<Mac>;
    fn epoch(&self, ep_ix: u32) -> u32;
    fn frontend(&self, key: &FeKey<A>) -> Option<FeValue>;
    fn service(&self, svc_id: u32) -> Option<Service>;
    fn backend(&self, key: &BeKey) -> Option<BeValue<A>>;
    fn live(&self, be_ix: u32) -> u32;
    /// Where a backend is in a list, of Services with affinity.
    fn slot(&self, key: &SlotKey) -> Option<u32>;
    /// The backend a client had last.
    fn affinity(&self, key: &AffKey<A>) -> Option<AffValue>;
    fn note_affinity(&self, key: &AffKey<A>, value: &AffValue);
    /// Ports of a datagram in fragments.
    fn fragment(&self, key: &FragKey<A>) -> Option<FragValue>;
    fn note_fragment(&self, key: &FragKey<A>, value: &FragValue);
    /// Frontends of a backend.
    fn reversed(&self, backend: &FeKey<A>) -> Option<RevValue<A>>;
    fn note_reversed(&mut self, backend: &FeKey<A>, value: &RevValue<A>);
    fn net(&self, addr: &A) -> Option<NetValue>;
    fn peer(&self, addr: &A) -> Option<u32>;
    fn policy(&self, key: &PolKey) -> Option<PolValue>;
    fn policy_overflow(&self, key: &PolxKey) -> bool;
    fn node(&self, node: u32) -> Option<Node>;

    fn ct_find(&self, key: &CtKey<A>) -> Option<Self::Entry>;
    fn ct_read(&self, entry: Self::Entry) -> CtValue<A>;
    /// Notes a packet: `seen`, `flags` and `state` of an entry, in place.
    fn ct_note(&mut self, entry: Self::Entry, seen: u32, flags: u16, state: u8);
    /// Notes that an entry was judged again.
    fn ct_judged(&mut self, entry: Self::Entry, epochs: u32);
    /// Replaces an entry that is no longer used, in place.
    fn ct_reuse(&mut self, entry: Self::Entry, value: &CtValue<A>);
    /// Creates an entry; false if there is one, or if the map refused it twice.
    #[must_use]
    fn ct_create(&mut self, key: &CtKey<A>, value: &CtValue<A>) -> bool;
    fn ct_delete(&mut self, key: &CtKey<A>);

    // --- telling ---

    /// Counts the packet under its outcome.
    fn count(&mut self, hook: Hook, outcome: Outcome);
    /// Tells a reader about a flow or a drop.
    fn event(&mut self, hook: Hook, outcome: Outcome, packet: &Packet<A>, report: &Report<A>);
}

/// Seconds since boot, as conntrack counts them.
#[inline(always)]
pub fn seconds(jiffies: u64, cfg: &Cfg) -> u32 {
    ((jiffies.wrapping_mul(cfg.tick_mult as u64)) >> 32) as u32
}
