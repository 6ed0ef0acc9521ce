//! Claiming a tuple: the reverse entry of a new flow is created first, and only if no living flow owns
//! its key. A taken key is answered by another source port, for translated sources (pod → world,
//! NodePort to a remote backend) and for two flows that meet on one backend through two VIPs alike.

use abi::conntrack::{CT_PICKUP, CT_REWRITE, CT_SNAT};
use abi::limits::SNAT_PROBES;
use abi::{Cfg, Outcome, PROTO_SCTP, Port, TcpState};

use crate::packet::{Family, Packet};
use crate::{Kernel, Scratch, conntrack, hash, kernel};

/// Creates the reverse entry of `room.value`, changing its source port if need be.
#[inline(always)]
pub fn claim<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    room: &mut Scratch<A>,
    cfg: &Cfg,
) -> Result<(), Outcome> {
    let range = (cfg.snat_hi as u32 + 1).saturating_sub(cfg.snat_lo as u32);
    let start = hash::scale(hash::flow(&packet.key, cfg.secret), range);
    let now = kernel::seconds(k.jiffies(), cfg);
    // The first round tries the tuple as it is, unless its source is to be translated.
    let mut i = if room.value.flags & CT_SNAT == 0 {
        0
    } else {
        1
    };
    while i <= SNAT_PROBES {
        if i > 0 {
            if packet.key.proto == PROTO_SCTP {
                return Err(Outcome::SnatProtocol);
            }
            let mut offset = start + i - 1;
            if offset >= range {
                offset -= range;
            }
            room.value.flags |= CT_SNAT | CT_REWRITE;
            room.value.src_port = Port::new((cfg.snat_lo as u32 + offset) as u16);
            if packet.key.proto == A::ICMP {
                room.value.dst_port = room.value.src_port;
            }
        }
        if attempt(k, packet, room, cfg, now) {
            return Ok(());
        }
        i += 1;
    }
    Err(Outcome::SnatExhausted)
}

/// Creates the reverse entry unless a living flow of someone else owns it.
#[inline(always)]
fn attempt<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    room: &mut Scratch<A>,
    cfg: &Cfg,
    now: u32,
) -> bool {
    room.back_key = packet.key.partner(&room.value);
    conntrack::reverse(packet, &room.value, cfg, &mut room.back);
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
