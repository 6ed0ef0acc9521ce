//! Small numbers for things that have a row at an index: given out round-robin, so that a freed one is
//! the last to be used again.

use std::collections::HashSet;

/// Indices from 1 to below `SLOTS`; 0 means nothing.
#[derive(Debug, Default)]
pub struct Indices<const SLOTS: u32> {
    used: HashSet<u32>,
    last: u32,
}

impl<const SLOTS: u32> Indices<SLOTS> {
    /// Marks an index as used (recovered after a restart); false if it was.
    pub fn claim(&mut self, index: u32) -> bool {
        self.last = self.last.max(index);
        self.used.insert(index)
    }

    /// A free index; `None` when all are used.
    pub fn take(&mut self) -> Option<u32> {
        let limit = SLOTS - 1;
        if self.used.len() >= limit as usize {
            return None;
        }
        loop {
            self.last = self.last % limit + 1;
            if self.used.insert(self.last) {
                return Some(self.last);
            }
        }
    }

    pub fn free(&mut self, index: u32) {
        self.used.remove(&index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_start_at_1_and_are_reused_last() {
        let mut indices = Indices::<4>::default();
        assert_eq!((indices.take(), indices.take()), (Some(1), Some(2)));
        indices.free(1);
        assert_eq!(indices.take(), Some(3));
        assert_eq!((indices.take(), indices.take()), (Some(1), None));
    }
}
