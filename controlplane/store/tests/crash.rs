//! Crashes: a child process killed at random points during writes, and every way the last write can
//! have reached the disk in part.
#![allow(clippy::unwrap_used, reason = "a failure of the setup fails the test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use store::{Batch, Config, Expect, Log, OpenError, Replayed};

/// Directory of the store the child writes to; set only in the child.
const CHILD_DIR: &str = "WINDLASS_STORE_CRASH_DIR";
const ROUNDS: u64 = 12;

fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir);
    config.segment_bytes = 16 << 10;
    config.snapshot_bytes = 64 << 10;
    config.compact_every = Duration::from_millis(3);
    config
}

type State = BTreeMap<String, (String, u64)>;

fn apply(state: &mut State, entry: Replayed) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match entry {
        Replayed::Record {
            key,
            value,
            revision,
        } => {
            state.insert(text(&key), (text(&value), revision));
        }
        Replayed::Commit(commit) => {
            for change in commit.changes {
                let key = text(&change.key);
                match change.value {
                    Some(value) => state.insert(key, (text(&value), commit.revision)),
                    None => state.remove(&key),
                };
            }
        }
    }
}

/// Writes until it is killed; prints a line `KEY VALUE REVISION` after each acknowledgement.
/// Does nothing when run as an ordinary test.
#[test]
fn child_that_writes_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else {
        return;
    };
    let opened = Log::open(config(Path::new(&dir)), |_| {}).unwrap();
    // Nobody reads the stream here.
    drop(opened.commits);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let log = opened.log.clone();
            std::thread::spawn(move || {
                for round in 0u64.. {
                    let key = format!("key-{writer}-{}", round % 7);
                    let value = format!("{round}-{}", "x".repeat((round % 300) as usize));
                    let twin = format!("twin-{key}");
                    let batch = Batch::new()
                        .put(key.clone(), value.clone(), Expect::Any)
                        .put(twin, value.clone(), Expect::Any);
                    let revision = log.blocking_propose(batch).unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ack {key} {value} {revision}").unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
}

/// Runs the child for a while, kills it, and returns the newest acknowledged write per key.
fn killed_child(dir: &Path, after: Duration) -> State {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_writes_until_killed", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut acknowledged = State::new();
        for line in out.lines().map_while(Result::ok) {
            // A line cut off by the kill is an acknowledgement nobody received.
            let Some((_, ack)) = line.split_once("ack ") else {
                continue;
            };
            let words: Vec<_> = ack.split(' ').collect();
            let [key, value, revision] = words[..] else {
                continue;
            };
            let Ok(revision) = revision.parse() else {
                continue;
            };
            acknowledged.insert(key.to_owned(), (value.to_owned(), revision));
        }
        acknowledged
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn every_acknowledged_write_survives_kills_at_random_points() {
    let dir = tempfile::tempdir().unwrap();
    let mut newest = 0;
    let mut writes = 0;
    for round in 0..ROUNDS {
        let acknowledged = killed_child(dir.path(), Duration::from_millis(60 + round * 23));
        let mut state = State::new();
        let opened = Log::open(config(dir.path()), |entry| apply(&mut state, entry)).unwrap();
        writes += acknowledged.len();
        for (key, (value, revision)) in &acknowledged {
            assert!(*revision > newest, "a revision was used twice");
            let (kept, kept_revision) = &state[key];
            assert!(kept_revision >= revision, "{key} at {revision} was lost");
            if kept_revision == revision {
                assert_eq!(kept, value);
            }
        }
        for (key, entry) in state.iter().filter(|(key, _)| !key.starts_with("twin-")) {
            assert_eq!(
                &state[&format!("twin-{key}")],
                entry,
                "a batch was applied in part"
            );
        }
        newest = opened.revision;
        opened.log.blocking_close();
    }
    assert!(writes > 0, "the children wrote nothing");
}

/// A store with three writes, each of two keys, stopped without the closing mark: its one segment,
/// and the states after each write.
fn three_writes() -> (String, Vec<u8>, Vec<State>) {
    let dir = tempfile::tempdir().unwrap();
    let opened = Log::open(config(dir.path()), |_| {}).unwrap();
    let name = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.ends_with(".log"))
        .unwrap();
    let mut states = vec![State::new()];
    for round in 0..3 {
        let value = format!("{round}").repeat(40);
        let batch =
            Batch::new()
                .put("a", value.clone(), Expect::Any)
                .put("b", value.clone(), Expect::Any);
        let revision = opened.log.blocking_propose(batch).unwrap();
        let mut state = states.last().unwrap().clone();
        state.insert("a".into(), (value.clone(), revision));
        state.insert("b".into(), (value, revision));
        states.push(state);
    }
    let bytes = std::fs::read(dir.path().join(&name)).unwrap();
    (name, bytes, states)
}

fn reopened(name: &str, bytes: &[u8]) -> Result<State, OpenError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    let mut state = State::new();
    Log::open(config(dir.path()), |entry| apply(&mut state, entry))?
        .log
        .blocking_close();
    Ok(state)
}

/// The end of what was written, and where the last write begins.
fn last_write(bytes: &[u8]) -> (usize, usize) {
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let end = end.next_multiple_of(8);
    (end - 2 * (32usize + 1 + 40).next_multiple_of(8), end)
}

#[test]
fn however_much_of_the_last_write_reached_the_disk_the_others_are_whole() {
    let (name, bytes, states) = three_writes();
    let (start, end) = last_write(&bytes);
    for cut in start..end - 7 {
        for garbage in [0u8, 0xff] {
            let mut torn = bytes.clone();
            torn[cut..end].fill(garbage);
            assert_eq!(reopened(&name, &torn).unwrap(), states[2], "cut at {cut}");
        }
        // The later part arrived, the earlier did not.
        let mut torn = bytes.clone();
        torn[start..=cut].fill(0);
        assert_eq!(
            reopened(&name, &torn).unwrap(),
            states[2],
            "hole up to {cut}"
        );
    }
    assert_eq!(reopened(&name, &bytes).unwrap(), states[3]);
}

#[test]
fn damage_before_the_last_write_is_refused_and_not_repaired() {
    let (name, bytes, _) = three_writes();
    let (start, _) = last_write(&bytes);
    let header = 64;
    // Padding between records carries nothing, so only bytes of records count.
    for at in (header..start).filter(|&at| bytes[at] != 0) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let result = reopened(&name, &damaged);
        assert!(
            matches!(result, Err(OpenError::Corrupt { .. })),
            "byte {at}: {result:?}"
        );
    }
}

#[test]
fn a_missing_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.compact_every = Duration::from_secs(3600);
    let opened = Log::open(config.clone(), |_| {}).unwrap();
    for round in 0..100 {
        let batch = Batch::new().put("a", vec![round; 1000], Expect::Any);
        opened.log.blocking_propose(batch).unwrap();
    }
    opened.log.blocking_close();
    std::fs::remove_file(dir.path().join("0000000000000002.log")).unwrap();
    let result = Log::open(config, |_| {});
    assert!(matches!(result, Err(OpenError::Missing { missing: 2, .. })));
}
