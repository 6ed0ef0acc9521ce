//! A DNS server for the outside world with a handful of names, and a client that shows what any
//! server answers. The wire format is written by hand on purpose: it must not agree with the
//! product's own by sharing code.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::client::datagram;
use crate::{Args, web};

/// The zone served outside.
const ZONE: &str = "outside.test";
const TYPES: [(&str, u16); 8] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
];

/// `toolbox outside`: the servers of the world outside of the cluster; never returns.
pub fn outside(args: &Args) -> Result<(), String> {
    let ip: IpAddr = args.word(0)?.parse().map_err(|_| "not an address")?;
    let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    web::http(any(80))?;
    web::udp_echo(any(7))?;
    web::echo(any(7))?;
    let at = SocketAddr::from((ip, 53));
    let listener = TcpListener::bind(at).map_err(|e| format!("{at}: {e}"))?;
    let socket = UdpSocket::bind(at).map_err(|e| format!("{at}/udp: {e}"))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || tcp(stream, ip));
        }
    });
    let mut buffer = [0; 4096];
    loop {
        let Ok((n, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if let Some(answer) = answer(&buffer[..n], ip) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn tcp(mut stream: TcpStream, ip: IpAddr) -> Option<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query).ok()?;
        let answer = answer(&query, ip)?;
        stream
            .write_all(&(answer.len() as u16).to_be_bytes())
            .ok()?;
        stream.write_all(&answer).ok()?;
    }
}

/// `outside.test` and every name below it but `missing.…` is this address; the rest: NXDOMAIN.
fn answer(query: &[u8], ip: IpAddr) -> Option<Vec<u8>> {
    let (name, end) = read_name(query, 12)?;
    let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
    let known =
        (name == ZONE || name.ends_with(&format!(".{ZONE}"))) && !name.starts_with("missing");
    let data = match (ip, kind) {
        (IpAddr::V4(v4), 1) if known => Some(v4.octets().to_vec()),
        (IpAddr::V6(v6), 28) if known => Some(v6.octets().to_vec()),
        _ => None,
    };
    let mut out = query[..2].to_vec();
    // QR, RD copied, RA; NXDOMAIN where nothing is known
    out.extend([0x84 | (query[2] & 1), 0x80 | if known { 0 } else { 3 }]);
    out.extend([0, 1, 0, data.is_some() as u8, 0, 0, 0, 0]);
    out.extend(&query[12..end + 4]);
    if let Some(data) = data {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 30]);
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    Some(out)
}

/// `toolbox resolve`: asks one question and prints status and answers, one line each.
pub fn resolve(args: &Args) -> Result<(), String> {
    let name = args.word(0)?;
    let kind_name = args.text("type").unwrap_or("A");
    let kind = TYPES
        .iter()
        .find(|(name, _)| *name == kind_name)
        .ok_or("unknown --type")?
        .1;
    let server: IpAddr = match args.text("server") {
        Some(text) => text.parse().map_err(|_| "--server: not an address")?,
        None => configured()?,
    };
    let query = query(name, kind);
    let at = SocketAddr::from((server, 53));
    let answer = if args.text("tcp").is_some() {
        over_tcp(at, &query, args.timeout()?)
    } else {
        datagram(at, &query, args.timeout()?)
    };
    let answer = answer.map_err(|e| format!("{server}: {e}"))?;
    let lines = parse(&answer).ok_or("an answer that cannot be read")?;
    println!("{}", lines.join("\n"));
    Ok(())
}

fn configured() -> Result<IpAddr, String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").map_err(|e| e.to_string())?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("nameserver "));
    line.and_then(|ip| ip.trim().parse().ok())
        .ok_or("no nameserver in /etc/resolv.conf".into())
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![0x57, 0x4c, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name
        .trim_end_matches('.')
        .split('.')
        .filter(|label| !label.is_empty())
    {
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.push(0);
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out
}

fn over_tcp(at: SocketAddr, query: &[u8], timeout: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&at, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(&[&(query.len() as u16).to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Option<Vec<String>> {
    let status = match answer.get(3)? & 15 {
        0 => "NOERROR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        5 => "REFUSED",
        _ => "other",
    };
    let truncated = if answer[2] & 2 != 0 { " truncated" } else { "" };
    let mut lines = vec![format!("{status}{truncated}")];
    let count = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
    let (questions, answers) = (count(4)?, count(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = read_name(answer, at)?.1 + 4;
    }
    for _ in 0..answers {
        let (name, end) = read_name(answer, at)?;
        let kind = count(end)?;
        let length = usize::from(count(end + 8)?);
        let data = answer.get(end + 10..end + 10 + length)?;
        let kind_name = TYPES
            .iter()
            .find(|(_, number)| *number == kind)
            .map_or("?", |(n, _)| n);
        lines.push(format!(
            "{name} {kind_name} {}",
            show(answer, kind, data, end + 10)?
        ));
        at = end + 10 + length;
    }
    Some(lines)
}

fn show(answer: &[u8], kind: u16, data: &[u8], at: usize) -> Option<String> {
    Some(match kind {
        1 => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string(),
        28 => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string(),
        2 | 5 | 12 => read_name(answer, at)?.0,
        33 => {
            let port = u16::from_be_bytes([*data.get(4)?, *data.get(5)?]);
            format!("{port} {}", read_name(answer, at + 6)?.0)
        }
        16 => String::from_utf8_lossy(data.get(1..)?).into_owned(),
        _ => format!("{} bytes", data.len()),
    })
}

/// A name and where it ends; compression pointers are followed a bounded number of times.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut name, mut end, mut jumps) = (String::new(), None, 0);
    loop {
        let length = usize::from(*message.get(at)?);
        if length & 0xc0 == 0xc0 {
            end.get_or_insert(at + 2);
            at = (length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
            jumps += 1;
            if jumps > 16 {
                return None;
            }
        } else if length == 0 {
            return Some((name, end.unwrap_or(at + 1)));
        } else {
            if !name.is_empty() {
                name.push('.');
            }
            let label = message.get(at + 1..at + 1 + length)?;
            name.push_str(&String::from_utf8_lossy(label).to_lowercase());
            at += 1 + length;
        }
    }
}
