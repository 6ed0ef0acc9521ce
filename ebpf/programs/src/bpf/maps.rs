//! The maps of the object, with the shapes, names and default sizes of `abi`, and per family the way to
//! find the right one.

use abi::event::{COUNTERS, Count, TAILS};
use abi::*;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key as LpmKey;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use programs::Scratch;

/// `polx` without the length of its prefix.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PolxData {
    pub set_id: u32,
    pub class: u32,
    pub direction: u8,
    pub proto: u8,
    pub port: Port,
}

#[map(name = "cfg")]
pub static CFG: Array<Cfg> = Array::with_max_entries(1, 0);
#[map(name = "metrics")]
pub static METRICS: PerCpuArray<Count> = PerCpuArray::with_max_entries(COUNTERS, 0);
#[map(name = "events")]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(limits::EVENT_BYTES, 0);
#[map(name = "tail")]
pub static TAIL: ProgramArray = ProgramArray::with_max_entries(TAILS, 0);
#[map(name = "ep")]
pub static EP: HashMap<u32, Endpoint> =
    HashMap::with_max_entries(limits::ENDPOINTS, BPF_F_NO_PREALLOC);
#[map(name = "ep_mac")]
pub static EP_MAC: Array<Mac> = Array::with_max_entries(limits::ENDPOINTS, 0);
#[map(name = "epoch")]
pub static EPOCH: Array<u32> = Array::with_max_entries(limits::ENDPOINTS, 0);
#[map(name = "svc")]
pub static SVC: HashMap<u32, Service> =
    HashMap::with_max_entries(limits::SERVICES, BPF_F_NO_PREALLOC);
#[map(name = "slot")]
pub static SLOT: HashMap<SlotKey, u32> =
    HashMap::with_max_entries(limits::BACKENDS, BPF_F_NO_PREALLOC);
#[map(name = "live")]
pub static LIVE: Array<u32> = Array::with_max_entries(limits::INCARNATIONS, 0);
#[map(name = "pol")]
pub static POL: HashMap<PolKey, PolValue> =
    HashMap::with_max_entries(limits::POLICY_ROWS, BPF_F_NO_PREALLOC);
#[map(name = "polx")]
pub static POLX: LpmTrie<PolxData, u32> = LpmTrie::with_max_entries(limits::POLICY_OVERFLOW, 0);
#[map(name = "node")]
pub static NODE: Array<Node> = Array::with_max_entries(limits::NODES, 0);

/// The maps of one address family.
pub trait FamilyMaps: Addr {
    fn ip() -> &'static HashMap<Self, LocalAddr>;
    fn fe() -> &'static HashMap<FeKey<Self>, FeValue>;
    fn be() -> &'static HashMap<BeKey, BeValue<Self>>;
    fn net() -> &'static LpmTrie<Self, NetValue>;
    fn peer() -> &'static HashMap<Self, u32>;
    fn ct_tcp() -> &'static LruHashMap<CtKey<Self>, CtValue<Self>>;
    fn ct_any() -> &'static LruHashMap<CtKey<Self>, CtValue<Self>>;
    fn scratch() -> &'static PerCpuArray<Scratch<Self>>;
    fn rev() -> &'static LruHashMap<FeKey<Self>, RevValue<Self>>;
    fn sock() -> &'static LruHashMap<SockKey<Self>, SockValue<Self>>;
    fn aff() -> &'static LruHashMap<AffKey<Self>, AffValue>;
    fn frag() -> &'static LruHashMap<FragKey<Self>, FragValue>;
}

/// Key of a `net` lookup.
#[inline(always)]
pub fn host_prefix<A: Addr>(addr: &A) -> LpmKey<A> {
    LpmKey::new(A::BITS, *addr)
}

macro_rules! family {
    ($module:ident, $addr:ty, $ip:literal, $fe:literal, $be:literal, $net:literal, $peer:literal,
     $tcp:literal, $any:literal, $sock:literal, $aff:literal, $frag:literal,
     $scratch:literal, $rev:literal, $tcp_size:expr, $any_size:expr) => {
        mod $module {
            use super::*;

            #[map(name = $ip)]
            static IP: HashMap<$addr, LocalAddr> =
                HashMap::with_max_entries(limits::LOCAL_ADDRS, BPF_F_NO_PREALLOC);
            #[map(name = $fe)]
            static FE: HashMap<FeKey<$addr>, FeValue> =
                HashMap::with_max_entries(limits::FRONTENDS, BPF_F_NO_PREALLOC);
            #[map(name = $be)]
            static BE: HashMap<BeKey, BeValue<$addr>> =
                HashMap::with_max_entries(limits::BACKENDS, BPF_F_NO_PREALLOC);
            #[map(name = $net)]
            static NET: LpmTrie<$addr, NetValue> = LpmTrie::with_max_entries(limits::NETS, 0);
            #[map(name = $peer)]
            static PEER: HashMap<$addr, u32> =
                HashMap::with_max_entries(limits::PEERS, BPF_F_NO_PREALLOC);
            #[map(name = $tcp)]
            static CT_TCP: LruHashMap<CtKey<$addr>, CtValue<$addr>> =
                LruHashMap::with_max_entries($tcp_size, 0);
            #[map(name = $any)]
            static CT_ANY: LruHashMap<CtKey<$addr>, CtValue<$addr>> =
                LruHashMap::with_max_entries($any_size, 0);
            #[map(name = $rev)]
            static REV: LruHashMap<FeKey<$addr>, RevValue<$addr>> =
                LruHashMap::with_max_entries(limits::REVERSED, 0);
            #[map(name = $sock)]
            static SOCK: LruHashMap<SockKey<$addr>, SockValue<$addr>> =
                LruHashMap::with_max_entries(limits::SOCKETS, 0);
            #[map(name = $aff)]
            static AFF: LruHashMap<AffKey<$addr>, AffValue> =
                LruHashMap::with_max_entries(limits::AFFINITY, 0);

            #[map(name = $frag)]
            static FRAG: LruHashMap<FragKey<$addr>, FragValue> =
                LruHashMap::with_max_entries(limits::FRAGMENTS, 0);

            #[map(name = $scratch)]
            static SCRATCH: PerCpuArray<Scratch<$addr>> = PerCpuArray::with_max_entries(1, 0);

            impl FamilyMaps for $addr {
                #[inline(always)]
                fn scratch() -> &'static PerCpuArray<Scratch<Self>> {
                    &SCRATCH
                }
                #[inline(always)]
                fn ip() -> &'static HashMap<Self, LocalAddr> {
                    &IP
                }
                #[inline(always)]
                fn fe() -> &'static HashMap<FeKey<Self>, FeValue> {
                    &FE
                }
                #[inline(always)]
                fn be() -> &'static HashMap<BeKey, BeValue<Self>> {
                    &BE
                }
                #[inline(always)]
                fn net() -> &'static LpmTrie<Self, NetValue> {
                    &NET
                }
                #[inline(always)]
                fn peer() -> &'static HashMap<Self, u32> {
                    &PEER
                }
                #[inline(always)]
                fn ct_tcp() -> &'static LruHashMap<CtKey<Self>, CtValue<Self>> {
                    &CT_TCP
                }
                #[inline(always)]
                fn ct_any() -> &'static LruHashMap<CtKey<Self>, CtValue<Self>> {
                    &CT_ANY
                }
                #[inline(always)]
                fn rev() -> &'static LruHashMap<FeKey<Self>, RevValue<Self>> {
                    &REV
                }
                #[inline(always)]
                fn sock() -> &'static LruHashMap<SockKey<Self>, SockValue<Self>> {
                    &SOCK
                }
                #[inline(always)]
                fn aff() -> &'static LruHashMap<AffKey<Self>, AffValue> {
                    &AFF
                }
                #[inline(always)]
                fn frag() -> &'static LruHashMap<FragKey<Self>, FragValue> {
                    &FRAG
                }
            }
        }
    };
}

family!(
    v4,
    V4,
    "ip4",
    "fe4",
    "be4",
    "net4",
    "peer4",
    "ct4_tcp",
    "ct4_any",
    "sock4",
    "aff4",
    "frag4",
    "scratch4",
    "rev4",
    limits::CT4_TCP,
    limits::CT4_ANY
);
family!(
    v6,
    V6,
    "ip6",
    "fe6",
    "be6",
    "net6",
    "peer6",
    "ct6_tcp",
    "ct6_any",
    "sock6",
    "aff6",
    "frag6",
    "scratch6",
    "rev6",
    limits::CT6_TCP,
    limits::CT6_ANY
);
