//! The net half: the datapath.

pub mod netlink;
pub mod netns;
