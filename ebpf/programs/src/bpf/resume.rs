//! A flow met in its middle, reached by tail call from the beginning of flows.

use abi::event::Tail;
use abi::{Hook, V4, V6};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use programs::hooks::resume as logic;

use super::skb::Skb;

#[classifier]
pub fn resume_4(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V4>::new(ctx.skb.skb);
    let next = logic::slow(&mut skb);
    skb.end(Hook::PodOut, next, Tail::Resume4)
}

#[classifier]
pub fn resume_6(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V6>::new(ctx.skb.skb);
    let next = logic::slow(&mut skb);
    skb.end(Hook::PodOut, next, Tail::Resume6)
}
