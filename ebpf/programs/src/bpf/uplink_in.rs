//! tcx ingress of an uplink: packets from other nodes and the outside.

use abi::event::Tail;
use abi::{Hook, Outcome, V4, V6};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use programs::hooks::uplink_in as logic;
use programs::packet::{ETH_IPV4, ETH_IPV6};

use super::skb::{Skb, ipv6, other, protocol};

const HOOK: Hook = Hook::UplinkIn;

#[classifier]
pub fn uplink_in(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    match protocol(skb) {
        ETH_IPV4 => {
            let mut skb = Skb::<V4>::new(skb);
            let next = logic::fast(&mut skb);
            skb.end(HOOK, next, Tail::UplinkInNew4)
        }
        ETH_IPV6 => ipv6(skb, HOOK, Tail::UplinkIn6),
        _ => other(skb, HOOK, Outcome::NotOurs),
    }
}

#[classifier]
pub fn uplink_in_6(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V6>::new(ctx.skb.skb);
    let next = logic::fast(&mut skb);
    skb.end(HOOK, next, Tail::UplinkInNew6)
}

#[classifier]
pub fn uplink_in_new_4(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V4>::new(ctx.skb.skb);
    let next = logic::slow(&mut skb);
    skb.end(HOOK, next, Tail::UplinkInNew4)
}

#[classifier]
pub fn uplink_in_new_6(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V6>::new(ctx.skb.skb);
    let next = logic::slow(&mut skb);
    skb.end(HOOK, next, Tail::UplinkInNew6)
}
