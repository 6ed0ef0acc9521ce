//! A hollow agent, for tests of the control plane: pods bound to its nodes become Running and Ready
//! without containers, those of Jobs end, deleted ones go; nodes stay Ready. What a pod goes
//! through is a table of stages as in KWOK. It knows only the Kubernetes API, so that any control
//! plane can be tested with it: no crate of this workspace is used.

mod agent;
mod node;
pub mod stage;

pub use agent::run;
pub use node::{heartbeat, register};
pub use stage::{BROKEN, FAILS};
