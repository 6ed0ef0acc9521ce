//! The BPF programs on kernels other than this machine's, in qemu: one that is new enough must take
//! every program, one that is too old must be refused in words.
#![expect(clippy::unwrap_used, reason = "a failing test says where")]

use std::path::PathBuf;

use xtask::command;
use xtask::qemu::{Kernel, run};

/// `cargo test` builds examples beside the tests: `TARGET/PROFILE/{deps,examples}`.
fn loader() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/load_datapath")
}

/// Kernels come as packages of Debian; elsewhere there is none to boot.
fn kernels_can_be_had() -> bool {
    command::exists("apt-get") && std::env::consts::ARCH == "x86_64"
}

#[test]
fn every_program_loads_on_linux_6_12() {
    if !kernels_can_be_had() {
        return;
    }
    let console = run(Kernel::Backports, &loader()).unwrap();
    assert!(console.contains("kernel 6.12."), "{console}");
    assert!(console.contains("every program was loaded"), "{console}");
}

#[test]
fn linux_6_1_is_refused_in_words() {
    if !kernels_can_be_had() {
        return;
    }
    let console = run(Kernel::Stable, &loader()).unwrap();
    assert!(console.contains("kernel 6.1."), "{console}");
    assert!(console.contains("needs 6.6 or newer"), "{console}");
}
