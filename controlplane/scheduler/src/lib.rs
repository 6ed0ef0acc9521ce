//! The scheduler: gives every pod a node.
//!
//! `snapshot` → `filter`, `score` → `schedule` is pure, and so is `preempt`; `queue` holds the pods that wait; `driver`
//! takes in watches, decides one pod after the other and hands bindings to tasks (`bind`).

mod bind;
mod driver;
mod filter;
mod matching;
mod object;
mod preempt;
mod queue;
mod resources;
mod schedule;
mod score;
mod snapshot;

pub use driver::run;
pub use filter::Plugin;
pub use object::{Key, Node, Pod};
pub use schedule::{NodeName, Unschedulable, schedule};
pub use snapshot::Snapshot;
