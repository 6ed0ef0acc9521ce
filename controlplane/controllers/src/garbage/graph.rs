//! The graph of owners and dependents, by uid, and what each object needs.
//!
//! Pure. Input: metadata as it changes. Output: tasks (what to look at) and, for a task, the work
//! with all that is known.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::discovery::Deletable;
use crate::object::Key;

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";
/// The propagation policy that sets [`FOREGROUND`].
pub const FOREGROUND_POLICY: &str = "Foreground";
/// Owners known to be gone.
const MAX_ABSENT: usize = 10_000;

pub type Uid = Arc<str>;

/// An object as the graph knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Number of its kind.
    pub resource: usize,
    pub key: Key,
    pub uid: Uid,
    pub owners: Vec<Owner>,
    pub deleting: bool,
    /// Waits for its dependents to be deleted.
    pub foreground: bool,
    /// Waits for its dependents to be orphaned.
    pub orphan: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    pub uid: Uid,
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub block: bool,
}

impl Object {
    pub fn new(resource: usize, meta: &ObjectMeta) -> Self {
        let finalizers = meta.finalizers.as_deref().unwrap_or(&[]);
        let deleting = meta.deletion_timestamp.is_some();
        let has = |name: &str| deleting && finalizers.iter().any(|f| f == name);
        Self {
            resource,
            key: Key::of(meta),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            owners: meta
                .owner_references
                .iter()
                .flatten()
                .map(Owner::new)
                .collect(),
            deleting,
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    fn owner(&self, uid: &str) -> Option<&Owner> {
        self.owners.iter().find(|owner| &*owner.uid == uid)
    }
}

impl Owner {
    fn new(reference: &OwnerReference) -> Self {
        let group = reference
            .api_version
            .rsplit_once('/')
            .map_or("", |(group, _)| group);
        Self {
            uid: reference.uid.as_str().into(),
            group: group.into(),
            kind: reference.kind.as_str().into(),
            name: reference.name.as_str().into(),
            block: reference.block_owner_deletion == Some(true),
        }
    }
}

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Must the object go because of its owners? May it go, now that its dependents have?
    Collect(Uid),
    /// The object's dependents must forget it.
    Orphan(Uid),
}

/// A task with what the graph knows.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Decide by the state of its owners.
    Judge {
        object: Object,
        owners: Vec<(Owner, OwnerState)>,
        dependents: Dependents,
    },
    /// Nothing blocks its deletion any more.
    ReleaseForeground(Object),
    /// Take the reference to `owner` out of the dependents, then let the owner go.
    Orphan {
        owner: Object,
        dependents: Vec<Object>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// There, and not going with its dependents.
    Solid,
    /// There, and waiting for its dependents to go.
    Waiting,
    /// Known to be gone.
    Absent,
    /// Not in the graph: the API server must be asked.
    Unknown,
}

/// What hangs on an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependents {
    None,
    Some,
    /// One of them waits for its own dependents: perhaps the object is among those, in a circle.
    Waiting,
}

/// A kind that is or was served; its place is its number and never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    pub resource: Deletable,
    pub served: bool,
}

/// What a discovery changed.
#[derive(Debug, PartialEq)]
pub struct Changes {
    pub added: Vec<(usize, Deletable)>,
    pub removed: Vec<usize>,
}

#[derive(Debug, Default)]
pub struct Graph {
    kinds: Arc<Vec<Kind>>,
    objects: HashMap<Uid, Object>,
    dependents: HashMap<Uid, HashSet<Uid>>,
    absent: HashSet<Uid>,
    /// Uids seen since the list of a kind began.
    listing: HashMap<usize, HashSet<Uid>>,
}

impl Graph {
    pub fn resources(&self) -> &Arc<Vec<Kind>> {
        &self.kinds
    }

    /// Takes in what is served now.
    pub fn set_resources(&mut self, served: Vec<Deletable>) -> Changes {
        let kinds = Arc::make_mut(&mut self.kinds);
        let mut removed = Vec::new();
        for (number, kind) in kinds.iter_mut().enumerate() {
            if kind.served && !served.contains(&kind.resource) {
                kind.served = false;
                removed.push(number);
            }
        }
        let mut added = Vec::new();
        for resource in served {
            let number = match kinds.iter().position(|kind| kind.resource == resource) {
                Some(number) if kinds[number].served => continue,
                Some(number) => {
                    kinds[number].served = true;
                    number
                }
                None => {
                    kinds.push(Kind {
                        resource: resource.clone(),
                        served: true,
                    });
                    kinds.len() - 1
                }
            };
            added.push((number, resource));
        }
        Changes { added, removed }
    }

    pub fn begin_listing(&mut self, resource: usize) {
        self.listing.insert(resource, HashSet::new());
    }

    pub fn end_listing(&mut self, resource: usize) -> Vec<Task> {
        let Some(listed) = self.listing.remove(&resource) else {
            return Vec::new();
        };
        let gone = self.objects.values().filter(|o| o.resource == resource);
        let gone: Vec<Uid> = gone
            .filter(|o| !listed.contains(&o.uid))
            .map(|o| o.uid.clone())
            .collect();
        gone.iter().flat_map(|uid| self.remove(uid)).collect()
    }

    /// Takes in an object; the tasks are what may have to be done now.
    pub fn set(&mut self, object: Object) -> Vec<Task> {
        if let Some(listed) = self.listing.get_mut(&object.resource) {
            listed.insert(object.uid.clone());
        }
        let uid = object.uid.clone();
        self.absent.remove(&uid);
        let old = self.objects.insert(uid.clone(), object.clone());
        if old.as_ref() == Some(&object) {
            return Vec::new();
        }
        let mut tasks = Vec::new();
        for owner in old.iter().flat_map(|old| &old.owners) {
            let now = object.owner(&owner.uid);
            if now.is_none() {
                self.unlink(&owner.uid, &uid);
            }
            if now.is_none_or(|now| owner.block && !now.block) {
                tasks.extend(self.waiting(&owner.uid));
            }
        }
        for owner in &object.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        let must_judge = object
            .owners
            .iter()
            .any(|o| self.state(&o.uid) != OwnerState::Solid);
        if object.foreground {
            tasks.push(Task::Collect(uid.clone()));
            let dependents = self.dependents.get(&uid).into_iter().flatten();
            tasks.extend(dependents.map(|d| Task::Collect(d.clone())));
        } else if must_judge && !object.deleting {
            tasks.push(Task::Collect(uid.clone()));
        }
        if object.orphan {
            tasks.push(Task::Orphan(uid));
        }
        tasks
    }

    /// The object is gone: its dependents may have to follow, its owners may be free to go.
    pub fn remove(&mut self, uid: &str) -> Vec<Task> {
        let Some(object) = self.objects.remove(uid) else {
            return Vec::new();
        };
        self.note_absent(object.uid.clone());
        let mut tasks = Vec::new();
        for owner in &object.owners {
            self.unlink(&owner.uid, uid);
            tasks.extend(self.waiting(&owner.uid));
        }
        let dependents = self.dependents.get(uid).into_iter().flatten();
        tasks.extend(dependents.map(|d| Task::Collect(d.clone())));
        tasks
    }

    pub fn note_absent(&mut self, uid: Uid) {
        if self.absent.len() >= MAX_ABSENT {
            self.absent.clear();
        }
        self.absent.insert(uid);
    }

    /// What a task comes to; `None` when there is nothing to do.
    pub fn work(&self, task: &Task) -> Option<Work> {
        match task {
            Task::Collect(uid) => self.collect(self.objects.get(uid)?),
            Task::Orphan(uid) => {
                let owner = self.objects.get(uid).filter(|owner| owner.orphan)?;
                let dependents = self.dependents_of(uid).cloned().collect();
                Some(Work::Orphan {
                    owner: owner.clone(),
                    dependents,
                })
            }
        }
    }

    fn collect(&self, object: &Object) -> Option<Work> {
        if object.foreground {
            let blocks = |dependent: &Object| {
                dependent
                    .owner(&object.uid)
                    .is_some_and(|owner| owner.block)
            };
            let is_blocked = self.dependents_of(&object.uid).any(blocks);
            return (!is_blocked).then(|| Work::ReleaseForeground(object.clone()));
        }
        if object.deleting {
            return None;
        }
        let owners: Vec<(Owner, OwnerState)> = object
            .owners
            .iter()
            .map(|o| (o.clone(), self.state(&o.uid)))
            .collect();
        if owners.iter().all(|(_, state)| *state == OwnerState::Solid) {
            return None;
        }
        let mut dependents = self.dependents_of(&object.uid).peekable();
        let dependents = if dependents.peek().is_none() {
            Dependents::None
        } else if dependents.any(|dependent| dependent.foreground) {
            Dependents::Waiting
        } else {
            Dependents::Some
        };
        Some(Work::Judge {
            object: object.clone(),
            owners,
            dependents,
        })
    }

    fn dependents_of(&self, uid: &str) -> impl Iterator<Item = &Object> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.objects.get(uid))
    }

    fn state(&self, uid: &str) -> OwnerState {
        match self.objects.get(uid) {
            Some(owner) if owner.foreground => OwnerState::Waiting,
            Some(_) => OwnerState::Solid,
            None if self.absent.contains(uid) => OwnerState::Absent,
            None => OwnerState::Unknown,
        }
    }

    /// The owner's task, when it waits for dependents.
    fn waiting(&self, uid: &str) -> Option<Task> {
        let owner = self.objects.get(uid).filter(|owner| owner.foreground)?;
        Some(Task::Collect(owner.uid.clone()))
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

/// How an object goes, or what it loses.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Keep,
    /// Some owners remain: the references to the others go.
    DropReferences(Vec<Uid>),
    /// Delete, with this propagation policy.
    Delete(&'static str),
    /// Let it block none of its owners, then delete it in the foreground: else owners and dependents
    /// in a circle would wait for each other.
    UnblockAndDelete,
}

/// Mechanism of `attemptToDeleteItem`, once the state of every owner is known.
pub fn judge(
    owners: &[(Uid, OwnerState)],
    dependents: Dependents,
    finalizers: &[String],
) -> Verdict {
    let of = |wanted: OwnerState| owners.iter().filter(move |(_, state)| *state == wanted);
    let is_known = of(OwnerState::Unknown).next().is_none();
    if owners.is_empty() || !is_known {
        return Verdict::Keep;
    }
    let is_waiting = of(OwnerState::Waiting).next().is_some();
    if of(OwnerState::Solid).next().is_some() {
        let gone = of(OwnerState::Absent).chain(of(OwnerState::Waiting));
        let gone: Vec<Uid> = gone.map(|(uid, _)| uid.clone()).collect();
        return if gone.is_empty() {
            Verdict::Keep
        } else {
            Verdict::DropReferences(gone)
        };
    }
    match dependents {
        Dependents::Waiting if is_waiting => return Verdict::UnblockAndDelete,
        Dependents::Some if is_waiting => return Verdict::Delete(FOREGROUND_POLICY),
        Dependents::None | Dependents::Some | Dependents::Waiting => {}
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    Verdict::Delete(if has(ORPHAN) {
        "Orphan"
    } else if has(FOREGROUND) {
        FOREGROUND_POLICY
    } else {
        "Background"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: &str, owners: &[&str]) -> Object {
        let owner = |uid: &&str| Owner {
            uid: (*uid).into(),
            group: "apps".into(),
            kind: "ReplicaSet".into(),
            name: "r".into(),
            block: true,
        };
        Object {
            resource: 0,
            key: Key::new("ns", uid),
            uid: uid.into(),
            owners: owners.iter().map(owner).collect(),
            deleting: false,
            foreground: false,
            orphan: false,
        }
    }

    #[test]
    fn dependents_follow_their_owner_only_when_it_is_gone() {
        let mut graph = Graph::default();
        graph.set(object("rs", &[]));
        assert_eq!(graph.set(object("pod", &["rs"])), []);
        let tasks = graph.remove("rs");
        assert_eq!(tasks, [Task::Collect("pod".into())]);
        let Some(Work::Judge { owners, .. }) = graph.work(&tasks[0]) else {
            panic!()
        };
        assert_eq!(owners[0].1, OwnerState::Absent);
    }

    #[test]
    fn kinds_keep_their_number_when_others_come_and_go() {
        let kind = |plural: &str| Deletable {
            group: "example.com".into(),
            version: "v1".into(),
            plural: plural.into(),
            kind: plural.into(),
            namespaced: true,
            watchable: true,
        };
        let mut graph = Graph::default();
        let numbers = |changes: &Changes| {
            let added = changes.added.iter().map(|(number, _)| *number);
            (added.collect::<Vec<_>>(), changes.removed.clone())
        };
        let changes = graph.set_resources(vec![kind("a"), kind("b")]);
        assert_eq!(numbers(&changes), (vec![0, 1], vec![]));
        let changes = graph.set_resources(vec![kind("c"), kind("b")]);
        assert_eq!(numbers(&changes), (vec![2], vec![0]));
        let changes = graph.set_resources(vec![kind("a"), kind("b"), kind("c")]);
        assert_eq!(numbers(&changes), (vec![0], vec![]));
        assert!(graph.resources().iter().all(|kind| kind.served));
    }

    #[test]
    fn an_owner_not_seen_yet_is_unknown_not_absent() {
        let mut graph = Graph::default();
        let tasks = graph.set(object("pod", &["rs"]));
        let Some(Work::Judge { owners, .. }) = graph.work(&tasks[0]) else {
            panic!()
        };
        assert_eq!(owners[0].1, OwnerState::Unknown);
        graph.set(object("rs", &[]));
        assert_eq!(graph.work(&tasks[0]), None);
    }

    #[test]
    fn a_foreground_deletion_ends_when_no_dependent_blocks() {
        let mut graph = Graph::default();
        graph.set(object("rs", &[]));
        graph.set(object("pod", &["rs"]));
        let deleting = Object {
            deleting: true,
            foreground: true,
            ..object("rs", &[])
        };
        let tasks = graph.set(deleting);
        assert!(tasks.contains(&Task::Collect("pod".into())));
        assert_eq!(graph.work(&Task::Collect("rs".into())), None);
        assert_eq!(graph.remove("pod"), [Task::Collect("rs".into())]);
        let work = graph.work(&Task::Collect("rs".into()));
        assert!(matches!(work, Some(Work::ReleaseForeground(_))));
    }

    #[test]
    fn a_circle_of_owners_is_seen_and_opened_where_it_closes() {
        let waits = |object: Object| Object {
            deleting: true,
            foreground: true,
            ..object
        };
        let mut graph = Graph::default();
        graph.set(waits(object("a", &["c"])));
        graph.set(waits(object("b", &["a"])));
        graph.set(object("c", &["b"]));
        let collect = |uid: &str| Task::Collect(uid.into());
        assert_eq!(graph.work(&collect("b")), None, "c blocks it");
        let Some(Work::Judge { dependents, .. }) = graph.work(&collect("c")) else {
            panic!()
        };
        assert_eq!(dependents, Dependents::Waiting);

        let mut open = object("c", &["b"]);
        open.owners[0].block = false;
        assert!(graph.set(open).contains(&collect("b")));
        let work = graph.work(&collect("b"));
        assert!(matches!(work, Some(Work::ReleaseForeground(_))));
    }

    #[test]
    fn the_verdict_depends_on_every_owner() {
        let uid = |text: &str| -> Uid { text.into() };
        let (solid, gone) = (
            (uid("a"), OwnerState::Solid),
            (uid("b"), OwnerState::Absent),
        );
        let waiting = (uid("c"), OwnerState::Waiting);
        let unknown = (uid("d"), OwnerState::Unknown);
        assert_eq!(judge(&[], Dependents::None, &[]), Verdict::Keep);
        assert_eq!(
            judge(&[gone.clone(), unknown], Dependents::None, &[]),
            Verdict::Keep
        );
        assert_eq!(
            judge(&[solid, gone.clone()], Dependents::None, &[]),
            Verdict::DropReferences(vec![uid("b")])
        );
        assert_eq!(
            judge(std::slice::from_ref(&gone), Dependents::None, &[]),
            Verdict::Delete("Background")
        );
        let orphan = [ORPHAN.to_owned()];
        assert_eq!(
            judge(&[gone], Dependents::None, &orphan),
            Verdict::Delete("Orphan")
        );
        let waiting = [waiting];
        assert_eq!(
            judge(&waiting, Dependents::Some, &[]),
            Verdict::Delete("Foreground")
        );
        assert_eq!(
            judge(&waiting, Dependents::Waiting, &[]),
            Verdict::UnblockAndDelete
        );
    }
}
