//! Established flows: the one lookup per packet, what it may change in place, and the care for the pair
//! of entries (once a second, and when a flow ends). Beginnings are decided in `hooks`.

use abi::conntrack::*;
use abi::{Addr, Cfg, CtValue, Deliver, Outcome, PROTO_TCP, TcpState, lifetime};

use crate::packet::{Family, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, is_syn};
use crate::{Kernel, Scratch, kernel, policy};

/// What the conntrack entry says about a packet.
pub enum Found<A: Addr> {
    /// Act as it says.
    Go(CtValue<A>),
    /// Look closer (slow half), or there is none.
    Look,
}

/// What the slow half finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Act as `room.value` says now.
    Go,
    /// Decide anew.
    New,
    /// Judge it again first, in the program that does.
    Judge,
}

/// The fast half: an entry that needs nothing but, at most, its state noted.
#[inline(always)]
pub fn fast<A: Family, K: Kernel<A>>(k: &mut K, packet: &Packet<A>, iif: u32) -> Found<A> {
    let Some(entry) = k.ct_find(&packet.key) else {
        return Found::Look;
    };
    let value = k.ct_read(entry);
    let Some(cfg) = k.cfg() else {
        return Found::Look;
    };
    let now = kernel::seconds(k.jiffies(), cfg);
    if value.iif != iif
        || value.seen != now
        || value.flags & CT_PICKUP != 0
        || value.epochs != epochs(k, &value)
    {
        return Found::Look;
    }
    if packet.key.proto == PROTO_TCP {
        if packet.flags & TCP_RST != 0 || is_syn(packet) {
            return Found::Look;
        }
        let state = next_state(value.state, packet.flags);
        if state != value.state {
            k.ct_note(entry, now, value.flags, state);
        }
    } else if value.flags & (CT_REPLY | CT_ASSURED) == CT_REPLY || !serves(k, &value) {
        return Found::Look;
    }
    Found::Go(value)
}

/// Sum of the policy epochs of both ends.
#[inline(always)]
pub fn epochs<A: Family, K: Kernel<A>>(k: &K, value: &CtValue<A>) -> u32 {
    k.epoch(value.src_ep as u32)
        .wrapping_add(k.epoch(value.dst_ep as u32))
}

/// Whether the flow's backend still is the one that was chosen.
#[inline(always)]
fn serves<A: Family, K: Kernel<A>>(k: &K, value: &CtValue<A>) -> bool {
    value.be_ix == 0 || k.live(value.be_ix) == value.be_gen
}

#[inline(always)]
fn next_state(state: u8, flags: u8) -> u8 {
    if flags & (TCP_FIN | TCP_RST) != 0 {
        TcpState::Closing as u8
    } else if state == TcpState::Syn as u8 && flags & TCP_SYN == 0 {
        TcpState::Established as u8
    } else {
        state
    }
}

/// State of a TCP entry begun by a packet with these flags.
#[inline(always)]
pub fn first_state(proto: u8, flags: u8) -> u8 {
    if proto != PROTO_TCP {
        0
    } else if flags & TCP_SYN != 0 {
        TcpState::Syn as u8
    } else if flags & (TCP_FIN | TCP_RST) != 0 {
        TcpState::Closing as u8
    } else {
        TcpState::Established as u8
    }
}

/// Whether nothing keeps the entry alive any more.
#[inline(always)]
pub fn expired<A: Family>(proto: u8, value: &CtValue<A>, now: u32) -> bool {
    now.wrapping_sub(value.seen) > lifetime(proto, value.state, value.flags)
}

/// The slow half: an entry that may have to be refreshed, judged again, or given up.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    iif: u32,
    cfg: &Cfg,
    room: &mut Scratch<A>,
) -> Result<Known, Outcome> {
    let Some(entry) = k.ct_find(&packet.key) else {
        return Ok(Known::New);
    };
    room.value = k.ct_read(entry);
    let value = &mut room.value;
    let now = kernel::seconds(k.jiffies(), cfg);
    if value.iif != iif || !keeps(k, packet, value, now) {
        return Ok(Known::New);
    }
    room.back_key = packet.key.partner(value);
    let unanswered = CT_PICKUP | CT_SECOND | CT_GUESS;
    if value.flags & unanswered == unanswered && packet.flags & TCP_RST != 0 {
        return refute(k, packet, room);
    }
    if value.epochs != epochs(k, value) {
        return Ok(Known::Judge);
    }
    if packet.key.proto == PROTO_TCP {
        value.state = next_state(value.state, packet.flags);
    }
    if value.flags & CT_SECOND != 0 {
        value.flags = (value.flags | CT_ASSURED) & !(CT_PICKUP | CT_GUESS);
    }
    value.seen = now;
    k.ct_note(entry, now, value.flags, value.state);
    if refresh_partner(k, packet, room) {
        return Ok(Known::Go);
    }
    k.ct_delete(&packet.key);
    Ok(Known::New)
}

/// The peer does not know the connection by the tuple we resumed it with: the guess was wrong, and the one
/// that only went on speaking must not hear of it. Its next packet makes the next guess.
#[inline(always)]
fn refute<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    room: &mut Scratch<A>,
) -> Result<Known, Outcome> {
    k.ct_delete(&packet.key);
    if let Some(entry) = k.ct_find(&room.back_key) {
        room.back = k.ct_read(entry);
        room.back.flags |= CT_RETRY;
        room.back.tries = room.back.tries.wrapping_add(1);
        k.ct_reuse(entry, &room.back);
    }
    Err(Outcome::ResetGuarded)
}

/// Whether the packet continues the entry's flow (instead of beginning a new one).
#[inline(always)]
fn keeps<A: Family, K: Kernel<A>>(k: &K, packet: &Packet<A>, value: &CtValue<A>, now: u32) -> bool {
    if packet.key.proto != PROTO_TCP {
        return !expired(packet.key.proto, value, now) && serves(k, value);
    }
    if packet.flags & (TCP_SYN | TCP_ACK) == TCP_SYN {
        // Retransmission of a SYN keeps a living backend; any other SYN is a new connection.
        return value.state == TcpState::Syn as u8
            && value.flags & CT_REPLY == 0
            && !expired(packet.key.proto, value, now)
            && serves(k, value);
    }
    // The middle of a connection keeps its backend for as long as the entry is there.
    value.flags & CT_RETRY == 0
}

/// Brings the other direction's entry up to date; creates it again if it was evicted. False if that
/// tuple belongs to another flow now.
#[inline(always)]
fn refresh_partner<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    room: &mut Scratch<A>,
) -> bool {
    let value = &room.value;
    let Some(entry) = k.ct_find(&room.back_key) else {
        reverse(packet, value, k.ifindex(), &mut room.back);
        return k.ct_create(&room.back_key, &room.back);
    };
    let other = k.ct_read(entry);
    if room.back_key.partner(&other) != packet.key {
        return false;
    }
    let state = if packet.key.proto == PROTO_TCP && packet.flags & TCP_RST != 0 {
        TcpState::Closing as u8
    } else {
        other.state
    };
    let mut flags = other.flags | (value.flags & CT_ASSURED);
    if value.flags & CT_PICKUP == 0 {
        flags &= !(CT_PICKUP | CT_GUESS);
    }
    k.ct_note(entry, value.seen, flags, state);
    true
}

/// The entry of the other direction, made from this one's.
#[inline(always)]
pub fn reverse<A: Family>(
    packet: &Packet<A>,
    value: &CtValue<A>,
    ifindex: u32,
    back: &mut CtValue<A>,
) {
    let (deliver, out) = match value.iif {
        // Back by the uplink the packet came in by.
        IIF_UPLINK => (Deliver::World, ifindex),
        IIF_HOST => (Deliver::Host, 0),
        veth => (Deliver::Pod, veth),
    };
    let iif = if value.deliver == Deliver::Pod as u8 {
        value.out
    } else if value.deliver == Deliver::Host as u8 {
        IIF_HOST
    } else {
        IIF_UPLINK
    };
    *back = CtValue {
        src: packet.key.dst,
        dst: packet.key.src,
        src_port: packet.key.dst_port,
        dst_port: packet.key.src_port,
        out,
        iif,
        src_ep: value.dst_ep,
        dst_ep: value.src_ep,
        epochs: value.epochs,
        be_ix: 0,
        seen: value.seen,
        be_gen: 0,
        flags: (value.flags ^ (CT_REPLY | CT_SECOND)) & !CT_ASSURED,
        deliver: deliver as u8,
        state: value.state,
        tries: value.tries,
        reserved: [0; 3],
    };
}

/// Judges a living flow again after a policy changed, and ends it if it is not allowed any more. Roles come
/// from the reply bit: the packet that began the flow is judged, whichever direction this one goes.
#[inline(always)]
pub fn judge_again<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    room: &mut Scratch<A>,
) -> Result<(), Outcome> {
    // Gone meanwhile: it begins anew.
    let Some(entry) = k.ct_find(&packet.key) else {
        return Ok(());
    };
    room.value = k.ct_read(entry);
    let current = epochs(k, &room.value);
    if !still_there(k, &room.value) {
        room.back_key = packet.key.partner(&room.value);
        k.ct_delete(&packet.key);
        k.ct_delete(&room.back_key);
        return Ok(());
    }
    if let Err(outcome) = ask_again(k, packet, &room.value) {
        room.back_key = packet.key.partner(&room.value);
        k.ct_delete(&packet.key);
        k.ct_delete(&room.back_key);
        return Err(outcome);
    }
    k.ct_judged(entry, current);
    Ok(())
}

/// Whether the pod the entry leads to is still the owner of its address, behind the same interface.
#[inline(always)]
fn still_there<A: Family, K: Kernel<A>>(k: &K, value: &CtValue<A>) -> bool {
    if value.deliver != Deliver::Pod as u8 {
        return true;
    }
    let ep_ix = value.dst_ep as u32;
    let owner = k.local(&value.dst).map_or(0, |local| local.ep_ix);
    let ifindex = k.endpoint(ep_ix).map_or(0, |ep| ep.ifindex);
    owner == ep_ix && ifindex == value.out
}

#[inline(always)]
fn ask_again<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    value: &CtValue<A>,
) -> Result<(), Outcome> {
    let question = if value.flags & CT_REPLY == 0 {
        policy::Question {
            src: packet.key.src,
            dst: value.dst,
            dst_port: value.dst_port,
            proto: packet.key.proto,
            src_ep: value.src_ep,
            dst_ep: value.dst_ep,
        }
    } else {
        policy::Question {
            src: value.dst,
            dst: packet.key.src,
            dst_port: packet.key.src_port,
            proto: packet.key.proto,
            src_ep: value.dst_ep,
            dst_ep: value.src_ep,
        }
    };
    policy::judge(k, &question)
}
