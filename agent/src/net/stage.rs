//! How far the net half has come: published by its supervisor, answered by at the CNI socket, shown as
//! the Node's condition. Knows neither why loading fails nor who reads it.

use std::time::Duration;

/// First and longest pause before the net half is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How far the net half has come; `T` is what works once it is up.
#[derive(Debug, Clone)]
pub enum Stage<T> {
    /// Being made ready; nothing has gone wrong.
    Starting,
    Up(T),
    Down(Problem),
}

/// Why the node's network is not up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// For machines, as conditions have it: `DatapathNotLoaded`.
    pub reason: &'static str,
    /// For people: the failed operation with its causes.
    pub message: String,
}

/// The pause before the next attempt: doubled with every failure, the first one again once an
/// attempt had come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause(Duration);

// === impl ===

impl<T> Stage<T> {
    pub fn is_starting(&self) -> bool {
        matches!(self, Self::Starting)
    }

    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up(_))
    }
}

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSE.0)
    }
}

impl Pause {
    /// How long to wait after an attempt that ended; `came_up`: it had worked before.
    pub fn after(&mut self, came_up: bool) -> Duration {
        if came_up {
            *self = Self::default();
        }
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE.1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_start_over_after_success() {
        let mut pause = Pause::default();
        let seconds: Vec<u64> = (0..8).map(|_| pause.after(false).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause.after(true).as_secs(), 1);
        assert_eq!(pause.after(false).as_secs(), 2);
    }
}
