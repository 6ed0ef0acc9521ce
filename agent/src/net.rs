//! The net half: the datapath.

pub mod cni;
pub mod core;
pub mod engine;
pub mod hooks;
pub mod host;
pub mod ipam;
pub mod load;
pub mod maps;
pub mod netlink;
pub mod netns;
pub mod plan;
pub mod rows;
pub mod sandbox;
pub mod sysctl;
pub mod veth;
pub mod writer;
