//! Single requests.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use crate::Args;

/// First address of `HOST:PORT`.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|e| format!("{text}: {e}"))?;
    found.next().ok_or_else(|| format!("{text}: no address"))
}

/// `toolbox get`: prints the body.
pub fn get(args: &Args) -> Result<(), String> {
    let url = args.word(0)?;
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let bracket = host.rfind(']').unwrap_or(0);
    let target = if host[bracket..].contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let body =
        request(address(&target)?, path, args.timeout()?).map_err(|e| format!("{url}: {e}"))?;
    print!("{body}");
    Ok(())
}

/// One HTTP request on a connection of its own; the body of the answer.
pub fn request(to: SocketAddr, path: &str, timeout: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        Some((head, _)) => Err(std::io::Error::other(
            head.lines().next().unwrap_or("").to_owned(),
        )),
        None => Err(std::io::Error::new(ErrorKind::UnexpectedEof, "cut off")),
    }
}

/// `toolbox connect`: what becomes of a connection attempt.
pub fn connect(args: &Args) -> ExitCode {
    let attempt = || -> Result<(u8, String), String> {
        let to = address(args.word(0)?)?;
        Ok(match TcpStream::connect_timeout(&to, args.timeout()?) {
            Ok(_) => (0, "connected".to_owned()),
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => (1, "refused".to_owned()),
            Err(e) if e.kind() == ErrorKind::TimedOut => (2, "timed out".to_owned()),
            Err(e) => (3, e.to_string()),
        })
    };
    let (code, text) = attempt().unwrap_or_else(|text| (3, text));
    println!("{text}");
    ExitCode::from(code)
}

/// `toolbox udp`: one datagram, its answer.
pub fn udp(args: &Args) -> Result<(), String> {
    let to = address(args.word(0)?)?;
    let text = args.word(1).unwrap_or("hello");
    let answer =
        datagram(to, text.as_bytes(), args.timeout()?).map_err(|e| format!("{to}: {e}"))?;
    println!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Sends one datagram from an unconnected socket and waits for the answer from that address.
pub fn datagram(to: SocketAddr, text: &[u8], timeout: Duration) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send_to(text, to)?;
    let mut buffer = vec![0; 65536];
    loop {
        let (n, from) = socket.recv_from(&mut buffer)?;
        if from == to {
            buffer.truncate(n);
            return Ok(buffer);
        }
        eprintln!("an answer from {from}, not from {to}: ignored");
    }
}
