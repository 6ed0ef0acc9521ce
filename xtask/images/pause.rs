//! The program of a pod's sandbox: holds the pod's namespaces until it is told to end, and
//! collects orphans when the pod shares one pid namespace. No standard library: a page of code and
//! a page of stack per pod is all it costs. Compiled by `xtask::images` with rustc alone.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

// The kernel starts a program with the stack pointer as a function call would not leave it.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor %ebp, %ebp", "and $-16, %rsp", "call pause", options(att_syntax));
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "bl pause");

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const WAIT4: usize = 260;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const EXIT_GROUP: usize = 94;
}

const SIG_BLOCK: usize = 0;
const SIGINT: isize = 2;
const SIGTERM: isize = 15;
const SIGCHLD: isize = 17;
const WNOHANG: usize = 1;
/// The kernel's signal set is one word of 64 bits.
const SET_BYTES: usize = 8;

#[unsafe(no_mangle)]
extern "C" fn pause() -> ! {
    let set: u64 = [SIGINT, SIGTERM, SIGCHLD].iter().fold(0, |set, signal| set | 1 << (signal - 1));
    let set = &raw const set as usize;
    call(number::RT_SIGPROCMASK, SIG_BLOCK, set, 0, SET_BYTES);
    loop {
        // blocked signals are taken here one by one: no handler, no missed wake-up
        match call(number::RT_SIGTIMEDWAIT, set, 0, 0, SET_BYTES) {
            SIGINT | SIGTERM => {
                call(number::EXIT_GROUP, 0, 0, 0, 0);
            }
            SIGCHLD => while call(number::WAIT4, usize::MAX, 0, WNOHANG, 0) > 0 {},
            _ => {}
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result;
    // SAFETY: the four calls above read at most the signal set, which lives as long as `pause`;
    // the kernel clobbers rcx and r11 only.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b,
            in("rdx") c, in("r10") d, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result;
    // SAFETY: as above; the kernel preserves every register but x0.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c,
            in("x3") d, options(nostack));
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
