//! Runs code inside another network namespace, on a thread of its own that ends afterwards: a
//! thread that has changed its namespace never goes back to a pool. Also receives namespaces, as
//! descriptors over a Unix socket.

use std::future::Future;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

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

/// Reads a message of at most `limit` bytes until the sender is done, and the descriptor that came
/// with its first byte. Blocking.
pub fn receive(
    stream: &std::os::unix::net::UnixStream,
    limit: usize,
) -> std::io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut buffer = vec![0; limit];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut netns = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            for fd in fds {
                // SAFETY: the kernel has just installed the descriptor for this process, and nobody
                // else knows its number; extra ones are closed by being replaced.
                netns = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    let got = message.bytes;
    buffer.truncate(got);
    let rest = u64::try_from(limit - got).unwrap_or(0);
    stream.take(rest).read_to_end(&mut buffer)?;
    Ok((buffer, netns))
}
