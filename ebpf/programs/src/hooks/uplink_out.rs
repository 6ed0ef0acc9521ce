//! Packets leaving by an uplink (egress): only answers of host-network backends on this node to clients
//! of a frontend need translation; everything else passes at once.

use abi::conntrack::IIF_HOST;
use abi::{CFG_UPLINK_OUT, Hook, MARK_REDIRECTED, Outcome};

use crate::packet::{self, Family, Kind};
use crate::{Kernel, Next};

const HOOK: Hook = Hook::UplinkOut;

/// Whether there is nothing to do, without looking into the packet.
#[inline(always)]
pub fn passes<A: Family, K: Kernel<A>>(k: &K) -> bool {
    k.mark() == MARK_REDIRECTED || k.cfg().is_none_or(|cfg| cfg.flags & CFG_UPLINK_OUT == 0)
}

/// The next answer of an established flow.
#[inline(always)]
pub fn fast<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    let packet = match packet::parse::<A, K>(k) {
        Ok(packet) => packet,
        Err(Outcome::Fragment) => return super::part(k, HOOK),
        Err(_) => return super::pass(k, HOOK, Outcome::NotOurs),
    };
    let Some(cfg) = k.cfg() else {
        return super::pass(k, HOOK, Outcome::NotOurs);
    };
    // Only what a socket of the node sent: with the node's own address.
    if packet.kind != Kind::Flow || packet.key.src != A::node_ip(cfg) {
        return super::pass(k, HOOK, Outcome::NotOurs);
    }
    super::established(k, HOOK, &packet, IIF_HOST)
}

/// Answers that need a closer look; everything else is the node's own.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    let Ok(packet) = packet::parse_head::<A, K>(k) else {
        return super::pass(k, HOOK, Outcome::NotOurs);
    };
    let Some(cfg) = k.cfg() else {
        return super::pass(k, HOOK, Outcome::NotOurs);
    };
    match super::known(k, HOOK, &packet, IIF_HOST, cfg) {
        Ok(Some(next)) => next,
        Ok(None) => super::pass(k, HOOK, Outcome::NotOurs),
        Err(outcome) => super::drop(k, HOOK, outcome, &packet),
    }
}
