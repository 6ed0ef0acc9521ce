//! Connect + request + answer + close, counted: the figure at which load balancers differ.
//! One thread and a fixed number of connections in flight on each side; the client closes with
//! RST so that no port waits in TIME_WAIT, the same for every datapath measured.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};

use crate::Args;
use crate::client::address;

const REQUEST: [u8; 64] = [b'q'; 64];
const ANSWER: [u8; 128] = [b'a'; 128];
/// Events taken from the kernel at once.
const EVENTS: usize = 256;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// `toolbox bench-serve`: answers every request of 64 bytes with 128 bytes; never returns.
pub fn serve(args: &Args) -> Result<(), String> {
    let listener = TcpListener::bind(address(args.word(0)?)?).map_err(text)?;
    listener.set_nonblocking(true).map_err(text)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(text)?;
    epoll
        .add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX))
        .map_err(text)?;
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        let n = epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        for event in &events[..n] {
            if event.data() != u64::MAX {
                respond(&mut connections, event.data() as usize);
                continue;
            }
            while let Ok((stream, _)) = listener.accept() {
                let fd = stream.as_raw_fd() as usize;
                let _ = stream.set_nonblocking(true);
                let _ = epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, fd as u64));
                connections.resize_with(connections.len().max(fd + 1), || None);
                connections[fd] = Some(stream);
            }
        }
    }
}

fn respond(connections: &mut [Option<TcpStream>], fd: usize) {
    let Some(slot) = connections.get_mut(fd) else {
        return;
    };
    let Some(stream) = slot.as_mut() else { return };
    let mut buffer = [0; 4096];
    let alive = match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(_) => stream.write_all(&ANSWER).is_ok(),
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    };
    if !alive {
        *slot = None;
    }
}

struct Flight {
    socket: OwnedFd,
    start: Instant,
    sent: bool,
}

/// `toolbox bench-crr`: prints operations per second and latencies.
pub fn crr(args: &Args) -> Result<(), String> {
    let SocketAddr::V4(to) = address(args.word(0)?)? else {
        return Err("IPv4 only".into());
    };
    let seconds = Duration::from_secs(args.number("seconds", 5)?);
    let flight = args.number("flight", 16)? as usize;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(text)?;
    let mut slots = Vec::new();
    for slot in 0..flight {
        slots.push(open(&epoll, to, slot)?);
    }
    let (start, mut errors) = (Instant::now(), 0u64);
    let mut times: Vec<u32> = Vec::with_capacity(1 << 20);
    let mut events = [EpollEvent::empty(); EVENTS];
    while start.elapsed() < seconds {
        let n = epoll
            .wait(&mut events, EpollTimeout::from(100u8))
            .unwrap_or(0);
        for event in &events[..n] {
            let slot = event.data() as usize;
            match advance(&epoll, &mut slots[slot], slot) {
                Ok(false) => continue,
                Ok(true) => times.push(slots[slot].start.elapsed().as_micros() as u32),
                Err(_) => errors += 1,
            }
            slots[slot] = open(&epoll, to, slot)?;
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| {
        times
            .get((times.len() as f64 * share) as usize)
            .copied()
            .unwrap_or(0)
    };
    println!(
        "{{\"ops\":{},\"per_second\":{:.0},\"errors\":{errors},\"p50_us\":{},\"p99_us\":{}}}",
        times.len(),
        times.len() as f64 / elapsed,
        at(0.5),
        at(0.99)
    );
    Ok(())
}

fn open(epoll: &Epoll, to: SocketAddrV4, slot: usize) -> Result<Flight, String> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).map_err(text)?;
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&fd, sockopt::Linger, &linger).map_err(text)?;
    match connect(fd.as_raw_fd(), &SockaddrIn::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(format!("connect {to}: {error}")),
    }
    epoll
        .add(&fd, EpollEvent::new(EpollFlags::EPOLLOUT, slot as u64))
        .map_err(text)?;
    Ok(Flight {
        socket: fd,
        start: Instant::now(),
        sent: false,
    })
}

/// One step of a connection; true when its answer is there.
fn advance(epoll: &Epoll, flight: &mut Flight, slot: usize) -> Result<bool, Errno> {
    if !flight.sent {
        nix::unistd::write(&flight.socket, &REQUEST)?;
        flight.sent = true;
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN, slot as u64);
        epoll.modify(&flight.socket, &mut event)?;
        return Ok(false);
    }
    let mut buffer = [0; 512];
    match nix::unistd::read(&flight.socket, &mut buffer)? {
        0 => Err(Errno::ECONNRESET),
        _ => Ok(true),
    }
}
