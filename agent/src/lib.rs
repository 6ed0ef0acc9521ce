//! The node agent: the pod half (kubelet over CRI) and the net half (Services, policies, routes in
//! eBPF), composed over one configuration. Flow is one-way: watch → state → plan → apply → status.
//! It knows the Kubernetes API and a CRI socket; it does not know which API server it talks to.

pub mod client;
pub mod cni;
pub mod config;
pub mod cri;
pub mod join;
pub mod net;
pub mod pod;
pub mod serve;
pub mod state;
pub mod volume;
pub mod watch;

pub use config::Config;
