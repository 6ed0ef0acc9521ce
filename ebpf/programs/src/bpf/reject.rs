//! Answers for connections that cannot be made, reached by tail call from any tc hook.

use abi::{V4, V6};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use programs::reject as logic;

use super::skb::Skb;

#[classifier]
pub fn reject_4(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V4>::new(ctx.skb.skb);
    let answered = logic::answer(&mut skb);
    skb.send_back(answered)
}

#[classifier]
pub fn reject_6(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V6>::new(ctx.skb.skb);
    let answered = logic::answer(&mut skb);
    skb.send_back(answered)
}
