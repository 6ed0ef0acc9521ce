//! The composition root of the control plane: configuration, keys, and how API server, controllers
//! and scheduler are put together in one process. Only this crate sees all of them.

mod bootstrap;
mod config;
mod files;
mod kubeconfig;
mod local;
pub mod pki;
mod run;
mod token;

pub use config::Config;
pub use run::{Running, start};
