//! The API server from outside: requests over its tower service, as kubectl and kube-rs make them.

mod harness;
mod webhook_server;

mod answers;
mod certificates;
mod limits;
mod policies;
mod sockets;
mod start;

mod verbs;
mod watches;
mod webhook_subresources;
mod webhooks;
mod writes;
