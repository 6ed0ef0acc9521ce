//! The API side of the net half: one watch per kind, merged by a single task into `State`, published
//! as immutable snapshots. A relist replaces a table at once when it is complete; until then, and
//! through every disconnection, the last known objects stay.

mod raw;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use imbl::OrdMap;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::state::{
    EndpointSlice, Namespace, NetworkPolicy, Node, ObjectKey, Pod, Service, SliceKey, State,
};
use raw::Projection;

/// Events merged into one snapshot at most; a burst is published once.
const BATCH: usize = 1024;

/// One event of one kind.
#[derive(Debug)]
enum Change<T: Projection> {
    Restarted,
    Listed(T::Key, Arc<T>),
    Complete,
    Applied(T::Key, Arc<T>),
    Deleted(T::Key),
}

#[derive(Debug)]
enum Update {
    Node(Change<Node>),
    Service(Change<Service>),
    Slice(Change<EndpointSlice>),
    Policy(Change<NetworkPolicy>),
    Namespace(Change<Namespace>),
    Pod(Change<Pod>),
}

/// Relists in progress.
#[derive(Default)]
struct Staged {
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
    services: BTreeMap<ObjectKey, Arc<Service>>,
    slices: BTreeMap<SliceKey, Arc<EndpointSlice>>,
    policies: BTreeMap<ObjectKey, Arc<NetworkPolicy>>,
    namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    pods: BTreeMap<ObjectKey, Arc<Pod>>,
}

/// Starts the watches; snapshots arrive in the returned receiver until `shutdown`.
pub fn start(client: Client, shutdown: CancellationToken) -> watch::Receiver<Arc<State>> {
    let (sender, receiver) = watch::channel(Arc::new(State::default()));
    tokio::spawn(async move {
        tokio::select! {
            () = run(client, sender) => {}
            () = shutdown.cancelled() => {}
        }
    });
    receiver
}

async fn run(client: Client, sender: watch::Sender<Arc<State>>) {
    let updates = futures::stream::select_all([
        changes(client.clone(), Update::Node).boxed(),
        changes(client.clone(), Update::Service).boxed(),
        changes(client.clone(), Update::Slice).boxed(),
        changes(client.clone(), Update::Policy).boxed(),
        changes(client.clone(), Update::Namespace).boxed(),
        changes(client, Update::Pod).boxed(),
    ]);
    let mut batches = updates.ready_chunks(BATCH);
    let mut state = State::default();
    let mut staged = Staged::default();
    while let Some(batch) = batches.next().await {
        let mut visible = false;
        for update in batch {
            visible |= merge(&mut state, &mut staged, update);
        }
        if visible {
            sender.send_replace(Arc::new(state.clone()));
        }
    }
}

/// The watch of one kind as changes; errors are logged, and retried with back-off for ever.
fn changes<T>(client: Client, wrap: fn(Change<T>) -> Update) -> impl Stream<Item = Update> + Send
where
    T: Projection + std::fmt::Debug,
{
    let api = Api::<T::Raw>::all(client);
    watcher::watcher(api, watcher::Config::default())
        .default_backoff()
        .filter_map(move |event| async move {
            match event {
                Ok(event) => change(event).map(wrap),
                Err(error) => {
                    let kind = <T::Raw as kube::Resource>::kind(&());
                    tracing::warn!(%kind, %error, "watch interrupted");
                    None
                }
            }
        })
}

fn change<T: Projection>(event: Event<T::Raw>) -> Option<Change<T>> {
    let project = |raw| {
        let key = T::key(&raw)?;
        Some((key.clone(), Arc::new(T::project(key, raw))))
    };
    Some(match event {
        Event::Init => Change::Restarted,
        Event::InitApply(raw) => project(raw).map(|(k, v)| Change::Listed(k, v))?,
        Event::InitDone => Change::Complete,
        Event::Apply(raw) => project(raw).map(|(k, v)| Change::Applied(k, v))?,
        Event::Delete(raw) => Change::Deleted(T::key(&raw)?),
    })
}

/// Merges one update; whether the snapshot changed.
fn merge(state: &mut State, staged: &mut Staged, update: Update) -> bool {
    let synced = &mut state.synced;
    match update {
        Update::Node(c) => apply(&mut state.nodes, &mut staged.nodes, &mut synced.nodes, c),
        Update::Service(c) => apply(
            &mut state.services,
            &mut staged.services,
            &mut synced.services,
            c,
        ),
        Update::Slice(c) => apply(&mut state.slices, &mut staged.slices, &mut synced.slices, c),
        Update::Policy(c) => apply(
            &mut state.policies,
            &mut staged.policies,
            &mut synced.policies,
            c,
        ),
        Update::Namespace(c) => apply(
            &mut state.namespaces,
            &mut staged.namespaces,
            &mut synced.namespaces,
            c,
        ),
        Update::Pod(c) => apply(&mut state.pods, &mut staged.pods, &mut synced.pods, c),
    }
}

fn apply<T: Projection>(
    table: &mut OrdMap<T::Key, Arc<T>>,
    staged: &mut BTreeMap<T::Key, Arc<T>>,
    synced: &mut bool,
    change: Change<T>,
) -> bool {
    match change {
        Change::Restarted => {
            staged.clear();
            false
        }
        Change::Listed(key, value) => {
            staged.insert(key, value);
            false
        }
        Change::Complete => {
            let listed = std::mem::take(staged);
            *table = listed
                .into_iter()
                .map(|(k, v)| (k.clone(), kept(table, &k, v)))
                .collect();
            *synced = true;
            true
        }
        Change::Applied(key, value) => {
            if table.get(&key).is_some_and(|old| **old == *value) {
                return false;
            }
            table.insert(key, value);
            true
        }
        Change::Deleted(key) => table.remove(&key).is_some(),
    }
}

/// The object already known if it is equal: plans memoise by pointer.
fn kept<T: Projection>(table: &OrdMap<T::Key, Arc<T>>, key: &T::Key, new: Arc<T>) -> Arc<T> {
    match table.get(key) {
        Some(old) if **old == *new => old.clone(),
        _ => new,
    }
}

/// A complete state of these objects, for tests of what is made of it.
#[cfg(test)]
pub(crate) fn state_of(objects: &[serde_json::Value]) -> State {
    fn listed<T: Projection>(object: &serde_json::Value) -> Change<T> {
        let raw = serde_json::from_value(object.clone()).expect("the test's object is well-formed");
        let key = T::key(&raw).expect("the test's object has a name");
        Change::Applied(key.clone(), Arc::new(T::project(key, raw)))
    }
    let (mut state, mut staged) = (State::default(), Staged::default());
    for object in objects {
        let update = match object["kind"].as_str().expect("an object has a kind") {
            "Node" => Update::Node(listed(object)),
            "Service" => Update::Service(listed(object)),
            "EndpointSlice" => Update::Slice(listed(object)),
            "NetworkPolicy" => Update::Policy(listed(object)),
            "Namespace" => Update::Namespace(listed(object)),
            "Pod" => Update::Pod(listed(object)),
            other => panic!("{other} is not watched"),
        };
        merge(&mut state, &mut staged, update);
    }
    state.synced = crate::state::Synced {
        nodes: true,
        services: true,
        slices: true,
        policies: true,
        namespaces: true,
        pods: true,
    };
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Arc<Namespace> {
        Arc::new(Namespace {
            name: name.into(),
            labels: Arc::default(),
        })
    }

    #[test]
    fn a_relist_keeps_unchanged_objects_and_replaces_the_table_at_its_end() {
        let (mut state, mut staged) = (State::default(), Staged::default());
        let mut feed = |c| merge(&mut state, &mut staged, Update::Namespace(c));
        let (a, b) = (namespace("a"), namespace("b"));
        assert!(feed(Change::Applied("a".into(), a.clone())));
        assert!(feed(Change::Applied("b".into(), b)));
        assert!(!feed(Change::Restarted));
        assert!(!feed(Change::Listed("a".into(), namespace("a"))));
        assert!(feed(Change::Complete));
        assert!(Arc::ptr_eq(&state.namespaces["a"], &a));
        assert!(!state.namespaces.contains_key("b"));
        assert!(state.synced.namespaces);
    }

    #[test]
    fn an_event_without_a_visible_change_publishes_nothing() {
        let (mut state, mut staged) = (State::default(), Staged::default());
        let mut feed = |c| merge(&mut state, &mut staged, Update::Namespace(c));
        assert!(feed(Change::Applied("a".into(), namespace("a"))));
        assert!(!feed(Change::Applied("a".into(), namespace("a"))));
        assert!(!feed(Change::Deleted("b".into())));
    }
}
