//! The one door of a lab: listens on 127.0.0.1 of the machine and connects inside node 1's
//! network namespace, to its loopback. A thread changes its namespace and connects; the socket
//! keeps the namespace it was made in, so no device or route joins the two.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// Longest wait for a connection inside the node.
const CONNECT: Duration = Duration::from_secs(5);

/// Body of `xtask lab-proxy`: takes `port` or, if it is taken, a free one; writes it to
/// `announce`; never returns.
pub fn serve(netns: PathBuf, to: SocketAddr, port: u16, announce: &Path) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("listen on 127.0.0.1")?;
    let own = listener.local_addr()?.port();
    // renamed into place: a reader sees the whole number or no file
    let temporary = announce.with_extension("new");
    std::fs::write(&temporary, own.to_string())?;
    std::fs::rename(&temporary, announce)?;
    for connection in listener.incoming() {
        let Ok(client) = connection else { continue };
        let netns = netns.clone();
        thread::spawn(move || {
            if let Err(error) = relay(client, &netns, to) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

/// Connects inside a network namespace; the calling thread stays there.
pub fn connect_inside(netns: &Path, to: SocketAddr) -> Result<TcpStream> {
    let file = std::fs::File::open(netns).with_context(|| netns.display().to_string())?;
    setns(file, CloneFlags::CLONE_NEWNET).context("setns")?;
    TcpStream::connect_timeout(&to, CONNECT).with_context(|| to.to_string())
}

fn relay(client: TcpStream, netns: &Path, to: SocketAddr) -> Result<()> {
    let server = connect_inside(netns, to)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || pump(from_client, to_server));
    pump(server, client);
    // a panic in the other direction ends this connection only
    let _ = up.join();
    Ok(())
}

/// Copies one direction to its end and passes the end on.
fn pump(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
