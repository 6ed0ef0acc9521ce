//! A living flow judged again, reached by tail call from the slow halves and going back to them.

use abi::{V4, V6};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use programs::hooks::judge as logic;

use super::skb::{Skb, slow_4, slow_6};

#[classifier]
pub fn judge_4(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V4>::new(ctx.skb.skb);
    let (hook, next) = logic::slow(&mut skb);
    skb.end(hook, next, slow_4(hook))
}

#[classifier]
pub fn judge_6(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V6>::new(ctx.skb.skb);
    let (hook, next) = logic::slow(&mut skb);
    skb.end(hook, next, slow_6(hook))
}
