//! Packets from other nodes and from the outside (ingress of an uplink). What is not for our pods or
//! frontends is left to the host's stack untouched.

use abi::conntrack::IIF_UPLINK;
use abi::service::SCOPE_EXTERNAL;
use abi::{
    BeValue, CT_SERVICE, CT_SNAT, Cfg, Deliver, FeValue, Hook, NetKind, Outcome, PROTO_TCP,
    PROTO_UDP,
};

use super::{Begin, Decision};
use crate::packet::{self, Family, Kind, Packet};
use crate::service::{By, Found, Lookup};
use crate::{Kernel, Next, Then, hash, service};

const HOOK: Hook = Hook::UplinkIn;

/// The next packet of an established flow, or one for the host itself.
#[inline(always)]
pub fn fast<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    let packet = match packet::parse::<A, K>(k) {
        Ok(packet) => packet,
        Err(Outcome::Fragment) => return super::part(k, HOOK),
        Err(_) => return super::pass(k, HOOK, Outcome::NotOurs),
    };
    if packet.kind == Kind::Neighbour {
        return super::pass(k, HOOK, Outcome::Neighbour);
    }
    let Some(cfg) = k.cfg() else {
        return super::pass(k, HOOK, Outcome::NotOurs);
    };
    if packet.key.dst == A::node_ip(cfg) && !could_be_ours(&packet, cfg) {
        return super::pass(k, HOOK, Outcome::NotOurs);
    }
    if packet.kind != Kind::Flow {
        return Next::then(Then::Slow);
    }
    super::established(k, HOOK, &packet, IIF_UPLINK)
}

/// Whether a packet to the node's own address could meet a frontend or a translated flow.
#[inline(always)]
fn could_be_ours<A: Family>(packet: &Packet<A>, cfg: &Cfg) -> bool {
    if packet.kind != Kind::Flow {
        return false;
    }
    let port = packet.key.dst_port.get();
    cfg.flags & abi::CFG_HOST_PORTS != 0
        || is_snat_port(port, cfg)
        || (cfg.node_port_lo <= port && port <= cfg.node_port_hi && packet.key.proto != A::ICMP)
}

#[inline(always)]
fn is_snat_port(port: u16, cfg: &Cfg) -> bool {
    cfg.snat_lo <= port && port <= cfg.snat_hi
}

/// Everything else.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    let Ok(packet) = packet::parse_head::<A, K>(k) else {
        return super::pass(k, HOOK, Outcome::NotOurs);
    };
    let decision = decide(k, &packet);
    super::end(k, HOOK, &packet, decision)
}

#[inline(always)]
fn decide<A: Family, K: Kernel<A>>(k: &mut K, packet: &Packet<A>) -> Decision<A> {
    let cfg = k.cfg().ok_or(Outcome::Internal)?;
    if packet.kind == Kind::Flow
        && let Some(next) = super::known(k, HOOK, packet, IIF_UPLINK, cfg)?
    {
        return Ok(next);
    }
    let local = k.local(&packet.key.dst);
    let to_host = local.is_some_and(|local| local.ep_ix == 0);
    if packet.kind == Kind::Error {
        return match local {
            Some(local) if local.ep_ix != 0 => super::related(k, HOOK, packet, cfg),
            _ => Ok(super::pass(k, HOOK, Outcome::NotOurs)),
        };
    }
    let lookup = frontend(k, packet, to_host, cfg);
    let begin = if lookup.found == Found::Port {
        to_backend(k, packet, &lookup.fe, cfg)?
    } else if let Some(local) = local
        && local.ep_ix != 0
    {
        let mut begin = Begin::towards(packet, IIF_UPLINK, packet.key.dst, packet.key.dst_port);
        super::to_local(k, &mut begin, local)?;
        begin
    } else if lookup.found == Found::NoSuchPort && !to_host {
        return Err(Outcome::NoSuchPort);
    } else {
        not_ours(k, packet, to_host, cfg)?;
        return Ok(super::pass(k, HOOK, Outcome::NotOurs));
    };
    // Nobody outside has the address of one of our pods.
    if k.local(&packet.key.src).is_some() {
        return Err(Outcome::Spoofed);
    }
    super::begin(k, HOOK, &begin)
}

#[inline(always)]
fn frontend<A: Family, K: Kernel<A>>(
    k: &K,
    packet: &Packet<A>,
    to_host: bool,
    cfg: &Cfg,
) -> Lookup {
    let key = &packet.key;
    let exact = service::frontend(k, key.dst, key.dst_port, key.proto, SCOPE_EXTERNAL);
    if matches!(exact.found, Found::Port | Found::Socket) || !to_host {
        return exact;
    }
    match service::node_port(k, key.dst_port, key.proto, SCOPE_EXTERNAL, cfg) {
        Some(fe) => Lookup::port(fe),
        None => exact,
    }
}

/// Whether the host's stack may have a packet that is neither a pod's nor a frontend's.
#[inline(always)]
fn not_ours<A: Family, K: Kernel<A>>(
    k: &K,
    packet: &Packet<A>,
    to_host: bool,
    cfg: &Cfg,
) -> Result<(), Outcome> {
    if to_host {
        // A TCP packet in the SNAT range that no socket takes belonged to a flow we forgot; the host
        // must not reset it.
        let forgotten = packet.key.proto == PROTO_TCP
            && is_snat_port(packet.key.dst_port.get(), cfg)
            && !packet::is_syn(packet)
            && !k.host_socket(packet);
        return if forgotten {
            Err(Outcome::NoFlow)
        } else {
            Ok(())
        };
    }
    let (kind, node) = k
        .net(&packet.key.dst)
        .map_or((0, 0), |net| (net.kind, net.node as u32));
    if kind == NetKind::Services as u8 {
        Err(Outcome::NoSuchService)
    } else if kind == NetKind::Pods as u8 && node == cfg.node_ix {
        Err(Outcome::NoSuchPod)
    } else {
        Ok(())
    }
}

/// Where a packet to a frontend goes: a backend on this node with its source kept, one elsewhere by SNAT.
#[inline(always)]
fn to_backend<A: Family, K: Kernel<A>>(
    k: &K,
    packet: &Packet<A>,
    fe: &FeValue,
    cfg: &Cfg,
) -> Result<Begin<A>, Outcome> {
    let by = By {
        hash: hash::flow(&packet.key, cfg.secret),
        client: packet.key.src,
    };
    let chosen: BeValue<A> = service::choose(k, fe, &by, cfg)?;
    let mut begin = Begin::towards(packet, IIF_UPLINK, chosen.addr, chosen.port);
    begin.be_ix = chosen.be_ix;
    begin.flags |= CT_SERVICE;
    match k.local(&chosen.addr) {
        Some(local) => super::to_local(k, &mut begin, local)?,
        None => {
            if packet.key.proto != PROTO_TCP && packet.key.proto != PROTO_UDP {
                return Err(Outcome::SnatProtocol);
            }
            begin.src = A::node_ip(cfg);
            begin.flags |= CT_SNAT;
            if chosen.node != 0 {
                begin.deliver = Deliver::Node as u8;
                begin.out = chosen.node as u32;
            } else {
                begin.deliver = Deliver::World as u8;
                begin.out = cfg.uplink;
            }
        }
    }
    Ok(begin)
}
