//! The attachment points, one file each; here is what they share: ending a packet, and beginning a flow.

use abi::conntrack::*;
use abi::{Addr, Cfg, CtValue, Deliver, Event, Hook, LocalAddr, Outcome, Port};

use crate::conntrack::Known;
use crate::packet::{self, Family, Packet};
use crate::{Kernel, Next, Report, Then, conntrack, deliver, kernel};

pub mod begin;
pub mod judge;
pub mod part;
pub mod pod_in;
pub mod pod_out;
pub mod probe;
pub mod resume;
pub mod uplink_in;
pub mod uplink_out;

/// A new flow, as far as its hook knows it.
#[derive(Clone, Copy, Debug)]
pub struct Begin<A> {
    /// Destination and source after translation.
    pub dst: A,
    pub dst_port: Port,
    pub src: A,
    pub src_ep: u16,
    pub dst_ep: u16,
    pub out: u32,
    pub iif: u32,
    pub be_ix: u32,
    pub flags: u16,
    /// [`Deliver`].
    pub deliver: u8,
    /// Not to be asked about by policy: traffic with the node itself.
    pub exempt: u8,
}

impl<A: Addr> Begin<A> {
    /// To nowhere.
    pub fn empty() -> Self {
        Self {
            dst: A::UNSPECIFIED,
            dst_port: Port(0),
            src: A::UNSPECIFIED,
            src_ep: 0,
            dst_ep: 0,
            out: 0,
            iif: 0,
            be_ix: 0,
            flags: 0,
            deliver: 0,
            exempt: 0,
        }
    }
}

impl<A: Family> Begin<A> {
    /// Of a packet that came by `iif`, to an address out in the world until more is known.
    #[inline(always)]
    pub fn towards(packet: &Packet<A>, iif: u32, dst: A, dst_port: Port) -> Self {
        Self {
            dst,
            dst_port,
            src: packet.key.src,
            deliver: Deliver::World as u8,
            iif,
            ..Self::empty()
        }
    }
}

/// Ends a packet that an entry or a rule lets through.
#[inline(always)]
pub fn pass<A: Family, K: Kernel<A>>(k: &mut K, hook: Hook, outcome: Outcome) -> Next<A> {
    k.count(hook, outcome);
    Next::then(Then::Pass)
}

/// Ends a packet that is dropped before it could be parsed.
#[inline(always)]
pub fn refuse<A: Family, K: Kernel<A>>(k: &mut K, hook: Hook, outcome: Outcome) -> Next<A> {
    k.count(hook, outcome);
    Next::then(Then::Drop)
}

/// Ends a packet that is dropped, and tells about it.
#[inline(always)]
pub fn drop<A: Family, K: Kernel<A>>(
    k: &mut K,
    hook: Hook,
    outcome: Outcome,
    packet: &Packet<A>,
) -> Next<A> {
    k.count(hook, outcome);
    if let Some(cfg) = k.cfg()
        && cfg.flags & abi::CFG_EVENTS_DROPS != 0
    {
        let (src_ep, dst_ep) = (ep_of(k, &packet.key.src), ep_of(k, &packet.key.dst));
        let report = Report {
            nat_dst: packet.key.dst,
            nat_dst_port: packet.key.dst_port,
            src_ep,
            dst_ep,
        };
        k.event(hook, outcome, packet, &report);
    }
    match outcome {
        Outcome::NoEndpoints | Outcome::NoSuchPort => Next::then(Then::Reject),
        _ => Next::then(Then::Drop),
    }
}

#[inline(always)]
fn ep_of<A: Family, K: Kernel<A>>(k: &K, addr: &A) -> u16 {
    k.local(addr).map_or(0, |local| local.ep_ix as u16)
}

/// Sends a packet on as an entry says.
#[inline(always)]
pub fn forward<A: Family, K: Kernel<A>>(
    k: &mut K,
    hook: Hook,
    outcome: Outcome,
    packet: &Packet<A>,
    value: &CtValue<A>,
) -> Next<A> {
    match deliver::deliver(k, hook, packet, value) {
        Ok(next) => {
            k.count(hook, outcome);
            next
        }
        Err(outcome) => refuse(k, hook, outcome),
    }
}

/// What the slow half of a hook decides; errors are drops, counted and told in one place.
pub type Decision<A> = Result<Next<A>, Outcome>;

/// Ends a packet as decided.
#[inline(always)]
pub fn end<A: Family, K: Kernel<A>>(
    k: &mut K,
    hook: Hook,
    packet: &Packet<A>,
    decision: Decision<A>,
) -> Next<A> {
    match decision {
        Ok(next) => next,
        Err(outcome) => drop(k, hook, outcome, packet),
    }
}

/// A program that goes on with the flow in the scratch room, whatever hook it came by.
#[inline(always)]
pub fn go_on<A: Family, K: Kernel<A>>(
    k: &mut K,
    decide: impl FnOnce(&mut K, Hook, &Packet<A>) -> Decision<A>,
) -> Next<A> {
    let Some(room) = k.scratch() else {
        return refuse(k, Hook::UplinkIn, Outcome::Internal);
    };
    let hook = if room.hook == Hook::PodOut as u8 {
        Hook::PodOut
    } else {
        Hook::UplinkIn
    };
    let packet = match packet::parse_head::<A, K>(k) {
        Ok(packet) => packet,
        Err(outcome) => return refuse(k, hook, outcome),
    };
    let decision = decide(k, hook, &packet);
    end(k, hook, &packet, decision)
}

/// Hands a fragment to the program that knows what to do with it.
#[inline(always)]
pub fn part<A: Family, K: Kernel<A>>(k: &mut K, hook: Hook) -> Next<A> {
    let Some(room) = k.scratch() else {
        return refuse(k, hook, Outcome::Internal);
    };
    room.hook = hook as u8;
    Next::then(Then::Part)
}

/// The fast half of every hook.
#[inline(always)]
pub fn established<A: Family, K: Kernel<A>>(
    k: &mut K,
    hook: Hook,
    packet: &Packet<A>,
    iif: u32,
) -> Next<A> {
    match conntrack::fast(k, packet, iif) {
        conntrack::Found::Go(value) => forward(k, hook, Outcome::Forwarded, packet, &value),
        conntrack::Found::Look => Next::then(Then::Slow),
    }
}

/// The slow half's look at an entry; `None`: there is none to go by.
#[inline(always)]
pub fn known<A: Family, K: Kernel<A>>(
    k: &mut K,
    hook: Hook,
    packet: &Packet<A>,
    iif: u32,
    cfg: &Cfg,
) -> Result<Option<Next<A>>, Outcome> {
    let room = k.scratch().ok_or(Outcome::Internal)?;
    match conntrack::slow(k, packet, iif, cfg, room)? {
        Known::Go => Ok(Some(forward(
            k,
            hook,
            Outcome::Forwarded,
            packet,
            &room.value,
        ))),
        Known::Judge => {
            room.hook = hook as u8;
            Ok(Some(Next::then(Then::Judge)))
        }
        Known::New => Ok(None),
    }
}

/// Sends a flow to an address of this node: to the pod that has it, or to the host's own sockets, which
/// are always reached.
#[inline(always)]
pub fn to_local<A: Family, K: Kernel<A>>(
    k: &K,
    begin: &mut Begin<A>,
    local: LocalAddr,
) -> Result<(), Outcome> {
    if local.ep_ix == 0 {
        begin.deliver = Deliver::Host as u8;
        begin.exempt = 1;
        return Ok(());
    }
    let ep = k.endpoint(local.ep_ix).ok_or(Outcome::NoSuchPod)?;
    begin.dst_ep = local.ep_ix as u16;
    begin.deliver = Deliver::Pod as u8;
    begin.out = ep.ifindex;
    Ok(())
}

/// Hands a new flow to the program that judges it and creates its entries.
#[inline(always)]
pub fn begin<A: Family, K: Kernel<A>>(k: &mut K, hook: Hook, begin: &Begin<A>) -> Decision<A> {
    let room = k.scratch().ok_or(Outcome::Internal)?;
    room.hook = hook as u8;
    room.begin = *begin;
    Ok(Next::then(Then::Begin))
}

/// Writes the flow's own entry and sends its first packet on.
#[inline(always)]
pub fn complete<A: Family, K: Kernel<A>>(
    k: &mut K,
    hook: Hook,
    outcome: Outcome,
    packet: &Packet<A>,
    value: &CtValue<A>,
) -> Decision<A> {
    if !own_entry(k, packet, value) {
        return Err(Outcome::ConntrackFull);
    }
    if let Some(cfg) = k.cfg()
        && cfg.flags & abi::CFG_EVENTS_FLOWS != 0
    {
        let report = Report {
            nat_dst: value.dst,
            nat_dst_port: value.dst_port,
            src_ep: value.src_ep,
            dst_ep: value.dst_ep,
        };
        k.event(hook, outcome, packet, &report);
    }
    Ok(forward(k, hook, outcome, packet, value))
}

/// Writes the entry of the direction the packet came from.
#[inline(always)]
fn own_entry<A: Family, K: Kernel<A>>(k: &mut K, packet: &Packet<A>, value: &CtValue<A>) -> bool {
    if let Some(entry) = k.ct_find(&packet.key) {
        k.ct_reuse(entry, value);
        return true;
    }
    if k.ct_create(&packet.key, value) {
        return true;
    }
    // Another CPU was first with the same flow: it decided the same.
    k.ct_find(&packet.key).is_some()
}

/// The event of a packet.
#[inline(always)]
pub fn describe<A: Addr>(
    hook: Hook,
    outcome: Outcome,
    packet: &Packet<A>,
    report: &Report<A>,
) -> Event {
    Event {
        time: 0,
        src: packet.key.src.to_v6(),
        dst: packet.key.dst.to_v6(),
        nat_dst: report.nat_dst.to_v6(),
        src_port: packet.key.src_port,
        dst_port: packet.key.dst_port,
        nat_dst_port: report.nat_dst_port,
        proto: packet.key.proto,
        family: A::FAMILY,
        hook: hook as u8,
        outcome: outcome as u8,
        src_ep: report.src_ep,
        dst_ep: report.dst_ep,
        l4_flags: packet.flags,
        reserved: 0,
        ifindex: 0,
        len: 0,
    }
}

/// An ICMP error about a flow we know passes like that flow's answers, if no address in it needs
/// translation.
#[inline(always)]
pub fn related<A: Family, K: Kernel<A>>(
    k: &mut K,
    hook: Hook,
    packet: &Packet<A>,
    cfg: &Cfg,
) -> Decision<A> {
    // The quoted packet went the other way: its answers are looked up under the reversed tuple.
    let key = packet::quoted(k, packet).ok_or(Outcome::Malformed)?;
    let entry = k.ct_find(&key).ok_or(Outcome::NoFlow)?;
    let mut value = k.ct_read(entry);
    if value.flags & CT_REWRITE != 0 {
        return Err(Outcome::RelatedNat);
    }
    let now = kernel::seconds(k.jiffies(), cfg);
    if packet.key.dst != value.dst || conntrack::expired(key.proto, &value, now) {
        return Err(Outcome::NoFlow);
    }
    value.flags = 0;
    Ok(forward(k, hook, Outcome::Related, packet, &value))
}
