//! A living flow judged again, reached by tail call from the slow halves and going back to them.

use abi::event::Tail;
use abi::{Hook, V4, V6};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use programs::hooks::judge as logic;

use super::skb::Skb;

#[classifier]
pub fn judge_4(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V4>::new(ctx.skb.skb);
    let (hook, next) = logic::slow(&mut skb);
    let slow = match hook {
        Hook::PodOut => Tail::PodOutNew4,
        Hook::PodIn => Tail::PodInNew4,
        Hook::UplinkOut => Tail::UplinkOutNew4,
        Hook::UplinkIn | Hook::Overlay | Hook::Socket => Tail::UplinkInNew4,
    };
    skb.end(hook, next, slow)
}

#[classifier]
pub fn judge_6(ctx: TcContext) -> i32 {
    let mut skb = Skb::<V6>::new(ctx.skb.skb);
    let (hook, next) = logic::slow(&mut skb);
    let slow = match hook {
        Hook::PodOut => Tail::PodOutNew6,
        Hook::PodIn => Tail::PodInNew6,
        Hook::UplinkOut => Tail::UplinkOutNew6,
        Hook::UplinkIn | Hook::Overlay | Hook::Socket => Tail::UplinkInNew6,
    };
    skb.end(hook, next, slow)
}
