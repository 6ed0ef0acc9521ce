//! The last step of every packet that is let through: link layer, TTL and the way out.

use abi::{CtValue, Deliver, HOST_MAC, Hook, Mac, Outcome};
use bytemuck::{Pod, Zeroable};

use crate::packet::{self, Family, Packet};
use crate::{Kernel, Next, Then};

/// Destination and source of an Ethernet header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Macs {
    dst: [u8; 6],
    src: [u8; 6],
}

/// Rewrites the packet as the entry says and sends it on.
#[inline(always)]
pub fn deliver<A: Family, K: Kernel<A>>(
    k: &mut K,
    hook: Hook,
    packet: &Packet<A>,
    value: &CtValue<A>,
) -> Result<Next<A>, Outcome> {
    if value.flags & abi::CT_REWRITE != 0 {
        packet::rewrite(k, packet, value)?;
    }
    if value.deliver == Deliver::Pod as u8 {
        to_pod(k, hook, value)
    } else if value.deliver == Deliver::Host as u8 {
        Ok(Next::then(Then::Pass))
    } else if value.deliver == Deliver::Node as u8 {
        to_node(k, packet, value.out)
    } else if hook == Hook::UplinkOut {
        // Already on its way out.
        Ok(Next::then(Then::Pass))
    } else {
        ttl(k, packet)?;
        Ok(Next {
            then: Then::Neighbour,
            ifindex: value.out,
            next_hop: A::UNSPECIFIED,
        })
    }
}

#[inline(always)]
fn to_pod<A: Family, K: Kernel<A>>(
    k: &mut K,
    hook: Hook,
    value: &CtValue<A>,
) -> Result<Next<A>, Outcome> {
    if hook == Hook::PodIn {
        // The host's stack is delivering it already.
        return Ok(Next::then(Then::Pass));
    }
    let Some(Mac { mac, .. }) = k.mac(value.dst_ep as u32) else {
        return Err(Outcome::Internal);
    };
    if !k.store(
        0,
        &Macs {
            dst: mac,
            src: HOST_MAC,
        },
    ) {
        return Err(Outcome::Rewrite);
    }
    Ok(Next {
        then: Then::Peer,
        ifindex: value.out,
        next_hop: A::UNSPECIFIED,
    })
}

#[inline(always)]
fn to_node<A: Family, K: Kernel<A>>(
    k: &mut K,
    packet: &Packet<A>,
    node: u32,
) -> Result<Next<A>, Outcome> {
    let node = k.node(node).ok_or(Outcome::NoRoute)?;
    if node.ifindex == 0 {
        return Err(Outcome::NoRoute);
    }
    ttl(k, packet)?;
    Ok(Next {
        then: Then::Neighbour,
        ifindex: node.ifindex,
        next_hop: A::next_hop(&node),
    })
}

#[inline(always)]
fn ttl<A: Family, K: Kernel<A>>(k: &mut K, packet: &Packet<A>) -> Result<(), Outcome> {
    if packet.ttl <= 1 {
        return Err(Outcome::TtlExceeded);
    }
    if A::decrement_ttl(k, packet) {
        Ok(())
    } else {
        Err(Outcome::Rewrite)
    }
}
