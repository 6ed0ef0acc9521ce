//! The developer's and the newcomer's one entry: build, lab, tests, checks, measurements.
//! The binary is a thin command line over these modules; `tests` uses `lab` and `images` directly.
//! Compiled first on a fresh machine, so it has few dependencies and leaves the work to the
//! programs every Linux has (ip, mount's callers, tar, sha256sum, nsenter, unshare).

pub mod command;
pub mod kubeconfig;
pub mod progress;
pub mod workspace;

pub mod setup;

pub mod bpf;
pub mod build;
pub mod debian;
pub mod images;
pub mod upstream;

pub mod lab;

pub mod demo;
pub mod up;

pub mod bench;
pub mod check;
pub mod conformance;
pub mod oracle;
pub mod qemu;
pub mod test;
