//! The beginning of every flow that begins at its beginning, whatever hook it came by: policy, the claim of its tuple, both entries (the
//! reverse one first). Reached by tail call, with where it goes in the scratch room.

use abi::conntrack::*;
use abi::{Cfg, CtValue, Hook, Outcome};

use super::{Begin, Decision};
use crate::packet::{Family, Packet, is_syn};
use crate::{Kernel, Next, Then, conntrack, kernel, policy, service, snat};

/// Begins the flow, or drops the packet.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    super::go_on(k, decide)
}

#[inline(always)]
fn decide<A: Family, K: Kernel<A>>(k: &mut K, hook: Hook, packet: &Packet<A>) -> Decision<A> {
    if packet.key.proto == abi::PROTO_TCP && !is_syn(packet) {
        return Ok(Next::then(Then::Resume));
    }
    let cfg = k.cfg().ok_or(Outcome::Internal)?;
    let room = k.scratch().ok_or(Outcome::Internal)?;
    if room.begin.exempt == 0 {
        let question = policy::Question {
            src: packet.key.src,
            dst: room.begin.dst,
            dst_port: room.begin.dst_port,
            proto: packet.key.proto,
            src_ep: room.begin.src_ep,
            dst_ep: room.begin.dst_ep,
        };
        policy::judge(k, &question)?;
    }
    room.outcome = Outcome::NewFlow as u8;
    entry(k, packet, &room.begin, cfg, &mut room.value);
    if room.begin.flags & CT_SERVICE != 0 && packet.key.proto == abi::PROTO_TCP {
        service::note_reversed(k, hook, packet, &room.begin);
    }
    match snat::claim(k, packet, room, cfg) {
        Ok(true) => super::complete(k, hook, Outcome::NewFlow, packet, &room.value),
        Ok(false) => Ok(Next::then(Then::Probe)),
        // Without translation the packet finds its way without entries, if slowly.
        Err(Outcome::ConntrackFull) if room.value.flags & CT_REWRITE == 0 => Ok(super::forward(
            k,
            hook,
            Outcome::Untracked,
            packet,
            &room.value,
        )),
        Err(outcome) => Err(outcome),
    }
}

/// The entry of the direction the packet came from.
#[inline(always)]
pub fn entry<A: Family, K: Kernel<A>>(
    k: &K,
    packet: &Packet<A>,
    begin: &Begin<A>,
    cfg: &Cfg,
    value: &mut CtValue<A>,
) {
    let mut flags = begin.flags;
    if begin.src != packet.key.src
        || begin.dst != packet.key.dst
        || begin.dst_port != packet.key.dst_port
    {
        flags |= CT_REWRITE;
    }
    *value = CtValue {
        src: begin.src,
        dst: begin.dst,
        src_port: packet.key.src_port,
        dst_port: begin.dst_port,
        out: begin.out,
        iif: begin.iif,
        src_ep: begin.src_ep,
        dst_ep: begin.dst_ep,
        epochs: 0,
        be_ix: begin.be_ix,
        seen: kernel::seconds(k.jiffies(), cfg),
        be_gen: if begin.be_ix == 0 {
            0
        } else {
            k.live(begin.be_ix)
        },
        flags,
        deliver: begin.deliver,
        state: conntrack::first_state(packet.key.proto, packet.flags),
        tries: 0,
        reserved: [0; 3],
    };
    value.epochs = conntrack::epochs(k, value);
}
