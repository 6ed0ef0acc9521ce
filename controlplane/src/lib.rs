//! The composition root of the control plane: configuration, keys, and how API server, controllers
//! and scheduler are put together in one process. Only this crate sees all of them.

mod files;
pub mod pki;
