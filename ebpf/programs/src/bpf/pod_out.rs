//! tcx ingress of the host side of a pod's veth: packets from the pod.

use abi::event::Tail;
use abi::{Hook, Outcome, V4, V6};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use programs::hooks::pod_out as logic;
use programs::packet::{ETH_IPV4, ETH_IPV6};

use super::skb::{Skb, ipv6, other, protocol};

const HOOK: Hook = Hook::PodOut;

#[classifier]
pub fn pod_out(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    match protocol(skb) {
        ETH_IPV4 => {
            let mut skb = Skb::<V4>::new(skb);
            let next = logic::fast(&mut skb);
            skb.end(HOOK, next, Tail::PodOutNew4)
        }
        ETH_IPV6 => ipv6(skb, HOOK, Tail::PodOut6),
        _ => other(skb, HOOK, Outcome::NotIp),
    }
}

#[classifier]
pub fn pod_out_6(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V6>::new(ctx.skb.skb);
    let next = logic::fast(&mut skb);
    skb.end(HOOK, next, Tail::PodOutNew6)
}

#[classifier]
pub fn pod_out_new_4(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V4>::new(ctx.skb.skb);
    let next = logic::slow(&mut skb);
    skb.end(HOOK, next, Tail::PodOutNew4)
}

#[classifier]
pub fn pod_out_new_6(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V6>::new(ctx.skb.skb);
    let next = logic::slow(&mut skb);
    skb.end(HOOK, next, Tail::PodOutNew6)
}
