//! Fragments. A first one tells the ports of its datagram and is decided like any packet; the others follow it
//! by its entry, with nothing but their addresses rewritten. They are looked at nowhere else.

use abi::conntrack::{IIF_HOST, IIF_UPLINK};
use abi::{Hook, Outcome};

use crate::conntrack::{self, expired};
use crate::packet::{self, Family, Packet};
use crate::{Kernel, Next, Then, kernel};

/// Returns the hook the packet came by, too: a first fragment goes on in its slow half.
#[inline(always)]
pub fn slow<A: Family, K: Kernel<A>>(k: &mut K) -> (Hook, Next<A>) {
    let came_by = k.scratch().and_then(|room| Hook::from_u8(room.hook));
    let Some(hook) = came_by else {
        let hook = Hook::UplinkIn;
        return (hook, super::refuse(k, hook, Outcome::Internal));
    };
    let next = match packet::parse_part::<A, K>(k) {
        Ok(packet) if packet.headless => follow(k, hook, &packet),
        Ok(_) => Next::then(Then::Slow),
        Err(outcome) => stray(k, hook, outcome),
    };
    (hook, next)
}

/// Sends a later fragment where the first one went.
#[inline(always)]
fn follow<A: Family, K: Kernel<A>>(k: &mut K, hook: Hook, packet: &Packet<A>) -> Next<A> {
    let (Some(cfg), Some(entry)) = (k.cfg(), k.ct_find(&packet.key)) else {
        return stray(k, hook, Outcome::Fragment);
    };
    let value = k.ct_read(entry);
    let iif = match hook {
        Hook::PodOut => k.ifindex(),
        Hook::PodIn | Hook::UplinkOut => IIF_HOST,
        Hook::UplinkIn | Hook::Overlay | Hook::Socket => IIF_UPLINK,
    };
    let now = kernel::seconds(k.jiffies(), cfg);
    if value.iif != iif
        || expired(packet.key.proto, &value, now)
        || value.epochs != conntrack::epochs(k, &value)
    {
        return stray(k, hook, Outcome::Fragment);
    }
    super::forward(k, hook, Outcome::Forwarded, packet, &value)
}

/// A fragment of nothing we know: a pod's is dropped, the host's is its own affair.
#[inline(always)]
fn stray<A: Family, K: Kernel<A>>(k: &mut K, hook: Hook, outcome: Outcome) -> Next<A> {
    match hook {
        Hook::PodOut => super::refuse(k, hook, outcome),
        Hook::PodIn => super::pass(k, hook, Outcome::ToHost),
        Hook::UplinkIn | Hook::UplinkOut | Hook::Overlay | Hook::Socket => {
            super::pass(k, hook, Outcome::NotOurs)
        }
    }
}
