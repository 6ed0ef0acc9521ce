//! The Cache against a model: past snapshots are what was there, and a watch replays the difference
//! between any two of them, however slow its reader is.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// One write: which object, and its new content (none: removal). Two keys per namespace and node.
#[derive(Clone, Debug)]
struct Step {
    key: usize,
    content: Option<(u8, u8)>,
    /// The watcher reads before this step.
    read: bool,
}

type Model = BTreeMap<String, String>;

const KEYS: [(&str, &str); 6] = [
    ("a", "x"),
    ("a", "y"),
    ("a-b", "x"),
    ("b", "x"),
    ("b", "z"),
    ("", "x"),
];

fn pods() -> ResourceId {
    ResourceId::named("", "pods")
}

fn body(key: &str, content: (u8, u8)) -> String {
    let (namespace, name) = key.split_once('/').unwrap();
    format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"{namespace}"}},"spec":{{"nodeName":"n{}"}},"data":"{}"}}"#,
        content.0, content.1
    )
}

fn commit(cache: &Cache, revision: u64, key: &str, content: Option<(u8, u8)>) {
    let object = content
        .map(|content| Object::new(key.into(), body(key, content).into(), revision, true).unwrap());
    cache.apply(revision, vec![(pods(), key.into(), object)]);
}

fn contents(snapshot: &Snapshot, scope: &Scope) -> Model {
    let text = |o: &Arc<Object>| String::from_utf8(o.bytes.to_vec()).unwrap();
    let inside = |o: &Arc<Object>| match scope {
        Scope::All => true,
        Scope::Namespace(namespace) => o.namespace() == namespace,
        Scope::Name(namespace, name) => o.namespace() == namespace && o.name() == name,
        Scope::Node(node) => o.node_name() == Some(node),
    };
    snapshot
        .iter("")
        .filter(|o| inside(o))
        .map(|o| (o.key.to_string(), text(o)))
        .collect()
}

/// Reads everything a watch has and applies it to a copy of the state it began with.
fn drain(watch: &mut Watch, scope: &Scope, state: &mut Model) {
    let inside = |o: &Option<Arc<Object>>| {
        o.clone().filter(|o| match scope {
            Scope::All => true,
            Scope::Namespace(namespace) => o.namespace() == namespace,
            Scope::Name(namespace, name) => o.namespace() == namespace && o.name() == name,
            Scope::Node(node) => o.node_name() == Some(node),
        })
    };
    while let Progress::Change(change) = watch.poll().unwrap() {
        match (inside(&change.prior), inside(&change.object)) {
            (_, Some(new)) => {
                state.insert(
                    new.key.to_string(),
                    String::from_utf8(new.bytes.to_vec()).unwrap(),
                );
            }
            (Some(old), None) => {
                assert!(
                    state.remove(&*old.key).is_some(),
                    "a removal of what was not there"
                );
            }
            (None, None) => {}
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let content = proptest::option::weighted(0.75, (0u8..3, 0u8..4));
    let step = (0..KEYS.len(), content, proptest::bool::weighted(0.05))
        .prop_map(|(key, content, read)| Step { key, content, read });
    proptest::collection::vec(step, 1..300)
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just(Scope::All),
        Just(Scope::Namespace("a".into())),
        Just(Scope::Name("b".into(), "x".into())),
        Just(Scope::Node("n1".into())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_watch_replays_the_difference_of_two_lists(steps in steps(), scope in scope(), start in 0usize..300) {
        let cache = Cache::new();
        cache.recovered(1, 1, None);
        let mut watch: Option<(Watch, Model)> = None;
        let start = start % steps.len();
        let mut present: BTreeMap<usize, ()> = BTreeMap::new();
        let mut revision = 1;
        let mut past: Vec<(u64, Model)> = vec![(1, Model::new())];
        for (index, step) in steps.iter().enumerate() {
            if index == start {
                let state = contents(&cache.snapshot(pods()), &scope);
                watch = Some((cache.watch(pods(), scope.clone(), revision).unwrap(), state));
            }
            if let (true, Some((watch, state))) = (step.read, &mut watch) {
                drain(watch, &scope, state);
            }
            if step.content.is_none() && present.remove(&step.key).is_none() {
                continue;
            }
            if step.content.is_some() {
                present.insert(step.key, ());
            }
            revision += 1;
            let (namespace, name) = KEYS[step.key];
            commit(&cache, revision, &key_text(namespace, name), step.content);
            past.push((revision, contents(&cache.snapshot(pods()), &Scope::All)));
        }
        for (revision, want) in &past {
            let got = contents(&cache.snapshot_at(pods(), *revision).unwrap(), &Scope::All);
            prop_assert_eq!(&got, want, "at {}", revision);
        }
        let (mut watch, mut state) = watch.unwrap();
        drain(&mut watch, &scope, &mut state);
        prop_assert_eq!(state, contents(&cache.snapshot(pods()), &scope));
    }
}

fn key_text(namespace: &str, name: &str) -> String {
    object::key(namespace, name)
}

#[test]
fn a_reader_that_is_behind_the_history_gets_expired() {
    let cache = Cache::new();
    cache.recovered(1, 1, None);
    let mut watch = cache.watch(pods(), Scope::All, 1).unwrap();
    for revision in 2..200 {
        commit(&cache, revision, "a/x", Some((0, (revision % 200) as u8)));
    }
    cache.compact(150);
    assert_eq!(
        watch.poll().unwrap_err(),
        Expired {
            requested: 1,
            oldest: 150
        }
    );
    assert!(cache.snapshot_at(pods(), 149).is_err());
    assert!(cache.watch(pods(), Scope::All, 150).is_ok());
}

#[test]
fn versions_lost_in_a_crash_are_expired() {
    let cache = Cache::new();
    cache.recovered(100, 10, Some((50, 100)));
    for (revision, reachable) in [
        (9, false),
        (10, true),
        (50, true),
        (51, false),
        (99, false),
        (100, true),
    ] {
        assert_eq!(
            cache.watch(pods(), Scope::All, revision).is_ok(),
            reachable,
            "{revision}"
        );
    }
}

#[test]
fn namespaces_whose_names_share_a_beginning_are_apart() {
    let cache = Cache::new();
    for (index, (namespace, name)) in KEYS.into_iter().enumerate() {
        commit(
            &cache,
            index as u64 + 1,
            &key_text(namespace, name),
            Some((0, 0)),
        );
    }
    let snapshot = cache.snapshot(pods());
    let keys = |namespace: &str| -> Vec<String> {
        snapshot
            .iter(namespace)
            .map(|o| o.key.to_string())
            .collect()
    };
    assert_eq!(keys("a"), ["a/x", "a/y"]);
    assert_eq!(keys("a-b"), ["a-b/x"]);
    assert_eq!(keys("").len(), KEYS.len());
}
