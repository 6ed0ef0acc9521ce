//! Packets from the host's stack to a pod (egress of the host side of its veth): the node itself may
//! always reach its pods; answers of host-network backends are translated back; nothing is forwarded.

use abi::conntrack::IIF_HOST;
use abi::{Hook, MARK_REDIRECTED, Outcome};

use crate::packet::{self, Family, Kind};
use crate::{Kernel, Next};

const HOOK: Hook = Hook::PodIn;

/// A packet we sent ourselves, or the next one of an established flow.
#[inline(always)]
pub fn fast<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    if k.mark() == MARK_REDIRECTED {
        return super::pass(k, HOOK, Outcome::Redirected);
    }
    if k.ingress_ifindex() != 0 {
        return super::refuse(k, HOOK, Outcome::ForwardedByHost);
    }
    let packet = match packet::parse::<A, K>(k) {
        Ok(packet) => packet,
        Err(Outcome::Fragment) => return super::part(k, HOOK),
        // Whatever it is, the node made it.
        Err(_) => return super::pass(k, HOOK, Outcome::ToHost),
    };
    if packet.kind != Kind::Flow {
        return super::pass(k, HOOK, Outcome::ToHost);
    }
    super::established(k, HOOK, &packet, IIF_HOST)
}

/// Answers of host-network backends that need a closer look; everything else is the node's own.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    let Ok(packet) = packet::parse_head::<A, K>(k) else {
        return super::pass(k, HOOK, Outcome::ToHost);
    };
    let Some(cfg) = k.cfg() else {
        return super::refuse(k, HOOK, Outcome::Internal);
    };
    match super::known(k, HOOK, &packet, IIF_HOST, cfg) {
        Ok(Some(next)) => next,
        Ok(None) => super::pass(k, HOOK, Outcome::ToHost),
        Err(outcome) => super::drop(k, HOOK, outcome, &packet),
    }
}
