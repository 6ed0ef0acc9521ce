//! Claiming a tuple: the reverse entry of a new flow is created first, and only if no living flow owns
//! its key. A taken key is answered by another source port, for translated sources (pod → world,
//! NodePort to a remote backend) and for two flows that meet on one backend through two VIPs alike.

use abi::conntrack::{CT_PICKUP, CT_REWRITE, CT_SNAT};
use abi::limits::SNAT_PROBES;
use abi::{Cfg, Outcome, PROTO_SCTP, Port, TcpState};

use crate::packet::{Family, Packet};
use crate::{Kernel, Scratch, Step, conntrack, hash, kernel};

/// The first attempt: the tuple as it is or, for a source that is to be translated, the port the hash
/// says. False: it is taken, probe further.
#[inline(always)]
pub fn claim<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    room: &mut Scratch<A>,
    cfg: &Cfg,
) -> Result<bool, Outcome> {
    let now = kernel::seconds(k.jiffies(), cfg);
    if room.value.flags & CT_SNAT != 0 {
        translate(packet, room, cfg, 0)?;
    }
    if attempt(k, packet, room, now) {
        return Ok(true);
    }
    // Refused though nobody has it: the map is full, and no other port will help.
    if k.ct_find(&room.back_key).is_none() {
        Err(Outcome::ConntrackFull)
    } else {
        Ok(false)
    }
}

/// Tries one port after the other.
#[inline(always)]
pub fn probe<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    room: &mut Scratch<A>,
    cfg: &Cfg,
) -> Result<(), Outcome> {
    room.value.flags |= CT_SNAT | CT_REWRITE;
    let now = kernel::seconds(k.jiffies(), cfg);
    let mut search = Search {
        packet,
        room,
        cfg,
        now,
        ended: Some(Outcome::SnatExhausted),
    };
    k.repeat(SNAT_PROBES, &mut search);
    match search.ended {
        None => Ok(()),
        Some(outcome) => Err(outcome),
    }
}

/// The search for a free port, one probe per step.
struct Search<'a, A: Family> {
    packet: &'a Packet<A>,
    room: &'a mut Scratch<A>,
    cfg: &'a Cfg,
    now: u32,
    ended: Option<Outcome>,
}

impl<A: Family, K: Kernel<A>> Step<K> for Search<'_, A> {
    #[inline(always)]
    fn step(&mut self, k: &mut K, i: u32) -> bool {
        if let Err(outcome) = translate(self.packet, self.room, self.cfg, i) {
            self.ended = Some(outcome);
            return true;
        }
        let found = attempt(k, self.packet, self.room, self.now);
        if found {
            self.ended = None;
        }
        found
    }
}

/// Sets the source port of the `i`th probe.
#[inline(always)]
fn translate<A: Family>(
    packet: &Packet<A>,
    room: &mut Scratch<A>,
    cfg: &Cfg,
    i: u32,
) -> Result<(), Outcome> {
    if packet.key.proto == PROTO_SCTP {
        return Err(Outcome::SnatProtocol);
    }
    let range = (cfg.snat_hi as u32 + 1).saturating_sub(cfg.snat_lo as u32);
    if i >= range {
        return Err(Outcome::SnatExhausted);
    }
    let mut offset = hash::scale(hash::flow(&packet.key, cfg.secret), range) + i;
    if offset >= range {
        offset -= range;
    }
    room.value.src_port = Port::new((cfg.snat_lo as u32 + offset) as u16);
    if packet.key.proto == A::ICMP {
        room.value.dst_port = room.value.src_port;
    }
    Ok(())
}

/// Creates the reverse entry unless a living flow of someone else owns it.
#[inline(always)]
fn attempt<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    room: &mut Scratch<A>,
    now: u32,
) -> bool {
    room.back_key = packet.key.partner(&room.value);
    conntrack::reverse(packet, &room.value, k.ifindex(), &mut room.back);
    let Some(entry) = k.ct_find(&room.back_key) else {
        return k.ct_create(&room.back_key, &room.back);
    };
    let owner = k.ct_read(entry);
    let ours = room.back_key.partner(&owner) == packet.key;
    let over = conntrack::expired(packet.key.proto, &owner, now)
        || owner.flags & CT_PICKUP != 0
        || (owner.state == TcpState::Closing as u8 && room.value.flags & CT_SNAT == 0);
    if ours || over {
        k.ct_reuse(entry, &room.back);
    }
    ours || over
}
