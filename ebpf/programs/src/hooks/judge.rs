//! A living flow whose policy may have changed: judged again, once, and then sent on or ended. Reached by
//! tail call from every slow half.

use abi::conntrack::{IIF_HOST, IIF_UPLINK};
use abi::{Hook, Outcome};

use super::{Decision, Next};
use crate::Kernel;
use crate::conntrack::{self, Known};
use crate::packet::{self, Family, Packet};

/// Sends the packet on, or drops it and ends its flow.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    let Some(room) = k.scratch() else {
        return super::refuse(k, Hook::UplinkIn, Outcome::Internal);
    };
    let hook = Hook::from_u8(room.hook).unwrap_or(Hook::UplinkIn);
    let packet = match packet::parse::<A, K>(k) {
        Ok(packet) => packet,
        Err(outcome) => return super::refuse(k, hook, outcome),
    };
    match decide(k, hook, &packet) {
        Ok(next) => next,
        Err(outcome) => super::drop(k, hook, outcome, &packet),
    }
}

#[inline(always)]
fn decide<A: Family, K: Kernel<A>>(k: &mut K, hook: Hook, packet: &Packet<A>) -> Decision<A> {
    let cfg = k.cfg().ok_or(Outcome::Internal)?;
    let room = k.scratch().ok_or(Outcome::Internal)?;
    let iif = match hook {
        Hook::PodOut => k.ifindex(),
        Hook::PodIn | Hook::UplinkOut => IIF_HOST,
        Hook::UplinkIn | Hook::Overlay | Hook::Socket => IIF_UPLINK,
    };
    match conntrack::slow(k, packet, iif, cfg, room, true)? {
        Known::Go => Ok(super::forward(
            k,
            hook,
            Outcome::Forwarded,
            packet,
            &room.value,
        )),
        // Its tuple went to another flow meanwhile: the next packet begins anew.
        Known::New | Known::Judge => Err(Outcome::NoFlow),
    }
}
