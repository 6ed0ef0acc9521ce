//! Toolbox: the servers and clients that lab pods, the outside world and the demo are made of.
//! One small program, so that every answer and every lost connection is counted in one way.
//! Results go to standard output; the exit code says whether what was asked for happened.

mod bench;
mod client;
mod dns;
mod load;
mod registry;
mod web;

use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage:
  toolbox serve [--port 8080] [--udp PORT] [--echo PORT] [--drain SECONDS]
      web server that answers with its host name; /client says who asked, /healthz and /fail are
      for probes; after SIGTERM it goes on for the drain time, as a server behind a Service must
  toolbox outside ADDRESS      DNS server (outside.test), web server on 80, echo on UDP 7 and TCP 7
  toolbox registry ADDRESS:PORT LAYOUT    image registry, read-only, over an OCI layout
  toolbox get URL [--timeout MS]
  toolbox connect HOST:PORT [--timeout MS]     exit 0 connected, 1 refused, 2 timed out, 3 other
  toolbox udp HOST:PORT [TEXT] [--timeout MS]  one datagram and its answer
  toolbox resolve NAME [--type A] [--server ADDRESS] [--tcp]
  toolbox load HOST:PORT [--rate 200] [--seconds 10]   short requests on a schedule, counted
  toolbox hold HOST:PORT [--seconds 10]                one connection to an echo server, kept busy
  toolbox bench-serve ADDRESS:PORT
  toolbox bench-crr ADDRESS:PORT [--seconds 5] [--flight 16]";

/// Words and `--name value` options of a command line.
pub struct Args {
    words: Vec<String>,
    options: Vec<(String, String)>,
}

impl Args {
    fn parse(all: impl Iterator<Item = String>) -> Args {
        let mut args = Args {
            words: Vec::new(),
            options: Vec::new(),
        };
        let mut all = all.peekable();
        while let Some(word) = all.next() {
            match word.strip_prefix("--") {
                Some("tcp") => args.options.push(("tcp".into(), "1".into())),
                Some(name) => args
                    .options
                    .push((name.into(), all.next().unwrap_or_default())),
                None => args.words.push(word),
            }
        }
        args
    }

    /// The n-th word after the mode.
    pub fn word(&self, n: usize) -> Result<&str, String> {
        self.words
            .get(n + 1)
            .map(String::as_str)
            .ok_or_else(|| USAGE.to_owned())
    }

    /// An option as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.options
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// An option as a number.
    pub fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        match self.text(name) {
            Some(text) => text
                .parse()
                .map_err(|_| format!("--{name} {text}: not a number")),
            None => Ok(default),
        }
    }

    /// `--timeout` in milliseconds.
    pub fn timeout(&self) -> Result<Duration, String> {
        Ok(Duration::from_millis(self.number("timeout", 2000)?.max(1)))
    }
}

fn main() -> ExitCode {
    let args = Args::parse(std::env::args().skip(1));
    let mode = args.words.first().map(String::as_str).unwrap_or_default();
    let result = match mode {
        "serve" => web::serve(&args),
        "outside" => dns::outside(&args),
        "registry" => registry::serve(&args),
        "get" => client::get(&args),
        "connect" => return client::connect(&args),
        "udp" => client::udp(&args),
        "resolve" => dns::resolve(&args),
        "load" => load::load(&args),
        "hold" => load::hold(&args),
        "bench-serve" => bench::serve(&args),
        "bench-crr" => bench::crr(&args),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
