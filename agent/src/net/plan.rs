//! Pure plans: from the cluster's state to steps on the maps' rows, per object. Nothing here reads a
//! clock, a socket or a map; what the maps hold is an argument.

pub mod backend;
pub mod endpoint;
pub mod indices;
pub mod node;
pub mod policy;
pub mod service;
