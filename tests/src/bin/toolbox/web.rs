//! Servers: HTTP that answers with the host name (a pod's name), UDP echo, TCP echo.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::Args;

/// A client that sends nothing for this long is let go.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of a request that are read at most.
const REQUEST_LIMIT: u64 = 16 * 1024;

static FAILING: AtomicBool = AtomicBool::new(false);

/// `toolbox serve`.
pub fn serve(args: &Args) -> Result<(), String> {
    let drain = Duration::from_secs(args.number("drain", 2)?);
    // blocked before any thread exists, so that only the wait below sees it
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    term.add(Signal::SIGINT);
    term.thread_block().map_err(|e| e.to_string())?;

    let any = |port: u64| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port as u16));
    http(any(args.number("port", 8080)?))?;
    if let Some(port) = args.text("udp") {
        udp_echo(any(port.parse().map_err(|_| "--udp: not a port")?))?;
    }
    if let Some(port) = args.text("echo") {
        echo(any(port.parse().map_err(|_| "--echo: not a port")?))?;
    }
    println!("{} serves", name());
    term.wait().map_err(|e| e.to_string())?;
    println!("drains for {} s", drain.as_secs());
    thread::sleep(drain);
    Ok(())
}

/// The host name: in a pod, the pod's name.
pub fn name() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    text.trim().to_owned()
}

/// HTTP server on its own threads.
pub fn http(at: SocketAddr) -> Result<(), String> {
    each(at, |stream| {
        let _ = answer(stream);
    })
}

/// TCP echo server on its own threads.
pub fn echo(at: SocketAddr) -> Result<(), String> {
    each(at, |mut stream| {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    })
}

/// Serves every connection on a thread of its own.
pub fn each(
    at: SocketAddr,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> Result<(), String> {
    let listener = TcpListener::bind(at).map_err(|e| format!("{at}: {e}"))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.set_nodelay(true);
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    Ok(())
}

/// UDP server: answers `HOSTNAME CLIENT TEXT`.
pub fn udp_echo(at: SocketAddr) -> Result<(), String> {
    let socket = UdpSocket::bind(at).map_err(|e| format!("{at}/udp: {e}"))?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]);
            let answer = format!("{} {} {}", name(), plain(from.ip()), text.trim());
            let _ = socket.send_to(answer.as_bytes(), from);
        }
    });
    Ok(())
}

/// An IPv4 address that came in through an IPv6 socket, as IPv4.
fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Method and target of a request; its headers are read and forgotten.
pub fn request(stream: &TcpStream) -> std::io::Result<(String, String)> {
    stream.set_read_timeout(Some(IDLE))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(REQUEST_LIMIT));
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = first.split_whitespace().map(str::to_owned);
    let method = words.next().unwrap_or_default();
    Ok((method, words.next().unwrap_or_else(|| "/".to_owned())))
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let client = plain(stream.peer_addr()?.ip());
    let (_, path) = request(&stream)?;
    let (status, body) = match path.as_str() {
        "/client" => ("200 OK", format!("{client}\n")),
        "/healthz" if FAILING.load(Ordering::Relaxed) => {
            ("503 Service Unavailable", "failing\n".to_owned())
        }
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        "/fail" => {
            FAILING.store(true, Ordering::Relaxed);
            ("200 OK", "from now on /healthz fails\n".to_owned())
        }
        _ => ("200 OK", format!("{}\n", name())),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}
