//! Runs code inside another network namespace, on a thread of its own that ends afterwards: a
//! thread that has changed its namespace never goes back to a pool.

use std::future::Future;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns};

/// Why code could not be run inside a namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("start a thread for the network namespace")]
    Thread(#[source] std::io::Error),
    #[error("enter the network namespace")]
    Enter(#[source] nix::Error),
    #[error("start a runtime in the network namespace")]
    Runtime(#[source] std::io::Error),
    #[error("the thread in the network namespace panicked")]
    Panicked,
}

/// Runs the future that `work` makes to its end inside `netns`, on a single-threaded runtime there.
pub async fn run<T, F, Fut>(netns: OwnedFd, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T>,
{
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            // A receiver that went away does not want the result any more.
            let _ = done.send(run_here(&netns, work));
        })
        .map_err(Error::Thread)?;
    result.await.map_err(|_| Error::Panicked)?
}

fn run_here<T, F, Fut>(netns: &OwnedFd, work: F) -> Result<T, Error>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = T>,
{
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(Error::Enter)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    Ok(runtime.block_on(work()))
}
