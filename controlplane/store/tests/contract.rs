//! The contract of the Log, promise by promise.
#![allow(clippy::unwrap_used, reason = "a failure of the setup fails the test")]

use std::sync::atomic::Ordering;
use std::time::Duration;

use store::{Action, Batch, Commits, Config, Event, Expect, Log, Opened, ProposeError, Replayed};

fn open(dir: &tempfile::TempDir) -> (Opened, Vec<Replayed>) {
    open_with(Config::new(dir.path()))
}

fn open_with(config: Config) -> (Opened, Vec<Replayed>) {
    let mut replayed = Vec::new();
    let opened = Log::open(config, |entry| replayed.push(entry)).unwrap();
    (opened, replayed)
}

fn small(dir: &tempfile::TempDir) -> Config {
    let mut config = Config::new(dir.path());
    config.segment_bytes = 4096;
    config.snapshot_bytes = 8192;
    config
}

/// Keys and values after applying what was replayed.
fn state(replayed: &[Replayed]) -> Vec<(String, String)> {
    let mut map = std::collections::BTreeMap::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    for entry in replayed {
        match entry {
            Replayed::Record { key, value, .. } => {
                map.insert(text(key), text(value));
            }
            Replayed::Commit(commit) => {
                for change in &commit.changes {
                    match &change.value {
                        Some(value) => map.insert(text(&change.key), text(value)),
                        None => map.remove(&text(&change.key)),
                    };
                }
            }
        }
    }
    map.into_iter().collect()
}

fn drain(commits: &mut Commits) -> Vec<Event> {
    std::iter::from_fn(|| commits.try_next())
        .flatten()
        .collect()
}

fn put(key: &'static str, value: &'static str) -> Batch {
    Batch::new().put(key, value, Expect::Any)
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_clean_stop_at_the_same_revision() {
    let dir = tempfile::tempdir().unwrap();
    let (opened, replayed) = open(&dir);
    assert_eq!((opened.revision, replayed.len()), (1, 0));
    assert_eq!(opened.log.propose(put("a", "1")).await, Ok(2));
    assert_eq!(opened.log.propose(put("b", "2")).await, Ok(3));
    opened.log.close().await;
    assert_eq!(
        opened.log.propose(put("c", "3")).await,
        Err(ProposeError::Closed)
    );
    let (opened, replayed) = open(&dir);
    assert_eq!((opened.revision, opened.gap), (3, None));
    assert_eq!(
        state(&replayed),
        [("a".into(), "1".into()), ("b".into(), "2".into())]
    );
    assert_eq!(opened.log.propose(put("c", "3")).await, Ok(4));
}

#[tokio::test]
async fn a_failed_condition_names_the_operation_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut opened, _) = open(&dir);
    let log = &opened.log;
    let first = log.propose(put("a", "1")).await.unwrap();
    let batch = Batch::new()
        .put("b", "2", Expect::Absent)
        .put("a", "3", Expect::At(first + 5));
    let conflict = ProposeError::Conflict {
        index: 1,
        current: Some(first),
    };
    assert_eq!(log.propose(batch).await, Err(conflict));
    let absent = ProposeError::Conflict {
        index: 0,
        current: None,
    };
    let delete = Batch::new().delete("b", Expect::Any);
    assert_eq!(log.propose(delete).await, Err(absent));
    let both = Batch::new()
        .check("a", Expect::At(first))
        .put("b", "2", Expect::Absent);
    assert_eq!(log.propose(both).await, Ok(first + 1));
    assert_eq!(drain(&mut opened.commits).len(), 2);
}

#[tokio::test]
async fn of_many_writers_with_the_same_expectation_one_wins_and_the_stream_is_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (mut opened, _) = open(&dir);
    let first = opened.log.propose(put("a", "0")).await.unwrap();
    let writers = (0..64).map(|_| {
        let log = opened.log.clone();
        tokio::spawn(async move {
            log.propose(Batch::new().put("a", "1", Expect::At(first)))
                .await
        })
    });
    let mut results = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        results.push(writer.await.unwrap());
    }
    let won: Vec<_> = results.iter().filter(|result| result.is_ok()).collect();
    assert_eq!(won, [&Ok(first + 1)]);
    let revisions: Vec<_> = drain(&mut opened.commits)
        .into_iter()
        .map(|event| match event {
            Event::Commit(commit) => commit.revision,
            Event::Compacted(_) => unreachable!("nothing was compacted"),
        })
        .collect();
    assert_eq!(revisions, [first, first + 1]);
}

#[tokio::test]
async fn concurrent_writes_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let (opened, _) = open(&dir);
    let writers: Vec<_> = (0..500)
        .map(|index| {
            let log = opened.log.clone();
            tokio::spawn(async move {
                let key = format!("key-{index}");
                log.propose(Batch::new().put(key, "v", Expect::Absent))
                    .await
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert!(opened.log.status().syncs < 250, "{:?}", opened.log.status());
}

#[tokio::test]
async fn a_relaxed_batch_is_published_in_order_with_synced_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (mut opened, _) = open(&dir);
    let log = opened.log.clone();
    let mut expected = Vec::new();
    for round in 0..50 {
        let batch = put("a", "1");
        let batch = if round % 3 == 0 {
            batch
        } else {
            batch.relaxed()
        };
        expected.push(log.propose(batch).await.unwrap());
    }
    let revisions: Vec<_> = drain(&mut opened.commits)
        .into_iter()
        .filter_map(|event| match event {
            Event::Commit(commit) => Some(commit.revision),
            Event::Compacted(_) => None,
        })
        .collect();
    assert_eq!(revisions, expected);
}

#[tokio::test]
async fn after_a_failed_sync_writes_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new(dir.path());
    let faults = config.faults.clone();
    let (mut opened, _) = open_with(config);
    opened.log.propose(put("a", "1")).await.unwrap();
    faults.sync.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let refused = opened.log.propose(put("b", "2")).await;
        assert!(
            matches!(refused, Err(ProposeError::ReadOnly { .. })),
            "{refused:?}"
        );
        faults.sync.store(false, Ordering::Relaxed);
    }
    assert!(opened.log.status().read_only.is_some());
    assert_eq!(opened.log.revision(), 2);
    // What was not durable was never seen.
    assert_eq!(drain(&mut opened.commits).len(), 1);
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let config = small(&dir);
    let faults = config.faults.clone();
    let (opened, _) = open_with(config);
    opened.log.propose(put("a", "1")).await.unwrap();
    faults.full.store(true, Ordering::Relaxed);
    let large = Batch::new().put("b", vec![b'x'; 8000], Expect::Any);
    assert_eq!(
        opened.log.propose(large.clone()).await,
        Err(ProposeError::NoSpace)
    );
    opened
        .log
        .propose(put("c", "fits the open segment"))
        .await
        .unwrap();
    faults.full.store(false, Ordering::Relaxed);
    opened.log.propose(large).await.unwrap();
}

#[tokio::test]
async fn compaction_is_announced_and_old_segments_become_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (mut opened, _) = open_with(small(&dir));
    for round in 0..400 {
        let key = format!("key-{}", round % 20);
        let value = format!("value-{round}-{}", "x".repeat(100));
        opened
            .log
            .propose(Batch::new().put(key, value, Expect::Any))
            .await
            .unwrap();
    }
    opened
        .log
        .propose(Batch::new().delete("key-7", Expect::Any))
        .await
        .unwrap();
    let revision = opened.log.revision();
    opened.log.compact(revision);
    let before = opened.log.status().file_bytes;
    while opened.log.status().file_bytes >= before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(drain(&mut opened.commits).contains(&Event::Compacted(revision)));
    opened.log.close().await;
    let (opened, replayed) = open_with(small(&dir));
    assert_eq!(opened.revision, revision);
    assert!(opened.compacted > 1 && opened.compacted <= revision);
    let state = state(&replayed);
    assert_eq!(state.len(), 19);
    assert!(state.iter().all(|(key, value)| {
        let number: usize = key["key-".len()..].parse().unwrap();
        value.starts_with(&format!("value-{}-", 380 + number))
    }));
}

#[tokio::test]
async fn compaction_happens_by_time_also_when_idle() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    config.compact_every = Duration::from_millis(20);
    let (mut opened, _) = open_with(config);
    let revision = opened.log.propose(put("a", "1")).await.unwrap();
    let compacted = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let events = opened.commits.next().await.unwrap();
            if events.contains(&Event::Compacted(revision)) {
                return;
            }
        }
    });
    compacted.await.unwrap();
}

#[tokio::test]
async fn an_expired_key_is_deleted_and_a_rewritten_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mut opened, _) = open(&dir);
    let expiring = || Action::Put {
        value: "1".into(),
        expires: Some(1),
    };
    let batch =
        Batch::new()
            .op("gone", expiring(), Expect::Any)
            .op("kept", expiring(), Expect::Any);
    opened.log.propose(batch).await.unwrap();
    opened.log.propose(put("kept", "2")).await.unwrap();
    let deleted = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            for event in opened.commits.next().await.unwrap() {
                if let Event::Commit(commit) = event
                    && commit.changes.iter().all(|change| change.value.is_none())
                {
                    return commit.changes;
                }
            }
        }
    });
    let deleted = deleted.await.unwrap();
    assert_eq!(
        deleted.iter().map(|c| &c.key[..]).collect::<Vec<_>>(),
        [b"gone"]
    );
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_opened, _) = open(&dir);
    let second = Log::open(Config::new(dir.path()), |_| {});
    assert!(matches!(second, Err(store::OpenError::Locked { .. })));
}

#[tokio::test]
async fn what_can_never_be_accepted_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (opened, _) = open(&dir);
    let batches = [
        Batch::new(),
        Batch::new().check("a", Expect::Absent),
        Batch::new().put("", "1", Expect::Any),
        put("a", "1").put("a", "2", Expect::Any),
        Batch::new().put("a", vec![0; store::MAX_BATCH_BYTES], Expect::Any),
    ];
    for batch in batches {
        let refused = opened.log.propose(batch).await;
        assert!(
            matches!(refused, Err(ProposeError::Invalid(_))),
            "{refused:?}"
        );
    }
}

/// A snapshot may cover all that is on the disk: the segment behind it was made for batches that were
/// acknowledged before they were written. Nothing says then that the store was closed.
#[tokio::test]
async fn a_crash_behind_a_snapshot_is_no_clean_stop_and_no_revision_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small(&dir);
    config.snapshot_bytes = 1;
    config.flush_every = Duration::from_secs(3600);
    let segment_bytes = config.segment_bytes;
    let (opened, _) = open_with(config);
    let large = |key: &'static str| Batch::new().put(key, vec![b'v'; 3000], Expect::Any);
    assert_eq!(opened.log.propose(large("a")).await, Ok(2));
    // Does not fit behind the first, so it starts a segment, and stays unwritten.
    assert_eq!(opened.log.propose(large("b").relaxed()).await, Ok(3));
    opened.log.compact(3);
    let snapshot_made = async {
        while opened.log.status().file_bytes >= 2 * segment_bytes {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), snapshot_made)
        .await
        .unwrap();

    let crashed = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), crashed.path().join(entry.file_name())).unwrap();
    }
    let (again, replayed) = open(&crashed);
    assert_eq!(state(&replayed).len(), 1, "only what was synced");
    assert!(again.revision > 3, "3 was given out before the crash");
    assert_eq!(again.gap, Some((2, again.revision)));
    let next = again.log.propose(put("c", "1")).await.unwrap();
    assert!(next > again.revision);
}
