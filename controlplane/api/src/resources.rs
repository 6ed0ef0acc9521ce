//! Amounts of resources, and what pods ask for. Pure.

mod amounts;
mod pod;

pub use amounts::Amounts;
pub use pod::{Container, PodResources, Resources};
