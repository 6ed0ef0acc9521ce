//! How far this crate and upstream's code agree: random damage to valid objects, judged by both.
//!
//! `cargo xtask oracle in-process` builds `tests/oracle` and runs this. Arguments are words and values:
//! `--oracle PROGRAM --bases FOLDER [--kinds A,B] [--count N] [--seed N] [--record FILE] [--least PERCENT]
//! [--show N] [--dump FILE]`. Ends with 1 when a kind agrees less than `--least`.

#![allow(clippy::expect_used, reason = "a tool that fails says where")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

mod cases;
mod difference;
mod mutate;
mod oracle;
mod random;
mod report;
mod tree;
mod values;

#[allow(dead_code, reason = "shared with a test that needs other parts of it")]
#[path = "../../tests/upstream/judge.rs"]
mod judge;

use cases::{Bases, Kind};
use report::Tally;

/// The begin and the end of what a run writes into its document.
const MARKS: [&str; 2] = ["<!-- agreement -->", "<!-- /agreement -->"];

struct Options {
    oracle: PathBuf,
    bases: PathBuf,
    kinds: Vec<String>,
    count: usize,
    seed: u64,
    record: Option<PathBuf>,
    least: f64,
    show: usize,
    dump: Option<PathBuf>,
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        oracle: PathBuf::new(),
        bases: PathBuf::new(),
        kinds: Vec::new(),
        count: 1000,
        seed: 1,
        record: None,
        least: 0.0,
        show: 20,
        dump: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value"))?;
        let wrong = |_| format!("{word} {value}: not a number");
        match word.as_str() {
            "--oracle" => options.oracle = value.into(),
            "--bases" => options.bases = value.into(),
            "--kinds" => options.kinds = value.split(',').map(str::to_owned).collect(),
            "--count" => options.count = value.parse().map_err(wrong)?,
            "--seed" => options.seed = value.parse().map_err(wrong)?,
            "--show" => options.show = value.parse().map_err(wrong)?,
            "--record" => options.record = Some(value.into()),
            "--least" => {
                options.least = value
                    .parse()
                    .map_err(|_| format!("{word} {value}: not a number"))?
            }
            "--dump" => options.dump = Some(value.into()),
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<bool, String> {
    let bases = Bases::read(&options.bases)?;
    for wanted in &options.kinds {
        if !bases.kinds.keys().any(|name| is_named(name, wanted)) {
            let known: Vec<&str> = bases.kinds.keys().map(String::as_str).collect();
            return Err(format!(
                "no objects of kind {wanted}; there are {}",
                known.join(", ")
            ));
        }
    }
    let mut tallies = Vec::new();
    let mut dump = Vec::new();
    for (name, kind) in &bases.kinds {
        if options.kinds.is_empty() || options.kinds.iter().any(|wanted| is_named(name, wanted)) {
            let tally = compare(&bases, kind, options, &mut dump).map_err(|e| e.to_string())?;
            tally.print(name, options.show);
            tallies.push((name.clone(), tally));
        }
    }
    if let Some(file) = &options.dump {
        std::fs::write(file, dump.join("\n")).map_err(|e| e.to_string())?;
    }
    let good = tallies
        .iter()
        .all(|(_, tally)| tally.percent() >= options.least);
    if let Some(file) = &options.record {
        record(file, &tallies, options)?;
    }
    Ok(good)
}

/// Whether a kind (`Deployment.apps`) is the wanted one: its name, with or without the group.
fn is_named(name: &str, wanted: &str) -> bool {
    let short = name.split('.').next().unwrap_or_default();
    name.eq_ignore_ascii_case(wanted) || short.eq_ignore_ascii_case(wanted)
}

/// Asks both sides; differing cases go to the dump as three lines: question, ours, upstream's.
fn compare(
    bases: &Bases,
    kind: &Kind,
    options: &Options,
    dump: &mut Vec<String>,
) -> std::io::Result<Tally> {
    let mut oracle = oracle::Oracle::start(&options.oracle)?;
    let sender = oracle.sender();
    let mut tally = Tally::default();
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..options.count {
                if sender
                    .send(bases.question(kind, options.seed, number))
                    .is_err()
                {
                    break;
                }
            }
        });
        for number in 0..options.count {
            let line = bases.question(kind, options.seed, number);
            let question: judge::Question<'_> =
                serde_json::from_str(&line).expect("questions are JSON");
            let ours = judge::comparable(judge::ours(&question));
            let theirs = judge::comparable(judge::upstreams(&oracle.answer()?));
            let found = difference::signatures(&ours, &theirs);
            if !found.is_empty() {
                let signatures: Vec<_> = found.iter().cloned().collect();
                dump.push(format!(
                    "{}\n{line}\n  ours     {ours:?}\n  upstream {theirs:?}",
                    signatures.join("\n")
                ));
            }
            tally.add(&line, &ours, &theirs, &found);
        }
        Ok::<_, std::io::Error>(())
    })?;
    oracle.finish()?;
    Ok(tally)
}

fn record(file: &PathBuf, tallies: &[(String, Tally)], options: &Options) -> Result<(), String> {
    let say = |e: std::io::Error| format!("{}: {e}", file.display());
    let text = std::fs::read_to_string(file).map_err(say)?;
    let (before, rest) = text
        .split_once(MARKS[0])
        .ok_or("the document has no mark to begin at")?;
    let (_, after) = rest
        .split_once(MARKS[1])
        .ok_or("the document has no mark to end at")?;
    let kinds = match options.kinds.len() {
        0 => String::new(),
        _ => format!(" --kind {}", options.kinds.join(",")),
    };
    let command = format!(
        "cargo xtask oracle in-process{kinds} --mutations {} --record",
        options.count
    );
    let table = report::markdown(tallies, options.seed, &command);
    let text = format!("{before}{}\n{table}{}{after}", MARKS[0], MARKS[1]);
    std::fs::write(file, text).map_err(say)
}
