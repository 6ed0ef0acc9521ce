//! Where the engine attaches programs: the loaded datapath, or nothing (a machine without the
//! programs, tests of everything above them).

use super::maps::MapSet;

/// Attachment of the programs.
#[derive(Debug)]
pub enum Hooks {
    /// No programs: rows are written, nothing is attached.
    None,
}

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

impl Hooks {
    /// Attaches, or takes over, the programs of a pod's interface.
    pub fn attach_pod(&mut self, ifindex: u32) -> Result<(), Error> {
        match self {
            Self::None => {
                let _ = ifindex;
                Ok(())
            }
        }
    }

    /// Forgets a pod's interface.
    pub fn detach_pod(&mut self, ifindex: u32) {
        match self {
            Self::None => {
                let _ = ifindex;
            }
        }
    }

    pub fn set_node_ix(&mut self, _maps: &mut MapSet, _ix: u32) {}
}

/// Loads the programs and attaches those of the node.
pub fn load(_cfg: &crate::Config, _uplinks: &super::host::Uplinks) -> Result<(Hooks, MapSet), Error> {
    Ok((Hooks::None, MapSet::memory()))
}
