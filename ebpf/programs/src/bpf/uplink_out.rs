//! tcx egress of an uplink: answers of host-network backends to clients of a frontend.

use abi::event::Tail;
use abi::{Hook, Outcome, V4, V6};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use programs::hooks::uplink_out as logic;
use programs::packet::{ETH_IPV4, ETH_IPV6};

use super::skb::{Skb, ipv6, other, protocol};

const HOOK: Hook = Hook::UplinkOut;

#[classifier]
pub fn uplink_out(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    if logic::passes(&Skb::<V4>::new(skb)) {
        return 0;
    }
    match protocol(skb) {
        ETH_IPV4 => {
            let mut skb = Skb::<V4>::new(skb);
            let next = logic::fast(&mut skb);
            skb.end(HOOK, next, Tail::UplinkOutNew4)
        }
        ETH_IPV6 => ipv6(skb, HOOK, Tail::UplinkOut6),
        _ => other(skb, HOOK, Outcome::NotOurs),
    }
}

#[classifier]
pub fn uplink_out_6(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V6>::new(ctx.skb.skb);
    let next = logic::fast(&mut skb);
    skb.end(HOOK, next, Tail::UplinkOutNew6)
}

#[classifier]
pub fn uplink_out_new_4(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V4>::new(ctx.skb.skb);
    let next = logic::slow(&mut skb);
    skb.end(HOOK, next, Tail::UplinkOutNew4)
}

#[classifier]
pub fn uplink_out_new_6(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V6>::new(ctx.skb.skb);
    let next = logic::slow(&mut skb);
    skb.end(HOOK, next, Tail::UplinkOutNew6)
}
