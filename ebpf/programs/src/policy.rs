//! NetworkPolicy: judges the first packet of a flow, after DNAT, at the ends that are local pods.

use abi::policy::*;
use abi::{EP_READY, ISOLATED_EGRESS, ISOLATED_INGRESS, Outcome, PolKey, PolValue, PolxKey, Port};

use crate::Kernel;
use crate::packet::Family;

/// Who wants to talk to whom. Addresses as the pods know them: source before SNAT, destination after
/// DNAT. `*_ep` is 0 for ends that are not pods of this node.
#[derive(Clone, Copy, Debug)]
pub struct Question<A> {
    pub src: A,
    pub dst: A,
    pub dst_port: Port,
    pub proto: u8,
    pub src_ep: u16,
    pub dst_ep: u16,
}

/// Whether policy allows it. A pod may always reach itself; traffic with the node itself is not asked.
#[inline(always)]
pub fn judge<A: Family, K: Kernel<A>>(k: &mut K, q: &Question<A>) -> Result<(), Outcome> {
    if q.src_ep == q.dst_ep && q.src_ep != 0 {
        return Ok(());
    }
    side(k, q.src_ep, DIR_EGRESS, q.dst, q)?;
    side(k, q.dst_ep, DIR_INGRESS, q.src, q)
}

#[inline(always)]
fn side<A: Family, K: Kernel<A>>(
    k: &mut K,
    ep_ix: u16,
    direction: u8,
    peer: A,
    q: &Question<A>,
) -> Result<(), Outcome> {
    if ep_ix == 0 {
        return Ok(());
    }
    let Some(ep) = k.endpoint(ep_ix as u32) else {
        return Err(Outcome::NoSuchPod);
    };
    if ep.flags & EP_READY == 0 {
        return Err(Outcome::NotReady);
    }
    let (bit, denied) = if direction == DIR_EGRESS {
        (ISOLATED_EGRESS, Outcome::PolicyEgress)
    } else {
        (ISOLATED_INGRESS, Outcome::PolicyIngress)
    };
    if ep.isolation & bit == 0 {
        return Ok(());
    }
    let class = class_of(k, &peer);
    if row_allows(k, ep.set_id, class, direction, q) {
        Ok(())
    } else {
        Err(denied)
    }
}

#[inline(always)]
fn class_of<A: Family, K: Kernel<A>>(k: &K, addr: &A) -> u32 {
    match k.peer(addr) {
        Some(class) => class,
        None => k.net(addr).map_or(0, |net| net.class),
    }
}

#[inline(always)]
fn row_allows<A: Family, K: Kernel<A>>(
    k: &K,
    set_id: u32,
    class: u32,
    direction: u8,
    q: &Question<A>,
) -> bool {
    let mut key = PolKey {
        set_id,
        class,
        direction: direction as u32,
    };
    let row = match k.policy(&key) {
        Some(row) => row,
        None => {
            key.class = 0;
            let Some(row) = k.policy(&key) else {
                return false;
            };
            row
        }
    };
    if row.flags & POL_ALL != 0 || in_ranges(&row, q) {
        return true;
    }
    row.flags & POL_OVERFLOW != 0
        && k.policy_overflow(&PolxKey {
            prefix_len: PolxKey::FIXED_BITS + 16,
            set_id,
            class: key.class,
            direction,
            proto: q.proto,
            port: q.dst_port,
        })
}

#[inline(always)]
fn in_ranges<A>(row: &PolValue, q: &Question<A>) -> bool {
    let port = q.dst_port.get();
    let mut i = 0;
    while i < abi::limits::RANGES_INLINE {
        let range = row.ranges[i];
        if i < row.n as usize
            && range.lo <= port
            && port <= range.hi
            && (range.proto == q.proto || range.proto == PROTO_ANY)
        {
            return true;
        }
        i += 1;
    }
    false
}
