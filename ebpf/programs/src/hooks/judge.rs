//! A living flow whose policy may have changed: judged again, once, and then handed back to its hook's slow
//! half, or ended. Reached by tail call from every slow half.

use abi::{Hook, Outcome};

use crate::packet::{self, Family};
use crate::{Kernel, Next, Then, conntrack};

/// Drops the packet and ends its flow, or says that the slow half of the hook may go on.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(k: &mut K) -> (Hook, Next<A>) {
    let Some(room) = k.scratch() else {
        return (
            Hook::UplinkIn,
            super::refuse(k, Hook::UplinkIn, Outcome::Internal),
        );
    };
    let hook = Hook::from_u8(room.hook).unwrap_or(Hook::UplinkIn);
    let packet = match packet::parse_head::<A, K>(k) {
        Ok(packet) => packet,
        Err(outcome) => return (hook, super::refuse(k, hook, outcome)),
    };
    match conntrack::judge_again(k, &packet, room) {
        Ok(()) => (hook, Next::then(Then::Slow)),
        Err(outcome) => (hook, super::drop(k, hook, outcome, &packet)),
    }
}
