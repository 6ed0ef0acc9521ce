//! Cluster DNS: the Kubernetes DNS specification 1.1.0 for names of the cluster, forwarding with a
//! cache for the rest.
//!
//! ```text
//! zone (what the cluster has) ─▶ answer (question → records, NXDOMAIN, NODATA, or "forward")
//!                                forward (which upstream next) ─ cache (what they said) ─▶ server
//! ```
//!
//! Everything but `server` is synchronous and has neither clock nor socket. The zone's inputs are
//! structures of its own, so the crate knows no Kubernetes types and no watch.

pub mod zone;

pub mod answer;

pub mod cache;
pub mod forward;

pub mod server;
