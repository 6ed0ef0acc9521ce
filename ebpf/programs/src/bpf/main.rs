//! The BPF object: every program and map of the datapath, one file per hook, no logic of its own.
//! Compiled for `bpfel-unknown-none` only; needs Linux 6.6 (tcx).
#![no_std]
#![no_main]

mod begin;
mod clock;
mod judge;
mod maps;
mod part;
mod pod_in;
mod pod_out;
mod probe;
mod reject;
mod resume;
mod skb;
mod sock;
mod uplink_in;
mod uplink_out;

/// Programs write the kernel's maps through helpers and use GPL-only ones.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
