//! The Log against a `BTreeMap`: any sequence of batches, compactions, clean stops and crashes.
#![allow(clippy::unwrap_used, reason = "a failure of the setup fails the test")]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use store::{Batch, Commits, Config, Event, Expect, Log, Opened, ProposeError, Replayed};

#[derive(Debug, Clone)]
enum Condition {
    Any,
    Absent,
    Current,
    Wrong,
}

#[derive(Debug, Clone)]
enum Step {
    Propose {
        ops: Vec<(u8, Option<u16>, Condition)>,
        relaxed: bool,
    },
    Compact,
    Reopen,
    Crash,
}

/// What the Log should hold: value and revision by key, and the newest revision.
#[derive(Debug, Default, Clone, PartialEq)]
struct Model {
    keys: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
}

fn step() -> impl Strategy<Value = Step> {
    let condition = prop_oneof![
        4 => Just(Condition::Any),
        2 => Just(Condition::Absent),
        4 => Just(Condition::Current),
        1 => Just(Condition::Wrong),
    ];
    let op = (
        0u8..12,
        proptest::option::weighted(0.75, 0u16..900),
        condition,
    );
    prop_oneof![
        20 => (proptest::collection::vec(op, 1..4), any::<bool>())
            .prop_map(|(ops, relaxed)| Step::Propose { ops, relaxed }),
        2 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir);
    config.segment_bytes = 4096;
    config.snapshot_bytes = 8192;
    config
}

fn open(dir: &Path) -> (Opened, Model) {
    let mut model = Model::default();
    let opened = Log::open(config(dir), |entry| model.replay(entry)).unwrap();
    (opened, model)
}

fn key(number: u8) -> Vec<u8> {
    format!("/registry/{number}").into_bytes()
}

impl Model {
    fn replay(&mut self, entry: Replayed) {
        match entry {
            Replayed::Record {
                key,
                value,
                revision,
            } => {
                self.keys.insert(key.to_vec(), (value.to_vec(), revision));
            }
            Replayed::Commit(commit) => self.commit(&commit),
        }
    }

    fn commit(&mut self, commit: &store::Commit) {
        for change in &commit.changes {
            let key = change.key.to_vec();
            let old = match &change.value {
                Some(value) => self.keys.insert(key, (value.to_vec(), commit.revision)),
                None => self.keys.remove(&key),
            };
            assert_eq!(old.map(|(_, revision)| revision), change.previous);
        }
    }

    fn follow(&mut self, commits: &mut Commits) {
        while let Some(events) = commits.try_next() {
            for event in events {
                if let Event::Commit(commit) = event {
                    self.commit(&commit);
                }
            }
        }
    }

    /// The batch of a step, and whether its conditions hold.
    fn batch(&self, ops: &[(u8, Option<u16>, Condition)], relaxed: bool) -> (Batch, bool) {
        let mut batch = Batch::new();
        let mut holds = true;
        let mut seen = Vec::new();
        for (number, value, condition) in ops {
            if seen.contains(number) {
                continue;
            }
            seen.push(*number);
            let key = key(*number);
            let current = self.keys.get(&key).map(|(_, revision)| *revision);
            let expect = match condition {
                Condition::Any => Expect::Any,
                Condition::Absent => Expect::Absent,
                Condition::Current => current.map_or(Expect::Absent, Expect::At),
                Condition::Wrong => Expect::At(current.unwrap_or(7) + 1),
            };
            holds &= match condition {
                Condition::Any => value.is_some() || current.is_some(),
                Condition::Absent => current.is_none(),
                Condition::Current => true,
                Condition::Wrong => false,
            };
            batch = match value {
                Some(len) => batch.put(key, vec![b'v'; usize::from(*len)], expect),
                None => batch.delete(key, expect),
            };
        }
        if relaxed {
            batch = batch.relaxed();
        }
        (batch, holds)
    }
}

/// The files as a crash would leave them: copied while the Log has them open. A snapshot that is
/// finished meanwhile would mix two moments, so then it is done again.
fn crash_copy(from: &Path) -> tempfile::TempDir {
    loop {
        let to = tempfile::tempdir().unwrap();
        let before = names(from);
        let copied = before
            .iter()
            .all(|name| std::fs::copy(from.join(name), to.path().join(name)).is_ok());
        if copied && names(from) == before {
            return to;
        }
    }
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

fn run(steps: Vec<Step>) {
    let mut dir = tempfile::tempdir().unwrap();
    let (mut opened, mut seen) = open(dir.path());
    let mut model = Model::default();
    let mut newest = opened.revision;
    let mut synced = model.clone();
    for step in steps {
        match step {
            Step::Propose { ops, relaxed } => {
                let (batch, holds) = model.batch(&ops, relaxed);
                match opened.log.blocking_propose(batch) {
                    Ok(revision) => {
                        assert!(holds && revision > newest);
                        newest = revision;
                        seen.follow(&mut opened.commits);
                        model = seen.clone();
                        if !relaxed {
                            synced = model.clone();
                        }
                    }
                    Err(ProposeError::Conflict { .. }) => assert!(!holds),
                    Err(ProposeError::Invalid(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Compact => opened.log.compact(opened.log.revision()),
            Step::Reopen => {
                opened.log.blocking_close();
                let (again, state) = open(dir.path());
                assert_eq!(state, model);
                assert_eq!(again.revision, newest);
                assert_eq!(again.gap, None);
                (opened, seen) = (again, state);
                synced = model.clone();
            }
            Step::Crash => {
                let copy = crash_copy(dir.path());
                opened.log.blocking_close();
                let (again, state) = open(copy.path());
                // Whatever was synced is there; what is there was proposed.
                for (key, (_, revision)) in &synced.keys {
                    let kept = state.keys.get(key).map(|(_, revision)| *revision);
                    let later = model.keys.get(key).map(|(_, revision)| *revision);
                    assert!(kept >= Some(*revision) || later != Some(*revision));
                }
                assert!(again.revision > newest, "a revision would be used twice");
                newest = again.revision;
                (model, synced) = (state.clone(), state.clone());
                (opened, seen, dir) = (again, state, copy);
            }
        }
    }
    assert_eq!(seen, model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_a_map_whatever_happens(steps in proptest::collection::vec(step(), 1..120)) {
        run(steps);
    }
}
