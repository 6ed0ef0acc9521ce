//! Packets from a pod (ingress of the host side of its veth). Nothing falls through to the host's
//! forwarding: a packet is delivered to a known place, handed to the host's own sockets, or dropped.

use abi::service::{BE_HOST, SCOPE_INTERNAL};
use abi::{
    BeValue, CT_HAIRPIN, CT_SERVICE, CT_SNAT, Cfg, Deliver, FeValue, Hook, NetKind, Outcome,
};

use super::{Begin, Decision};
use crate::packet::{self, Family, Kind, Packet};
use crate::service::{By, Found};
use crate::{Kernel, Next, Then, hash, service};

const HOOK: Hook = Hook::PodOut;

/// The next packet of an established flow.
#[inline(always)]
pub fn fast<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    let packet = match packet::parse::<A, K>(k) {
        Ok(packet) => packet,
        Err(Outcome::Fragment) => return super::part(k, HOOK),
        Err(outcome) => return super::refuse(k, HOOK, outcome),
    };
    if packet.kind != Kind::Flow {
        return Next::then(Then::Slow);
    }
    let iif = k.ifindex();
    super::established(k, HOOK, &packet, iif)
}

/// Everything else.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    let packet = match packet::parse_head::<A, K>(k) {
        Ok(packet) => packet,
        Err(outcome) => return super::refuse(k, HOOK, outcome),
    };
    let decision = decide(k, &packet);
    super::end(k, HOOK, &packet, decision)
}

#[inline(always)]
fn decide<A: Family, K: Kernel<A>>(k: &mut K, packet: &Packet<A>) -> Decision<A> {
    let cfg = k.cfg().ok_or(Outcome::Internal)?;
    let iif = k.ifindex();
    match packet.kind {
        Kind::Flow => {
            if let Some(next) = super::known(k, HOOK, packet, iif, cfg)? {
                return Ok(next);
            }
        }
        Kind::Neighbour if packet::neighbour_allowed(packet) => {
            return Ok(super::pass(k, HOOK, Outcome::Neighbour));
        }
        Kind::Neighbour => return Err(Outcome::NeighbourForged),
        Kind::Error => {}
    }
    let src_ep = source(k, packet)?;
    if packet.kind == Kind::Error {
        return related(k, packet, cfg);
    }
    if packet.key.dst.is_multicast() {
        return Err(Outcome::Multicast);
    }
    match target(k, packet, src_ep, cfg)? {
        Target::Stack => Ok(super::pass(k, HOOK, Outcome::ToHost)),
        Target::Flow(begin) => super::begin(k, HOOK, &begin),
    }
}

/// Where a new flow goes.
enum Target<A> {
    /// To a socket of the host, untracked.
    Stack,
    Flow(Begin<A>),
}

/// The endpoint the source address belongs to, which must be the one behind this veth.
#[inline(always)]
fn source<A: Family, K: Kernel<A>>(k: &K, packet: &Packet<A>) -> Result<u16, Outcome> {
    let local = k.local(&packet.key.src).ok_or(Outcome::Spoofed)?;
    let ep = k.endpoint(local.ep_ix).ok_or(Outcome::Spoofed)?;
    if ep.ifindex != k.ifindex() {
        return Err(Outcome::Spoofed);
    }
    Ok(local.ep_ix as u16)
}

#[inline(always)]
fn target<A: Family, K: Kernel<A>>(
    k: &K,
    packet: &Packet<A>,
    src_ep: u16,
    cfg: &Cfg,
) -> Result<Target<A>, Outcome> {
    let key = &packet.key;
    let lookup = service::frontend(k, key.dst, key.dst_port, key.proto, SCOPE_INTERNAL);
    match lookup.found {
        Found::Port => return to_service(k, packet, src_ep, &lookup.fe, cfg).map(Target::Flow),
        Found::Socket => return Ok(Target::Stack),
        Found::NoSuchPort => {
            // The VIP may also be an address of the node.
            return match k.local(&key.dst) {
                Some(local) if local.ep_ix == 0 => Ok(Target::Stack),
                _ => Err(Outcome::NoSuchPort),
            };
        }
        Found::Nothing => {}
    }
    if let Some(local) = k.local(&key.dst) {
        if local.ep_ix == 0 {
            return to_own_node(k, packet, src_ep, cfg);
        }
        let begin = to_address(k, key.dst, key.dst_port, src_ep, packet, cfg)?;
        return Ok(Target::Flow(begin));
    }
    to_address(k, key.dst, key.dst_port, src_ep, packet, cfg).map(Target::Flow)
}

/// The node's own address: a NodePort, else a socket of the host.
#[inline(always)]
fn to_own_node<A: Family, K: Kernel<A>>(
    k: &K,
    packet: &Packet<A>,
    src_ep: u16,
    cfg: &Cfg,
) -> Result<Target<A>, Outcome> {
    let key = &packet.key;
    match service::node_port(k, key.dst_port, key.proto, SCOPE_INTERNAL, cfg) {
        Some(fe) => to_service(k, packet, src_ep, &fe, cfg).map(Target::Flow),
        None => Ok(Target::Stack),
    }
}

#[inline(always)]
fn to_service<A: Family, K: Kernel<A>>(
    k: &K,
    packet: &Packet<A>,
    src_ep: u16,
    fe: &FeValue,
    cfg: &Cfg,
) -> Result<Begin<A>, Outcome> {
    let by = By {
        hash: hash::flow(&packet.key, cfg.secret),
        client: packet.key.src,
    };
    let backend: BeValue<A> = service::choose(k, fe, &by, cfg)?;
    let mut begin = if backend.flags & BE_HOST != 0 && backend.node != 0 {
        to_host_network(k, &backend, src_ep, packet, cfg)
    } else {
        to_address(k, backend.addr, backend.port, src_ep, packet, cfg)?
    };
    begin.be_ix = backend.be_ix;
    begin.flags |= CT_SERVICE;
    if begin.dst_ep == src_ep {
        // The pod chose itself: it must not see its own address as the peer's.
        begin.src = A::HAIRPIN;
        begin.flags |= CT_HAIRPIN;
    }
    Ok(begin)
}

/// A backend that is a node's own process.
#[inline(always)]
fn to_host_network<A: Family, K: Kernel<A>>(
    k: &K,
    backend: &BeValue<A>,
    src_ep: u16,
    packet: &Packet<A>,
    cfg: &Cfg,
) -> Begin<A> {
    let mut begin = Begin::towards(packet, k.ifindex(), backend.addr, backend.port);
    begin.src_ep = src_ep;
    if backend.node as u32 == cfg.node_ix {
        begin.deliver = Deliver::Host as u8;
        begin.exempt = 1;
    } else {
        begin.deliver = Deliver::Node as u8;
        begin.out = backend.node as u32;
    }
    begin
}

/// Any address that is not a service.
#[inline(always)]
fn to_address<A: Family, K: Kernel<A>>(
    k: &K,
    dst: A,
    dst_port: abi::Port,
    src_ep: u16,
    packet: &Packet<A>,
    cfg: &Cfg,
) -> Result<Begin<A>, Outcome> {
    let mut begin = Begin::towards(packet, k.ifindex(), dst, dst_port);
    begin.src_ep = src_ep;
    if let Some(local) = k.local(&dst) {
        super::to_local(k, &mut begin, local)?;
        return Ok(begin);
    }
    let (kind, node) = k
        .net(&dst)
        .map_or((0, 0), |net| (net.kind, net.node as u32));
    if kind == NetKind::Pods as u8 || kind == NetKind::Node as u8 {
        if node == cfg.node_ix {
            return Err(Outcome::NoSuchPod);
        }
        begin.deliver = Deliver::Node as u8;
        begin.out = node;
    } else if kind == NetKind::Services as u8 {
        return Err(Outcome::NoSuchService);
    } else {
        begin.deliver = Deliver::World as u8;
        begin.out = cfg.uplink;
        if kind == NetKind::World as u8 {
            begin.src = A::node_ip(cfg);
            begin.flags |= CT_SNAT;
            if begin.src == A::UNSPECIFIED || cfg.uplink == 0 {
                return Err(Outcome::NoRoute);
            }
        }
    }
    Ok(begin)
}

/// An ICMP error from a pod: passed if it is about a flow that is known, delivered as that flow's answers.
#[inline(always)]
fn related<A: Family, K: Kernel<A>>(k: &mut K, packet: &Packet<A>, cfg: &Cfg) -> Decision<A> {
    if k.local(&packet.key.dst)
        .is_some_and(|local| local.ep_ix == 0)
    {
        return Ok(super::pass(k, HOOK, Outcome::ToHost));
    }
    super::related(k, HOOK, packet, cfg)
}
