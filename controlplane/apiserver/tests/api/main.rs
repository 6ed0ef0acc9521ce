//! The API server from outside: requests over its tower service, as kubectl and kube-rs make them.

mod harness;

mod answers;
mod certificates;
mod limits;
mod sockets;
mod start;

mod verbs;
mod watches;
mod writes;
