//! Packet logic of the BPF programs, in the order a packet passes it: `packet` (parse, rewrite,
//! checksums) → `conntrack` → `service` → `policy` → `snat` → `deliver`. Everything is generic over the
//! address family and over [`Kernel`], the few things logic needs of the machine it runs on, so that
//! the same code runs in the kernel and, on a machine in memory, in tests on the host.
//!
//! `hooks` puts the steps together, one file per attachment point. Each program is two halves: `fast`
//! (parse, one conntrack lookup, rewrite, deliver) and, behind a tail call, `slow` (everything that is
//! not the next packet of an established flow).
#![cfg_attr(not(test), no_std)]

pub mod conntrack;
pub mod deliver;
mod hash;
pub mod hooks;
mod kernel;
pub mod packet;
pub mod policy;
pub mod reject;
pub mod service;
pub mod snat;
pub mod socket;

pub use kernel::{Kernel, Next, Report, Scratch, Step, Then};
