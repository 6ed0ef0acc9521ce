//! Images of the lab.
/// The sandbox image of every pod.
pub const PAUSE: &str = "lab.windlass/pause:1";
