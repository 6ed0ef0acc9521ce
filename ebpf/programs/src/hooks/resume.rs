//! A TCP flow that is met in its middle: its entries were lost. A client's packet to a service is translated
//! anew by the same hash. A packet without a service may be direct, or a server's answer that has to be
//! translated back: the frontends its sender was last reached by are guessed, then none. A wrong guess
//! is answered by a reset, which is kept from the sender and makes room for the next guess.

use abi::conntrack::*;
use abi::service::{SCOPE_EXTERNAL, SCOPE_INTERNAL};
use abi::{Deliver, FeKey, Hook, Outcome, Port, RevValue};

use super::Decision;
use crate::packet::{Family, Packet, TCP_RST};
use crate::{Kernel, Next, Scratch, Then, policy, service, snat};

const OUTCOME: Outcome = Outcome::PickedUp;

/// Resumes the flow, or drops the packet.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(k: &mut K) -> Next<A> {
    super::go_on(k, decide)
}

#[inline(always)]
fn decide<A: Family, K: Kernel<A>>(k: &mut K, hook: Hook, packet: &Packet<A>) -> Decision<A> {
    let cfg = k.cfg().ok_or(Outcome::Internal)?;
    let room = k.scratch().ok_or(Outcome::Internal)?;
    room.outcome = OUTCOME as u8;
    super::begin::entry(k, packet, &room.begin, cfg, &mut room.value);
    room.value.flags |= CT_PICKUP;
    if room.begin.flags & CT_SERVICE != 0 {
        service::note_reversed(k, hook, packet, &room.begin);
    } else if packet.flags & TCP_RST == 0 {
        guess(k, hook, packet, room);
    }
    if room.begin.exempt == 0 {
        judge(k, packet, room)?;
    }
    if !snat::claim(k, packet, room, cfg)? {
        return Ok(Next::then(Then::Probe));
    }
    super::complete(k, hook, OUTCOME, packet, &room.value)
}

/// Makes the next guess at how the packet's flow was translated, if its sender is a backend.
#[inline(always)]
fn guess<A: Family, K: Kernel<A>>(k: &K, hook: Hook, packet: &Packet<A>, room: &mut Scratch<A>) {
    // Clients that are pods of this node are translated here, by frontends in the internal scope.
    let scope = if hook == Hook::PodOut && room.begin.dst_ep == 0 {
        SCOPE_EXTERNAL
    } else {
        SCOPE_INTERNAL
    };
    let (addr, port, proto) = (packet.key.src, packet.key.src_port, packet.key.proto);
    let Some(known) = k.reversed(&FeKey {
        addr,
        port,
        proto,
        scope,
    }) else {
        return;
    };
    let before = k.ct_find(&packet.key).map(|entry| k.ct_read(entry));
    let mut tries = before.map_or(0, |value| {
        if value.flags & CT_RETRY != 0 {
            value.tries
        } else {
            0
        }
    });
    room.value.tries = tries;
    room.value.flags |= CT_GUESS;
    if room.begin.deliver == Deliver::Node as u8 {
        // Pods of other nodes are translated there: no translation is the first guess.
        tries = tries.wrapping_add(2);
    }
    let (vip, port) = candidate(&known, tries);
    if port != Port(0) {
        room.value.src = vip;
        room.value.src_port = port;
        room.value.flags &= !CT_SNAT;
        room.value.flags |= CT_REPLY | CT_SERVICE | CT_REWRITE;
    }
}

/// The frontends in turn, then none (port 0).
#[inline(always)]
fn candidate<A: Family>(known: &RevValue<A>, tries: u8) -> (A, Port) {
    match tries % 3 {
        0 => (known.last, known.last_port),
        1 => (known.before, known.before_port),
        _ => (A::UNSPECIFIED, Port(0)),
    }
}

/// Asks policy about the flow. A packet of a known backend is an answer: its client is judged.
#[inline(always)]
fn judge<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    room: &Scratch<A>,
) -> Result<(), Outcome> {
    let begin = &room.begin;
    let question = if room.value.flags & CT_GUESS == 0 {
        policy::Question {
            src: packet.key.src,
            dst: begin.dst,
            dst_port: begin.dst_port,
            proto: packet.key.proto,
            src_ep: begin.src_ep,
            dst_ep: begin.dst_ep,
        }
    } else {
        policy::Question {
            src: begin.dst,
            dst: packet.key.src,
            dst_port: packet.key.src_port,
            proto: packet.key.proto,
            src_ep: begin.dst_ep,
            dst_ep: begin.src_ep,
        }
    };
    policy::judge(k, &question)
}
