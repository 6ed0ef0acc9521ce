//! A program run by the loader only (`BPF_PROG_TEST_RUN`): tells the kernel's jiffies, from which the
//! length of a tick follows.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_skb_store_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// Writes jiffies into the first eight bytes of the packet.
#[classifier]
pub fn clock(ctx: TcContext) -> i32 {
    // SAFETY: the helper takes no argument.
    let jiffies = unsafe { bpf_jiffies64() };
    let from = core::ptr::from_ref(&jiffies).cast();
    // SAFETY: the context is the one the program got; `from` points to 8 readable bytes.
    unsafe { bpf_skb_store_bytes(ctx.skb.skb.cast(), 0, from, 8, 0) as i32 }
}
