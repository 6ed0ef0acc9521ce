//! Load whose every failure counts: short requests on a schedule, and one connection kept busy.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::Args;
use crate::client::{address, request};

/// Longest wait for one request; a retransmitted SYN (1 s) still counts as served.
const REQUEST: Duration = Duration::from_secs(5);
/// Pause between two rounds on a held connection.
const ROUND: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Counts {
    ok: u64,
    errors: BTreeMap<String, u64>,
    answers: BTreeMap<String, u64>,
    slowest: Duration,
}

/// `toolbox load`: opens connections on a schedule, whatever became of the earlier ones.
pub fn load(args: &Args) -> Result<(), String> {
    let target = args.word(0)?;
    let (rate, seconds) = (
        args.number("rate", 200)?.max(1),
        args.number("seconds", 10)?,
    );
    // the name is resolved once: this counts connections, not lookups
    let to = address(target)?;
    let counts = Arc::new(Mutex::new(Counts::default()));
    let start = Instant::now();
    let mut running = Vec::new();
    let total = rate * seconds;
    for n in 0..total {
        let due = start + Duration::from_nanos(1_000_000_000 / rate * n);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let counts = counts.clone();
        running.push(thread::spawn(move || one(to, &counts)));
        running.retain(|thread| !thread.is_finished());
    }
    for thread in running {
        let _ = thread.join();
    }
    let counts = counts.lock().map_err(|e| e.to_string())?;
    println!(
        "{{\"sent\":{total},\"ok\":{},\"errors\":{:?},\"answers\":{:?},\"slowest_ms\":{}}}",
        counts.ok,
        counts.errors,
        counts.answers,
        counts.slowest.as_millis()
    );
    if counts.ok == total {
        Ok(())
    } else {
        Err(format!("{} of {total} failed", total - counts.ok))
    }
}

fn one(to: std::net::SocketAddr, counts: &Mutex<Counts>) {
    let start = Instant::now();
    let result = request(to, "/", REQUEST);
    let Ok(mut counts) = counts.lock() else {
        return;
    };
    counts.slowest = counts.slowest.max(start.elapsed());
    match result {
        Ok(body) => {
            counts.ok += 1;
            *counts.answers.entry(body.trim().to_owned()).or_default() += 1;
        }
        Err(error) => {
            let kind = match error.kind() {
                ErrorKind::TimedOut | ErrorKind::WouldBlock => "timed out".to_owned(),
                _ => error.to_string(),
            };
            *counts.errors.entry(kind).or_default() += 1;
        }
    }
}

/// `toolbox hold`: one connection to an echo server, a round trip every 10 ms.
pub fn hold(args: &Args) -> Result<(), String> {
    let to = address(args.word(0)?)?;
    let seconds = Duration::from_secs(args.number("seconds", 10)?);
    let mut stream = TcpStream::connect_timeout(&to, REQUEST).map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .map_err(|e| e.to_string())?;
    let (start, mut rounds, mut slowest) = (Instant::now(), 0u64, Duration::ZERO);
    while start.elapsed() < seconds {
        let at = Instant::now();
        let mut back = [0; 8];
        let done = stream
            .write_all(&rounds.to_be_bytes())
            .and_then(|()| stream.read_exact(&mut back));
        done.map_err(|e| format!("cut after {rounds} rounds, {:?}: {e}", start.elapsed()))?;
        if back != rounds.to_be_bytes() {
            return Err(format!("round {rounds} came back as {back:?}"));
        }
        slowest = slowest.max(at.elapsed());
        rounds += 1;
        thread::sleep(ROUND);
    }
    println!(
        "{{\"rounds\":{rounds},\"slowest_ms\":{}}}",
        slowest.as_millis()
    );
    Ok(())
}
