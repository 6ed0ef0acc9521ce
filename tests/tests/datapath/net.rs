//! Clients and servers inside namespaces: sockets are made in a thread that entered the namespace.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// Time within which an answer must come, or is taken not to come.
pub const PATIENCE: Duration = Duration::from_millis(1500);

/// Runs a function in a named network namespace.
pub fn enter<T: Send>(ns: &str, f: impl FnOnce() -> T + Send) -> T {
    let path = format!("/run/netns/{ns}");
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            let ns = std::fs::File::open(path).expect("namespace");
            nix::sched::setns(ns, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
            f()
        });
        inside.join().expect("no panic inside")
    })
}

/// A TCP server that answers each line with the name given and the client's address; it ends with the
/// test.
pub fn serve(ns: &str, port: u16, name: &'static str) {
    let listener = enter(ns, move || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("listen")
    });
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, name));
        }
    });
}

fn answer(mut stream: TcpStream, name: &str) {
    let Ok(peer) = stream.peer_addr() else { return };
    let mut buffer = [0; 256];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0
            || stream
                .write_all(format!("{name} {}\n", peer.ip()).as_bytes())
                .is_err()
        {
            return;
        }
    }
}

/// A UDP server that answers each datagram with its name and the client's address.
pub fn serve_udp(ns: &str, port: u16, name: &'static str) {
    let socket = enter(ns, move || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind")
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// Connects, asks once and returns the answer, or what went wrong.
pub fn ask(ns: &str, to: Ipv4Addr, port: u16) -> Result<String, String> {
    let mut stream = connect(ns, to, port)?;
    ask_again(&mut stream)
}

/// Connects only.
pub fn connect(ns: &str, to: Ipv4Addr, port: u16) -> Result<TcpStream, String> {
    let to = SocketAddr::V4(SocketAddrV4::new(to, port));
    let stream = enter(ns, move || TcpStream::connect_timeout(&to, PATIENCE));
    let stream = stream.map_err(|error| error.kind().to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    Ok(stream)
}

/// One more question on a connection.
pub fn ask_again(stream: &mut TcpStream) -> Result<String, String> {
    stream
        .write_all(b"?\n")
        .map_err(|error| error.kind().to_string())?;
    let mut buffer = [0; 256];
    let n = stream
        .read(&mut buffer)
        .map_err(|error| error.kind().to_string())?;
    Ok(String::from_utf8_lossy(&buffer[..n]).trim().to_owned())
}

/// Asks by UDP.
pub fn ask_udp(ns: &str, to: Ipv4Addr, port: u16) -> Result<String, String> {
    let socket = enter(ns, || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind")
    });
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
        .connect((to, port))
        .map_err(|error| error.kind().to_string())?;
    socket
        .send(b"?")
        .map_err(|error| error.kind().to_string())?;
    let mut buffer = [0; 256];
    let n = socket
        .recv(&mut buffer)
        .map_err(|error| error.kind().to_string())?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// Asks by UDP on a socket that is not connected; the answer must come from the address asked.
pub fn ask_udp_unconnected(ns: &str, to: Ipv4Addr, port: u16) -> Result<String, String> {
    let socket = enter(ns, || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind")
    });
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
        .send_to(b"?", (to, port))
        .map_err(|error| error.kind().to_string())?;
    let mut buffer = [0; 256];
    let (n, from) = socket
        .recv_from(&mut buffer)
        .map_err(|error| error.kind().to_string())?;
    if from != SocketAddr::from((to, port)) {
        return Err(format!("answer from {from}"));
    }
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// Connects from a port that several connections share.
pub fn connect_from(ns: &str, from: u16, to: Ipv4Addr, port: u16) -> Result<TcpStream, String> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd;
    enter(ns, move || {
        let fd = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::empty(),
            None,
        )
        .map_err(|errno| errno.to_string())?;
        setsockopt(&fd, sockopt::ReuseAddr, &true).map_err(|errno| errno.to_string())?;
        setsockopt(&fd, sockopt::ReusePort, &true).map_err(|errno| errno.to_string())?;
        let own = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, from));
        bind(fd.as_raw_fd(), &own).map_err(|errno| errno.to_string())?;
        let peer = SockaddrIn::from(SocketAddrV4::new(to, port));
        connect(fd.as_raw_fd(), &peer).map_err(|errno| errno.to_string())?;
        let stream = TcpStream::from(fd);
        stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(|error| error.to_string())?;
        Ok(stream)
    })
}

/// Asks by an IPv6 socket that speaks IPv4, as some runtimes do.
pub fn ask_mapped(ns: &str, to: Ipv4Addr, port: u16) -> Result<String, String> {
    let to = SocketAddr::from((to.to_ipv6_mapped(), port));
    let stream = enter(ns, move || TcpStream::connect_timeout(&to, PATIENCE));
    let mut stream = stream.map_err(|error| error.kind().to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    ask_again(&mut stream)
}
