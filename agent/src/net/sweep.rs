//! When to remove expired conntrack entries: often while much expires, seldom while little does. The
//! expiry itself is decided at lookup by the programs; sweeping only gives memory back.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::load::{Datapath, LoadError};

/// Shortest and longest pause between two sweeps.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(120);

/// The pause after a sweep that saw `seen` entries and removed `removed` of them: halved when more
/// than a quarter had expired, doubled when less than a twentieth had.
pub fn next_pause(pause: Duration, seen: usize, removed: usize) -> Duration {
    let next = if removed * 4 > seen {
        pause / 2
    } else if removed * 20 < seen {
        pause * 2
    } else {
        pause
    };
    next.clamp(SHORTEST, LONGEST)
}

/// Sweeps until `shutdown`, with maps of its own so that the engine never waits for it.
pub async fn run(datapath: Arc<Datapath>, shutdown: CancellationToken) {
    let mut pause = SHORTEST;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        let datapath = datapath.clone();
        match tokio::task::spawn_blocking(move || sweep(&datapath)).await {
            Ok(Ok((seen, removed))) => {
                tracing::debug!(seen, removed, "conntrack swept");
                pause = next_pause(pause, seen, removed);
            }
            Ok(Err(error)) => tracing::warn!(error = super::cni::chain(&error), "sweep conntrack"),
            Err(error) => tracing::error!(%error, "sweep conntrack"),
        }
    }
}

fn sweep(datapath: &Datapath) -> Result<(usize, usize), LoadError> {
    let now = datapath.seconds()?;
    Ok(datapath.maps()?.sweep(now)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_the_share_of_expired_entries_within_bounds() {
        let pause = Duration::from_secs(20);
        assert_eq!(next_pause(pause, 100, 50), Duration::from_secs(10));
        assert_eq!(next_pause(pause, 100, 10), pause);
        assert_eq!(next_pause(pause, 100, 1), Duration::from_secs(40));
        assert_eq!(next_pause(LONGEST, 100, 0), LONGEST);
        assert_eq!(next_pause(SHORTEST, 100, 90), SHORTEST);
    }
}
