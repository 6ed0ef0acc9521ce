//! The rest of a beginning flow whose first source port was taken: searches another one and goes on where
//! the hook's slow half left off. Reached by tail call, with the flow in the scratch room.

use abi::{Hook, Outcome};

use super::Decision;
use crate::packet::{Family, Packet};
use crate::{Kernel, Next, snat};

/// Finds a port, or drops the packet.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    super::go_on(k, search)
}

#[inline(always)]
fn search<A: Family, K: Kernel<A>>(k: &mut K, hook: Hook, packet: &Packet<A>) -> Decision<A> {
    let cfg = k.cfg().ok_or(Outcome::Internal)?;
    let room = k.scratch().ok_or(Outcome::Internal)?;
    let outcome = if room.outcome == Outcome::PickedUp as u8 {
        Outcome::PickedUp
    } else {
        Outcome::NewFlow
    };
    snat::probe(k, packet, room, cfg)?;
    super::complete(k, hook, outcome, packet, &room.value)
}
