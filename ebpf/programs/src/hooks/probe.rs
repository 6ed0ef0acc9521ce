//! The rest of a beginning flow whose first source port was taken: searches another one and goes on where
//! the hook's slow half left off. Reached by tail call, with the flow in the scratch room.

use abi::{Hook, Outcome};

use super::Decision;
use crate::packet::{self, Family, Packet};
use crate::{Kernel, Next, snat};

/// Finds a port, or drops the packet.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    let Some(room) = k.scratch() else {
        return super::refuse(k, Hook::UplinkIn, Outcome::Internal);
    };
    let hook = if room.hook == Hook::PodOut as u8 {
        Hook::PodOut
    } else {
        Hook::UplinkIn
    };
    let outcome = if room.outcome == Outcome::PickedUp as u8 {
        Outcome::PickedUp
    } else {
        Outcome::NewFlow
    };
    let packet = match packet::parse::<A, K>(k) {
        Ok(packet) => packet,
        Err(outcome) => return super::refuse(k, hook, outcome),
    };
    match search(k, hook, outcome, &packet) {
        Ok(next) => next,
        Err(outcome) => super::drop(k, hook, outcome, &packet),
    }
}

#[inline(always)]
fn search<A: Family, K: Kernel<A>>(
    k: &mut K,
    hook: Hook,
    outcome: Outcome,
    packet: &Packet<A>,
) -> Decision<A> {
    let cfg = k.cfg().ok_or(Outcome::Internal)?;
    let room = k.scratch().ok_or(Outcome::Internal)?;
    snat::probe(k, packet, room, cfg)?;
    super::complete(k, hook, outcome, packet, &room.value)
}
